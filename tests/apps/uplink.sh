#!/bin/bash
# uplink.sh: an instance on a real network, by a TAP device and by passt, with programs of the kernel's own at the other end.
# limit: 900
#
# Theory of operation. The test's namespace plays the host: a default route leads through a veth pair into a second namespace, "out there", where a
# web server and curl use the kernel's stack. TAP: tap0 has an address for each family, dnsmasq gives out leases and router advertisements on it.
# passt: csel starts it as nobody special (as user 65534 in the first look), with a port forwarded. On both, IPv4 and IPv6: curl in csel from the kernel's
# server and curl of the kernel's from an instance's server, SIZE MiB each (UPLINK_MIB, 16; make it 1024 for the long form), sha256 equal; 1 % loss;
# a path that becomes narrower under a connection; errors of the way; and what is refused with words. MODE=native: the kernel itself in the instance's place
# is no test of csel: it only says so.
. "$(dirname "$0")/lib.sh"
KERNEL=yes
[ "$MODE" = native ] && pass "nothing to compare: the kernel is at the other end of every case"
SIZE=${UPLINK_MIB:-16}
for c in passt dnsmasq; do command -v $c >/dev/null || fail "$c is missing (tests/install.sh)"; done
# A machine without TUN/TAP shows passt only, and says so in its last line.
[ -c /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; } 2>/dev/null
TAP=yes; ip tuntap add dev tap0 mode tap 2>tap.log || TAP=
say() { echo "## $*"; }

