#!/bin/bash
# nc (OpenBSD's): both directions, exit right after the last byte, UDP, -z, a refused port, IPv6, half-close with -N.
. "$(dirname "$0")/lib.sh"
f=$(big 64)
# The receiver ends by itself when the sender has closed.
serve r1 sh -c 'exec nc -l 9001 >got'
for _ in $(seq 50); do LIMIT=40 app s1 nc -N "$(at r1)" 9001 <"$f" 2>s1.log && break; sleep 0.2; done
for _ in $(seq 400); do kill -0 "${PID[r1]}" 2>/dev/null || break; sleep 0.05; done
same got "$f" "nc -N to nc -l"
# The other way: the server sends, the client stores, both end.
serve r2 sh -c "exec nc -N -l 9002 <'$f'"
for _ in $(seq 50); do LIMIT=40 app c2 nc "$(at r2)" 9002 </dev/null >got2 2>c2.log && [ -s got2 ] && break; sleep 0.2; done
same got2 "$f" "nc -l to nc"
# A question and its answer.
serve r3 sh -c 'echo answer | nc -l 9003 >question'
for _ in $(seq 50); do got=$(echo question | LIMIT=20 app c3 nc -w 5 "$(at r3)" 9003 2>c3.log) && break; sleep 0.2; done
[ "$got" = answer ] || fail "question and answer: '$got'"
# -z: a port scan says yes to the open one, no to the closed one.
serve e "$PEER" echo 9004
await e 9004
app z nc -z -w 5 "$(at e)" 9004 || fail "nc -z of an open port: $?"
app z nc -z -w 5 "$(at e)" 9005 && fail "nc -z of a closed port said yes"
six=$(at e); [ "$MODE" = native ] && six=::1
[ "$(echo six | LIMIT=20 app c6 nc -6 -N -w 5 "$six" 9004)" = six ] || fail "nc -6"
# UDP: one datagram there and one back.
serve ue "$PEER" udp 9006
for _ in $(seq 50); do got=$(echo dgram | LIMIT=20 app cu nc -u -w 1 "$(at ue)" 9006 2>cu.log); [ "$got" = dgram ] && break; sleep 0.1; done
[ "$got" = dgram ] || fail "nc -u: '$got'"
pass
