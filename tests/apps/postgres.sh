#!/bin/bash
# PostgreSQL: two servers on port 5432 at once, each in an instance of its own, pgbench with 16 clients against both, a backend killed under load and
# the recovery from that crash, pg_ctl start, restart and stop in each way, psql over TLS, COPY both ways, LISTEN. PG_SECONDS (2): each pgbench.
# limit: 180
. "$(dirname "$0")/lib.sh"
B=/usr/lib/postgresql/15/bin; PATH=$B:$PATH
[ -x $B/postgres ] || fail "no PostgreSQL 15 (tests/install.sh)"
T=${PG_SECONDS:-2}
export PGUSER=me PGPASSWORD=secret PGDATABASE=postgres PGCONNECT_TIMEOUT=20 PGSSLMODE=prefer LC_ALL=C TZ=UTC
openssl req -x509 -newkey rsa:2048 -nodes -keyout server.key -out server.crt -days 30 -subj /CN=db1 >tls.out 2>&1 || fail "openssl: $(tail -2 tls.out)"
chmod 600 server.key; echo secret >pw
become postgres
# Natively there is one loopback for both, so each has an address of its own there.
addr() { if [ "$MODE" = native ]; then case $1 in db1) echo 127.0.0.1 ;; *) echo 127.0.0.2 ;; esac; else echo "$1"; fi; }
sql() { local i=$1; shift; app "c$RANDOM" psql -X -h "$(addr "$i")" -At -v ON_ERROR_STOP=1 "$@"; }
settles() { # settles INSTANCE: until it answers
  for _ in $(seq 150); do [ "$(LIMIT=15 sql "$1" -c 'select 1' 2>>"$W/settles.log")" = 1 ] && return; sleep 0.2; done; fail "$1 does not answer"
}
LIMIT=100 app db1 initdb -D "$W/db1" -U me -A scram-sha-256 --pwfile=pw --no-sync --no-locale -E UTF8 >initdb.out 2>&1 || fail "initdb: $? $(tail -3 initdb.out)"
# The server's files belong to whoever made them: the other one is a copy, made by the same user.
"${BECOME[@]}" cp -a db1 db2
for i in db1 db2; do
  l=$([ "$MODE" = native ] && addr $i || echo '*')
  "${BECOME[@]}" tee -a $i/postgresql.conf >/dev/null <<C
listen_addresses = '$l'
port = 5432
unix_socket_directories = '$W/$i'
max_connections = 40
shared_buffers = 16MB
fsync = off
ssl = on
ssl_cert_file = '$W/server.crt'
ssl_key_file = '$W/server.key'
log_line_prefix = '%p '
restart_after_crash = on
C
  echo 'host all all all scram-sha-256' | "${BECOME[@]}" tee -a $i/pg_hba.conf >/dev/null
  serve $i postgres -D "$W/$i"
done
settles db1; settles db2

# TPC-B-like and read-only, 16 clients each, both servers at once, the clients in instances of their own.
for i in db1 db2; do LIMIT=60 app "init-$i" pgbench -h "$(addr $i)" -q -i -s 1 >"init-$i.log" 2>&1 || fail "pgbench -i on $i: $?"; done
for kind in "" -S; do
  for i in db1 db2; do LIMIT=$((T + 60)) app "bench-$i" pgbench -h "$(addr $i)" -n $kind -c 16 -j 2 -T "$T" >"bench-$i.log" 2>&1 & eval "p_$i=$!"; done
  for i in db1 db2; do
    eval "wait \$p_$i" || fail "pgbench $kind on $i: $?"
    grep -q 'number of failed transactions: 0 ' "bench-$i.log" && grep -qE '^tps = [1-9]' "bench-$i.log" || fail "pgbench $kind on $i: $(tail -3 "bench-$i.log")"
  done
done
sums() { sql "$1" -c 'select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers), coalesce((select sum(delta) from pgbench_history),0)'; }
balanced() { local s; s=$(sums "$1") || fail "$1: sums"; case $(tr '|' '\n' <<<"$s" | sort -u | wc -l) in 1) ;; *) fail "$1: the books do not balance: $s" ;; esac; }
balanced db1; balanced db2
tps=$(sed -n 's/^tps = \([0-9]*\).*/\1/p' bench-db1.log)

