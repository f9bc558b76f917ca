#!/bin/bash
# demo.sh: what csel is, shown in half a minute with programs that know nothing of it.
#
# Two instances serve HTTP on port 80 at the same time: nginx by `csel run`, Python's http.server by LD_PRELOAD alone. A client instance gets each
# by name, by IPv4 and by IPv6. Meanwhile the host's ss(8) knows no new listener on port 80, an strace of all three programs shows no socket of
# AF_INET or AF_INET6, and tshark reads the handshakes from the client's pcap. Ends with "all shown", or with "not shown: ..." and status 1.
#
# No network namespace here: this is the host as it is. Everything started is ended by its pid.
set -u
ROOT=$(cd "$(dirname "$0")/.." && pwd)
T=${CARGO_TARGET_DIR:-$ROOT/target}
LIB=${CSEL_LIB:-$T/release/libcsel.so} BIN=${CSEL_BIN:-$T/release/csel}
for f in "$LIB" "$BIN"; do [ -e "$f" ] || { echo "not shown: $f is missing, run make build"; exit 1; }; done
unset CSEL_LIB CSEL_BIN CSEL_TESTBIN LD_PRELOAD http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
PATH=/usr/sbin:/sbin:/usr/bin:/bin:$PATH
W=$(mktemp -d /tmp/csel-demo.XXXXXX); chmod 755 "$W"; cd "$W" || exit 1
export XDG_RUNTIME_DIR=$W/run CSEL_NET=demo; mkdir -m 700 run
PIDS=()
# The servers are strace's children: they get the signal, and strace ends with the last process it follows.
end() {
  local p; for p in "${PIDS[@]}"; do kill -TERM $(ps -o pid= --ppid "$p") 2>/dev/null; done
  for p in "${PIDS[@]}"; do for _ in $(seq 60); do kill -0 "$p" 2>/dev/null || break; sleep 0.05; done; kill -KILL "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
  PIDS=()
}
finish() { end; cd /; rm -rf "$W"; }
trap finish EXIT
not() { echo "not shown: $*"; for f in *.log; do [ -s "$f" ] && { echo "-- $f"; tail -n 15 "$f"; }; done; exit 1; }
say() { echo; echo "## $*"; }

mkdir www1 www2; echo "I am nginx, instance web1" >www1/index.html; echo "I am Python's http.server, instance web2" >www2/index.html
cat >nginx.conf <<C
daemon off; master_process off; worker_processes 1; error_log stderr error; pid $W/pid; user root;
events { worker_connections 64; }
http { access_log off; client_body_temp_path $W/b; proxy_temp_path $W/p; fastcgi_temp_path $W/f; uwsgi_temp_path $W/u; scgi_temp_path $W/s;
  server { listen 80; listen [::]:80 ipv6only=on; root $W/www1; } }
C
before=$(ss -Hltn 'sport = :80')
STRACE="strace -f -qq -e trace=socket"

say "two unmodified web servers, both on port 80"
echo "\$ csel run --name web1 -- nginx -c nginx.conf"
$STRACE -o web1.strace "$BIN" run --name web1 --net demo -- nginx -p "$W" -c "$W/nginx.conf" >web1.log 2>&1 </dev/null & PIDS+=($!)
echo "\$ LD_PRELOAD=libcsel.so CSEL_NAME=web2 python3 -m http.server --bind :: 80"
$STRACE -o web2.strace env LD_PRELOAD="$LIB" CSEL_NAME=web2 python3 -m http.server --bind :: --directory "$W/www2" 80 >web2.log 2>&1 </dev/null & PIDS+=($!)

client() { timeout 40 "$BIN" run --name "${as:-client}" --net demo "${opt[@]}" -- "$@"; }
opt=()
# A server that is still starting refuses: ask until each has answered once.
for w in web1 web2; do
  for i in $(seq 100); do as=first client curl -s -o /dev/null --max-time 5 "http://$w/" 2>first.log && break; sleep 0.1; [ "$i" = 100 ] && not "$w does not answer"; done
done

say "a client instance gets each by name, by IPv4 and by IPv6"
want1=$(cat www1/index.html); want2=$(cat www2/index.html); n=0
for w in web1 web2; do
  [ $w = web1 ] && want=$want1 || want=$want2
  # The client asks the names itself, in its own instance.
  opt=()
  four=$(client getent ahostsv4 $w | awk '{print $1; exit}'); six=$(client getent ahostsv6 $w | awk '$1 !~ /^::ffff:/ {print $1; exit}')
  [ -n "$four" ] && [ -n "$six" ] || not "addresses of $w: '$four' '$six'"
  for url in "http://$w/" "http://$four/" "http://[$six]/"; do
    n=$((n + 1)); opt=(--pcap "$W/c$n.pcapng")
    if [ $n = 1 ]; then got=$($STRACE -o client.strace timeout 40 "$BIN" run --name client --net demo "${opt[@]}" -- curl -gsS --max-time 20 "$url" 2>client.log); else got=$(client curl -gsS --max-time 20 "$url" 2>client.log); fi
    [ "$got" = "$want" ] || not "curl $url: '$got' $(cat client.log)"
    printf '%-34s %s\n' "$url" "$got"
  done
done

say "the instances, and their sockets, as csel knows them"
"$BIN" ps --net demo || not "csel ps"
"$BIN" ss --net demo || not "csel ss"
[ "$("$BIN" ss --net demo 2>/dev/null | grep -cE 'LISTEN.*:80\b')" -ge 2 ] || not "csel ss shows no two listeners on port 80"

say "the kernel's own view: ss -ltn, port 80"
after=$(ss -Hltn 'sport = :80'); echo "before: ${before:-(none)}"; echo "now:    ${after:-(none)}"
[ "$before" = "$after" ] || not "the host has a new listener on port 80"

say "socket(2) calls of the three programs that went to the kernel, by family"
end
cat ./*.strace | grep -oE 'AF_[A-Z0-9]+' | sort | uniq -c
[ -s web1.strace ] && [ -s web2.strace ] || not "no strace"
if grep -nE 'AF_INET6?\b' ./*.strace; then not "an AF_INET or AF_INET6 socket call was made"; fi

say "the handshakes, from the client's pcap by tshark"
for i in 1 3; do
  tshark -r "c$i.pcapng" -Y 'tcp.flags.syn == 1 || http.request || http.response' 2>tshark.log | cut -c1-150
  [ "$(tshark -r "c$i.pcapng" -Y 'tcp.flags.syn == 1 && tcp.flags.ack == 0' 2>/dev/null | wc -l)" -ge 1 ] || not "no SYN in c$i.pcapng: $(tail -2 tshark.log)"
  [ "$(tshark -r "c$i.pcapng" -Y 'tcp.flags.syn == 1 && tcp.flags.ack == 1' 2>/dev/null | wc -l)" -ge 1 ] || not "no SYN|ACK in c$i.pcapng"
  [ "$(tshark -r "c$i.pcapng" -Y 'http.response.code == 200' 2>/dev/null | wc -l)" -ge 1 ] || not "no HTTP answer in c$i.pcapng"
  [ -z "$(tshark -r "c$i.pcapng" -Y '_ws.malformed' 2>/dev/null)" ] || not "malformed frames in c$i.pcapng"
done
say "all shown"
