#!/bin/bash
# conform.sh [SUITE...]: other people's suites, natively and under csel, compared. SUITES by default: all of
#   cpython-net cpython-async cpython-proc node-net node-dgram node-cluster redis memcached socat tcl perl libevent stress-ng redis-two memcached-two
# (../shared/suites has those of Debian's packages and sources; tests/apps/conform has libevent and stress-ng; *-two run the server in an instance of its own.)
# In each of MODES (preload run). What passes natively and does not pass under csel is printed, minus the names in
# tests/apps/conform.except ("MODE SUITE pattern # reason", shell patterns; MODE may be *). The score is the rest, and must be nothing.
#
# Theory of operation. A suite is one instance: its whole script runs under LD_PRELOAD or `csel run`, in namespaces of its own (network with loopback only, PIDs
# so that everything it leaves behind ends with it, mounts so that tests run as nobody can read the suites and the library wherever they are).
# cpython-net, cpython-async and node-* are as many instances as they have tests, as the first sessions ran them; CONFORM_WHOLE=1 makes those one as well.
# Bounded: one suite at most CONFORM_LIMIT seconds (900), the whole about 75 minutes for two modes. Native verdicts are kept (they do not depend
# on csel) in target/conform/native and taken again only if missing or with FRESH=1; logs and verdicts of csel in target/conform/MODE.
# A table ends target/conform/summary. The closing line counts: "N passed, N failed" over suites and modes.
set -u
HERE=$(cd "$(dirname "$0")" && pwd); ROOT=$(cd "$HERE/../.." && pwd)
T=${CARGO_TARGET_DIR:-$ROOT/target}; mkdir -p "$T"; T=$(cd "$T" && pwd); OUTS=$T/conform; mkdir -p "$OUTS"
SHARED=${SHARED_SUITES:-$ROOT/../shared/suites}; [ -d "$SHARED" ] || { echo "conform: no suites at $SHARED (SHARED_SUITES=DIR)"; exit 2; }
SHARED=$(cd "$SHARED" && pwd)
LIB=${CSEL_LIB:-$T/release/libcsel.so} BIN=${CSEL_BIN:-$T/release/csel}; unset CSEL_LIB CSEL_BIN CSEL_TESTBIN LD_PRELOAD
PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
export SUITES=${SUITES:-$HOME/.cache/csel-suites}
ALL='cpython-net cpython-async cpython-proc node-net node-dgram node-cluster redis memcached socat tcl perl libevent stress-ng redis-two memcached-two'
# shellcheck disable=SC2086
[ $# -gt 0 ] || set -- $ALL
[ "$(id -u)" = 0 ] || { echo "conform: needs root, for namespaces of its own and suites that run as nobody"; exit 2; }

if ! { [ -x "$SUITES/src/memcached/memcached-debug" ] && [ -x "$SUITES/src/socat/socat" ] && [ -d "$SUITES/src/nodejs/test" ] && python3.11 -c 'import test.test_socket' 2>/dev/null; }; then
  echo "conform: setting up the suites in $SUITES (minutes; log $OUTS/setup.log)"
  # It may stop at rsync for want of autoconf: what is needed here comes before.
  timeout 1500 bash "$SHARED/setup.sh" >"$OUTS/setup.log" 2>&1 || echo "conform: setup.sh ended with $? (going on): $(tail -1 "$OUTS/setup.log")"
fi
# libevent's regress, built from Debian's source with its files' times as they are (it is not to run automake), and stress-ng.
command -v stress-ng >/dev/null || apt-get install -y -qq --no-install-recommends stress-ng >"$OUTS/stress-ng.setup" 2>&1 || echo "conform: no stress-ng: $(tail -1 "$OUTS/stress-ng.setup")"
if [ ! -x "$SUITES/src/libevent/test/regress" ]; then
  echo "conform: building libevent's regress (log $OUTS/libevent.setup)"
  ( cd "$SUITES/src" || exit
    [ -d libevent ] || { timeout 300 apt-get -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$SUITES/apt" -o Dir::State::lists="$SUITES/apt/lists" \
      -o APT::Get::List-Cleanup=0 source -qq libevent && mv libevent-*/ libevent; }
    cd libevent && ./configure -q --disable-shared --disable-samples && make -s AUTOMAKE=: AUTOCONF=: ACLOCAL=: AUTOHEADER=: test/regress
  ) >"$OUTS/libevent.setup" 2>&1 || echo "conform: libevent was not built: $(tail -1 "$OUTS/libevent.setup")"
fi

export SHARED HERE CONFORM_LIMIT=${CONFORM_LIMIT:-900}
# One suite (run inside its namespaces): its script with the bounds and the verbosity that we want. Verdicts come to $OUT/SUITE.tests.
suite() {
  export IN_NS=1
  case $1 in
    node-*) exec bash "$SHARED/node.sh" "${1#node-}" ;;
    # 0.1 s is what socat's tests wait for an answer: too little for TLS on a machine with other work, natively as well.
    socat) T=0.5 exec bash "$SHARED/socat.sh" tcp4 unix fork ;;
    memcached) T1=120 exec bash "$SHARED/memcached.sh" ;;
    # The names of what passes, not only of what fails (tcltest takes its last -verbose; prove takes this variable).
    tcl) PATH=$BOX/tcl:$PATH T1=150 exec bash "$SHARED/tcl.sh" ;;
    perl) HARNESS_VERBOSE=1 TMO=200 exec bash "$SHARED/perl.sh" ;;
    cpython-proc) TMO=400 exec bash "$SHARED/cpython-proc.sh" ;;
    redis) TMO=$CONFORM_LIMIT exec bash "$SHARED/redis.sh" ;;
    libevent | stress-ng) exec bash "$HERE/conform/$1.sh" ;;
    *-two) exec bash "$HERE/conform/two.sh" "$1" ;;
    *) exec bash "$SHARED/$1.sh" ;;
  esac
}
export -f suite
# Does the suite run as one instance? (Else the script wraps each of its tests.)
whole() { case $1 in cpython-net | cpython-async | node-*) [ -n "${CONFORM_WHOLE:-}" ] ;; *-two) false ;; *) true ;; esac; }

