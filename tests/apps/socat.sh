#!/bin/bash
# socat: TCP over IPv4 and IPv6, UDP, a server that forks, EXEC at the far end, half-close, and a file through two of them.
. "$(dirname "$0")/lib.sh"
h=$(at s); six=$h; [ "$MODE" = native ] && six='[::1]'
f=$(big 64)
serve s socat TCP4-LISTEN:7001,reuseaddr,fork EXEC:cat
serve s6 socat TCP6-LISTEN:7002,reuseaddr,fork,ipv6only=1 EXEC:cat
await s 7001
[ "$(echo four | app c1 socat -t 10 - TCP4:"$h":7001)" = four ] || fail "TCP4 through a forked cat"
six6=$(at s6); [ "$MODE" = native ] && six6='[::1]'
for _ in 1 2 3 4 5 6 7 8 9 10; do got=$(echo six | app c2 socat -t 10 - "TCP6:$six6:7002" 2>c2.log) && break; sleep 0.3; done
[ "$got" = six ] || fail "TCP6 through a forked cat: '$got'"
LIMIT=50 app c3 socat -t 30 - TCP4:"$h":7001 <"$f" >got || fail "64 MiB through a forked cat: $?"
same got "$f" "64 MiB through a forked cat"
serve u socat UDP4-RECVFROM:7003,fork EXEC:'cat'
uh=$(at u)
for _ in $(seq 20); do got=$(echo udp | LIMIT=10 app c4 socat -t 2 - UDP4:"$uh":7003 2>c4.log); [ "$got" = udp ] && break; sleep 0.2; done
[ "$got" = udp ] || fail "UDP4 through a forked cat: '$got'"
# One writes and closes at once: not a byte may be lost after its exit.
serve w socat -u TCP4-LISTEN:7004,reuseaddr OPEN:stored,creat,trunc
for _ in $(seq 50); do LIMIT=30 app c5 socat -u OPEN:"$f" TCP4:"$(at w)":7004,connect-timeout=5 2>c5.log && break; sleep 0.2; done
for _ in $(seq 200); do kill -0 "${PID[w]}" 2>/dev/null || break; sleep 0.05; done
same stored "$f" "written and closed at once"
# A relay: instance r between the two.
rh=$(at r); serve r socat TCP4-LISTEN:7005,reuseaddr,fork TCP4:"$h":7001
await r 7005
LIMIT=50 app c6 socat -t 30 - TCP4:"$rh":7005 <"$f" >got || fail "through a relay: $?"
same got "$f" "through a relay"
pass
