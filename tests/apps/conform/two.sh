#!/bin/bash
# two.sh redis-two|memcached-two: a suite that can use a server started separately, as two instances on one segment: the server's, which is called
# "server", and the suite's. Natively: two programs on 127.0.0.1. Interface as ../../../../shared/suites; called by conform.sh.
NAME=$1; OUT=${OUT:-$SUITES/logs}; mkdir -p "$OUT"; : >"$OUT/$NAME.tests"; : >"$OUT/$NAME.log"
AS=; HOST=127.0.0.1; [ -z "$WRAP" ] || HOST=server
# A runtime directory of nobody's, for both instances of a suite that does not run as root.
U="setpriv --reuid=65534 --regid=65534 --clear-groups"
until_open() { # port: waits for the server, at most 30 s
  for _ in $(seq 150); do $AS $WRAP bash -c "exec 3<>/dev/tcp/$HOST/$1" 2>/dev/null && return; sleep 0.2; done; echo "no server on $HOST:$1" >>"$OUT/$NAME.log"
}
case $NAME in
  redis-two)
    cd "$SUITES/src/redis" || exit 2
    for b in redis-server redis-cli redis-benchmark; do [ -e src/$b ] || ln -s /usr/bin/$b src/$b; done
    D=$(mktemp -d)
    CSEL_NAME=server $WRAP redis-server --port 6379 --bind 0.0.0.0 --protected-mode no --save '' --dir "$D" --enable-debug-command yes >"$OUT/$NAME.server" 2>&1 </dev/null & server=$!
    until_open 6379
    A=; for u in unit/protocol unit/keyspace unit/scan unit/auth unit/quit unit/pubsub unit/multi unit/expire unit/type/string unit/type/incr unit/type/list unit/type/set unit/type/zset unit/type/hash unit/type/stream unit/sort unit/bitops unit/hyperloglog; do A="$A --single $u"; done
    # shellcheck disable=SC2086
    timeout -k 5 "${TMO:-400}" $WRAP tclsh tests/test_helper.tcl --host $HOST --port 6379 --tags "-slow -needs:repl -needs:reset" $A >"$OUT/$NAME.log" 2>&1
    kill $server; wait $server 2>/dev/null; rm -rf "$D"
    sed -E 's/\x1b\[[0-9;]*m//g' "$OUT/$NAME.log" | grep -E '^\[(ok|err|exception|skip|ignore|timeout)' >"$OUT/$NAME.tests"
    c() { grep -cE "^\[($1)" "$OUT/$NAME.tests"; }
    echo "$NAME passed=$(c ok) failed=$(c 'err|exception|timeout') skipped=$(c 'skip|ignore')" ;;
  memcached-two)
    cd "$SUITES/src/memcached" || exit 2
    AS=$U; export XDG_RUNTIME_DIR; XDG_RUNTIME_DIR=$(mktemp -d); chown -R 65534:65534 . "$XDG_RUNTIME_DIR"
    CSEL_NAME=server $U $WRAP ./memcached-debug -l 0.0.0.0 -p 11211 -U 0 >"$OUT/$NAME.server" 2>&1 </dev/null & server=$!
    until_open 11211
    for t in getset cas incrdecr flags expirations bogus-commands multiversioning touch flush-all noreply verbosity binary-get stats issue_22 issue_42; do
      [ -e t/$t.t ] || continue
      T_MEMD_USE_DAEMON=$HOST:11211 timeout -k 2 60 $U $WRAP perl -I t/lib -I . t/$t.t >"$OUT/$NAME.one" 2>&1 </dev/null; rc=$?
      { echo "=== $t rc=$rc"; cat "$OUT/$NAME.one"; } >>"$OUT/$NAME.log"
      sed -nE "s/^ok ([0-9]+).*/PASS $t \1/p; s/^not ok ([0-9]+).*/FAIL $t \1/p" "$OUT/$NAME.one" >>"$OUT/$NAME.tests"
    done
    kill $server; wait $server 2>/dev/null; rm -f "$OUT/$NAME.one"; rm -rf "$XDG_RUNTIME_DIR"
    c() { grep -cE "^$1 " "$OUT/$NAME.tests"; }
    echo "$NAME passed=$(c PASS) failed=$(c FAIL) skipped=0" ;;
  *) echo "two.sh: redis-two or memcached-two, not $NAME" >&2; exit 2 ;;
esac
