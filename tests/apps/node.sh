#!/bin/bash
# node's http: a server and a client with keep-alive and many requests at once, streams both ways, its dns.lookup, UDP, and curl against it.
. "$(dirname "$0")/lib.sh"
cat >server.js <<'J'
const http = require('http'), crypto = require('crypto');
http.createServer((q, a) => {
  if (q.method === 'POST') { const h = crypto.createHash('sha256'); q.on('data', d => h.update(d)).on('end', () => a.end(h.digest('hex'))); }
  else if (q.url.startsWith('/big')) { let n = 256; const w = () => { while (n-- > 0) if (!a.write(Buffer.alloc(65536, 'n'))) return a.once('drain', w); a.end(); }; w(); }
  else a.end('hello ' + q.url);
}).listen(8080, '0.0.0.0', () => console.log('listening'));
require('net').createServer(s => s.pipe(s)).listen(8081, '::');
const u = require('dgram').createSocket('udp4'); u.on('message', (m, r) => u.send(m, r.port, r.address)); u.bind(8082);
J
cat >client.js <<'J'
const http = require('http'), crypto = require('crypto'), net = require('net'), dns = require('dns').promises, host = process.argv[2];
const agent = new http.Agent({ keepAlive: true, maxSockets: 50 });
const get = (path, opt = {}, body) => new Promise((ok, no) => {
  const q = http.request({ host, port: 8080, path, agent, ...opt }, a => { const c = []; a.on('data', d => c.push(d)).on('end', () => ok(Buffer.concat(c))); });
  q.on('error', no); q.end(body);
});
(async () => {
  const many = await Promise.all(Array.from({ length: 1000 }, (_, i) => get('/' + i)));
  many.forEach((b, i) => { if (b.toString() !== 'hello /' + i) throw Error('answer ' + i + ': ' + b); });
  const big = await get('/big'); if (big.length !== 256 * 65536) throw Error('big: ' + big.length);
  const up = crypto.randomBytes(8 << 20), h = crypto.createHash('sha256').update(up).digest('hex');
  if ((await get('/', { method: 'POST' }, up)).toString() !== h) throw Error('upload');
  for (const family of host === '127.0.0.1' ? [4] : [4, 6]) {
    const { address } = await dns.lookup(host, { family });
    await new Promise((ok, no) => { const s = net.connect({ host: address, port: 8081, family }); let n = 0; s.on('error', no).on('data', d => (n += d.length) === 1 << 20 && s.end()).on('close', () => n === 1 << 20 ? ok() : no(Error('echo by IPv' + family + ': ' + n))); s.write(Buffer.alloc(1 << 20)); });
  }
  const u = require('dgram').createSocket('udp4');
  await new Promise((ok, no) => { let left = 20; const t = setInterval(() => left-- ? u.send('dgram', 8082, host) : no(Error('no datagram back')), 200); u.on('message', m => { clearInterval(t); m.toString() === 'dgram' ? ok() : no(Error(m)); }); u.send('dgram', 8082, host); });
  u.close(); agent.destroy();
  await new Promise((ok, no) => net.connect(8999, host).on('connect', () => no(Error('a closed port accepted'))).on('error', e => e.code === 'ECONNREFUSED' ? ok() : no(e)));
  console.log('good');
})().catch(e => { console.error(e); process.exit(1); });
J
serve n node server.js
await n 8080
h=$(at n)
[ "$(LIMIT=60 app c node client.js "$h" 2>client.log)" = good ] || fail "node's client"
[ "$(app cu curl -sS "http://$h:8080/x")" = "hello /x" ] || fail "curl against node"
pass
