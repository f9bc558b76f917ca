//! TCP between instances, and of an instance with itself, under a virtual clock.
use super::*;
use crate::call::socket;
use crate::clock::{MS, SEC};
use crate::net::addr::Ip;
use crate::testing::{Host, World};
use std::vec;
use std::vec::Vec;

const IN: u32 = flow::IN;
const OUT: u32 = flow::OUT;
const HUP: u32 = flow::HUP;
const RDHUP: u32 = flow::RDHUP;
const ERR: u32 = flow::ERR;

/// A socket on a host; what is forgotten is closed.
struct So<'a> {
    h: &'a Host,
    s: Option<Held>,
}

impl<'a> So<'a> {
    fn new(h: &'a Host, v6: bool) -> Self {
        let s = h.socket(if v6 { libc::AF_INET6 } else { libc::AF_INET }, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
        Self { h, s: Some(s) }
    }
    fn held(&self) -> &Held {
        self.s.as_ref().expect("open")
    }
    fn bind(&self, at: Endpoint) -> Result<()> {
        self.h.call(|cx| bind(cx, self.held(), &at))
    }
    fn listen(&self, n: i32) -> Result<()> {
        self.h.call(|cx| listen(cx, self.held(), n))
    }
    fn connect(&self, to: Endpoint) -> Result<()> {
        self.h.call(|cx| connect(cx, self.held(), &to))
    }
    fn accept(&self) -> Result<Self> {
        let (s, _) = self.h.call(|cx| accept(cx, self.held()))?;
        s.flags.fetch_or(libc::O_NONBLOCK as u32, Relaxed);
        Ok(So { h: self.h, s: Some(s) })
    }
    fn send(&self, data: &[u8]) -> Result<usize> {
        self.send_with(data, 0)
    }
    fn send_with(&self, data: &[u8], flags: i32) -> Result<usize> {
        self.h.call(|cx| send(cx, self.held(), &[IoIn::new(data)], 0, &SendMsg { flags, ..SendMsg::default() }))
    }
    fn recv(&self, n: usize) -> Result<Vec<u8>> {
        self.recv_with(n, 0)
    }
    fn recv_with(&self, n: usize, flags: i32) -> Result<Vec<u8>> {
        let mut room = vec![0; n];
        let got = self.h.call(|cx| recv(cx, self.held(), &mut [IoOut::new(&mut room)], 0, &mut RecvMsg { flags, ..RecvMsg::default() }))?;
        room.truncate(got);
        Ok(room)
    }
    fn shutdown(&self, how: i32) -> Result<()> {
        self.h.call(|cx| shutdown(cx, self.held(), how))
    }
    fn name(&self) -> Endpoint {
        self.h.call(|cx| local(cx, self.held())).expect("a name")
    }
    fn peer(&self) -> Result<Endpoint> {
        self.h.call(|cx| peer(cx, self.held()))
    }
    fn ready(&self) -> u32 {
        self.held().ready.load(Relaxed)
    }
    fn set(&self, name: i32, v: i32) -> Result<()> {
        self.h.call(|cx| setsockopt(cx, self.held(), name, &v.to_ne_bytes()))
    }
    fn info(&self, at: usize) -> u32 {
        let mut out = [0; 280];
        self.h.call(|cx| getsockopt(cx, self.held(), libc::TCP_INFO, &mut out)).expect("TCP_INFO");
        u32::from_ne_bytes([out[at], out[at + 1], out[at + 2], out[at + 3]])
    }
    fn state(&self) -> u8 {
        self.info(0) as u8
    }
    fn close(mut self) {
        self.end();
    }
    fn end(&mut self) {
        if let Some(s) = self.s.take() {
            self.h.call(|cx| s.release(cx));
        }
    }
}
impl Drop for So<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn ip(h: &Host, v6: bool) -> Ip {
    h.env.inst.facts.get().addrs().iter().map(|a| a.ip).find(|ip| ip.is_v4() != v6 && !ip.is_link_local6()).expect("an address")
}
fn listener(h: &Host, at: Ip, backlog: i32) -> (So<'_>, Endpoint) {
    let l = So::new(h, !at.is_v4());
    l.bind(Endpoint::new(at, 0)).expect("bind");
    l.listen(backlog).expect("listen");
    let at = l.name();
    (l, at)
}
/// A connection from host `a` to host `b`: listener, client, server.
fn pair_at<'a>(w: &'a World, a: usize, b: usize, at: Ip) -> (So<'a>, So<'a>, So<'a>) {
    let (l, at) = listener(&w.hosts[b], at, 8);
    let c = So::new(&w.hosts[a], !at.ip.is_v4());
    assert_eq!(c.connect(at), Err(Errno::EINPROGRESS));
    w.run();
    let s = l.accept().expect("accept");
    assert_eq!(c.connect(at), Ok(()));
    assert_eq!(c.connect(at), Err(Errno::EISCONN));
    (l, c, s)
}
fn pair(w: &World) -> (So<'_>, So<'_>, So<'_>) {
    pair_at(w, 0, 1, ip(&w.hosts[1], false))
}
fn flows(h: &Host) -> usize {
    h.env.inst.net.tcp.flows.used()
}
fn pattern(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn connects_talks_and_closes_everywhere() {
    let w = World::new(2);
    for (a, b, at) in [
        (0, 1, ip(&w.hosts[1], false)),
        (0, 1, ip(&w.hosts[1], true)),
        (0, 0, Ip::LOOPBACK4),
        (0, 0, Ip::LOOPBACK6),
        (1, 1, ip(&w.hosts[1], false)),
    ] {
        let (l, c, s) = pair_at(&w, a, b, at);
        assert_eq!(c.name(), s.peer().expect("peer"));
        assert_eq!(s.name(), c.peer().expect("peer"));
        assert_eq!(c.ready(), OUT);
        assert_eq!(s.ready(), OUT);
        assert_eq!(c.send(b"ping"), Ok(4));
        w.run();
        assert_eq!(s.ready(), IN | OUT);
        assert_eq!(s.recv(9).as_deref(), Ok(&b"ping"[..]));
        assert_eq!(s.ready(), OUT);
        assert_eq!(s.recv(9), Err(Errno::EAGAIN));
        assert_eq!(s.send(b"pong!"), Ok(5));
        w.run();
        assert_eq!(c.recv(9).as_deref(), Ok(&b"pong!"[..]));
        c.close();
        w.run();
        assert_eq!(s.ready(), IN | OUT | RDHUP);
        assert_eq!(s.recv(9).as_deref(), Ok(&b""[..]));
        assert_eq!(s.state(), 8);
        s.close();
        w.run();
        l.close();
        w.run();
    }
    w.advance(100 * MS);
    assert_eq!((flows(&w.hosts[0]), flows(&w.hosts[1])), (0, 0));
}

#[test]
fn nobody_listens() {
    let w = World::new(2);
    for (a, at) in [(0, ip(&w.hosts[1], false)), (0, Ip::LOOPBACK4), (0, ip(&w.hosts[1], true))] {
        let c = So::new(&w.hosts[a], !at.is_v4());
        assert_eq!(c.connect(Endpoint::new(at, 9)), Err(Errno::EINPROGRESS));
        w.run();
        assert_eq!(c.ready(), IN | OUT | RDHUP | HUP | ERR);
        assert_eq!(c.connect(Endpoint::new(at, 9)), Err(Errno::ECONNREFUSED));
        assert_eq!(c.ready(), OUT | HUP);
        assert_eq!(c.recv(1), Err(Errno::ENOTCONN));
        assert_eq!(c.send(b"x"), Err(Errno::EPIPE));
    }
}

/// Moves `data` from one end to the other, whatever it takes.
fn transfer(w: &World, from: &So<'_>, to: &So<'_>, data: &[u8]) {
    let (mut sent, mut got) = (0, Vec::new());
    for round in 0..1_000_000 {
        let mut moved = false;
        if sent < data.len() {
            match from.send(&data[sent..]) {
                Ok(n) => (sent, moved) = (sent + n, true),
                Err(e) => assert_eq!(e, Errno::EAGAIN),
            }
        }
        w.run();
        match to.recv(100_000) {
            Ok(some) => {
                assert!(!some.is_empty(), "the end after {} bytes", got.len());
                got.extend(some);
                moved = true;
            }
            Err(e) => assert_eq!(e, Errno::EAGAIN),
        }
        if got.len() == data.len() {
            assert!(got == data, "other bytes arrived");
            return;
        }
        if !moved {
            w.advance(MS);
        }
        assert!(round < 999_999, "{sent} sent, {} received", got.len());
    }
}

#[test]
fn bulk_both_ways() {
    let w = World::new(2);
    let data = pattern(5 << 20);
    for at in [ip(&w.hosts[1], false), ip(&w.hosts[1], true)] {
        let (_l, c, s) = pair_at(&w, 0, 1, at);
        transfer(&w, &c, &s, &data);
        transfer(&w, &s, &c, &data[..1_000_001]);
        assert_eq!(c.info(100), 0, "retransmissions without loss");
    }
    let (_l, c, s) = pair_at(&w, 0, 0, Ip::LOOPBACK4);
    transfer(&w, &c, &s, &data);
}

#[test]
fn full_then_drained() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    let data = pattern(4 << 20);
    let mut sent = 0;
    for _ in 0..100 {
        match c.send(&data[sent..]) {
            Ok(n) => sent += n,
            Err(e) => assert_eq!(e, Errno::EAGAIN),
        }
        w.advance(MS);
    }
    assert!(sent > 500_000 && sent < data.len(), "{sent}");
    assert_eq!(c.ready() & OUT, 0);
    // A closed window is probed and survives; no probe lets a byte through.
    w.advance(SEC);
    while let Ok(n) = c.send(&data[sent..]) {
        sent += n;
    }
    w.advance(30 * SEC);
    assert_eq!(c.send(b"x"), Err(Errno::EAGAIN));
    assert_eq!(c.ready() & (OUT | HUP), 0);
    let mut got = Vec::new();
    while got.len() < sent {
        match s.recv(65_536) {
            Ok(some) => got.extend(some),
            Err(e) => assert_eq!(e, Errno::EAGAIN),
        }
        w.run();
        w.advance(MS);
    }
    assert!(got == data[..sent]);
    w.advance(MS);
    assert_eq!(c.ready() & OUT, OUT);
}

