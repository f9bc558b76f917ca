#!/bin/bash
# run.sh [NAME...]: the tests of real programs, each in each of MODES ("preload run"; "native" too if asked).
#
# Each test is tests/apps/NAME.sh (see lib.sh), bounded by its own line `# limit: SECONDS` (120 if it has none); its output is in
# target/apps/NAME.MODE.log, and shown if it fails. One line a test: "ok NAME MODE: figures" or "not ok NAME MODE". The last line counts.
# With no NAME: all. Environment: MODES, APPS_FULL (=1: the sizes that issue 3 names, and four times the time), CSEL_LIB, CSEL_BIN, CSEL_TESTBIN, DATA, JOBS (1).
set -u
HERE=$(cd "$(dirname "$0")" && pwd); ROOT=$(cd "$HERE/../.." && pwd)
T=${CARGO_TARGET_DIR:-$ROOT/target}
export CSEL_LIB=${CSEL_LIB:-$T/release/libcsel.so} CSEL_BIN=${CSEL_BIN:-$T/release/csel} CSEL_TESTBIN=${CSEL_TESTBIN:-$T/release} DATA=${DATA:-$T/apps}
mkdir -p "$DATA"
[ $# -gt 0 ] || set -- $(cd "$HERE" && ls *.sh | sed 's/\.sh$//' | grep -vxE 'lib|run|conform')
passed=0; failed=0
for name in "$@"; do
  for mode in ${MODES:-preload run}; do
    log=$DATA/$name.$mode.log; t0=$SECONDS
    limit=$(sed -n 's/^# limit: *//p' "$HERE/$name.sh"); limit=${limit:-120}; [ -z "${APPS_FULL:-}" ] || limit=$((limit * 4))
    MODE=$mode timeout -k 5 "$limit" "$HERE/$name.sh" >"$log" 2>&1 </dev/null; rc=$?
    # In CI what fails is run a second time, and both are told of (see tests/test.sh); by hand never.
    if [ $rc != 0 ] && [ -n "${CI:-}" ]; then
      echo "again $name $mode (rc $rc after $((SECONDS - t0)) s)"; tail -n 60 "$log" | sed 's/^/    /'; mv "$log" "$log.first"
      MODE=$mode timeout -k 5 "$limit" "$HERE/$name.sh" >"$log" 2>&1 </dev/null; rc=$?
      [ $rc != 0 ] || echo "FLAKY: $name $mode failed once and passed once (first run: $log.first)"
    fi
    if [ $rc = 0 ] && line=$(grep "^ok $name $mode" "$log"); then
      passed=$((passed + 1)); echo "$line ($((SECONDS - t0)) s)"
    else
      failed=$((failed + 1)); [ $rc -lt 124 ] || echo "FAIL $name $mode: not done after $limit s" >>"$log"
      echo "not ok $name $mode ($((SECONDS - t0)) s)"; tail -n 60 "$log" | sed 's/^/    /'
    fi
  done
done
echo "apps: $passed passed, $failed failed"
[ $failed = 0 ]
