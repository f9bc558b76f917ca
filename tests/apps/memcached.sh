#!/bin/bash
# memcached with four threads: its tools (libmemcached), and a client with many connections in Python.
. "$(dirname "$0")/lib.sh"
serve mc memcached -u root -l 0.0.0.0 -p 11211 -U 11211 -t 4 -c 1024
await mc 11211
h=$(at mc)
head -c 500000 /dev/urandom >obj
app cp memccp --servers="$h:11211" obj || fail "memccp: $?"
app cat memccat --servers="$h:11211" --file=got obj || fail "memccat: $?"
cmp -s obj got || fail "memccat: other bytes"
cat >c.py <<'P'
import socket, sys, threading
host, fails = sys.argv[1], []
def line(f): return f.readline().rstrip(b'\r\n')
def one(t):
    try:
        s = socket.create_connection((host, 11211), 30); f = s.makefile('rwb')
        for i in range(300):
            k, v = f'k{t}-{i}'.encode(), bytes([t % 256]) * (i * 37 % 5000)
            f.write(b'set %s 0 0 %d\r\n%s\r\n' % (k, len(v), v)); f.flush(); assert line(f) == b'STORED'
            f.write(b'get %s\r\n' % k); f.flush()
            assert line(f) == b'VALUE %s 0 %d' % (k, len(v)); assert f.read(len(v) + 2) == v + b'\r\n'; assert line(f) == b'END'
    except BaseException as e: fails.append((t, repr(e)))
ts = [threading.Thread(target=one, args=(t,)) for t in range(40)]
[t.start() for t in ts]; [t.join() for t in ts]
# And over UDP: an 8-byte frame header, then the same words.
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(5)
u.sendto(b'\0\7\0\0\0\1\0\0get k1-1\r\n', (socket.gethostbyname(host), 11211)); r = u.recv(65536)
if r[:2] != b'\0\7' or b'VALUE k1-1' not in r: fails.append(('udp', r))
print(fails[:3] or 'good'); sys.exit(bool(fails))
P
LIMIT=90 app py python3 c.py "$h" || fail "40 connections"
stop mc
pass