#[test]
fn unread_data_resets() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    c.send(b"hello").expect("send");
    s.send(b"early").expect("send");
    w.run();
    s.close();
    w.run();
    assert_eq!(c.ready(), IN | OUT | RDHUP | HUP | ERR);
    // What had come is read first, then the error once, then the end.
    assert_eq!(c.recv(2).as_deref(), Ok(&b"ea"[..]));
    assert_eq!(c.recv(9).as_deref(), Ok(&b"rly"[..]));
    assert_eq!(c.recv(9), Err(Errno::ECONNRESET));
    assert_eq!(c.recv(9).as_deref(), Ok(&b""[..]));
    assert_eq!(c.send(b"x"), Err(Errno::EPIPE));
    assert_eq!(c.peer(), Err(Errno::ENOTCONN));
}

#[test]
fn data_after_close_resets() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    s.close();
    w.run();
    assert_eq!(c.send(b"x"), Ok(1));
    w.run();
    assert_eq!(c.held().take_error(), Some(Errno::EPIPE));
    assert_eq!(c.send(b"x"), Err(Errno::EPIPE));
    w.run();
    assert_eq!(flows(&w.hosts[1]), 1, "only the listener is left");
}

#[test]
fn half_close() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    c.send(b"request").expect("send");
    c.shutdown(libc::SHUT_WR).expect("shutdown");
    assert_eq!(c.send(b"x"), Err(Errno::EPIPE));
    w.run();
    assert_eq!(s.recv(9).as_deref(), Ok(&b"request"[..]));
    assert_eq!(s.recv(9).as_deref(), Ok(&b""[..]));
    w.advance(100 * SEC);
    s.send(b"late answer").expect("send");
    s.close();
    w.run();
    assert_eq!(c.recv(99).as_deref(), Ok(&b"late answer"[..]));
    assert_eq!(c.recv(9).as_deref(), Ok(&b""[..]));
    assert_eq!(c.ready(), IN | OUT | RDHUP | HUP);
    assert_eq!(c.shutdown(libc::SHUT_WR), Err(Errno::ENOTCONN));
}

