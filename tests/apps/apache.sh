#!/bin/bash
# (setsid: Apache ends its whole process group.)
# Apache, prefork and event MPM: ab with and without keep-alive, graceful restart (USR1) under load, a child killed under load, a large file.
. "$(dirname "$0")/lib.sh"
f=$(big 16); mkdir -p www; cp "$f" www/big; head -c 612 /dev/zero | tr '\0' a >www/index.html
mods=/usr/lib/apache2/modules
conf() {
  cat >"$1.conf" <<C
ServerRoot $W
DefaultRuntimeDir $W
PidFile $W/$1.pid
ServerName localhost
LoadModule mpm_$1_module $mods/mod_mpm_$1.so
LoadModule authz_core_module $mods/mod_authz_core.so
LoadModule dir_module $mods/mod_dir.so
LoadModule alias_module $mods/mod_alias.so
Listen 0.0.0.0:80
Listen [::]:80
ErrorLog $W/$1.err
LogLevel info
DocumentRoot $W/www
DirectoryIndex index.html
KeepAlive On
MaxKeepAliveRequests 0
GracefulShutdownTimeout 10
User www-data
Group www-data
$2
Redirect 404 /gen0
C
}
workers() { ps -o pid= --ppid "$1"; }
until_true() { local i; for i in $(seq 200); do "$@" && return 0; sleep 0.05; done; return 1; }
gone() { ! kill -0 "$1" 2>/dev/null; }
replaced() { ! workers "$1" | grep -qxF "$2" && [ -n "$(workers "$1")" ]; }
status() { app "s$RANDOM" curl -sS -m 10 -o /dev/null -w '%{http_code}' "http://$h$1"; }
answers() { [ "$(status "$1")" = 404 ]; }
# load NAME SECONDS [wrk options]: in the background; `loaded NAME` waits for it.
load() { local n=$1 s=$2; shift 2; (LIMIT=40 app "c$n" wrk -t 1 -c 16 -d "${s}s" --timeout 15s "$@" "http://$h/" >"$n.wrk" 2>&1; echo "status $?" >>"$n.wrk") & LOAD=$!; }
loaded() {
  wait $LOAD; grep -q '^status 0' "$1.wrk" || fail "$1: wrk: $(tail -3 "$1.wrk")"
  grep -qE 'Requests/sec: +[1-9]' "$1.wrk" || fail "$1: no request"
  [ "${2:-}" = lossy ] || ! grep -E 'Socket errors|Non-2xx' "$1.wrk" >"$1.bad" || fail "$1: $(cat "$1.bad")"
}
mpm() {
  conf "$1" "$2"
  serve "$1" setsid /usr/sbin/apache2 -f "$W/$1.conf" -D FOREGROUND; await "$1" 80; h=$(at "$1")
  until_true test -s "$1.pid"; local master victim k; master=$(cat "$1.pid")
  for k in "" -k; do
    LIMIT=60 app "ab$k" ab -q -n 3000 -c 20 $k "http://$h/" >ab.out 2>ab.log || fail "$1: ab $k: $?"
    grep -qE '^Complete requests: +3000' ab.out && grep -qE '^Failed requests: +0' ab.out || fail "$1: ab $k: $(grep -E 'requests:' ab.out)"
  done
  # Graceful restarts under load: no request fails, and the new configuration holds.
  load "$1-graceful" 3 -H 'Connection: close'
  for k in 1 2; do
    sleep 0.5; sed -i "s/^Redirect .*/Redirect 404 \/gen$k/" "$1.conf"; kill -USR1 "$master"
    until_true answers "/gen$k" || fail "$1: graceful restart $k: the new configuration does not hold"
  done
  loaded "$1-graceful"
  load "$1-kill" 2
  sleep 0.5; victim=$(workers "$master" | head -1); kill -KILL $victim; until_true replaced "$master" "$victim" || fail "$1: a killed child was not replaced"
  loaded "$1-kill" lossy
  load "$1-after" 1 -H 'Connection: close'; loaded "$1-after"
  app "g$1" curl -sS -m 20 -o got "http://$h/big" || fail "$1: curl: $?"; same got "$f" "$1: a large file"
  kill -WINCH "$master"; until_true gone "$master" || fail "$1: graceful stop: the master stays"
  stop "$1"
}
mpm prefork "StartServers 4
MinSpareServers 2
MaxSpareServers 8
MaxRequestWorkers 32"
# (More threads in each child than there are clients: with none to spare, event ends idle connections, and a request may be on its way.)
mpm event "StartServers 2
MinSpareThreads 8
MaxSpareThreads 128
ThreadsPerChild 32
MaxRequestWorkers 128"
pass "$(awk '/Requests\/sec/ {printf "%s %s  ", FILENAME, $2}' *-graceful.wrk *-after.wrk)"
