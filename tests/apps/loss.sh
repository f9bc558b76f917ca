#!/bin/bash
# 100 MiB intact over a segment that drops, doubles and reorders frames, 1 % and 5 % of each, and all at once. Natively there is no such
# wire without root's tc: the same transfer on a clean one.
# limit: 400
. "$(dirname "$0")/lib.sh"
case $MODE in native) wires="none" ;; *) wires="drop=1% dup=1% reorder=1% drop=5% dup=5% reorder=5% drop=1%,dup=1%,reorder=1%" ;; esac
n=0; told=
for w in $wires; do
  n=$((n + 1)); [ "$w" = none ] || OPT="CSEL_IMPAIR=$w"
  serve "s$n" "$PEER" sink 7000
  OPT= await "s$n" 7000
  t0=$SECONDS
  LIMIT=100 app "c$n" "$PEER" bulk "$(at "s$n")" 7000 1 100 >out 2>bulk.log || fail "100 MiB over $w"
  told="$told$w $((SECONDS - t0))s, "
  stop "s$n"
done
pass "${told%, }"