#[test]
fn a_fin_into_fin_wait_2_is_acknowledged_at_once() {
    let w = World::new(1);
    let (_l, c, s) = pair_at(&w, 0, 0, Ip::LOOPBACK4);
    s.shutdown(libc::SHUT_WR).expect("shutdown");
    w.run();
    // Its acknowledgement is held back for data to ride on: so would be that of the FIN (polldiff's sequence 86292).
    assert_eq!(c.send(b"abc"), Ok(3));
    w.run();
    assert_eq!(s.recv(8).as_deref(), Ok(&b"abc"[..]));
    s.close();
    c.shutdown(libc::SHUT_RDWR).expect("shutdown");
    w.run();
    assert_eq!(c.shutdown(libc::SHUT_WR), Err(Errno::ENOTCONN));
}

#[test]
fn time_wait_holds_the_tuple_and_yields() {
    let w = World::new(2);
    let (l, c, s) = pair(&w);
    let (from, to) = (c.name(), s.name());
    c.held().bits.fetch_or(crate::net::option::bits::REUSEADDR, Relaxed);
    c.close();
    w.run();
    s.close();
    w.run();
    let mut n = 0;
    w.hosts[0].call(|cx| each_resting(cx, |r| n += usize::from(r.tuple.local == from)));
    assert_eq!(n, 1);
    // The same tuple again, from an explicit port.
    let c = So::new(&w.hosts[0], false);
    c.held().bits.fetch_or(crate::net::option::bits::REUSEADDR, Relaxed);
    c.bind(from).expect("bind");
    assert_eq!(c.connect(to), Err(Errno::EINPROGRESS));
    w.run();
    let s = l.accept().expect("accept");
    c.send(b"again").expect("send");
    w.run();
    assert_eq!(s.recv(9).as_deref(), Ok(&b"again"[..]));
    // The other side rests this time.
    s.close();
    w.run();
    c.close();
    w.run();
    w.advance(2 * SEC);
    let c = So::new(&w.hosts[0], false);
    c.bind(from).expect("bind");
    assert_eq!(c.connect(to), Err(Errno::EINPROGRESS));
    w.advance(SEC);
    assert_eq!(c.connect(to), Ok(()));
}

