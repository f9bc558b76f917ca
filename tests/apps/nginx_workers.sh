#!/bin/bash
# nginx with a master and four workers under load: HUP, USR2 then WINCH and QUIT (binary upgrade), a worker killed and replaced; accept_mutex, reuseport, `daemon on`;
# clients in another instance and in the same one.
. "$(dirname "$0")/lib.sh"
f=$(big 16); mkdir -p www; cp "$f" www/big; head -c 612 /dev/zero | tr '\0' n >www/index.html; echo one >www/gen
# conf NAME "main" "events" "listen options"
conf() {
  cat >"$1.conf" <<C
worker_processes 4; error_log $W/$1.err info; pid $W/$1.pid; user root; worker_shutdown_timeout 20s; $2
events { worker_connections 1024; $3 }
http { access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path $W/b; proxy_temp_path $W/p; fastcgi_temp_path $W/f; uwsgi_temp_path $W/u; scgi_temp_path $W/s;
  server { listen 80 backlog=1024 $4; listen [::]:80 ipv6only=on backlog=1024 $4; root $W/www; location = /pid { return 200 "\$pid\n"; } } }
C
}
# load NAME SECONDS [wrk options]: wrk in another instance, in the background; `loaded NAME` waits for it, its whole output in NAME.wrk.
load() { local n=$1 s=$2; shift 2; (LIMIT=40 app "c$n" wrk -t 2 -c 20 -d "${s}s" --timeout 15s "$@" "http://$h/" >"$n.wrk" 2>&1; echo "status $?" >>"$n.wrk") & LOAD=$!; }
loaded() {
  wait $LOAD; grep -q '^status 0' "$1.wrk" || fail "$1: wrk: $(tail -3 "$1.wrk")"
  grep -qE 'Requests/sec: +[1-9]' "$1.wrk" || fail "$1: no request"
  [ "${2:-}" = lossy ] || ! grep -E 'Socket errors|Non-2xx' "$1.wrk" >"$1.bad" || fail "$1: $(cat "$1.bad")"
}
# The workers of master $1, and a wait (10 s) until "$@" holds.
workers() { ps -o pid=,args= --ppid "$1" | awk '/worker process/ && !/shutting down/ {print $1}'; }
until_true() { local i; for i in $(seq 200); do "$@" && return 0; sleep 0.05; done; return 1; }
four() { [ "$(workers "$1" | wc -l)" = 4 ]; }
fresh() { four "$1" && ! workers "$1" | grep -qxF "$2"; }
replaced() { four "$1" && ! workers "$1" | grep -qx "$2"; }
none_old() { [ -z "$(ps -o pid=,args= --ppid "$1" | grep 'shutting down')" ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }
get() { app "g$RANDOM" curl -sS -m 10 "$@"; }

conf plain "daemon off;" "" ""
serve web /usr/sbin/nginx -p "$W" -c "$W/plain.conf"
await web 80; h=$(at web)
master=$(cat plain.pid); until_true four "$master" || fail "four workers: $(workers "$master" | wc -l)"
# Every worker serves, by keep-alive and without.
load keep 1; loaded keep
served=$(for _ in $(seq 4); do app "s$RANDOM" ab -q -n 40 -c 8 "http://$h/pid" >/dev/null 2>&1; done; for _ in $(seq 12); do get "http://$h/pid"; done | sort -u | wc -l)
[ "$served" -ge 1 ] || fail "no worker answered"
# Reload under load: each connection is answered (by an old worker or a new one), none refused, and the new configuration holds.
load hup 3 -H 'Connection: close'
for i in 1 2 3; do
  sleep 0.6; old=$(workers "$master"); sed -i "s/return 200 .*; }/return 200 \"gen$i\\\\n\"; }/" plain.conf; kill -HUP "$master"
  until_true fresh "$master" "$old" || fail "reload $i: no new workers"
done
loaded hup
until_true none_old "$master" || fail "old workers stay after reload: $(ps -o pid,args --ppid "$master")"
[ "$(get "http://$h/pid")" = gen3 ] || fail "after three reloads the old configuration answers"
# A worker killed under load: the master makes another; afterwards nothing fails.
load kill 2
sleep 0.7; victim=$(workers "$master" | head -1); kill -KILL "$victim"
until_true replaced "$master" "$victim" || fail "a killed worker was not replaced"
loaded kill lossy
load after 1 -H 'Connection: close'; loaded after
kill -QUIT "$master"; until_true gone "$master" || fail "QUIT: the master stays"
stop web
# upgrade CONF: `daemon on` (nginx detaches by fork, as programs do), then a binary upgrade under load: USR2, WINCH and QUIT of the old master; QUIT of the new one.
both() { new=$(cat "$1.pid" 2>/dev/null); [ -n "$new" ] && [ "$new" != "$master" ] && four "$new"; }
idle() { [ -z "$(ps -o args= --ppid "$1" | grep 'worker process')" ]; }
upgrade() {
  rm -f "$1.pid"; serve "$1" /usr/sbin/nginx -p "$W" -c "$W/$1.conf"; await "$1" 80; h=$(at "$1")
  until_true test -s "$1.pid"; master=$(cat "$1.pid"); until_true four "$master" || fail "$1: four workers: $(workers "$master" | wc -l)"
  [ "$(ps -o ppid= -p "$master")" -eq 1 ] || [ "$MODE" = run ] || fail "$1: 'daemon on' did not detach: its parent is $(ps -o ppid= -p "$master")"
  load "$1" 3 -H 'Connection: close'
  sleep 0.4; kill -USR2 "$master"
  until_true both "$1" || fail "$1: USR2: the new master has no workers: $(ps -o pid,ppid,args -e | grep nginx)"
  kill -WINCH "$master"; until_true idle "$master" || fail "$1: WINCH: old workers stay"
  kill -QUIT "$master"; until_true gone "$master" || fail "$1: QUIT: the old master stays"
  loaded "$1"
  get -o got "http://$h/big" || fail "$1: curl: $?"; same got "$f" "$1: sendfile by the upgraded server"
  kill -QUIT "$new"; until_true gone "$new" || fail "$1: the new master does not end"
}
conf mutex "daemon on;" "accept_mutex on;" ""; upgrade mutex
conf reuse "daemon on;" "" "reuseport"; upgrade reuse
# The same instance: the server and its clients are one family, and meet on its own loopback.
conf fam "daemon on;" "multi_accept on;" ""
cat >fam.sh <<'C'
/usr/sbin/nginx -p "$1" -c "$1/fam.conf" || exit 1
wrk -t 2 -c 20 -d 1s http://127.0.0.1/ || exit 2
wrk -t 1 -c 20 -d 1s -H 'Connection: close' http://localhost/ || exit 3
curl -sS -6 -m 10 -o "$1/got6" 'http://[::1]/big' || exit 4
kill -QUIT "$(cat "$1/fam.pid")"
C
LIMIT=20 app fam bash fam.sh "$W" >fam.wrk 2>&1 || fail "one family: $? $(tail -3 fam.wrk)"
grep -E 'Socket errors|Non-2xx' fam.wrk && fail "one family: $(cat fam.wrk)"
same got6 "$f" "one family"
pass "$(awk '/Requests\/sec/ {printf "%s %s  ", FILENAME, $2}' keep.wrk hup.wrk mutex.wrk reuse.wrk fam.wrk)"