# TLS with the certificate verified; the server says so too.
[ "$(PGSSLMODE=verify-ca PGSSLROOTCERT=$W/server.crt sql db1 -c 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')" = t ] || fail "TLS"
[ "$(PGSSLMODE=disable sql db1 -c 'select ssl from pg_stat_ssl where pid = pg_backend_pid()')" = f ] || fail "no TLS"
# COPY out and in: 4 MB, the same afterwards; and an answer over many packets.
sql db1 -c "copy (select n, repeat(md5(n::text), 4) from generate_series(1, 30000) n) to stdout" >copied || fail "COPY to stdout: $?"
sql db2 -c 'create table t (n int, v text)' -c 'copy t from stdin' <copied >copy.log 2>&1 || fail "COPY from stdin: $?"
sql db2 -c 'copy (select * from t order by n) to stdout' | cmp -s - copied || fail "COPY: not what was sent"
# NOTIFY from one session reaches another.
(LIMIT=30 app ear psql -X -h "$(addr db1)" -At -c 'listen ch' -c 'select pg_sleep(3)' -c 'select 1' >ear.log 2>&1) & ear=$!
# (Again and again, as long as it listens: who can say when it begins.)
for _ in $(seq 200); do sql db1 -c "notify ch, 'news'" >/dev/null || fail "NOTIFY"; kill -0 $ear 2>/dev/null || break; sleep 0.1; done
wait $ear; grep -q 'Asynchronous notification "ch" with payload "news"' ear.log || fail "LISTEN"

# A backend killed under load: everybody's connection ends, the server recovers by itself and nothing that was committed is lost.
LIMIT=100 app kill-load pgbench -h "$(addr db1)" -n -c 16 -j 2 -T 60 >kill-load.log 2>&1 & load=$!
for _ in $(seq 100); do
  victim=$(sql db1 -c "select pid from pg_stat_activity where application_name = 'pgbench' and xact_start is not null and (select count(*) from pg_stat_activity where application_name = 'pgbench') = 16 limit 1" 2>/dev/null); [ -n "$victim" ] && break; sleep 0.1
done
[ -n "$victim" ] || fail "no backend to kill"
kill -9 "$victim" || fail "kill $victim"
wait $load && fail "pgbench did not notice that its server crashed"
settles db1
grep -q 'was terminated by signal 9' db1.log && grep -q 'all server processes terminated; reinitializing' db1.log || fail "no crash recovery in the server's log"
balanced db1
[ "$(sql db2 -c 'select count(*) from t')" = 30000 ] || fail "the other instance's server suffered"

# pg_ctl: stop, start, restart, in each way.
LIMIT=60 app ctl pg_ctl -D "$W/db1" -m fast -w stop >ctl.log 2>&1 || fail "pg_ctl stop -m fast: $?"
for _ in $(seq 100); do kill -0 "${PID[db1]}" 2>/dev/null || break; sleep 0.05; done
kill -0 "${PID[db1]}" 2>/dev/null && fail "the server is still there after pg_ctl stop"
sql db1 -c 'select 1' >/dev/null 2>&1 && fail "somebody answers after pg_ctl stop"
# Started again and twice restarted from within its instance, which lives on when the shell that did it has ended.
LIMIT=100 app db1 sh -ec '
  me="psql -X -At -v ON_ERROR_STOP=1 -h $2"
  pg_ctl -D "$1" -l again.out -w start; $me -c "select 1"
  for m in fast immediate; do pg_ctl -D "$1" -l again.out -m $m -w restart; $me -c "select 1"; done' sh "$W/db1" "$(at db1)" >>ctl.log 2>&1 || fail "pg_ctl start and restart: $?"
settles db1; balanced db1
app ctl pg_ctl -D "$W/db1" -m immediate -w stop >>ctl.log 2>&1 || fail "pg_ctl stop -m immediate: $?"
stop db2
grep -q 'database system is shut down' db2.log || fail "the other server did not shut down in order"
pass "pgbench -S $tps per second"
