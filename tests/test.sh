#!/bin/bash
# test.sh [STEP...]: `make test`. The steps in order, each said before it runs, timed, bounded, logged to target/test/STEP.log.
#
# A failing step does not stop the ones after it (so that one run tells all), except a failed build. The last line is
# "N passed, N failed" over steps; the exit status is 0 only if none failed. With no STEP: every step of ALL.
# Environment: APPS, MODES (see tests/apps/run.sh), FUZZ_SECONDS (60; 5 in the full run), CARGO_TARGET_DIR.
set -u
cd "$(dirname "$0")/.." || exit 2
T=${CARGO_TARGET_DIR:-target}; mkdir -p "$T/test"; T=$(cd "$T" && pwd)
export CSEL_LIB=${CSEL_LIB:-$T/release/libcsel.so} CARGO_TARGET_DIR=$T # by which every script finds the rest
# The system's programs before a version manager's wrappers (a python3 that is a shell script is not the program under test); cargo stays.
PATH=$(dirname "$(command -v cargo || echo /usr/bin/cargo)"):/usr/bin:/bin:/usr/sbin:/sbin:$PATH
ALL="needs build lint unit conformance symbols headers fuzz apps demo"
passed=0; failed=0; failures=

# The release library must be there for steps asked for alone; in the full run `build` has made it already.
built() { [ -n "${BUILT:-}" ] || cargo build --release --workspace --locked || return 1; BUILT=1; }

do_needs() { tests/install.sh; }
do_build() { cargo build --release --workspace --locked && BUILT=1; }
do_lint() { cargo fmt --all --check && cargo clippy --workspace --all-targets --all-features --locked -- -D warnings && tests/lint.sh; }
# The core's tests, in the dev profile (overflow checks and debug assertions on), and the doc tests.
do_unit() { cargo test -p csel-core --features testing --locked && cargo test -p csel-loader -p csel-shim --locked; }
# Our own cases: the same assertions natively and under csel (tests/tests/*.rs start the release library themselves).
# (The tests themselves in the dev profile: only what they start is the release library. Linking each with LTO took minutes.)
do_conformance() { built && cargo test -p csel-tests --locked --no-fail-fast; }
do_symbols() { built && tests/symbols.sh; }
do_headers() { built && tests/headers.sh; }
# Overflow checks and debug assertions on: the dev profile.
do_fuzz() { cargo run -q -p csel-tests --bin fuzz --locked; }
do_apps() { built && tests/apps/run.sh ${APPS:-}; }
do_demo() { built && tests/demo.sh; }
bound() { case $1 in build) echo 1500 ;; apps) echo 2400 ;; conformance) echo 1200 ;; *) echo 900 ;; esac; }

step() {
  local s=$1 log=$T/test/$1.log t0=$SECONDS rc
  echo "=== $s"
  # In the background so that the bound also ends it if it hangs: its own process group is ended, nothing else.
  set -m; ( "do_$s" ) >"$log" 2>&1 </dev/null & local pid=$!; set +m
  ( sleep "$(bound "$s")"; echo "test: step $s took too long, ended" >>"$log"; kill -TERM -- -$pid; sleep 5; kill -KILL -- -$pid ) 2>/dev/null & local guard=$!
  # What a reader wants to see while it runs: one line per test program.
  tail -n +1 -f --pid=$pid "$log" 2>/dev/null | grep --line-buffered -E '^(ok |not ok |FAIL|FLAKY|again |skip |test result:|error(\[|:)|install:|lint:|panicked|failures:|    [a-z_]+::)' &
  local watch=$!
  wait $pid; rc=$?
  pkill_tree $guard; wait $watch 2>/dev/null
  if [ $rc = 0 ]; then passed=$((passed + 1)); echo "=== $s: ok ($((SECONDS - t0)) s)"
  else
    failed=$((failed + 1)); failures="$failures $s"
    tail -n "${TAIL:-80}" "$log" | sed 's/^/    | /'
    echo "=== $s: FAILED rc=$rc ($((SECONDS - t0)) s); whole log: $log"
  fi
  return $rc
}
# In CI a step that runs programs and fails is run a second time, and both runs are in the log: a machine shared with others can stall any of
# them. It never hides what fails twice, and says FLAKY, with the first run's failure, where the second passes. By hand nothing is repeated.
once_more() {
  step "$1" && return 0
  case ${CI:+$1} in unit | conformance | cli | fuzz | apps | demo) ;; *) return 1 ;; esac
  mv "$T/test/$1.log" "$T/test/$1.first.log"
  echo "=== $1: again"
  step "$1" || return 1
  failed=$((failed - 1)); failures=${failures% "$1"}
  echo "=== FLAKY: $1 failed once and passed once (first run: $T/test/$1.first.log)"
}
# The guard is a subshell with a sleep under it: both are ours, ended by their pids.
pkill_tree() { local c; for c in $(ps -o pid= --ppid "$1"); do kill "$c" 2>/dev/null; done; kill "$1" 2>/dev/null; wait "$1" 2>/dev/null; }

[ $# -gt 0 ] || { set -- $ALL; FULL=1; export FUZZ_SECONDS=${FUZZ_SECONDS:-5}; }
for s in "$@"; do
  declare -F "do_$s" >/dev/null || { echo "test: no step '$s' (steps: $ALL)" >&2; exit 2; }
  if once_more "$s"; then case $s in build) BUILT=1 ;; esac
  elif [ "$s" = build ]; then echo "test: nothing to test without a build" >&2; break; fi
done
[ -z "$failures" ] || echo "failed:$failures (total $SECONDS s)"
echo "total $SECONDS s"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
