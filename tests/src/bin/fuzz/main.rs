//! fuzz: random packets, random segment contents and random control messages against the core, under a virtual clock.
//!
//! Purpose: what comes from outside an instance (frames, the shared segment) or from a careless program (cmsg(3) buffers) may be any bytes: it must
//! never end in a panic, an endless loop, or in a replica that does not serve others any more.
//!
//! How it works: `fuzz TARGET...` runs each target for `FUZZ_SECONDS` (60) in child processes of a few rounds each. A round is one seed: it builds a
//! world of instances on an anonymous segment ([`csel_core::testing`]), opens sockets of every kind, and for some hundred steps mixes honest
//! calls with bytes that are made up from structured templates and from frames sniffed off the wire, bent here and there. At the end of a round of
//! `packets` and `cmsg`, fresh sockets must still talk. Built with overflow checks and debug assertions (the dev profile).
//!
//!   fuzz packets|segment|cmsg [...]      all of them if none is named
//!   fuzz --seed N TARGET                 one round, to see a finding again
//!
//! Failure: a child that panics, dies by a signal or is not done with its rounds in two minutes is a finding: its seed and its last words
//! are printed, and the exit status is 1.
mod rng;
mod wire;

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use csel_core::call::socket::{self, Accept, Connect};
use csel_core::call::{Outcome, RecvMsg, SendMsg, io as calls};
use csel_core::fd::Held;
use csel_core::gate::user::{IoIn, IoOut};
use csel_core::net::Via;
use csel_core::net::addr::Ip;
use csel_core::net::{dgram, link::segment::Segment};
use csel_core::testing::{Host, World};

use rng::Rng;
use wire::{checksum4, template};

const TARGETS: [&str; 3] = ["packets", "segment", "cmsg"];
/// Rounds of one child: few, since a world is never given back.
const ROUNDS: u64 = 8;

/// A sockaddr of the family of `ip`, or v4-mapped in an IPv6 one.
fn sockaddr(ip: Ip, port: u16, v6: bool) -> Vec<u8> {
    let mut sa = Vec::with_capacity(28);
    if v6 {
        sa.extend((libc::AF_INET6 as u16).to_ne_bytes());
        sa.extend(port.to_be_bytes());
        sa.extend([0; 4]);
        sa.extend(ip.0);
        sa.extend([0; 4]);
    } else {
        sa.extend((libc::AF_INET as u16).to_ne_bytes());
        sa.extend(port.to_be_bytes());
        sa.extend(&ip.0[12..]);
        sa.extend([0; 8]);
    }
    sa
}

/// The IPv4 or IPv6 address of a host.
fn addr(h: &Host, v6: bool) -> Ip {
    h.env.inst.facts.get().addrs().iter().map(|p| p.ip).find(|ip| ip.is_v4() != v6).expect("an address of each family")
}

fn open(h: &Host, v6: bool, ty: i32, protocol: i32) -> Held {
    h.socket(if v6 { libc::AF_INET6 } else { libc::AF_INET }, ty | libc::SOCK_NONBLOCK, protocol)
}

fn bound(h: &Host, v6: bool, ty: i32, port: u16) -> Held {
    let s = open(h, v6, ty, 0);
    let any = if v6 { Ip::ANY6 } else { Ip::ANY4 };
    h.call(|cx| socket::bind(cx, &s, &sockaddr(any, port, v6))).expect("bind");
    s
}

fn send(h: &Host, s: &Held, data: &[u8], msg: &SendMsg<'_>) -> Outcome {
    h.call(|cx| calls::Send::default().step(cx, s, &[IoIn::new(data)], msg, false))
}

fn recv(h: &Host, s: &Held, room: usize, control: &mut [u8], flags: i32) -> (Outcome, Vec<u8>, usize) {
    let mut buf = vec![0; room];
    let mut msg = RecvMsg { flags, control, ..RecvMsg::default() };
    let got = h.call(|cx| calls::Recv::default().step(cx, s, &mut [IoOut::new(&mut buf)], &mut msg, false));
    let len = msg.control_len;
    (got, buf, len)
}

/// A world of three instances: `0` the client, `1` the server, `2` who sends strange things under others' addresses.
struct Scene {
    w: World,
    /// (host, socket): everything that is open.
    open: Vec<(usize, Held)>,
    listeners: Vec<Held>,
    /// IP packets seen on the wire.
    seen: Vec<Vec<u8>>,
}