#[test]
fn backlog_overflows_and_recovers() {
    let w = World::new(2);
    let (l, at) = listener(&w.hosts[1], ip(&w.hosts[1], false), 1);
    let all: Vec<So<'_>> = (0..4).map(|_| So::new(&w.hosts[0], false)).collect();
    for c in &all {
        assert_eq!(c.connect(at), Err(Errno::EINPROGRESS));
        w.run();
    }
    assert_eq!(all.iter().filter(|c| c.ready() == OUT).count(), 2);
    assert_eq!(l.ready(), IN);
    let a = l.accept().expect("accept");
    let b = l.accept().expect("accept");
    assert_eq!(a.peer(), Ok(all[0].name()));
    assert_eq!(b.peer(), Ok(all[1].name()));
    assert_eq!(l.accept().err(), Some(Errno::EAGAIN));
    assert_eq!(l.ready(), 0);
    w.advance(4 * SEC);
    assert!(all.iter().all(|c| c.ready() == OUT));
    assert!(l.accept().is_ok() && l.accept().is_ok());
}

#[test]
fn a_listener_that_closes_resets_its_queue() {
    let w = World::new(2);
    let (l, at) = listener(&w.hosts[1], ip(&w.hosts[1], false), 4);
    let c = So::new(&w.hosts[0], false);
    assert_eq!(c.connect(at), Err(Errno::EINPROGRESS));
    w.run();
    l.close();
    w.run();
    assert_eq!(c.connect(at), Err(Errno::ECONNRESET));
    assert_eq!(flows(&w.hosts[1]), 0);
}

#[test]
fn connect_gives_up() {
    let w = World::new(2);
    let (l, at) = listener(&w.hosts[1], ip(&w.hosts[1], false), 0);
    let first = So::new(&w.hosts[0], false);
    assert_eq!(first.connect(at), Err(Errno::EINPROGRESS));
    w.run();
    let c = So::new(&w.hosts[0], false);
    assert_eq!(c.connect(at), Err(Errno::EINPROGRESS));
    w.advance(100 * SEC);
    assert_eq!(c.connect(at), Err(Errno::EALREADY));
    assert_eq!(c.ready(), 0);
    w.advance(40 * SEC);
    assert_eq!(c.connect(at), Err(Errno::ETIMEDOUT));
    drop(l);
}

#[test]
fn calls_itself() {
    let w = World::new(1);
    for at in [Ip::LOOPBACK4, Ip::LOOPBACK6] {
        let c = So::new(&w.hosts[0], !at.is_v4());
        c.bind(Endpoint::new(at, 0)).expect("bind");
        let own = c.name();
        assert_eq!(c.connect(own), Err(Errno::EINPROGRESS));
        w.run();
        assert_eq!(c.connect(own), Ok(()));
        c.send(b"echo").expect("send");
        w.run();
        assert_eq!(c.recv(9).as_deref(), Ok(&b"echo"[..]));
    }
}

