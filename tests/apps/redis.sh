#!/bin/bash
# redis-server with redis-cli and the whole default redis-benchmark (fewer requests), plain, pipelined and without keep-alive.
# limit: 240
. "$(dirname "$0")/lib.sh"
serve db redis-server --port 6379 --bind 0.0.0.0 :: --protected-mode no --save '' --dir "$W"
await db 6379
h=$(at db)
cli() { app "c$RANDOM" redis-cli -h "$h" "$@"; }
[ "$(cli ping)" = PONG ] || fail "ping"
[ "$(cli set k v)" = OK ] && [ "$(cli get k)" = v ] || fail "set and get"
seq 1 5000 | sed 's/.*/SET k& v&/' | LIMIT=60 app pipe redis-cli -h "$h" --pipe >pipe.out 2>&1 || fail "redis-cli --pipe: $(tail -3 pipe.out)"
grep -q 'errors: 0, replies: 5000' pipe.out || fail "redis-cli --pipe: $(cat pipe.out)"
[ "$(cli dbsize)" = 5001 ] || fail "dbsize"
head -c 3000000 /dev/zero | tr '\0' x | app big redis-cli -h "$h" -x set big >/dev/null; [ "$(cli strlen big)" = 3000000 ] || fail "a value of 3 MB"
# Publish and subscribe over two connections.
(app sub timeout 5 redis-cli -h "$h" subscribe ch >sub.log 2>&1; echo "subscriber ended with $?" >>sub.log) & sub=$!
for _ in $(seq 100); do [ "$(cli publish ch hello)" = 1 ] && break; sleep 0.1; done
wait $sub; grep -q hello sub.log || fail "publish did not reach the subscriber"
LIMIT=120 app bench redis-benchmark -h "$h" -q -n 20000 --csv >bench.csv 2>bench.err || fail "redis-benchmark: status $? $(tail -2 bench.err)"
[ "$(grep -cE '^"[^"]+","[0-9.]+' bench.csv)" -ge 19 ] || fail "redis-benchmark: $(cat bench.csv)"
LIMIT=60 app bench2 redis-benchmark -h "$h" -q -n 50000 -P 16 -t set,get >/dev/null 2>bench.err || fail "redis-benchmark -P 16: $? $(tail -2 bench.err)"
LIMIT=60 app bench3 redis-benchmark -h "$h" -q -n 5000 -k 0 -t set,get >/dev/null 2>bench.err || fail "redis-benchmark -k 0: $? $(tail -2 bench.err)"
LIMIT=60 app bench4 redis-benchmark -h "$h" -q -n 20000 --threads 2 -t set,get >/dev/null 2>bench.err || fail "redis-benchmark --threads 2: $? $(tail -2 bench.err)"
[ "$(cli shutdown nosave 2>&1)" = "" ] || fail "shutdown"
for _ in $(seq 100); do kill -0 "${PID[db]}" 2>/dev/null || break; sleep 0.1; done
kill -0 "${PID[db]}" 2>/dev/null && fail "redis-server did not end after SHUTDOWN"
pass "GET $(grep '^"GET"' bench.csv | cut -d, -f2) per second"