# Verdicts of one name a line, from the logs of those scripts that write none. $1: directory, $2: suite.
verdicts() {
  local d=$1
  case $2 in
    socat) sed -E 's/\x1b\[[0-9;]*m//g' "$d/socat.log" | awk '/^test +[0-9]+ /{name=$2" "$3} /OK *$/ && name {print "PASS " name; name=""}' >"$d/socat.tests" ;;
    memcached) awk '/^=== /{t=$2; n=0} /^ok [0-9]/{print "PASS " t " " $2} /^not ok [0-9]/{print "FAIL " t " " $3}' "$d/memcached.log" >"$d/memcached.tests" ;;
    tcl) awk '/^=== /{t=$2} /^\+\+\+\+ .* PASSED$/{print "PASS " t " " $2}' "$d/tcl.log" >"$d/tcl.tests" ;;
    # One verdict for each assertion: the file from prove's headline, the number from the TAP line.
    perl) awk '/^t\/.*\.t \.\. *$|^[A-Z][a-z]+\.t \.\. *$/{t=$1} /^ok [0-9]+/{print "PASS " t " " $2} /^not ok [0-9]+/ && !/TODO/{print "FAIL " t " " $3}' "$d/perl.log" >"$d/perl.tests" ;;
  esac
}

run() { # mode suite
  local out=$OUTS/$1 each= all= box; mkdir -p "$out"; rm -f "$out/$2.tests" "$out/$2.log"
  box=$(mktemp -d /tmp/csel-conform.XXXXXX); chmod 755 "$box"; mkdir "$box/bin" "$box/suites" "$box/tcl"; mkdir -m 700 "$box/run"
  cp "$LIB" "$BIN" "$box/bin/"
  # shellcheck disable=SC2016
  printf '#!/bin/sh\nexec /usr/bin/tclsh8.6 "$@" -verbose ep\n' >"$box/tcl/tclsh8.6"; chmod 755 "$box/tcl/tclsh8.6"
  case $1 in
    preload) all="env LD_PRELOAD=$box/bin/libcsel.so CSEL_NET=conform" ;;
    run) all="$box/bin/csel run --net conform --" ;;
  esac
  whole "$2" || { each=$all; all=; }
  # The namespaces first, the instance inside them: it sees one network and one numbering of processes all its life.
  # shellcheck disable=SC2016
  unshare -pfumn --mount-proc --kill-child env OUT="$out" WRAP="$each" BOX="$box" MODE="$1" REAL="$SUITES" SUITES="$box/suites" XDG_RUNTIME_DIR="$box/run" \
    bash -c 'ip link set lo up && mount --bind "$REAL" "$SUITES" && exec timeout -k 10 "$CONFORM_LIMIT" '"$all"' bash -c "suite $1"' _ "$2" >"$out/$2.out" 2>&1 </dev/null
  [ $? -lt 124 ] || echo "$2: ended after $CONFORM_LIMIT s" >>"$out/$2.out"
  rm -rf --one-file-system "$box"
  verdicts "$out" "$2"; touch "$out/$2.tests"; tail -n 1 "$out/$2.out"
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
passed=0; failed=0; printf '%-15s %-8s %8s %8s %8s %8s\n' suite mode native lost unlisted seconds >"$OUTS/summary"
for s in "$@"; do
  if [ -n "${FRESH:-}" ] || [ ! -s "$OUTS/native/$s.tests" ]; then echo "== $s natively"; run native "$s"; fi
  nat=$(grep -cE '^(PASS|OK|\[ok)' "$OUTS/native/$s.tests")
  for mode in ${MODES:-preload run}; do
    echo "== $s by $mode"; began=$SECONDS; run "$mode" "$s"
    bash "$SHARED/compare.sh" "$s" "$OUTS/native" "$OUTS/$mode" >"$OUTS/$mode/$s.lost"
    minus "$mode" "$s" <"$OUTS/$mode/$s.lost" >"$OUTS/$mode/$s.unexplained"
    lost=$(wc -l <"$OUTS/$mode/$s.lost"); left=$(wc -l <"$OUTS/$mode/$s.unexplained")
    printf '%-15s %-8s %8s %8s %8s %8s\n' "$s" "$mode" "$nat" "$lost" "$left" $((SECONDS - began)) | tee -a "$OUTS/summary"
    head -40 "$OUTS/$mode/$s.unexplained" | sed 's/^/    /'
    # Something must have passed natively, and the listed remainder is to stay under 2 %.
    if [ "$nat" -gt 0 ] && [ "$left" = 0 ] && [ $((lost * 50)) -lt "$nat" ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  done
done
echo; cat "$OUTS/summary"; echo "conform: $passed passed, $failed failed"
[ $failed = 0 ]