#[test]
fn both_call_at_once() {
    let w = World::new(2);
    let (a, b) = (So::new(&w.hosts[0], false), So::new(&w.hosts[1], false));
    a.bind(Endpoint::new(ip(&w.hosts[0], false), 700)).expect("bind");
    b.bind(Endpoint::new(ip(&w.hosts[1], false), 700)).expect("bind");
    assert_eq!(a.connect(b.name()), Err(Errno::EINPROGRESS));
    assert_eq!(b.connect(a.name()), Err(Errno::EINPROGRESS));
    w.advance(50 * MS);
    assert_eq!((a.ready(), b.ready()), (OUT, OUT));
    a.send(b"hey").expect("send");
    w.run();
    assert_eq!(b.recv(9).as_deref(), Ok(&b"hey"[..]));
}

#[test]
fn keep_alive_ends_a_dead_connection() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    for (name, v) in [(libc::TCP_KEEPIDLE, 10), (libc::TCP_KEEPINTVL, 2), (libc::TCP_KEEPCNT, 3)] {
        c.set(name, v).expect("set");
    }
    c.held().options.lock(&c.h.me).keepalive = true;
    c.h.call(|cx| option_changed(cx, c.held()));
    w.advance(100 * SEC);
    assert_eq!(c.ready(), OUT, "the peer answers");
    assert!(c.info(136) >= 9, "probes were sent");
    drop(s);
}

#[test]
fn corked_data_waits_and_goes() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    c.set(libc::TCP_CORK, 1).expect("set");
    c.send(b"a").expect("send");
    w.run();
    assert_eq!(s.recv(9), Err(Errno::EAGAIN));
    c.set(libc::TCP_CORK, 0).expect("set");
    w.run();
    assert_eq!(s.recv(9).as_deref(), Ok(&b"a"[..]));
    c.send_with(b"b", libc::MSG_MORE).expect("send");
    w.run();
    assert_eq!(s.recv(9), Err(Errno::EAGAIN));
    w.advance(300 * MS);
    assert_eq!(s.recv(9).as_deref(), Ok(&b"b"[..]));
    c.send_with(b"c", libc::MSG_MORE).expect("send");
    c.send(b"d").expect("send");
    w.run();
    assert_eq!(s.recv(9).as_deref(), Ok(&b"cd"[..]));
}

#[test]
fn acknowledgements_ride_on_answers() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    w.advance(SEC);
    let (out_c, out_s) = (c.info(136), s.info(136));
    for _ in 0..100 {
        c.send(b"question").expect("send");
        w.run();
        s.recv(99).expect("recv");
        s.send(b"answer").expect("send");
        w.run();
        c.recv(99).expect("recv");
    }
    assert_eq!((c.info(136) - out_c, s.info(136) - out_s), (100, 100));
    assert_eq!(c.info(24), 0, "the last answer is not yet acknowledged, the last question is");
    w.advance(SEC);
    assert_eq!(c.info(136) - out_c, 101);
    assert_eq!((c.info(100), s.info(100)), (0, 0));
}

#[test]
fn what_was_sent_before_close_arrives() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    let data = pattern(400_000);
    assert_eq!(c.send(&data), Ok(data.len()));
    c.close();
    let mut got = Vec::new();
    for _ in 0..1000 {
        w.advance(MS);
        match s.recv(7000) {
            Ok(some) if some.is_empty() => break,
            Ok(some) => got.extend(some),
            Err(e) => assert_eq!(e, Errno::EAGAIN),
        }
    }
    assert!(got == data);
    s.close();
    w.run();
    assert_eq!(flows(&w.hosts[0]), 0);
}

#[test]
fn an_orphan_ends_when_its_peer_has_left_the_segment() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    assert_eq!(s.send(&pattern(1000)), Ok(1000));
    s.close();
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    crate::net::link::join::leave(a.env.seg, a.env.inst.facts.get().port);
    assert!(b.call(undelivered));
    for _ in 0..20 {
        crate::testing::pass(SEC / 4);
        b.progress();
    }
    assert!(!b.call(undelivered));
    drop(c);
}

#[test]
fn linger_zero_resets_and_socket_call_is_fresh() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    c.held().options.lock(&c.h.me).linger = 0;
    c.close();
    w.run();
    assert_eq!(s.recv(1), Err(Errno::ECONNRESET));
    let f = So::new(&w.hosts[0], false);
    assert_eq!(f.ready(), OUT | HUP);
    assert_eq!(f.recv(1), Err(Errno::ENOTCONN));
    assert_eq!(f.send(b"x"), Err(Errno::EPIPE));
    assert!(socket::kind_of(libc::AF_INET, libc::SOCK_STREAM, 0).is_ok());
}

