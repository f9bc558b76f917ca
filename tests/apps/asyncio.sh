#!/bin/bash
# Python's asyncio: an echo server and a client with 2 000 connections at once, streams and datagrams.
. "$(dirname "$0")/lib.sh"
cat >s.py <<'P'
import asyncio
async def echo(r, w):
    try:
        while (b := await r.read(65536)): w.write(b); await w.drain()
    except ConnectionError: pass
    finally: w.close()
class U(asyncio.DatagramProtocol):
    def connection_made(self, t): self.t = t
    def datagram_received(self, d, a): self.t.sendto(d, a)
async def main():
    await asyncio.get_running_loop().create_datagram_endpoint(U, local_addr=('0.0.0.0', 9001))
    s = await asyncio.start_server(echo, None, 9000, backlog=4096)
    async with s: await s.serve_forever()
asyncio.run(main())
P
cat >c.py <<'P'
import asyncio, socket, sys
host, N = sys.argv[1], 2000
async def one(i, gate):
    async with gate: r, w = await asyncio.open_connection(host, 9000)
    return r, w
async def talk(i, rw):
    r, w = rw
    for k in range(3):
        m = f'{i}-{k}-'.encode() * 20
        w.write(m); await w.drain()
        assert await asyncio.wait_for(r.readexactly(len(m)), 60) == m, i
    w.write_eof(); assert await r.read() == b''; w.close(); await w.wait_closed()
class U(asyncio.DatagramProtocol):
    def __init__(self, f): self.f = f
    def datagram_received(self, d, a): self.f.done() or self.f.set_result(d)
async def main():
    gate = asyncio.Semaphore(200)
    all = await asyncio.gather(*(one(i, gate) for i in range(N)))
    await asyncio.gather(*(talk(i, rw) for i, rw in enumerate(all)))
    f = asyncio.get_running_loop().create_future()
    t, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: U(f), remote_addr=(host, 9001), family=socket.AF_INET)
    for _ in range(20):
        t.sendto(b'dgram')
        try: assert await asyncio.wait_for(asyncio.shield(f), 0.5) == b'dgram'; break
        except asyncio.TimeoutError: pass
    else: raise SystemExit('no datagram back')
    t.close(); print('good')
asyncio.run(main())
P
serve py python3 s.py
await py 9000
[ "$(LIMIT=100 app c python3 c.py "$(at py)" 2>client.log)" = good ] || fail "2 000 connections"
pass "2000 connections"
