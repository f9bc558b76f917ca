#!/bin/bash
# conform.sh [SUITE...]: other people's suites (../shared/suites), natively and under csel, compared. SUITES by default:
#   cpython-net cpython-async node-net node-dgram
# In each of MODES (preload run). What passes natively and does not pass under csel is printed, minus the names in
# tests/apps/conform.except ("MODE SUITE pattern # reason", shell patterns; MODE may be *). The score is the rest, and must be nothing.
#
# Bounded: one suite at most CONFORM_LIMIT seconds (900), the whole about 40 minutes for two modes. Native verdicts are kept (they do not depend
# on csel) in target/conform/native and taken again only if missing or with FRESH=1; logs and verdicts of csel in target/conform/MODE.
# A table ends target/conform/summary. The closing line counts: "N passed, N failed" over suites and modes.
set -u
HERE=$(cd "$(dirname "$0")" && pwd); ROOT=$(cd "$HERE/../.." && pwd)
T=${CARGO_TARGET_DIR:-$ROOT/target}; OUTS=$T/conform; mkdir -p "$OUTS"
SHARED=${SHARED_SUITES:-$ROOT/../shared/suites}; [ -d "$SHARED" ] || { echo "conform: no suites at $SHARED (SHARED_SUITES=DIR)"; exit 2; }
LIB=${CSEL_LIB:-$T/release/libcsel.so} BIN=${CSEL_BIN:-$T/release/csel}; unset CSEL_LIB CSEL_BIN CSEL_TESTBIN LD_PRELOAD
export SUITES=${SUITES:-$HOME/.cache/csel-suites}
[ $# -gt 0 ] || set -- cpython-net cpython-async node-net node-dgram
if ! { [ -d "$SUITES/src/nodejs/test" ] && python3.11 -c 'import test.test_socket' 2>/dev/null; }; then
  echo "conform: setting up the suites in $SUITES (minutes; log $OUTS/setup.log)"
  # It may stop at rsync for want of autoconf: what is needed here comes before.
  timeout 1500 bash "$SHARED/setup.sh" >"$OUTS/setup.log" 2>&1 || echo "conform: setup.sh ended with $? (going on): $(tail -1 "$OUTS/setup.log")"
fi
# One suite with a wrapper; verdicts in $OUT/SUITE.tests.
suite() {
  case $1 in node-*) timeout -k 10 "${CONFORM_LIMIT:-900}" bash "$SHARED/node.sh" "${1#node-}" ;; *) timeout -k 10 "${CONFORM_LIMIT:-900}" bash "$SHARED/$1.sh" ;; esac </dev/null
}
# Everything that a suite leaves behind ends with its PID namespace.
boxed() { unshare -pfu --mount-proc --kill-child env "$@"; }
export -f suite; export SHARED CONFORM_LIMIT=${CONFORM_LIMIT:-900}
run() { # mode suite
  local out=$OUTS/$1 wrap= dir; mkdir -p "$out"; rm -f "$out/$2.tests"
  dir=$(mktemp -d /tmp/csel-conform.XXXXXX); chmod 700 "$dir"
  case $1 in
    preload) wrap="env LD_PRELOAD=$LIB CSEL_NET=conform" ;;
    run) wrap="$BIN run --net conform --" ;;
  esac
  boxed OUT="$out" WRAP="$wrap" XDG_RUNTIME_DIR="$dir" bash -c "suite $2" >"$out/$2.out" 2>&1
  rm -rf "$dir"; tail -1 "$out/$2.out"
}
# "MODE SUITE pattern # reason" lines for $1 $2 taken from the list of names on standard input.
minus() {
  local mode=$1 suite=$2 m s p _ name pats=()
  while read -r m s p _; do case $m in "$mode" | '*') [ "$s" = "$suite" ] && pats+=("$p") ;; esac; done < <(grep -vE '^ *(#|$)' "$HERE/conform.except")
  while read -r name; do
    for p in "${pats[@]}"; do case ${name#* } in $p) name=; break ;; esac; done
    [ -z "$name" ] || echo "$name"
  done
}
passed=0; failed=0; : >"$OUTS/summary"
for s in "$@"; do
  if [ -n "${FRESH:-}" ] || [ ! -s "$OUTS/native/$s.tests" ]; then echo "== $s natively"; run native "$s"; fi
  nat=$(grep -cE '^(PASS|OK|\[ok)' "$OUTS/native/$s.tests")
  for mode in ${MODES:-preload run}; do
    echo "== $s by $mode"; said=$(run "$mode" "$s"); echo "$said"
    touch "$OUTS/$mode/$s.tests"
    bash "$SHARED/compare.sh" "$s" "$OUTS/native" "$OUTS/$mode" >"$OUTS/$mode/$s.lost"
    minus "$mode" "$s" <"$OUTS/$mode/$s.lost" >"$OUTS/$mode/$s.unexplained"
    lost=$(wc -l <"$OUTS/$mode/$s.lost"); left=$(wc -l <"$OUTS/$mode/$s.unexplained")
    echo "$s $mode: natively $nat pass; lost under csel $lost, of which not listed $left" | tee -a "$OUTS/summary"
    head -40 "$OUTS/$mode/$s.unexplained" | sed 's/^/    /'
    # The listed remainder is to stay under 2 %.
    if [ "$left" = 0 ] && [ $((lost * 50)) -lt "$nat" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  done
done
echo; cat "$OUTS/summary"; echo "conform: $passed passed, $failed failed"
[ $failed = 0 ]
