//! Death at every instruction: a process of an instance is stepped through an operation and killed somewhere inside it.
//!
//! # Theory of operation
//! **Purpose.** What [`csel_core::repair`] promises: wherever a thread dies inside the core, nothing stays taken, and what it was not inside goes on.
//! **How it works.** A world of two instances (`csel_core::testing`) lies in shared memory, so a forked child is a process of the first one. It is traced
//! (ptrace(2)), makes one operation, and is killed after `k` single steps, for many `k` between nothing and the whole of it. Then the parent does what the keeper
//! does, lets everything settle (the clock is virtual), and looks: the census is what it was before, a connection that had nothing to do with it still
//! carries bytes, a new one can be made and accepted, a datagram comes through. The same world goes on to the next death.
//! **Limits.** `STEP_KILLS` deaths for each operation (5), at places that `STEP_SEED` chooses; one thread dies at a time. **See also.** `tests/src/bin/soak`.
use csel_core::call::io::{Recv, Send};
use csel_core::call::{Outcome, RecvMsg, SendMsg, socket};
use csel_core::fd::Held;
use csel_core::gate::user::{IoIn, IoOut};
use csel_core::instance::{Cx, Env};
use csel_core::net::addr::{Endpoint, Ip};
use csel_core::net::wait::{How, Waiting};
use csel_core::poll::epoll;
use csel_core::sync::Me;
use csel_core::testing::{Host, World};
use csel_core::{keeper, net, repair};
use std::sync::atomic::Ordering::*;

const LISTENER: i32 = 3;
const UDP: i32 = 4;
/// Both ends of a connection that the dying have nothing to do with, and of one that they have.
const NEAR: i32 = 5;
const FAR: i32 = 6;
const VICTIM: i32 = 7;
const OTHER: i32 = 8;
/// What a child's own operation opens.
const OWN: i32 = 9;

const SEC: u64 = 1_000_000_000;

fn at(ip: Ip, port: u16) -> Vec<u8> {
    let mut sa = [0; 28];
    let n = Endpoint::new(ip, port).emit(libc::AF_INET as u16, &mut sa);
    sa[..n].to_vec()
}

fn held(cx: &Cx<'_>, fd: i32) -> Held {
    cx.inst.procs.get(cx.proc).get(cx.inst, fd).expect("a descriptor of ours")
}

fn keep(cx: &Cx<'_>, fd: i32, s: Held) {
    cx.inst.procs.get(cx.proc).set(cx, fd, s).expect("a place in the table");
}

fn shut(h: &Host, fd: i32) {
    h.call(|cx| cx.inst.procs.get(cx.proc).clear(cx, fd));
}