#[test]
fn idle_connections_give_their_pages_back() {
    let w = World::new(2);
    let (_l, c, s) = pair(&w);
    transfer(&w, &c, &s, &pattern(2 << 20));
    w.advance(3 * SEC);
    for (h, n) in [(&w.hosts[0], c.held().body.load(Relaxed)), (&w.hosts[1], s.held().body.load(Relaxed))] {
        let cx = h.cx();
        let f = h.env.inst.net.tcp.flows.get(Id::new(n)).expect("a flow");
        let i = f.inner.lock(&h.me);
        assert_eq!((i.rx_high, i.tx_high), (0, 0));
        drop(i);
        drop(cx);
    }
    transfer(&w, &s, &c, &pattern(100_000));
}

#[test]
fn a_bad_link_loses_nothing() {
    for (drop, seed) in [(10_000, 1), (50_000, 2)] {
        let w = World::with(2, |_, c| {
            c.impair.drop_ppm = drop;
            c.impair.dup_ppm = 20_000;
            c.impair.reorder_ppm = 20_000;
            c.impair.corrupt_ppm = 10_000;
            c.impair.seed = seed;
        });
        let (l, at) = listener(&w.hosts[1], ip(&w.hosts[1], false), 8);
        let c = So::new(&w.hosts[0], false);
        assert_eq!(c.connect(at), Err(Errno::EINPROGRESS));
        w.advance(10 * SEC);
        let s = l.accept().expect("accept");
        transfer(&w, &c, &s, &pattern(16 << 20));
        transfer(&w, &s, &c, &pattern(3 << 20));
        // Small segments too.
        for n in 0..200u32 {
            transfer(&w, &c, &s, &n.to_ne_bytes());
        }
        c.close();
        w.advance(10 * SEC);
        assert_eq!(s.recv(1).as_deref(), Ok(&b""[..]));
    }
}

#[test]
fn ten_thousand_connections() {
    let w = World::new(2);
    let (l, at) = listener(&w.hosts[1], ip(&w.hosts[1], false), 4096);
    let mut all = Vec::new();
    for n in 0..10_000u32 {
        let c = So::new(&w.hosts[0], false);
        assert_eq!(c.connect(at), Err(Errno::EINPROGRESS));
        w.run();
        let s = l.accept().expect("accept");
        c.send(&n.to_ne_bytes()).expect("send");
        all.push((c, s));
    }
    w.run();
    for (n, (c, s)) in all.iter().enumerate() {
        assert_eq!(s.recv(9).as_deref(), Ok(&(n as u32).to_ne_bytes()[..]));
        s.send(b"ok").expect("send");
        w.run();
        assert_eq!(c.recv(9).as_deref(), Ok(&b"ok"[..]));
    }
    w.advance(2 * SEC);
    drop(all);
    w.advance(SEC);
    assert_eq!(flows(&w.hosts[0]), 0);
}

#[test]
fn full_rings_lose_nothing() {
    // Many connections send more than the receiver's port holds before anybody drains it; some give up meanwhile.
    let w = World::new(2);
    let (l, at) = listener(&w.hosts[1], ip(&w.hosts[1], false), 100);
    let mut all = Vec::new();
    for _ in 0..40 {
        let c = So::new(&w.hosts[0], false);
        assert_eq!(c.connect(at), Err(Errno::EINPROGRESS));
        w.run();
        all.push((c, l.accept().expect("accept")));
    }
    let data = pattern(300_000);
    for (c, _) in &all {
        assert_eq!(c.send(&data), Ok(data.len()));
    }
    for (n, (c, _)) in all.iter_mut().enumerate() {
        if n % 4 == 1 {
            c.held().options.lock(&c.h.me).linger = 0;
            c.end();
        }
    }
    for (n, (_, s)) in all.iter().enumerate() {
        let mut got = Vec::new();
        for _ in 0..5000 {
            match s.recv(100_000) {
                Ok(some) => got.extend(some),
                Err(Errno::EAGAIN) => w.advance(MS),
                Err(e) => {
                    assert!(n % 4 == 1 && e == Errno::ECONNRESET, "{e}");
                    break;
                }
            }
            if got.len() == data.len() {
                break;
            }
        }
        assert!(got == data[..got.len()] && (n % 4 == 1 || got.len() == data.len()), "{n}: {}", got.len());
    }
    for (n, (c, _)) in all.iter().enumerate() {
        if n % 4 != 1 {
            assert_eq!(c.info(100), 0, "{n}: a full ring costs no retransmission");
        }
    }
}
