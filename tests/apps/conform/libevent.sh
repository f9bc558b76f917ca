#!/bin/bash
# libevent.sh: libevent's own regress (Debian's source, built by conform.sh) with each backend. Interface as ../../../../shared/suites: WRAP, OUT, SUITES;
# verdicts "PASS backend/test" in $OUT/libevent.tests. regress forks for each test, so one crash is one verdict.
NAME=libevent; OUT=${OUT:-$SUITES/logs}; mkdir -p "$OUT"; S=$SUITES/src/libevent
cd "$S" || exit 2
: >"$OUT/$NAME.tests"; : >"$OUT/$NAME.log"
for backend in ${*:-EPOLL POLL SELECT}; do
  no=; for b in EPOLL POLL SELECT; do [ $b = "$backend" ] || no="$no EVENT_NO$b=1"; done
  timeout -k 5 "${TMO:-280}" $WRAP env $no test/regress >"$OUT/$NAME.one" 2>&1 </dev/null; rc=$?
  { echo "=== $backend rc=$rc"; cat "$OUT/$NAME.one"; } >>"$OUT/$NAME.log"
  [ $rc -lt 124 ] || echo "TIMEOUT $backend" >>"$OUT/$NAME.tests"
  # "group/test: [forking] OK", or lines of its own between the name and the verdict.
  awk -v b="$backend" '
    /^[a-z_]+\/[a-zA-Z0-9_]+: / { split($0, w, ":"); name = w[1] }
    /OK$/ && name { print "PASS " b "/" name; name = "" }
    /SKIPPED$|DISABLED$/ && name { print "SKIP " b "/" name; name = "" }
    /FAILED\]$/ && name { print "FAIL " b "/" name; name = "" }' "$OUT/$NAME.one" >>"$OUT/$NAME.tests"
done
rm -f "$OUT/$NAME.one"
c() { grep -cE "^($1) " "$OUT/$NAME.tests"; }
echo "$NAME passed=$(c PASS) failed=$(c 'FAIL|TIMEOUT') skipped=$(c SKIP)"
