#!/bin/bash
# leak: without a route nothing leaves: every other test of this directory ends with a look at what the kernel's IP stack was asked to do in its
# namespace (lib.sh: leaked). Here that look is looked at: it sees each kind of thing that could leave, and programs under csel that try them leave none.
. "$(dirname "$0")/lib.sh"
# The kernel counts an IPv6 attempt without a route only where some interface is up.
ip link set lo up || fail "no loopback"

# Programs that reach out: by address, by name, IPv4 and IPv6, streams and datagrams, through libc and through their own resolvers.
reach() {
  local n=$1; shift
  "$n" one curl -s -m 3 http://203.0.113.9/
  "$n" two curl -s -m 3 'http://[2001:db8::9]/'
  "$n" three curl -s -m 3 http://nowhere.example/
  "$n" four getent ahosts nowhere.example
  "$n" five python3 -c 'import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(1); s.sendto(b"x", ("203.0.113.9", 53))'
  "$n" six perl -e 'use IO::Socket::INET; IO::Socket::INET->new(PeerAddr => "203.0.113.9:80", Timeout => 2)'
  "$n" seven bash -c 'exec 3<>/dev/tcp/203.0.113.9/80'
  "$n" eight node -e 'require("dns").resolve4("nowhere.example", () => {}); require("net").connect(80, "203.0.113.9").on("error", () => process.exit(0))'
  return 0
} >"$W/reach.log" 2>&1

plain() { shift; timeout 20 "$@"; }
# Natively each of them is seen (the loopback is up there, nothing else: no packet of these can leave the namespace).
before=$(leaked)
for what in "curl -s -m 3 http://203.0.113.9/" "curl -s -m 3 http://[2001:db8::9]/" "bash -c exec\ 3<>/dev/tcp/203.0.113.9/80" "bash -c exec\ 3<>/dev/udp/203.0.113.9/53&&echo\ x>&3"; do
  eval "plain x $what" >/dev/null 2>&1
  after=$(leaked); [ "$after" -gt "$before" ] || fail "'$what' natively was not seen: $before, $after"
  before=$after
done
if [ "$MODE" = native ]; then reach plain; pass "$(leaked) seen"; fi

unseen=$(leaked)
reach app
[ "$(leaked)" = "$unseen" ] || fail "$(($(leaked) - unseen)) packets, connects or queries were left to the kernel's IP stack; $(cat "$W/reach.log")"
# And no socket of the kernel's IP families is made at all.
for try in "curl -s -m 3 http://203.0.113.9/" "getent ahosts nowhere.example" "python3 -c import\ socket;socket.socket(type=2).sendto(b'x',('203.0.113.9',53))"; do
  eval "as traced $try"
  timeout 30 strace -f -qq -e trace=socket,connect,sendto,sendmsg -o "$W/strace.txt" "${CMD[@]}" >/dev/null 2>&1
  grep -c . "$W/strace.txt" >/dev/null || fail "no strace of '$try'"
  ! grep -E 'AF_INET' "$W/strace.txt" || fail "'$try' used the kernel's IP sockets"
done
KERNEL=yes pass "8 programs, nothing left the instance"