fn with<R>(h: &Host, fd: i32, f: impl FnOnce(&Cx<'_>, &Held) -> R) -> R {
    h.call(|cx| {
        let s = held(cx, fd);
        let r = f(cx, &s);
        s.release(cx);
        r
    })
}

fn open(h: &Host, fd: i32, ty: i32) {
    h.call(|cx| {
        let s = socket::socket(cx, libc::AF_INET, ty | libc::SOCK_NONBLOCK, 0).unwrap_or_else(|e| panic!("socket: {e:?}"));
        keep(cx, fd, s);
    });
}

fn send(h: &Host, fd: i32, data: &[u8]) -> bool {
    with(
        h,
        fd,
        |cx, s| matches!(Send::default().step(cx, s, &[IoIn::new(data)], &SendMsg::default(), false), Outcome::Done(n) if n == data.len()),
    )
}

fn recv(h: &Host, fd: i32, room: &mut [u8]) -> Option<usize> {
    with(h, fd, |cx, s| match Recv::default().step(cx, s, &mut [IoOut::new(room)], &mut RecvMsg::default(), false) {
        Outcome::Done(n) => Some(n),
        _ => None,
    })
}

fn connect(h: &Host, fd: i32, ip: Ip, port: u16) {
    open(h, fd, libc::SOCK_STREAM);
    with(h, fd, |cx, s| {
        let _ = socket::Connect::default().step(cx, s, &at(ip, port), false);
    });
}

/// Accepts one connection of the first instance's listener as `fd`.
fn accept(h: &Host, fd: i32) -> bool {
    // In one call: a reference that leaves a call lies in a table.
    with(h, LISTENER, |cx, s| match socket::Accept::default().step(cx, s, libc::SOCK_NONBLOCK, false) {
        Ok((new, _)) => {
            keep(cx, fd, new);
            true
        }
        Err(_) => false,
    })
}

/// Two instances; the first listens and has a datagram socket.
struct Scene {
    w: World,
    ip: Ip,
}

impl Scene {
    fn new() -> Self {
        // (The clock stands still: a spin would not end.)
        let w = World::with(2, |_, config| config.spin_us = 0);
        let h = &w.hosts[0];
        let ip = h.env.inst.facts.get().addrs[0].ip;
        for (fd, ty) in [(LISTENER, libc::SOCK_STREAM), (UDP, libc::SOCK_DGRAM)] {
            open(h, fd, ty);
            with(h, fd, |cx, s| socket::bind(cx, s, &at(Ip::ANY4, 80))).expect("bind");
        }
        with(h, LISTENER, |cx, s| socket::listen(cx, s, 64)).expect("listen");
        let s = Self { w, ip };
        s.pair(&s.w.hosts[1], NEAR, FAR);
        s
    }
    fn first(&self) -> &Host {
        &self.w.hosts[0]
    }
    /// A connection from `from` as `client`, accepted by the first instance as `server`.
    fn pair(&self, from: &Host, client: i32, server: i32) {
        connect(from, client, self.ip, 80);
        self.w.run();
        assert!(accept(self.first(), server), "a connection is accepted");
        self.w.run();
    }
    /// Do bytes pass from `client` of `from` to `server` of the first instance?
    fn passes(&self, from: &Host, client: i32, server: i32, data: &[u8]) -> bool {
        let mut room = [0; 64];
        let sent = send(from, client, data);
        self.w.run();
        sent && recv(self.first(), server, &mut room).is_some_and(|n| &room[..n] == data)
    }
    /// What the keeper does when a process has died.
    fn bury(&self) {
        self.first().call(|cx| assert!(keeper::bury(cx), "what the dead left is put right"));
    }
    /// Everything that time does: retransmissions, TIME-WAIT, orphans; nobody is left in the accept queue.
    fn settle(&self) {
        self.w.advance(SEC);
        while accept(self.first(), OWN) {
            shut(self.first(), OWN);
            self.w.run();
        }
        self.w.advance(130 * SEC);
        while accept(self.first(), OWN) {
            shut(self.first(), OWN);
        }
        self.w.advance(130 * SEC);
    }
    fn census(&self) -> Vec<(&'static str, u64)> {
        repair::census(self.first().env.inst).to_vec()
    }
}

/// An operation: what is prepared, what the child does, and whether it may be inside the connection that is looked at afterwards.
struct Op {
    name: &'static str,
    before: fn(&Scene),
    act: fn(&Host, Ip),
    touches: bool,
}

fn nothing(_: &Scene) {}
fn victim(s: &Scene) {
    s.pair(&s.w.hosts[1], VICTIM, OTHER);
    assert!(send(&s.w.hosts[1], VICTIM, b"for the victim"));
    s.w.run();
}
fn in_the_ring(s: &Scene) {
    // Frames for two connections and a request for a third wait in the ring, undrained.
    victim(s);
    assert!(send(&s.w.hosts[1], VICTIM, b"more"));
    connect(&s.w.hosts[1], OWN, s.ip, 80);
}
fn waiting(s: &Scene) {
    connect(&s.w.hosts[1], OWN, s.ip, 80);
    s.w.run();
}

const OPS: [Op; 12] = [
    Op {
        name: "socket, close",
        before: nothing,
        touches: false,
        act: |h, _| {
            open(h, OWN, libc::SOCK_STREAM);
            shut(h, OWN);
        },
    },
    Op {
        name: "connect to ourselves",
        before: nothing,
        touches: false,
        act: |h, ip| {
            connect(h, OWN, ip, 80);
            h.progress();
            shut(h, OWN);
        },
    },
    Op {
        name: "accept",
        before: waiting,
        touches: false,
        act: |h, _| {
            accept(h, OWN);
        },
    },
    Op {
        name: "send",
        before: victim,
        touches: false,
        act: |h, _| {
            send(h, OTHER, &[7; 3000]);
        },
    },
    Op {
        name: "receive",
        before: victim,
        touches: false,
        act: |h, _| {
            recv(h, OTHER, &mut [0; 64]);
        },
    },
    Op {
        name: "shutdown",
        before: victim,
        touches: false,
        act: |h, _| {
            let _ = with(h, OTHER, |cx, s| socket::shutdown(cx, s, libc::SHUT_RDWR));
        },
    },
    Op {
        name: "drain",
        before: in_the_ring,
        touches: true,
        act: |h, _| {
            h.progress();
        },
    },
    Op {
        name: "listen, stop",
        before: nothing,
        touches: false,
        act: |h, _| {
            open(h, OWN, libc::SOCK_STREAM);
            let _ = with(h, OWN, |cx, s| socket::bind(cx, s, &at(Ip::ANY4, 81)));
            let _ = with(h, OWN, |cx, s| socket::listen(cx, s, 4));
            shut(h, OWN);
        },
    },
    Op {
        name: "datagrams",
        before: nothing,
        touches: false,
        act: |h, ip| {
            open(h, OWN, libc::SOCK_DGRAM);
            let _ = with(h, OWN, |cx, s| socket::Connect::default().step(cx, s, &at(ip, 80), false));
            send(h, OWN, b"a datagram");
            recv(h, UDP, &mut [0; 64]);
            shut(h, OWN);
        },
    },
    Op {
        name: "epoll",
        before: victim,
        touches: false,
        act: |h, _| {
            h.call(|cx| keep(cx, OWN, epoll::create(cx).unwrap_or_else(|e| panic!("{e}"))));
            for fd in [LISTENER, OTHER, UDP] {
                h.call(|cx| {
                    let (ep, s) = (held(cx, OWN), held(cx, fd));
                    let _ = epoll::ctl(cx, &ep, libc::EPOLL_CTL_ADD, &s, fd, epoll::Event { events: 1, data: 0, nested: false });
                    let _ = epoll::wait(cx, &ep, &mut [epoll::Event::default(); 4]);
                    s.release(cx);
                    ep.release(cx);
                });
            }
            shut(h, OWN);
        },
    },
    Op {
        name: "wait",
        before: nothing,
        touches: false,
        act: |h, _| {
            let id = |cx: &Cx<'_>, fd| {
                let s = held(cx, fd);
                let id = s.id();
                s.release(cx);
                id
            };
            let mut w = h.call(|cx| Waiting::begin(cx, &[(id(cx, LISTENER), 1), (id(cx, UDP), 1)], How { exclusive: true, bell: 0 }));
            let _ = h.call(|cx| w.step(cx, cx.now() + SEC));
            h.call(|cx| w.end(cx));
        },
    },
    Op {
        name: "fork",
        before: victim,
        touches: false,
        act: |h, _| {
            h.call(|cx| {
                if let Ok(n) = cx.inst.procs.fork(cx, cx.proc) {
                    cx.inst.procs.bury(cx, n);
                }
            });
        },
    },
];

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: status is writable.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status
}

