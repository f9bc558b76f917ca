//! Fuzz: a segment whose memory is changed at random while instances talk over it.
//!
//! # Theory of operation
//! **Purpose.** A segment is a wire in memory that any process of the user can write to. Whatever stands there, an instance may lose frames and
//! connections; it must not panic, hang, or let its own memory be touched: its loopback works on, and when the segment is put right again it
//! talks to its peers again.
//! **How it works.** Three instances on an anonymous segment talk UDP and TCP, to each other and to themselves, in one thread under a virtual
//! clock, so that a seed repeats a run. Between two steps some words of the segment are changed: headers, ports, rings' cursors, frames, with
//! values that look like what was there or not. In the second half another thread does the same all the time.
//! **Limits.** `FUZZ_SECONDS` (5) in all; `FUZZ_SEED` repeats a seed (the second half is not repeatable).
//! **Failure.** The seed is printed. **See also.** `csel/src/net/link/segment.rs`.
use csel_core::call::io::{Recv, Send};
use csel_core::call::socket;
use csel_core::call::{Outcome, RecvMsg, SendMsg};
use csel_core::clock::MS;
use csel_core::fd::Held;
use csel_core::gate::user::{IoIn, IoOut};
use csel_core::net::addr::{Endpoint, Ip};
use csel_core::net::link::segment::Segment;
use csel_core::testing::{Host, World};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

const HOSTS: usize = 3;

/// xorshift64*.
struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }
}

/// The segment's memory as words.
#[derive(Clone, Copy)]
struct Words(&'static Segment);
impl Words {
    fn word(&self, at: usize) -> &'static AtomicU64 {
        assert!(at + 8 <= size_of::<Segment>());
        // SAFETY: inside the mapping, aligned, never unmapped; everything in a segment is changed by atomics or through the rings only, and what
        // happens to frames' bytes meanwhile is what this test is about.
        unsafe { &*core::ptr::from_ref(self.0).cast::<u8>().add(at & !7).cast::<AtomicU64>() }
    }

    /// Somewhere that matters.
    fn place(&self, r: &mut Random) -> usize {
        let base = core::ptr::from_ref(self.0) as usize;
        let p = &self.0.ports[r.below(HOSTS + 1)];
        let (port, ring) = (core::ptr::from_ref(p) as usize - base, core::ptr::from_ref(&p.ring) as usize - base);
        match r.below(8) {
            0 => r.below(64),
            1 => port + r.below(512),
            2 => port + r.below(ring - port),
            // The cursors.
            3 | 4 => ring + r.below(128),
            5 => ring + r.below(64 << 10),
            _ => ring + r.below(400 << 10) / 64 * 64 + r.below(8) * 8,
        }
    }

    fn spoil(&self, r: &mut Random) {
        let word = self.word(self.place(r).min(size_of::<Segment>() - 8));
        let old = word.load(Relaxed);
        let new = match r.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => r.next(),
            3 => old ^ 1 << r.below(64),
            4 => old.wrapping_add(r.next() % 256),
            5 => old.wrapping_sub(r.next() % 256),
            6 => old & !0xffff_ffff | r.next() & 0xffff_ffff,
            7 => old & 0xffff_ffff | r.next() << 32,
            _ => old.swap_bytes(),
        };
        word.store(new, Relaxed);
    }
}

/// What a port was before: everything but its ring.
struct Saved {
    at: usize,
    words: Vec<u64>,
}

fn save(w: Words) -> Vec<Saved> {
    let base = core::ptr::from_ref(w.0) as usize;
    let mut all = vec![Saved { at: 0, words: (0..512).map(|i| w.word(i * 8).load(Relaxed)).collect() }];
    for p in &w.0.ports[..HOSTS + 1] {
        let at = core::ptr::from_ref(p) as usize - base;
        let n = (core::ptr::from_ref(&p.ring) as usize - base - at) / 8;
        all.push(Saved { at, words: (0..n).map(|i| w.word(at + i * 8).load(Relaxed)).collect() });
    }
    all
}

fn put_right(w: Words, all: &[Saved]) {
    for s in all {
        for (i, v) in s.words.iter().enumerate() {
            w.word(s.at + i * 8).store(*v, Relaxed);
        }
    }
}

fn nonblocking(h: &Host, ty: i32) -> Held {
    let s = h.socket(libc::AF_INET, ty, 0);
    s.flags.fetch_or(libc::O_NONBLOCK as u32, Relaxed);
    s
}

fn sockaddr(ip: Ip, port: u16) -> [u8; 28] {
    let mut sa = [0; 28];
    Endpoint::new(ip, port).emit(libc::AF_INET as u16, &mut sa);
    sa
}

fn v4(h: &Host) -> Ip {
    h.env.inst.facts.get().addrs[0].ip
}

fn send(h: &Host, s: &Held, data: &[u8], to: Option<Endpoint>) -> Outcome {
    let msg = SendMsg { flags: libc::MSG_NOSIGNAL, to, ..SendMsg::default() };
    h.call(|cx| Send::default().step(cx, s, &[IoIn::new(data)], &msg, false))
}

fn recv(h: &Host, s: &Held, room: &mut [u8]) -> Outcome {
    h.call(|cx| Recv::default().step(cx, s, &mut [IoOut::new(room)], &mut RecvMsg::default(), false))
}

/// One instance's sockets.
struct Talker<'a> {
    h: &'a Host,
    udp: Held,
    listener: Held,
    streams: Vec<Held>,
}

