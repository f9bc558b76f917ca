#!/bin/bash
# Ten thousand connections at once between two instances, each echoing its own bytes; memory of an idle one, both ends counted; what an
# active one costs as the idle ones grow. The memory (of idle ones: a second after the last word) has a bound, which is the project's: 16 KiB. The round trip's growth from 1 to 10 000 is told;
# refused is what only an algorithm does and no loaded machine: the last stage at three times the worst of the earlier ones (a scan of
# every connection would be at ten). The project's bound of 1.3 is for `make bench`.
# limit: 200
. "$(dirname "$0")/lib.sh"
serve many "$PEER" epoll 7000
await many 7000
N=${N:-10000}
LIMIT=180 app c "$PEER" many "$(at many)" 7000 "$N" >out 2>many-client.log || fail "$N connections: $(tail -2 out)"
kib=$(sed -n 's/.*kib_per_connection=//p' out)
growth=$(awk -F'[= ]' '/^open=/ {if (!a) a = $4; b = $4} END {printf "%.2f", b / a}' out)
if [ "$MODE" != native ]; then
  awk -v k="$kib" 'BEGIN {exit !(k <= 16)}' || fail "$kib KiB per idle connection, at most 16"
fi
awk -F'[= ]' '/^open=/ {if (b > m) m = b; b = $4} END {exit !(b <= 3 * m)}' out || fail "round trip grew ${growth}x: $(cat out)"
pass "$N echo, $kib KiB per connection, round trip x$growth ($(awk -F'[= ]' '/^open=/ {printf "%s:%s ", $2, $4}' out)us)"