/// A child that makes the operation, killed after `steps` instructions of it (`None`: let it end); how many it made.
fn child(s: &Scene, op: &Op, steps: Option<u64>) -> u64 {
    let h = s.first();
    let table = h.call(|cx| cx.inst.procs.fork(cx, cx.proc)).expect("a table for the child");
    // SAFETY: the child only calls the core, which allocates nothing, and ends by _exit(2).
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let mine = Host { env: Env { proc: table, ..h.env }, me: Me::ask() };
        mine.env.inst.procs.get(table).pid.store(mine.me.pid, Release);
        // SAFETY: plain calls.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
        (op.act)(&mine, s.ip);
        // SAFETY: ends the child without running what is the test's.
        unsafe { libc::_exit(0) };
    }
    assert!(pid > 0 && libc::WIFSTOPPED(wait(pid)));
    let mut made = 0;
    while steps.is_none_or(|n| made < n) {
        // SAFETY: a stopped child of ours.
        unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, pid, 0, 0) };
        let status = wait(pid);
        if !libc::WIFSTOPPED(status) {
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{}: the child ended by {status:#x}", op.name);
            return made;
        }
        made += 1;
        assert!(made < 2_000_000, "{}: no end", op.name);
    }
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait(pid);
    made
}

/// One death, and what is left of it.
fn die(s: &Scene, op: &Op, steps: Option<u64>, before: &[(&'static str, u64)]) -> u64 {
    (op.before)(s);
    let made = child(s, op, steps);
    let (first, second) = (s.first(), &s.w.hosts[1]);
    s.bury();
    s.w.run();
    let what = format!("{} killed after {made} instructions", op.name);
    // What it was not inside goes on. (Draining for others it may have been inside any of them.)
    if !s.passes(second, NEAR, FAR, b"still there") {
        assert!(op.touches, "{what}: another connection broke");
        shut(second, NEAR);
        shut(first, FAR);
        s.w.run();
        while accept(first, OWN) {
            shut(first, OWN);
        }
        s.pair(second, NEAR, FAR);
    }
    for fd in [VICTIM, OTHER, OWN] {
        shut(second, fd);
        shut(first, fd);
    }
    s.settle();
    // A table made for a child whose parent died before the fork goes after a while.
    s.bury();
    s.pair(second, VICTIM, OTHER);
    assert!(s.passes(second, VICTIM, OTHER, b"a new one"), "{what}: a new connection carries nothing");
    shut(second, VICTIM);
    shut(first, OTHER);
    while recv(first, UDP, &mut [0; 64]).is_some() {}
    open(first, OWN, libc::SOCK_DGRAM);
    let _ = with(first, OWN, |cx, u| socket::Connect::default().step(cx, u, &at(s.ip, 80), false));
    assert!(s.passes(first, OWN, UDP, b"a datagram"), "{what}: a datagram is lost");
    shut(first, OWN);
    s.settle();
    let left = s.census();
    assert_eq!(left, before, "{what}: something stays taken");
    assert!(first.call(net::timer::next) > csel_core::testing::now(), "{what}: timers are due for ever");
    made
}

#[test]
#[cfg_attr(debug_assertions, ignore = "ten times the instructions: `make soak` steps through the release build")]
fn a_process_may_die_at_any_instruction() {
    let kills: u64 = std::env::var("STEP_KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let seed: u64 = std::env::var("STEP_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(7);
    let only = std::env::var("STEP_OP").ok();
    println!("STEP_SEED={seed}");
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for op in OPS.iter().filter(|op| only.as_deref().is_none_or(|o| o == op.name)) {
        let s = Scene::new();
        s.settle();
        let before = s.census();
        let whole = die(&s, op, None, &before);
        for n in 0..kills {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // One in each stretch, so that no part of it is left out.
            let stretch = whole / kills + 1;
            die(&s, op, Some(n * stretch + (random >> 20) % stretch), &before);
        }
        println!("{}: {whole} instructions, killed {kills} times", op.name);
    }
}