const TCP_PORT: u16 = 80;
const UDP_PORT: u16 = 53;

impl Scene {
    fn new() -> Self {
        let w = World::new(3);
        let mut open_sockets = Vec::new();
        let mut listeners = Vec::new();
        for v6 in [false, true] {
            let port = TCP_PORT + u16::from(v6);
            let l = bound(&w.hosts[1], v6, libc::SOCK_STREAM, port);
            w.hosts[1].call(|cx| socket::listen(cx, &l, 16)).expect("listen");
            listeners.push(l);
            open_sockets.push((1, bound(&w.hosts[1], v6, libc::SOCK_DGRAM, UDP_PORT + u16::from(v6))));
            let (ping, raw) = if v6 { (libc::IPPROTO_ICMPV6, libc::IPPROTO_ICMPV6) } else { (libc::IPPROTO_ICMP, libc::IPPROTO_ICMP) };
            open_sockets.push((0, open(&w.hosts[0], v6, libc::SOCK_DGRAM, ping)));
            open_sockets.push((1, open(&w.hosts[1], v6, libc::SOCK_RAW, raw)));
        }
        let mut scene = Self { w, open: open_sockets, listeners, seen: Vec::new() };
        for v6 in [false, true, false] {
            scene.connect(v6);
        }
        scene
    }

