#!/bin/bash
# nginx in one process, by ab (with and without keep-alive) and wrk: every answer complete, none failed; a large file by sendfile.
. "$(dirname "$0")/lib.sh"
f=$(big 64); mkdir -p www logs; cp "$f" www/big; head -c 612 /dev/zero | tr '\0' n >www/index.html
cat >nginx.conf <<C
daemon off; master_process off; worker_processes 1; error_log stderr warn; pid $W/nginx.pid; user root;
events { worker_connections 4096; }
http { access_log off; sendfile on; keepalive_requests 1000000; client_body_temp_path $W/b; proxy_temp_path $W/p; fastcgi_temp_path $W/f; uwsgi_temp_path $W/u; scgi_temp_path $W/s;
  server { listen 80 backlog=1024; listen [::]:80 ipv6only=on; root $W/www; } }
C
serve web nginx -p "$W" -c "$W/nginx.conf"
await web 80
h=$(at web)
for k in "" -k; do
  LIMIT=60 app "ab$k" ab -q -n 5000 -c 50 $k "http://$h/" >ab.out 2>ab.log || fail "ab $k: $?"
  grep -qE '^Complete requests: +5000' ab.out && grep -qE '^Failed requests: +0' ab.out || fail "ab $k: $(grep -E 'requests:' ab.out)"
done
LIMIT=30 app wrk wrk -t 2 -c 100 -d 2s "http://$h/" >wrk.out 2>&1 || fail "wrk: $?"
grep -qE 'Socket errors|Non-2xx' wrk.out && fail "wrk: $(grep -E 'Socket errors|Non-2xx' wrk.out)"
grep -qE 'Requests/sec: +[1-9]' wrk.out || fail "wrk made no request: $(tail -3 wrk.out)"
LIMIT=60 app c curl -sS -o got "http://$h/big" || fail "curl: $?"; same got "$f" "sendfile"
app c6 curl -sS -6 -o /dev/null "http://$([ "$MODE" = native ] && echo '[::1]' || echo web)/" || fail "curl -6: $?"
stop web
pass "$(grep Requests/sec wrk.out | tr -s ' ')"
