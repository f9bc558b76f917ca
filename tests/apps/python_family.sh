#!/bin/bash
# Python's ways to be many processes, with sockets: multiprocessing (fork, spawn, forkserver; Process, Pool, Manager and Listener over TCP, sockets passed to a child), concurrent.futures,
# socketserver's forking and threading servers, asyncio's subprocesses; gunicorn (pre-fork, HUP, a worker killed, USR2) and uvicorn --workers.
# limit: 240
. "$(dirname "$0")/lib.sh"
cat >many.py <<'P'
import asyncio, concurrent.futures, multiprocessing as mp, os, signal, socket, socketserver, sys, threading, time
from multiprocessing import connection, managers, reduction
HOST = '127.0.0.1'
def recv_all(s):
    out = b''
    while True:
        b = s.recv(65536)
        if not b: return out
        out += b
def ask(port, what=b'x' * 1000):
    with socket.create_connection((HOST, port), 20) as s:
        s.sendall(what); s.shutdown(socket.SHUT_WR)
        return recv_all(s)
def acceptor(lst, n):                       # a child that inherited (or was sent) a listener
    for _ in range(n):
        c, _ = lst.accept()
        with c: c.sendall(b'%d:' % os.getpid() + recv_all(c))
def answer(c):                              # a child that was sent a connection
    c.settimeout(20)
    with c: c.sendall(b'%d:' % os.getpid() + recv_all(c))
def client(port):
    return len(ask(port))
class Data:
    def __init__(self): self.n = 0
    def add(self, k): self.n += k; return self.n
class Managed(managers.BaseManager): pass
DATA = Data()
def data(): return DATA
Managed.register('data', data)
def bump(address, key, times):
    m = Managed(address=address, authkey=key); m.connect()
    for _ in range(times): m.data().add(1)
def listener_server(ready):
    with connection.Listener((HOST, 0), authkey=b'k') as l:
        ready.send(l.address[1])
        for _ in range(3):
            with l.accept() as c: c.send(('echo', c.recv()))
def dgram(s, n):
    for _ in range(n):
        b, a = s.recvfrom(2000); s.sendto(b'%d:' % os.getpid() + b, a)
