#!/bin/bash
# iperf3: one stream, -P 8, -R, --bidir, UDP, IPv6, a bounded volume, zero-copy. Each a second or two: that it works, not how fast.
# limit: 150
. "$(dirname "$0")/lib.sh"
serve ip iperf3 -s -p 5201
await ip 5201
h=$(at ip); six=$h; [ "$MODE" = native ] && six=::1
n=0
run() {
  n=$((n + 1))
  for try in 1 2 3; do # "the server is busy" while it ends the test before: iperf3's own rule
    LIMIT=30 app "c$n" iperf3 -J "$@" >out.json 2>err; rc=$?
    grep -q 'server is busy' out.json || break; sleep 0.5
  done
  [ $rc = 0 ] || fail "iperf3 $*: status $rc: $(jq -r '.error // empty' out.json 2>/dev/null) $(cat err)"
  bits=$(jq -r "${sum:-.end.sum_received.bits_per_second}" out.json); [ "${bits%.*}" -gt 1000 ] 2>/dev/null || fail "iperf3 $*: moved nothing ($bits)"
}
run -c "$h" -t 1
run -c "$h" -t 1 -P 8
run -c "$h" -t 1 -R
run -c "$h" -t 1 --bidir
run -c "$h" -n 200M
run -c "$h" -t 1 -Z
run -c "$six" -6 -t 1
sum=.end.sum.bits_per_second
run -c "$h" -u -b 100M -t 1
run -c "$h" -u -b 100M -t 1 -R
run -c "$six" -6 -u -b 50M -l 1200 -t 1
stop ip
pass "$n runs"