# Out there: a namespace with the server, behind a veth pair. 10.8.0.254 and fd08::fe are the way on, which passt takes for the host itself.
ip link set lo up
unshare -n sleep 3600 & OUT=$!
for _ in $(seq 100); do [ "$(readlink /proc/$OUT/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break; sleep 0.05; done
out() { nsenter -t "$OUT" -n "$@"; }
ip link add v0 type veth peer name v1 && ip link set v1 netns "$OUT" || fail "no veth pair"
out ip link set lo up; out ip addr add 10.8.0.1/24 dev v1; out ip addr add 10.8.0.254/24 dev v1
out ip -6 addr add fd08::1/64 dev v1 nodad; out ip -6 addr add fd08::fe/64 dev v1 nodad; out ip link set v1 up
ip addr add 10.8.0.2/24 dev v0; ip -6 addr add fd08::2/64 dev v0 nodad; ip link set v0 up
ip route add default via 10.8.0.254; ip -6 route add default via fd08::fe
out ip route add 10.9.0.0/24 via 10.8.0.2; out ip -6 route add fd09::/64 via fd08::2
echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
[ -z "$TAP" ] || { ip link set tap0 up; ip addr add 10.9.0.1/24 dev tap0; ip -6 addr add fd09::1/64 dev tap0 nodad; }
# Its own resolv.conf, so that passt has a name server to hand on whatever this machine has.
echo 'nameserver 10.8.0.1' >resolv.conf

file=$(big "$SIZE"); mkdir www; ln -s "$file" www/file; echo small >www/small
cat >web.py <<'P'
import http.server, socket, sys, os, hashlib
class H(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_PUT(self):
        left, h = int(self.headers["Content-Length"]), hashlib.sha256()
        if self.headers.get("Expect"): self.send_response_only(100); self.end_headers()
        while left:
            b = self.rfile.read1(min(left, 1 << 20))
            if not b: return
            left -= len(b); h.update(b)
        b = h.hexdigest().encode()
        self.send_response(200); self.send_header("Content-Length", str(len(b))); self.end_headers(); self.wfile.write(b)
    def log_message(self, *a): pass
class S(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 64
os.chdir(sys.argv[2]); S(("::", int(sys.argv[1])), H).serve_forever()
P
out python3 web.py 8080 www >out.log 2>&1 & WEB=$!
for i in $(seq 200); do curl -gsS -o /dev/null --max-time 5 'http://[fd08::1]:8080/small' 2>/dev/null && break; sleep 0.1; [ "$i" = 200 ] && fail "the kernel's server does not answer"; done
want=$(cat "$file.sha")

# get URL, put URL: the file through curl, in an instance (app) or the kernel's out there (out).
C="curl -gsS --max-time 300 --connect-timeout 20"
got() { [ "$2" = "$want" ] || fail "$1: sha256 $2, not $want"; }
both_ways() { # CLIENT-COMMAND... URL: the file down and up.
  local url=${!#}; local cmd=("${@:1:$#-1}") t0=$EPOCHREALTIME
  got "GET $url" "$("${cmd[@]}" $C "$url/file" | sha256sum | cut -d' ' -f1)"
  local t1=$EPOCHREALTIME
  got "PUT $url" "$("${cmd[@]}" $C -T "$file" "$url/file")"
  awk -v u="$url" -v m="$SIZE" -v a="$t0" -v b="$t1" -v c="$EPOCHREALTIME" 'BEGIN { printf "%-28s GET %4.0f PUT %4.0f Mbit/s\n", u, m*8.388608/(b-a), m*8.388608/(c-b) }'
}
answers() { # CLIENT... URL: until a server that is starting answers.
  local i; for i in $(seq 150); do "$@" 2>/dev/null >"$W/answer" && return 0; sleep 0.2; done; fail "no answer: $*"
}

ten() { OPT=$UP LIMIT=300 app client "$@"; }
by_tap() {
say "TAP, addresses by DHCP and router advertisement"
dnsmasq --no-daemon --conf-file=/dev/null --port=0 --interface=tap0 --bind-interfaces --no-ping --dhcp-range=10.9.0.50,10.9.0.60,255.255.255.0,2m \
  --dhcp-option=option:router,10.9.0.1 --dhcp-option=option:dns-server,10.9.0.1 --enable-ra --dhcp-range=fd09::,ra-only,64,10m \
  --dhcp-leasefile="$W/leases" --log-dhcp --user=root --pid-file= >dnsmasq.log 2>&1 & DNSMASQ=$!
sleep 0.5; kill -0 $DNSMASQ || fail "dnsmasq does not run"
cat >who.py <<'P'
import socket, sys
# What an application sees: addresses of eth1, and the source it speaks from.
import ctypes, struct, fcntl
print("if", [n for _, n in socket.if_nameindex()])
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("v4", socket.inet_ntoa(fcntl.ioctl(s, 0x8915, struct.pack("256s", b"eth1"))[20:24]), "mtu", struct.unpack("i", fcntl.ioctl(s, 0x8921, struct.pack("256s", b"eth1"))[16:20])[0])
for a in sys.argv[1:]:
    s = socket.socket(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_DGRAM); s.connect((a, 9)); print("from", s.getsockname()[0])
P
# A router that has just begun may take its time to advertise.
for i in $(seq 20); do
  who=$(OPT="CSEL_UPLINK=tap:tap0" app client python3 who.py 10.8.0.1 fd08::1) || fail "who: $who"
  grep -q "^from fd09::" <<<"$who" && break
done
echo "$who"
grep -q "^v4 10\.9\.0\.[56]" <<<"$who" && grep -q "^from 10\.9\.0\.[56]" <<<"$who" && grep -q "^from fd09::" <<<"$who" || fail "no addresses by DHCP and RA: $who"
grep -q DHCPACK dnsmasq.log || fail "dnsmasq gave no lease"
UP="CSEL_UPLINK=tap:tap0"
# (As root ip(8) asks by netlink, as others do.)
said=$(OPT=$UP app client sh -c 'ip route show; ip -6 route show; ip route get 10.8.0.1; ip -br addr show dev eth1') || fail "ip: $said"
grep -q "^default via 10.9.0.1 dev eth1" <<<"$said" && grep -q "^default via fe80.*dev eth1" <<<"$said" && grep -q "^10.8.0.1 via 10.9.0.1 dev eth1" <<<"$said" || fail "routes: $said"
OPT=$UP serve server python3 "$W/web.py" 80 "$W/www"
for i in $(seq 150); do ip=$(sed -n 's/.* \(10\.9\.0\.[0-9]*\) server.*/\1/p' leases 2>/dev/null | tail -1); [ -n "$ip" ] && break; sleep 0.1; done
[ -n "${ip:-}" ] || fail "no lease for the server: $(cat leases 2>/dev/null)"
answers out $C "http://$ip/small"
out ping -c 2 -i 0.2 -W 5 "$ip" >ping.log || fail "ping $ip"
mac=$(ip neigh show "$ip" dev tap0 | awk '{print $3}'); IFS=: read -r a b c d e f <<<"$mac"
six=$(printf 'fd09::%02x%02x:%02xff:fe%02x:%02x%02x' $((0x$a ^ 2)) 0x$b 0x$c 0x$d 0x$e 0x$f)
out ping -6 -c 2 -i 0.2 -W 5 "$six" >ping.log || fail "ping $six"
both_ways out "http://$ip"; both_ways out "http://[$six]"
stop server
both_ways ten http://10.8.0.1:8080; both_ways ten 'http://[fd08::1]:8080'

say "1 % of the frames lost, both ways (CSEL_IMPAIR; tc netem where the kernel has it)"
if tc qdisc add dev tap0 root netem loss 1% 2>netem.log; then echo "netem"; else echo "no netem: $(tail -1 netem.log)"; fi
lossy=$(SIZE=4; big 4)
lost() { OPT="$UP CSEL_IMPAIR=drop=1%" LIMIT=200 app client "$@"; }
[ "$(lost $C -T "$lossy" http://10.8.0.1:8080/file)" = "$(cat "$lossy.sha")" ] || fail "PUT with loss"
ln -sf "$lossy" www/lossy
[ "$(lost $C 'http://[fd08::1]:8080/lossy' | sha256sum | cut -d' ' -f1)" = "$(cat "$lossy.sha")" ] || fail "GET with loss"
tc qdisc del dev tap0 root 2>/dev/null

say "a path that becomes narrower under a connection (fragmentation needed, packet too big)"
cat >narrow.py <<'P'
import socket, sys, time, hashlib, os
# Sends a little, lets the test narrow the path, sends the rest; the MTU the socket knows before and after.
a, go = sys.argv[1], sys.argv[2]
v6 = ":" in a
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET); s.connect((a, 8080))
n = 4 << 20
s.sendall(b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % n)
mtu = lambda: s.getsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, 24 if v6 else 14)
data = os.urandom(n); s.sendall(data[:100000]); print("mtu", mtu(), flush=True)
while not os.path.exists(go): time.sleep(0.05)
s.sendall(data[100000:])
b = b""
while b"\r\n\r\n" not in b or len(b.split(b"\r\n\r\n")[1]) < 64: b += s.recv(4096)
assert b.split(b"\r\n\r\n")[1].decode() == hashlib.sha256(data).hexdigest(), b
print("mtu", mtu())
P
for a in 10.8.0.1 fd08::1; do
  rm -f go narrow.log
  OPT=$UP serve narrow python3 narrow.py $a "$W/go"
  for i in $(seq 200); do grep -q mtu narrow.log 2>/dev/null && break; sleep 0.1; done
  ip link set v0 mtu 1300; touch go; wait "${PID[narrow]}" || fail "narrow $a"
  out=$(tr '\n' ' ' <narrow.log); echo "$a $out"
  [ "$out" = "mtu 1500 mtu 1300 " ] || fail "narrow $a: $out"
  ip link set v0 mtu 1500
done

say "errors of the way"
cat >errors.py <<'P'
import socket, errno, sys
def why(a, port, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_INET6 if ":" in a else socket.AF_INET, kind); s.settimeout(30)
    try:
        s.connect((a, port))
        if kind == socket.SOCK_DGRAM: s.send(b"x"); s.recv(1)
        return "connected"
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
print(*[why(*w) for w in [("10.8.0.1", 9), ("fd08::1", 9), ("10.8.0.1", 9, socket.SOCK_DGRAM), ("10.9.0.99", 9), ("fd09::99", 9), ("10.8.0.77", 9)]])
P

said=$(OPT=$UP LIMIT=120 app client python3 errors.py) || fail "errors"
echo "$said"
[ "$said" = "ECONNREFUSED ECONNREFUSED ECONNREFUSED EHOSTUNREACH EHOSTUNREACH EHOSTUNREACH" ] || fail "errors: $said"
kill $DNSMASQ; wait $DNSMASQ 2>/dev/null

say "TAP, addresses given"
said=$(OPT="CSEL_UPLINK=tap:tap0,ip=10.9.0.9/24,gw=10.9.0.1,ip=fd09::9/64,gw=fd09::1,mtu=1400" app client $C http://10.8.0.1:8080/small 'http://[fd08::1]:8080/small') || fail "given addresses"
[ "$said" = $'small\nsmall' ] || fail "given addresses: $said"

}
if [ -n "$TAP" ]; then by_tap; else echo "no TAP device can be made here: $(tail -1 tap.log)"; fi

say "passt, started by csel"
mount --bind "$W/resolv.conf" /etc/resolv.conf 2>/dev/null
UP=CSEL_UPLINK=passt
who=$(OPT=$UP app client python3 who.py 10.8.0.1 fd08::1) || fail "passt: $who"
echo "$who"; grep -q "^v4 10.8.0.2 mtu 65520" <<<"$who" && grep -q "^from fd08::" <<<"$who" || fail "no addresses from passt: $who"
both_ways ten http://10.8.0.1:8080; both_ways ten 'http://[fd08::1]:8080'
CSEL_PASST_ARGS="-t 8081:80" OPT=$UP serve server python3 "$W/web.py" 80 "$W/www"
answers out $C "http://10.8.0.2:8081/small"; answers out $C "http://[fd08::2]:8081/small"
both_ways out http://10.8.0.2:8081; both_ways out 'http://[fd08::2]:8081'
# (The clients' may take a moment to leave.)
for i in $(seq 300); do [ "$(pgrep -c '^passt')" = 1 ] && break; sleep 0.1; [ "$i" = 300 ] && fail "one passt for an instance, not $(pgrep -c '^passt')"; done
stop server
for i in $(seq 300); do pgrep '^passt' >/dev/null || break; sleep 0.1; [ "$i" = 300 ] && fail "passt outlives its instance"; done

say "passt, a socket of its own, and no privilege"
mkdir -m 777 nobody; chmod 755 "$W"
nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups env XDG_RUNTIME_DIR="$W/nobody" CSEL_DIR="$W/nobody/csel" HOME=/ "$@"; }
chmod o+rx "$W" 2>/dev/null; rm -rf "$W/nobody"; mkdir -m 700 "$W/nobody"; chown 65534:65534 "$W/nobody"
if nobody test -r "$LIB" -a -x "$BIN"; then
  if [ "$MODE" = run ]; then cmd=("$BIN" run --name n --net n --uplink passt --); else cmd=(env LD_PRELOAD="$LIB" CSEL_NAME=n CSEL_NET=n CSEL_UPLINK=passt); fi
  got "as nobody" "$(nobody timeout 60 "${cmd[@]}" $C http://10.8.0.1:8080/file 2>nobody.log | sha256sum | cut -d' ' -f1)"
  nobody passt --foreground --quiet --socket "$W/nobody/p.sock" >passt.log 2>&1 &
  for i in $(seq 100); do [ -S "$W/nobody/p.sock" ] && break; sleep 0.1; done
  [ "$MODE" = run ] && cmd=("$BIN" run --name n --net n --uplink "passt:$W/nobody/p.sock" --) || cmd=(env LD_PRELOAD="$LIB" CSEL_NAME=n CSEL_NET=n CSEL_UPLINK="passt:$W/nobody/p.sock")
  [ "$(nobody timeout 60 "${cmd[@]}" $C 'http://[fd08::1]:8080/small' 2>nobody.log)" = small ] || fail "passt's own socket"
else echo "(nobody cannot read $LIB: not shown here)"; fi

say "what is refused"
refused() { # WORDS OPTION
  local said; said=$(OPT="CSEL_UPLINK=$2" app client curl -s http://10.8.0.1:8080/small 2>&1); local rc=$?
  [ $rc = 125 ] && grep -q -- "$1" <<<"$said" || fail "CSEL_UPLINK=$2: status $rc, '$said', wanted '$1'"; echo "$2: $said" | head -2
}
refused "no device nosuch" tap:nosuch
refused "cannot connect to passt" passt:/nonexistent/socket
refused "must be passt" tun:x
PATH=/bin:/nonexistent; hash -r
[ -x /bin/passt ] || refused "no passt in PATH" passt
PATH=/usr/sbin:/sbin:/usr/bin:/bin

pass "${TAP:+TAP (DHCP, RA, given) and }passt$([ -n "$TAP" ] || echo " only, no TAP device can be made here"), $SIZE MiB both ways by IPv4 and IPv6, 1 % loss, path MTU, errors"