impl<'a> Talker<'a> {
    fn new(h: &'a Host) -> Self {
        let (udp, listener) = (nonblocking(h, libc::SOCK_DGRAM), nonblocking(h, libc::SOCK_STREAM));
        for s in [&udp, &listener] {
            h.call(|cx| socket::bind(cx, s, &sockaddr(Ip::ANY4, 7)[..16])).unwrap();
        }
        h.call(|cx| socket::listen(cx, &listener, 16)).unwrap();
        Self { h, udp, listener, streams: Vec::new() }
    }

    fn step(&mut self, r: &mut Random, peers: &[Ip]) {
        let to = match r.below(6) {
            0 => Ip::LOOPBACK4,
            1 => Ip::BROADCAST,
            _ => peers[r.below(peers.len())],
        };
        let mut buf = vec![r.next() as u8; 1 + r.below(20_000)];
        match r.below(10) {
            0..3 => {
                let _ = send(self.h, &self.udp, &buf, Some(Endpoint::new(to, 7)));
            }
            3 => while let Outcome::Done(_) = recv(self.h, &self.udp, &mut buf) {},
            4 if self.streams.len() < 8 => {
                let s = nonblocking(self.h, libc::SOCK_STREAM);
                self.h.call(|cx| socket::Connect::default().step(cx, &s, &sockaddr(to, 7)[..16], false));
                self.streams.push(s);
            }
            5 if self.streams.len() < 8 => {
                if let Ok((s, _)) = self.h.call(|cx| socket::Accept::default().step(cx, &self.listener, libc::SOCK_NONBLOCK, false)) {
                    self.streams.push(s);
                }
            }
            6 if !self.streams.is_empty() => {
                let s = self.streams.swap_remove(r.below(self.streams.len()));
                self.h.call(|cx| s.release(cx));
            }
            7 | 8 if !self.streams.is_empty() => {
                let s = &self.streams[r.below(self.streams.len())];
                let _ = send(self.h, s, &buf, None);
            }
            _ => {
                for s in &self.streams {
                    let _ = recv(self.h, s, &mut buf);
                }
                self.h.progress();
            }
        }
    }

    fn end(mut self) {
        for s in self.streams.drain(..).chain([self.udp, self.listener]) {
            self.h.call(|cx| s.release(cx));
        }
    }
}

/// Does a datagram get from `a` to `to` at `b`? (Some tries: what lies in the rings is junk at first.)
fn reaches(a: &Host, b: &Host, to: Ip) -> bool {
    let (from, at) = (nonblocking(a, libc::SOCK_DGRAM), nonblocking(b, libc::SOCK_DGRAM));
    b.call(|cx| socket::bind(cx, &at, &sockaddr(Ip::ANY4, 9)[..16])).unwrap();
    let mut buf = [0; 64];
    let ok = (0..2000).any(|_| {
        let _ = send(a, &from, b"are you there?", Some(Endpoint::new(to, 9)));
        b.progress();
        a.progress();
        matches!(recv(b, &at, &mut buf), Outcome::Done(14)) && &buf[..14] == b"are you there?"
    });
    a.call(|cx| from.release(cx));
    b.call(|cx| at.release(cx));
    ok
}

fn round(seed: u64, until: Instant, others: bool) {
    let mut r = Random(seed | 1);
    let w = World::new(HOSTS);
    let words = Words(w.hosts[0].env.seg);
    let saved = save(words);
    let peers: Vec<Ip> = w.hosts.iter().map(v4).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        if others {
            let mut r = Random(seed.rotate_left(17) | 1);
            let stop = &stop;
            s.spawn(move || {
                while !stop.load(Relaxed) {
                    words.spoil(&mut r);
                    if r.below(64) == 0 {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut talkers: Vec<Talker<'_>> = w.hosts.iter().map(Talker::new).collect();
        let rate = [0, 3, 30][r.below(3)];
        for n in 0..1_000_000 {
            if n > 0 && Instant::now() > until {
                break;
            }
            let i = r.below(HOSTS);
            talkers[i].step(&mut r, &peers);
            for _ in 0..rate {
                if r.below(20) == 0 {
                    words.spoil(&mut r);
                }
            }
            match r.below(40) {
                0 => put_right(words, &saved),
                1 => {
                    let by = r.next() % (300 * MS);
                    csel_core::testing::pass(by);
                    for h in &w.hosts {
                        h.progress();
                    }
                }
                _ => {}
            }
            if n % 5000 == 0 {
                assert!(reaches(&w.hosts[i], &w.hosts[i], Ip::LOOPBACK4), "loopback is dead");
            }
        }
        stop.store(true, Relaxed);
        for t in talkers {
            t.end();
        }
    });
    put_right(words, &saved);
    for (i, h) in w.hosts.iter().enumerate() {
        assert!(reaches(h, h, Ip::LOOPBACK4), "loopback of host {i} is dead");
        let next = &w.hosts[(i + 1) % HOSTS];
        assert!(reaches(h, next, v4(next)), "host {i} does not reach its neighbour after the segment was put right");
    }
}

#[test]
fn a_hostile_segment_costs_frames_and_nothing_else() {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let end = Instant::now() + Duration::from_secs(seconds);
    let half = Instant::now() + Duration::from_secs(seconds) / 2;
    let given = std::env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok());
    let mut seed = given.unwrap_or_else(|| std::process::id().into());
    let mut rounds = 0u64;
    while rounds == 0 || (Instant::now() < end && given.is_none()) {
        let others = rounds > 0 && Instant::now() > half;
        eprintln!("FUZZ_SEED={seed}{}", if others { " (with a second thread)" } else { "" });
        // Not too many rounds: an instance's address space is not given back.
        round(seed, end.min(Instant::now() + Duration::from_secs(3)), others);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        rounds += 1;
    }
    eprintln!("{rounds} rounds");
}
