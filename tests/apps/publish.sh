#!/bin/bash
# publish: -p. curl of the host's kernel to nginx in an instance: 64 MiB down and up, keep-alive, 50 at once, and what the keeper says of a taken port.
. "$(dirname "$0")/lib.sh"
# The host here is the kernel of this namespace: it is meant to be used.
KERNEL=yes
ip link set lo up || fail "no loopback for the host's side"
f=$(big 64)
mkdir -p www/up; ln -s "$f" www/f
cat >nginx.conf <<N
daemon off; master_process off; error_log $W/error.log; pid $W/pid;
events { worker_connections 512; }
http { access_log off; client_body_temp_path $W/t; proxy_temp_path $W/t; fastcgi_temp_path $W/t; uwsgi_temp_path $W/t; scgi_temp_path $W/t;
  client_max_body_size 0; server { listen ${PORT:=8080}; root $W/www; location /up/ { dav_methods PUT; } } }
N
P="--publish 127.0.0.1:18080:8080"
case $MODE in
  native) PORT=18080; sed -i s/8080/18080/ nginx.conf; serve web nginx -c "$W/nginx.conf" ;;
  preload) OPT="CSEL_PUBLISH=127.0.0.1:18080:8080" serve web nginx -c "$W/nginx.conf" ;;
  run) "$BIN" run --name web $P -- nginx -c "$W/nginx.conf" >web.log 2>&1 </dev/null & PID[web]=$! ;;
esac
u=http://127.0.0.1:18080
for _ in $(seq 100); do curl -s -o /dev/null "$u/" && break; sleep 0.1; done
curl -sS --max-time 60 -o got "$u/f" || fail "curl: $?"
same got "$f" "64 MiB down"
curl -sS --max-time 60 -o a "$u/f" --next -sS -o b "$u/f" || fail "keep-alive: $?"
same b "$f" "the second on one connection"
seq 50 | xargs -P 50 -I% curl -sS --max-time 60 -r %-1000%0 -o part% "$u/f" || fail "50 at once"
for i in $(seq 50); do
  n=$(stat -c %s "part$i")
  cmp -s "part$i" <(tail -c +$((i + 1)) "$f" | head -c "$n") && [ "$n" -gt 1000 ] || fail "part $i differs ($n bytes)"
done
if [ "$MODE" != native ]; then
  "$BIN" run --name two $P -- true 2>two.log; rc=$?
  [ $rc = 125 ] && grep -q 'EADDRINUSE.*choose another host port' two.log || fail "a taken port: $rc $(cat two.log)"
fi
pass