def methods(how):
    ctx = mp.get_context(how)
    many = 4 if how == 'fork' else 2        # an interpreter for each is what the others cost
    # Workers that share a listener.
    lst = socket.create_server((HOST, 0), backlog=64); port = lst.getsockname()[1]
    ps = [ctx.Process(target=acceptor, args=(lst, 10)) for _ in range(many)]
    for p in ps: p.start()
    got = [ask(port) for _ in range(10 * many)]
    for p in ps: p.join(30); assert p.exitcode == 0, p.exitcode
    assert all(g.split(b':')[1] == b'x' * 1000 for g in got)
    assert {int(g.split(b':')[0]) for g in got} <= {p.pid for p in ps}
    # A connection handed to a child, which alone answers on it.
    a = socket.create_connection((HOST, port)); b, _ = lst.accept()
    p = ctx.Process(target=answer, args=(b,)); p.start(); b.close()
    a.sendall(b'handed over'); a.shutdown(socket.SHUT_WR)
    assert recv_all(a) == b'%d:handed over' % p.pid; p.join(30); a.close()
    # A datagram socket shared with a child.
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind((HOST, 0))
    p = ctx.Process(target=dgram, args=(u, 5)); p.start()
    c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.settimeout(20)
    for i in range(5):
        c.sendto(b'%d' % i, u.getsockname()); assert c.recv(2000) == b'%d:%d' % (p.pid, i)
    p.join(30); u.close(); c.close()
    # A pool of clients, and the same by concurrent.futures; the server is a thread here.
    t = threading.Thread(target=acceptor, args=(lst, 80)); t.start()
    with ctx.Pool(many) as pool: r = pool.map(client, [port] * 40, chunksize=2)
    with concurrent.futures.ProcessPoolExecutor(many, mp_context=ctx) as ex: r += list(ex.map(client, [port] * 40))
    t.join(30); assert len(r) == 80 and min(r) > 1000, r
    lst.close()
    # multiprocessing.connection over TCP, and a manager over TCP.
    here, there = ctx.Pipe()
    p = ctx.Process(target=listener_server, args=(there,)); p.start(); port = here.recv()
    for i in range(3):
        with connection.Client((HOST, port), authkey=b'k') as c: c.send(list(range(i * 1000))); assert c.recv() == ('echo', list(range(i * 1000)))
    p.join(30); assert p.exitcode == 0
    m = Managed(address=(HOST, 0), authkey=b'secret', ctx=ctx); m.start()
    ps = [ctx.Process(target=bump, args=(m.address, b'secret', 80 // many)) for _ in range(many)]
    for p in ps: p.start()
    for p in ps: p.join(30); assert p.exitcode == 0
    assert m.data().add(0) == 80; m.shutdown()
    # A child killed in the middle: its peer sees the end.
    lst = socket.create_server((HOST, 0)); p = ctx.Process(target=acceptor, args=(lst, 2)); p.start(); s = socket.create_connection(lst.getsockname()); lst.close()
    s.sendall(b'half'); time.sleep(0.2); p.kill(); p.join(30); s.settimeout(20)
    try: assert s.recv(10) == b''
    except ConnectionResetError: pass
class Echo(socketserver.StreamRequestHandler):
    def handle(self): self.wfile.write(b'%d:' % os.getpid() + self.rfile.read())
class Upper(socketserver.DatagramRequestHandler):
    def handle(self): self.wfile.write(self.rfile.read().upper())
def servers():
    for kind, forks in ((socketserver.ForkingTCPServer, True), (socketserver.ThreadingTCPServer, False)):
        with kind((HOST, 0), Echo) as srv:
            t = threading.Thread(target=srv.serve_forever, args=(0.05,)); t.start()
            with concurrent.futures.ThreadPoolExecutor(8) as ex: got = list(ex.map(lambda i: ask(srv.server_address[1], b'y' * i), range(40)))
            assert [g.split(b':')[1] for g in got] == [b'y' * i for i in range(40)]
            pids = {g.split(b':')[0] for g in got}; assert (len(pids) > 1) == forks, pids
            srv.shutdown(); t.join()
    with socketserver.ForkingUDPServer((HOST, 0), Upper) as srv:
        t = threading.Thread(target=srv.serve_forever, args=(0.05,)); t.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(20)
            for i in range(10):
                s.sendto(b'abc%d' % i, srv.server_address); assert s.recv(100) == b'ABC%d' % i
        srv.shutdown(); t.join()
CHILD = '''
import socket, sys
s = socket.socket(fileno=int(sys.argv[1])); d = b""
while True:
    b = s.recv(65536)
    if not b: break
    d += b
s.sendall(d[::-1])
'''
async def subprocesses():
    # asyncio's server and its subprocesses: an inherited connection by pass_fds, a client that is a program, output by pipes meanwhile.
    async def serve(r, w):
        d = await r.read(); w.write(d.upper()); await w.drain(); w.close()
    srv = await asyncio.start_server(serve, HOST, 0); port = srv.sockets[0].getsockname()[1]
    code = 'import socket,sys; s=socket.create_connection(("127.0.0.1",%d)); s.sendall(sys.argv[1].encode()*1000); s.shutdown(1); n=0\nwhile True:\n b=s.recv(9999)\n if not b: break\n n+=len(b); assert b==b.upper()\nprint(n)' % port
    ps = [await asyncio.create_subprocess_exec(sys.executable, '-c', code, 'abc', stdout=asyncio.subprocess.PIPE) for _ in range(6)]
    outs = await asyncio.gather(*(p.communicate() for p in ps))
    assert all(o[0].strip() == b'3000' for o in outs), outs
    srv.close()
    l = socket.create_server((HOST, 0)); a = socket.create_connection(l.getsockname()); b, _ = l.accept()
    p = await asyncio.create_subprocess_exec(sys.executable, '-c', CHILD, str(b.fileno()), pass_fds=[b.fileno()]); b.close()
    a.sendall(b'0123456789'); a.shutdown(socket.SHUT_WR); a.settimeout(20)
    assert recv_all(a) == b'9876543210'; assert await p.wait() == 0
    # Standard input and output are a connection, as inetd does it.
    a = socket.create_connection(l.getsockname()); b, _ = l.accept()
    p = await asyncio.create_subprocess_exec('tr', 'a-z', 'A-Z', stdin=b.fileno(), stdout=b.fileno()); b.close()
    a.sendall(b'inetd'); a.shutdown(socket.SHUT_WR); a.settimeout(20)
    assert recv_all(a) == b'INETD'; assert await p.wait() == 0
if __name__ == '__main__':
    if sys.argv[1] == 'servers': servers()
    elif sys.argv[1] == 'asyncio': asyncio.run(asyncio.wait_for(subprocesses(), 60))
    else: methods(sys.argv[1])
    print('done', sys.argv[1])
P
took=
for way in fork spawn forkserver servers asyncio; do
  t0=$(date +%s%N)
  app "py-$way" python3 many.py $way >$way.log 2>&1 && grep -q "^done $way" $way.log || fail "$way: $?"
  took="$took $way $((($(date +%s%N) - t0) / 1000000)) ms"
done
# gunicorn, as a pre-fork server of its own instance.
cat >app.py <<'P'
import os
def app(environ, start_response):
    body = (environ['PATH_INFO'] * 100 + ' %d\n' % os.getpid()).encode()
    start_response('200 OK', [('Content-Length', str(len(body)))]); return [body]
async def asgi(scope, receive, send):
    if scope['type'] != 'http': return
    body = b'%d\n' % os.getpid()
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', b'%d' % len(body))]})
    await send({'type': 'http.response.body', 'body': body})
P
until_true() { local i; for i in $(seq 200); do "$@" && return 0; sleep 0.05; done; return 1; }
workers() { ps -o pid= --ppid "$1"; }
three() { [ "$(workers "$1" | wc -l)" = 3 ]; }
replaced() { three "$1" && ! workers "$1" | grep -qxF "$2"; }
gone() { ! kill -0 "$1" 2>/dev/null; }
ask() { LIMIT=60 app "ab$RANDOM" ab -q -n "$2" -c 8 "http://$(at "$1"):8000/" >ab.out 2>ab.log || fail "$1: ab: $?"; grep -qE '^Failed requests: +0' ab.out && ! grep -q Non-2xx ab.out || fail "$1: $(grep -E 'requests:|Non-2xx' ab.out)"; }
serve gunicorn /usr/bin/gunicorn -w 3 -b 0.0.0.0:8000 -p "$W/g.pid" --graceful-timeout 10 app:app
await gunicorn 8000; until_true test -s g.pid; master=$(cat g.pid); until_true three "$master" || fail "gunicorn: three workers: $(workers "$master" | wc -l)"
ask gunicorn 600
old=$(workers "$master"); kill -HUP "$master"; ask gunicorn 600
until_true replaced "$master" "$old" || fail "gunicorn: HUP made no new workers"
victim=$(workers "$master" | head -1); kill -KILL $victim; until_true replaced "$master" "$victim" || fail "gunicorn: a killed worker was not replaced"
ask gunicorn 300
kill -USR2 "$master"; until_true test -s g.pid.2 || fail "gunicorn: USR2: no new master"
new=$(cat g.pid.2); until_true three "$new" || fail "gunicorn: the new master has no workers"
kill -TERM "$master"; until_true gone "$master" || fail "gunicorn: the old master stays"
ask gunicorn 600
kill -TERM "$new"; until_true gone "$new" || fail "gunicorn: the new master stays"
stop gunicorn
serve uvicorn /usr/bin/python3 -m uvicorn --workers 3 --host 0.0.0.0 --port 8000 --log-level warning app:asgi
await uvicorn 8000; ask uvicorn 600; stop uvicorn
pass "$took"
