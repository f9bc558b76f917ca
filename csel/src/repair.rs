//! Death inside a call: what it may leave behind, and how it is put right.
//!
//! # Theory of operation
//! **Purpose.** `kill -9` of any thread's process at any instruction costs at most the connection it was inside: no lock, port, name, slot, reference or
//! memory stays taken.
//! **How it works.** Nothing is written down before it is done: what is true is what the *holders* say, and all else follows from it. Holders are the
//! descriptor tables of the processes ([`crate::fd::Proc`]), the messages under way ([`crate::fd::flight`]) and the threads that wait ([`crate::net::wait`]); from them follow the references of the open
//! descriptions, from those the flows, bodies and epoll sets, from those the ports, chains, queues, timers and counts. So when a thread has died *inside*
//! ([`crate::desk`]), the keeper halts the instance for a moment and goes through all tables once, in that order: what is nobody's is closed or
//! freed, what does not follow is made anew, and everybody is woken to look again. What the dead thread had locked and was changing (one connection, one
//! datagram queue) is reset. A process that dies outside, which is by far the most frequent, costs none of this: its table is closed ([`crate::fd::Procs::bury`]).
//! A thread that wants a lock of a dead one before that takes it over and mends what that lock guards as far as is needed to go on
//! ([`crate::sync::Guard::inherited`]).
//! *What this demands of all other code:* a reference to an open description that outlives a call ([`Cx`]) lies in a process's table, with a waiting
//! thread's hooks, or is counted as a flight, nowhere else; what is taken outside a call is not protected from being taken for a dead thread's.
//! **Limits.** While a thread is stopped (SIGSTOP) inside, nothing is repaired; it is tried again. **Locks.** All of them, none for long.
//! **Failure.** A repairer killed at its work has died inside: one of those who stand back meanwhile begins again.
//! **See also.** [`crate::keeper`]; `tests/src/bin/soak`, `tests/tests/step_kill.rs`.
use crate::clock::MS;
use crate::fd::{PROCS, Sock};
use crate::instance::{Cx, Instance};
use crate::net::{dgram, link, port, tcp, timer, wait};
use crate::sync::Me;
use crate::{arena::Id, call, poll};
use core::sync::atomic::Ordering::*;

/// How long everybody is given to come out.
const PATIENCE: u64 = 50 * MS;

/// Repairs the instance if a thread died inside. False: it would have to, and somebody living does not come out.
pub fn run(cx: &Cx<'_>) -> bool {
    let desks = &cx.inst.desks;
    if !desks.any_died_inside(cx.me) {
        return true;
    }
    if !desks.halt(cx.me, PATIENCE) {
        return false;
    }
    all(cx);
    desks.repaired(cx.me);
    true
}

/// Whoever repaired died at it: goes on in its place. (If somebody does not come out it had not begun: that is what it waited for.)
#[cold]
pub(crate) fn go_on(cx: &Cx<'_>) {
    if cx.inst.desks.await_all_out(cx.me, PATIENCE) {
        all(cx);
        cx.inst.desks.repaired(cx.me);
    }
}

/// The instance is halted: all tables, in the order in which one follows from the other.
fn all(cx: &Cx<'_>) {
    let inst = cx.inst;
    inst.desks.tell_ended(cx.me);
    inst.procs.table.repair();
    for (id, p) in inst.procs.table.iter() {
        if p.pid.load(Relaxed) == 0 {
            inst.procs.table.free(id);
        }
    }
    inst.socks.repair();
    for (_, s) in inst.socks.iter() {
        drop(s.options.take_over(cx.me));
    }
    timer::repair(cx);
    port::unlock(cx);
    link::repair(cx);
    poll::repair::repair(cx);
    tcp::repair(cx);
    dgram::repair::repair(cx);
    references(cx);
    port::repair(cx);
    wait::repair::wake_all(cx);
    for (n, _) in cx.seg.taken() {
        // A frame may lie there for which the dead rang nobody.
        cx.kicks.note(n);
    }
}

/// Counts the references of every open description, and closes those that have none.
fn references(cx: &Cx<'_>) {
    let socks = &cx.inst.socks;
    let mut flying = 0;
    for (_, s) in socks.iter() {
        let flights = s.flights.load(Relaxed);
        s.tally.store(flights, Relaxed);
        flying += flights;
    }
    cx.inst.procs.flying.store(flying, Relaxed);
    let count = |id: u32| socks.get(Id::new(id)).map(|s: &Sock| s.tally.fetch_add(1, Relaxed));
    debug_assert!(cx.inst.procs.table.used() <= PROCS);
    for (_, p) in cx.inst.procs.table.iter() {
        for word in &p.fds[..(p.high.load(Relaxed) as usize).min(p.fds.len())] {
            let id = word.load(Relaxed);
            if id != 0 && count(id).is_none() {
                word.store(0, Relaxed);
            }
        }
    }
    wait::repair::each_held(cx, |id| {
        count(id);
    });
    for (id, s) in socks.iter() {
        let n = s.tally.load(Relaxed);
        s.refs.store(n, SeqCst);
        if n == 0 {
            call::socket::release(cx, s, id);
        }
    }
}

/// How much of everything that can be taken is taken, by name: what a family leaves when it has gone must be what it found.
pub fn census(inst: &Instance) -> [(&'static str, u64); 12] {
    let [flows, listeners, resting, orphans] = tcp::census(&inst.net.tcp);
    let [ports, tickets] = port::census(&inst.net.port, &Me::ask());
    [
        ("sockets", inst.socks.used() as u64),
        ("flows", flows),
        ("listeners", listeners),
        ("orphans", orphans),
        ("datagram sockets", inst.net.dgram.bodies.used() as u64),
        ("ports", ports),
        ("ports of orphans", tickets.saturating_sub(resting)),
        ("epoll sets", inst.poll.sets.used() as u64),
        ("epoll items", inst.poll.items.used() as u64),
        ("hooks", inst.poll.hooks.used() as u64),
        ("waiters", inst.net.wait.census()),
        ("processes", inst.procs.table.used() as u64),
    ]
}