    fn segment(&self) -> &'static Segment {
        self.w.hosts[0].env.seg
    }

    fn connect(&mut self, v6: bool) {
        let h = &self.w.hosts[0];
        let s = open(h, v6, libc::SOCK_STREAM, 0);
        let to = sockaddr(addr(&self.w.hosts[1], v6), TCP_PORT + u16::from(v6), v6);
        h.call(|cx| Connect::default().step(cx, &s, &to, false));
        self.open.push((0, s));
        let u = open(h, v6, libc::SOCK_DGRAM, 0);
        let to = sockaddr(addr(&self.w.hosts[1], v6), UDP_PORT + u16::from(v6), v6);
        h.call(|cx| Connect::default().step(cx, &u, &to, false));
        self.open.push((0, u));
        self.settle();
    }

    /// Takes copies of what waits in the rings, then lets everything happen.
    fn settle(&mut self) {
        for h in &self.w.hosts {
            let Some(port) = self.segment().port(h.env.inst.facts.get().port) else { continue };
            let head = std::sync::atomic::AtomicU64::new(port.ring.resume());
            if let csel_core::arena::ring::Peek::Frame { frame, .. } = port.ring.peek(&head)
                && frame.len() > 14
            {
                let ip = frame[14..].to_vec();
                let n = self.seen.len();
                if n < 256 {
                    self.seen.push(ip);
                } else {
                    let at = ip.len() % 256;
                    self.seen[at] = ip;
                }
            }
        }
        self.w.run();
    }

    /// One honest thing that a program could do.
    fn act(&mut self, r: &mut Rng) {
        match r.below(9) {
            0 => self.connect(r.one_in(2)),
            1 => {
                for i in 0..self.listeners.len() {
                    let got = self.w.hosts[1].call(|cx| Accept::default().step(cx, &self.listeners[i], libc::SOCK_NONBLOCK, false));
                    if let Ok((s, _)) = got {
                        self.open.push((1, s));
                    }
                }
            }
            2 if self.open.len() > 24 => {
                let (h, s) = self.open.swap_remove(r.below(self.open.len()));
                self.w.hosts[h].call(|cx| s.release(cx));
            }
            3 => {
                let (h, s) = &self.open[r.below(self.open.len())];
                let _ = self.w.hosts[*h].call(|cx| socket::shutdown(cx, s, r.pick(&[0, 1, 2])));
            }
            4 | 5 => {
                let (h, s) = &self.open[r.below(self.open.len())];
                let n = r.pick(&[0, 1, 64, 1400, 5000, 70_000]);
                let data = r.bytes(n);
                send(&self.w.hosts[*h], s, &data, &SendMsg::default());
            }
            6 | 7 => {
                let (h, s) = &self.open[r.below(self.open.len())];
                let mut control = vec![0; r.pick(&[0, 16, 256])];
                let room = r.pick(&[0, 1, 100, 70_000]);
                recv(&self.w.hosts[*h], s, room, &mut control, r.pick(&[0, libc::MSG_PEEK, libc::MSG_TRUNC, libc::MSG_ERRQUEUE]));
            }
            _ => self.w.advance(r.pick(&[1_000, 1_000_000, 250_000_000, 3_000_000_000])),
        }
        if r.one_in(2) {
            self.settle();
        }
    }

    /// A packet from nobody: a template filled at random, or one that was seen, bent.
    fn packet(&self, r: &mut Rng) -> Vec<u8> {
        let mut p = match self.seen.len() {
            n if n > 0 && r.one_in(2) => self.seen[r.below(n)].clone(),
            _ => template(&self.w, r),
        };
        r.bend(&mut p);
        if r.one_in(2) {
            checksum4(&mut p);
        }
        p
    }

    /// Closes everything.
    fn close(&mut self) {
        for (h, s) in std::mem::take(&mut self.open) {
            self.w.hosts[h].call(|cx| s.release(cx));
        }
        for l in std::mem::take(&mut self.listeners) {
            self.w.hosts[1].call(|cx| l.release(cx));
        }
    }

    /// Fresh sockets must still talk: a TCP connection and UDP datagrams, by both families.
    fn still_serves(&mut self) {
        self.close();
        self.w.advance(200_000_000_000);
        for v6 in [false, true] {
            let (c, s) = (&self.w.hosts[0], &self.w.hosts[1]);
            let (port, text) = (8080 + u16::from(v6), b"still here");
            let to = sockaddr(addr(s, v6), port, v6);
            let l = bound(s, v6, libc::SOCK_STREAM, port);
            s.call(|cx| socket::listen(cx, &l, 5)).expect("listen");
            let a = open(c, v6, libc::SOCK_STREAM, 0);
            c.call(|cx| Connect::default().step(cx, &a, &to, false));
            self.w.advance(5_000_000_000);
            let b = match s.call(|cx| Accept::default().step(cx, &l, libc::SOCK_NONBLOCK, false)) {
                Ok((b, _)) => b,
                Err(e) => panic!("a fresh connection is not accepted: {e:?}"),
            };
            assert!(matches!(send(c, &a, text, &SendMsg::default()), Outcome::Done(10)), "a fresh connection does not send");
            self.w.advance(5_000_000_000);
            let (got, buf, _) = recv(s, &b, 100, &mut [], 0);
            assert!(matches!(got, Outcome::Done(10)) && &buf[..10] == text, "a fresh connection does not receive: {got:?}");
            let (ua, ub) = (open(c, v6, libc::SOCK_DGRAM, 0), bound(s, v6, libc::SOCK_DGRAM, port));
            c.call(|cx| Connect::default().step(cx, &ua, &to, false));
            assert!(matches!(send(c, &ua, text, &SendMsg::default()), Outcome::Done(10)), "a fresh UDP socket does not send");
            self.w.advance(1_000_000_000);
            let (got, buf, _) = recv(s, &ub, 100, &mut [], 0);
            assert!(matches!(got, Outcome::Done(10)) && &buf[..10] == text, "a fresh UDP socket does not receive: {got:?}");
            for x in [a, ua] {
                c.call(|cx| x.release(cx));
            }
            for x in [l, b, ub] {
                s.call(|cx| x.release(cx));
            }
        }
    }
}

fn packets(r: &mut Rng) {
    let mut scene = Scene::new();
    for _ in 0..600 {
        if r.one_in(3) {
            scene.act(r);
        }
        let p = scene.packet(r);
        let (to, loopback) = (r.below(2), r.one_in(8));
        scene.w.hosts[to].call(|cx| dgram::input(cx, &p, if loopback { Via::Lo } else { Via::Segment }));
        if r.one_in(4) {
            scene.settle();
        }
    }
    scene.settle();
    scene.still_serves();
}

