#!/bin/bash
# redis with a forked child: BGSAVE and BGREWRITEAOF under load, the saving child killed; replication between two instances: full (by file and without one) and partial
# resynchronisation under load. REPL_MIB is the size of the data (64; with APPS_FULL=1: 1024, and the time it may take grows).
# limit: 300
. "$(dirname "$0")/lib.sh"
MIB=${REPL_MIB:-$([ -n "${APPS_FULL:-}" ] && echo 1024 || echo 64)}
common="--bind 0.0.0.0 :: --protected-mode no --enable-debug-command yes --rdbcompression no --client-output-buffer-limit 'replica 0 0 0'"
mkdir -p a b
server() { local n=$1 port=$2; shift 2; eval serve "$n" redis-server --port "$port" --dir "$W/$n" "$common" --save "''" "$@"; await "$n" "$port"; }
# Natively both live on one address: two ports. Under csel each has its own, and both take 6379.
PA=6379; [ "$MODE" = native ] && PB=6380 || PB=6379
ca() { LIMIT=60 app "ca$RANDOM" redis-cli -h "$(at a)" -p $PA "$@"; }
cb() { LIMIT=60 app "cb$RANDOM" redis-cli -h "$(at b)" -p $PB "$@"; }
info() { local who=$1; shift; $who info "$1" | tr -d '\r' | sed -n "s/^$2://p"; }
until_is() { local want=$1 got i; shift; for i in $(seq "${WAIT:-100}"); do got=$("$@") && [ "$got" = "$want" ] && return 0; sleep 0.1; done; echo "(it is $got, not $want)" >until.log; return 1; }
load() { (LIMIT=100 app "load$RANDOM" redis-benchmark -h "$(at a)" -p $PA -q --csv -t set,get,incr -r 1000 -d 100 -c 20 -n "$1" >load.csv 2>load.log; echo "status $?" >>load.log) & LOAD=$!; }
loaded() { wait $LOAD; grep -q '^status 0' load.log || fail "$1: the load failed: $(tail -3 load.log)"; [ "$(grep -cE '^"[^"]+","[0-9.]+' load.csv)" -ge 3 ] || fail "$1: $(cat load.csv)"; }
server a $PA --repl-diskless-sync no
ca debug populate $((MIB * 16)) key 65536 >/dev/null; [ "$(ca dbsize)" = $((MIB * 16)) ] || fail "debug populate: $(ca dbsize)"
# A child saves while clients write; what is saved is loaded again by a server of its own.
load 20000
[ "$(ca bgsave)" = "Background saving started" ] || fail "bgsave"
WAIT=600 until_is 0 info ca persistence rdb_bgsave_in_progress || fail "BGSAVE does not end"
[ "$(info ca persistence rdb_last_bgsave_status)" = ok ] || fail "BGSAVE: $(info ca persistence rdb_last_bgsave_status)"
loaded BGSAVE
[ "$(stat -c %s a/dump.rdb)" -gt $((MIB << 20)) ] || fail "dump.rdb has $(stat -c %s a/dump.rdb) bytes"
redis-check-rdb a/dump.rdb >check.log 2>&1 || fail "redis-check-rdb"
# The saving child is killed: the server says so and goes on, and the next one succeeds.
load 20000
ca config set rdb-key-save-delay 10000 >/dev/null; ca bgsave >/dev/null
child=; for _ in $(seq 100); do child=$(pgrep -f redis-rdb-bgsave) && break; sleep 0.05; done
[ -n "$child" ] || fail "no saving child"
kill -KILL $child
until_is err info ca persistence rdb_last_bgsave_status || fail "a killed child is not noticed"
ca config set rdb-key-save-delay 0 >/dev/null
loaded "a killed child"
ca config set appendonly yes >/dev/null
WAIT=600 until_is 0 info ca persistence aof_rewrite_in_progress || fail "BGREWRITEAOF does not end"
until_is ok info ca persistence aof_last_bgrewrite_status || fail "BGREWRITEAOF"
ca config set appendonly no >/dev/null
# Replication: the whole data, while clients write; then both agree.
agree() { local x y i; for i in $(seq 100); do x=$(ca debug digest) y=$(cb debug digest); [ "$x" = "$y" ] && return 0; sleep 0.1; done; fail "$1: the data differ: $x $y"; }
in_step() { WAIT=${SYNC_WAIT:-600} until_is up info cb replication master_link_status || fail "$1: the replica's link is not up: $(cat until.log; tail -5 b.log)"; agree "$1"; }
server b $PB
t0=$(date +%s%N)
cb replicaof "$(at a)" $PA >/dev/null
load 20000; in_step "full synchronisation"; loaded "full synchronisation"; agree "full synchronisation, then load"
t1=$(date +%s%N)
[ "$(info ca stats sync_full)" = 1 ] || fail "sync_full is $(info ca stats sync_full)"
# The link is cut: only what is missing is sent.
for i in 1 2 3; do
  before=$(info ca stats sync_partial_ok)
  cb client kill type master >/dev/null; ca set "cut$i" "$i" >/dev/null
  for _ in $(seq 100); do [ "$(info ca stats sync_partial_ok)" -gt "$before" ] && break; sleep 0.1; done
  in_step "partial resynchronisation $i"; [ "$(cb get "cut$i")" = "$i" ] || fail "partial resynchronisation $i: cut$i is '$(cb get "cut$i")'"
done
[ "$(info ca stats sync_partial_ok)" -ge 3 ] && [ "$(info ca stats sync_full)" = 1 ] || fail "resynchronised by $(info ca stats sync_full) full and $(info ca stats sync_partial_ok) partial ones"
# Again whole, without a file: the child writes what the parent sends; the child killed, and then done.
ca config set repl-diskless-sync yes >/dev/null; ca config set repl-diskless-sync-delay 0 >/dev/null; ca config set rdb-key-save-delay 1000 >/dev/null
cb replicaof no one >/dev/null; cb flushall >/dev/null; cb replicaof "$(at a)" $PA >/dev/null
child=; for _ in $(seq 100); do child=$(pgrep -f redis-rdb-to-slaves) && break; sleep 0.05; done
[ -n "$child" ] || fail "no child writes to the replica"
kill -KILL $child; ca config set rdb-key-save-delay 0 >/dev/null
in_step "diskless synchronisation"
stop b; stop a
pass "$MIB MiB replicated in $(((t1 - t0) / 1000000)) ms, under load"