/// A peer that writes anything anywhere into the shared file. It may cost the network its work, never the instance its life.
fn segment(r: &mut Rng) {
    let mut scene = Scene::new();
    let seg = scene.segment();
    let base = std::ptr::from_ref(seg).cast::<u8>().cast_mut();
    let ports: Vec<usize> = scene.w.hosts.iter().map(|h| usize::from(h.env.inst.facts.get().port)).collect();
    let at = |port: usize| std::ptr::from_ref(&seg.ports[port]) as usize - base as usize;
    for _ in 0..400 {
        for _ in 0..r.below(4) {
            let port = r.pick(&ports);
            let ring = std::ptr::from_ref(&seg.ports[port].ring) as usize - base as usize;
            let offset = match r.below(5) {
                0 => r.below(4096),                       // the header
                1 => at(port) + r.below(ring - at(port)), // who it is, its seat
                2 => ring + r.below(512),                 // the ring's own words
                3 => ring + r.below(8192),                // its first records
                _ => r.below(size_of::<Segment>() - 8),
            } & !7;
            let word = r.word();
            // SAFETY: inside the mapping, aligned to 8; the segment is made of atomics and of a ring that other processes may write at any time.
            unsafe { (*base.add(offset).cast::<std::sync::atomic::AtomicU64>()).store(word, std::sync::atomic::Ordering::Relaxed) };
        }
        scene.act_on_damaged(r);
    }
    scene.close();
}

impl Scene {
    /// As [`Scene::act`], but a world whose segment is damaged need not come to rest: it only must not loop in one call.
    fn act_on_damaged(&mut self, r: &mut Rng) {
        let (h, s) = &self.open[r.below(self.open.len())];
        let h = &self.w.hosts[*h];
        match r.below(5) {
            0 | 1 => {
                let data = r.some(&[1, 64, 5000]);
                send(h, s, &data, &SendMsg::default());
            }
            2 => {
                recv(h, s, 70_000, &mut [0; 64], 0);
            }
            3 => {
                let v6 = r.one_in(2);
                let c = open(h, v6, libc::SOCK_STREAM, 0);
                let to = sockaddr(addr(&self.w.hosts[1], v6), TCP_PORT + u16::from(v6), v6);
                h.call(|cx| Connect::default().step(cx, &c, &to, false));
                h.call(|cx| c.release(cx));
            }
            _ => {}
        }
        for h in &self.w.hosts {
            for _ in 0..3 {
                h.progress();
            }
            let _ = h.env.seg.named("h1").map(|(n, p)| (n, p.hostname()));
            let _ = h.env.seg.holder(addr(h, r.one_in(2))).map(|(n, p)| (n, p.name()));
        }
    }
}

/// Control messages: any bytes as msg_control of sendmsg(2), and any room for recvmsg(2)'s.
fn cmsg(r: &mut Rng) {
    let mut scene = Scene::new();
    let known: [(i32, i32); 12] = [
        (libc::IPPROTO_IP, libc::IP_PKTINFO),
        (libc::IPPROTO_IP, libc::IP_TTL),
        (libc::IPPROTO_IP, libc::IP_TOS),
        (libc::IPPROTO_IP, libc::IP_RETOPTS),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
        (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        (libc::IPPROTO_IPV6, 11), // IPV6_DONTFRAG's neighbourhood
        (libc::SOL_SOCKET, libc::SCM_RIGHTS),
        (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
        (libc::SOL_SOCKET, libc::SCM_CREDENTIALS),
        (libc::IPPROTO_UDP, 103), // UDP_SEGMENT
    ];
    for _ in 0..1500 {
        let v6 = r.one_in(2);
        let mut control = Vec::new();
        for _ in 0..r.below(4) {
            let (level, kind) = if r.one_in(8) { (r.word() as i32, r.word() as i32) } else { r.pick(&known) };
            let data = r.some(&[0, 1, 2, 4, 8, 12, 20, 32, 100]);
            let len = if r.one_in(5) { r.word() as usize } else { 16 + data.len() };
            control.extend(len.to_ne_bytes());
            control.extend(level.to_ne_bytes());
            control.extend(kind.to_ne_bytes());
            control.extend(&data);
            control.resize(control.len().next_multiple_of(8), 0);
        }
        r.bend(&mut control);
        let port = UDP_PORT + u16::from(v6);
        let to = csel_core::net::addr::Endpoint::parse(
            if v6 { libc::AF_INET6 as u16 } else { libc::AF_INET as u16 },
            &sockaddr(addr(&scene.w.hosts[1], v6), port, v6),
        )
        .ok();
        let i = r.below(scene.open.len());
        let (h, sock) = &scene.open[i];
        let data = r.some(&[0, 1, 64, 3000]);
        let to = if r.one_in(2) { to } else { None };
        send(
            &scene.w.hosts[*h],
            sock,
            &data,
            &SendMsg { flags: r.pick(&[0, 0, libc::MSG_MORE, libc::MSG_CONFIRM, libc::MSG_OOB]), to, control: &control },
        );
        if r.one_in(2) {
            scene.settle();
        }
        // Every option that makes recvmsg(2) say more.
        let (h, sock) = &scene.open[r.below(scene.open.len())];
        if r.one_in(3) {
            let (level, name) = r.pick(&[
                (libc::IPPROTO_IP, libc::IP_PKTINFO),
                (libc::IPPROTO_IP, libc::IP_RECVTTL),
                (libc::IPPROTO_IP, libc::IP_RECVTOS),
                (libc::IPPROTO_IP, libc::IP_RECVERR),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
                (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
            ]);
            let value = (r.pick(&[0i32, 1, 1, 1])).to_ne_bytes();
            let _ = scene.w.hosts[*h].call(|cx| csel_core::net::option::set(cx, sock, level, name, &value));
        }
        let room = r.pick(&[0, 1, 15, 16, 17, 24, 40, 64, 200]);
        let mut control = vec![0xaa; room + 64];
        let (_, _, len) = recv(
            &scene.w.hosts[*h],
            sock,
            r.pick(&[0, 1, 4000]),
            &mut control[..room],
            r.pick(&[0, 0, libc::MSG_ERRQUEUE, libc::MSG_PEEK]),
        );
        assert!(len <= room, "msg_controllen {len} of {room}");
        assert!(control[room..].iter().all(|&b| b == 0xaa), "bytes behind msg_control were written");
    }
    scene.still_serves();
}

fn round(target: &str, seed: u64) {
    let mut r = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    match target {
        "packets" => packets(&mut r),
        "segment" => segment(&mut r),
        "cmsg" => cmsg(&mut r),
        other => panic!("no target '{other}'"),
    }
}

/// One child: rounds from `seed` on. Its last line of output names the round it is in.
fn child(target: &str, seed: u64, rounds: u64) -> io::Result<()> {
    let out = env::temp_dir().join(format!("csel-fuzz-{}-{target}-{seed}.log", std::process::id()));
    let log = std::fs::File::create(&out)?;
    let me = env::current_exe()?;
    let mut c = Command::new(me)
        .args(["--child", target, &seed.to_string(), &rounds.to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let until = Instant::now() + Duration::from_secs(120);
    let status = loop {
        match c.try_wait()? {
            Some(s) => break Some(s),
            None if Instant::now() > until => {
                c.kill()?;
                c.wait()?;
                break None;
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    let _ = std::fs::remove_file(&out);
    if status.is_some_and(|s| s.success()) {
        return Ok(());
    }
    let how = status.map_or_else(|| "not done in two minutes".to_owned(), |s| s.to_string());
    let at = text.lines().rev().find_map(|l| l.strip_prefix("seed ")).unwrap_or("?").to_owned();
    let words: Vec<&str> = text.lines().filter(|l| !l.starts_with("seed ")).collect();
    let words = words[..words.len().min(25)].join("\n    ");
    Err(io::Error::other(format!("{how}; again by: fuzz --seed {at} {target}\n    {words}")))
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--child", target, seed, rounds] => {
            let (seed, rounds): (u64, u64) = (seed.parse().unwrap_or(1), rounds.parse().unwrap_or(1));
            for s in seed..seed + rounds {
                println!("seed {s}");
                round(target, s);
            }
            return ExitCode::SUCCESS;
        }
        ["--seed", seed, target] => {
            round(target, seed.parse().unwrap_or(1));
            println!("seed {seed}: nothing found");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let targets = if args.is_empty() { TARGETS.to_vec() } else { args };
    let seconds: u64 = env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    // The same seeds every time in CI (FUZZ_SEED); others when asked.
    let first: u64 = env::var("FUZZ_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut failed = 0;
    for target in &targets {
        let (until, mut seed) = (Instant::now() + Duration::from_secs(seconds), first);
        let mut found = None;
        while found.is_none() && Instant::now() < until {
            found = child(target, seed, ROUNDS).err();
            seed += ROUNDS;
        }
        match found {
            None => println!("ok fuzz {target}: {} rounds in {seconds} s, nothing found", seed - first),
            Some(e) => {
                failed += 1;
                println!("not ok fuzz {target}: {e}");
            }
        }
    }
    println!("fuzz: {} passed, {failed} failed", targets.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}
