//! Demultiplexing: from the four-tuple of a segment to its connection, from a port to its listener, and connections in TIME-WAIT.
//!
//! # Theory of operation
//! **Purpose.** Constant cost per segment, however many connections there are.
//! **How it works.** Connections: [`BUCKETS`] chains through the flows. A lookup walks a chain without its lock (items are never unmapped and keys are
//! atomics, so a walk that races a change sees nonsense at worst); a hit is verified by the caller under the flow's lock, a miss is repeated under
//! the bucket's. Listeners: chains by port; the most specific address wins, then the family's own wildcard, then a dual-stack `::`; equals form
//! an SO_REUSEPORT group, chosen from by the tuple's hash. TIME-WAIT: a small entry of its own instead of a whole flow, in chains and, as all
//! live equally long, in a queue by age.
//! **Limits.** [`WAITS`] connections in TIME-WAIT; the oldest makes room, as in Linux (tcp_max_tw_buckets).
//! **Locks.** One of rank TABLE for each chain. **Failure.** EADDRNOTAVAIL for a tuple in use.
use super::flow::Flow;
use super::listen::Listener;
use crate::arena::{Id, Shared, Slab};
use crate::clock::{Nanos, SEC};
use crate::instance::Cx;
use crate::net::addr::{Endpoint, Ip, Tuple};
use crate::net::port::{self, Space, Ticket};
use crate::sync::{Lock, rank};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// Chains of connections.
const BUCKETS: usize = 65536;
/// Chains of listeners.
const PORTS: usize = 4096;
/// Connections in TIME-WAIT at once.
const WAITS: usize = 32768;
const WAIT_BUCKETS: usize = 16384;
/// How long TIME-WAIT lasts.
pub(super) const TIME_WAIT: Nanos = 60 * SEC;
/// A walk without a lock gives up after so many steps.
const STEPS: usize = 64;

/// A four-tuple that may be read while it changes.
#[repr(C)]
#[derive(Shared)]
pub(super) struct Key([AtomicU64; 5]);

/// A four-tuple as five words.
pub(super) type Words = [u64; 5];

#[inline]
pub(super) fn words(t: &Tuple) -> Words {
    let half = |ip: &Ip, i: usize| {
        let b = &ip.0[i * 8..i * 8 + 8];
        u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    };
    [
        half(&t.local.ip, 0),
        half(&t.local.ip, 1),
        half(&t.remote.ip, 0),
        half(&t.remote.ip, 1),
        u64::from(t.local.port) | u64::from(t.remote.port) << 16 | 1 << 32,
    ]
}

#[inline]
pub(super) fn hash(w: &Words, seed: u64) -> u64 {
    let mut h = seed ^ 0x9e37_79b9_7f4a_7c15;
    for x in w {
        h = (h ^ x).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h ^= h >> 32;
    }
    h
}

impl Key {
    #[inline]
    pub(super) fn is(&self, w: &Words) -> bool {
        // The last word differs most often.
        (0..5).rev().all(|i| self.0[i].load(Relaxed) == w[i])
    }
    pub(super) fn set(&self, w: &Words) {
        for (a, b) in self.0.iter().zip(w) {
            a.store(*b, Relaxed);
        }
    }
    pub(super) fn clear(&self) {
        self.0[4].store(0, Relaxed);
    }
    /// Is there a tuple?
    pub(super) fn is_set(&self) -> bool {
        self.0[4].load(Relaxed) != 0
    }
    pub(super) fn words(&self) -> Words {
        [0, 1, 2, 3, 4].map(|i| self.0[i].load(Relaxed))
    }
}

/// A connection in TIME-WAIT.
#[repr(C)]
#[derive(Shared)]
pub(super) struct Rest {
    key: Key,
    /// Next in the chain, next by age.
    chain: AtomicU32,
    younger: AtomicU32,
    since: AtomicU64,
    snd_nxt: AtomicU32,
    rcv_nxt: AtomicU32,
    /// What keeps the local port taken.
    ticket: AtomicU32,
    /// In the chain?
    live: AtomicU32,
}

/// By age: first to go, last come.
#[repr(C)]
#[derive(Shared)]
struct Ages {
    oldest: u32,
    youngest: u32,
}

/// A chain of connections: its head may be read without the lock.
#[repr(C)]
#[derive(Shared)]
struct Bucket {
    head: AtomicU32,
    lock: Lock<(), { rank::TABLE }>,
}

/// The tables.
#[repr(C)]
#[derive(Shared)]
pub(super) struct State {
    /// Against chosen collisions; 0 until it is drawn.
    seed: AtomicU64,
    flows: [Bucket; BUCKETS],
    listeners: [Lock<u32, { rank::TABLE }>; PORTS],
    rests: Slab<Rest, WAITS>,
    rest_chains: [Lock<u32, { rank::TABLE }>; WAIT_BUCKETS],
    ages: Lock<Ages, { rank::TABLE }>,
}

impl State {
    /// How many connections are in TIME-WAIT.
    pub(super) fn resting(&self) -> usize {
        self.rests.used()
    }
}

/// The instance's secret.
#[inline]
pub(super) fn seed(cx: &Cx<'_>) -> u64 {
    let s = &cx.inst.net.tcp.demux.seed;
    match s.load(Relaxed) {
        0 => {
            let _ = s.compare_exchange(0, crate::gate::random() | 1, Relaxed, Relaxed);
            s.load(Relaxed)
        }
        n => n,
    }
}

/// The connection with this tuple. To be verified under its lock ([`Flow::is`]).
#[inline]
pub(super) fn find(cx: &Cx<'_>, w: &Words) -> Option<(u32, &'static Flow)> {
    let t = &cx.inst.net.tcp;
    let bucket = &t.demux.flows[hash(w, seed(cx)) as usize % BUCKETS];
    let mut n = bucket.head.load(Acquire);
    for _ in 0..STEPS {
        let Some(f) = t.flows.get(Id::new(n)) else { break };
        if f.key.is(w) {
            return Some((n, f));
        }
        n = f.chain.load(Acquire);
    }
    // Not there, or the walk was led astray: look again, with the lock.
    let _lock = bucket.lock.lock(cx.me);
    let mut n = bucket.head.load(Relaxed);
    while let Some(f) = t.flows.get(Id::new(n)) {
        if f.key.is(w) {
            return Some((n, f));
        }
        n = f.chain.load(Relaxed);
    }
    None
}

/// Enters a connection. False if the tuple is taken.
pub(super) fn enter(cx: &Cx<'_>, n: u32, w: &Words) -> bool {
    let t = &cx.inst.net.tcp;
    let bucket = &t.demux.flows[hash(w, seed(cx)) as usize % BUCKETS];
    let _lock = bucket.lock.lock(cx.me);
    let head = bucket.head.load(Relaxed);
    let mut at = head;
    while let Some(f) = t.flows.get(Id::new(at)) {
        if f.key.is(w) {
            return false;
        }
        at = f.chain.load(Relaxed);
    }
    let Some(f) = t.flows.get(Id::new(n)) else { return false };
    f.key.set(w);
    f.chain.store(head, Release);
    bucket.head.store(n, Release);
    true
}

/// Takes a connection out.
pub(super) fn leave(cx: &Cx<'_>, n: u32, w: &Words) {
    let t = &cx.inst.net.tcp;
    let bucket = &t.demux.flows[hash(w, seed(cx)) as usize % BUCKETS];
    let _lock = bucket.lock.lock(cx.me);
    let Some(gone) = t.flows.get(Id::new(n)) else { return };
    let after = gone.chain.load(Relaxed);
    let head = bucket.head.load(Relaxed);
    if head == n {
        bucket.head.store(after, Release);
    } else {
        let mut at = head;
        while let Some(f) = t.flows.get(Id::new(at)) {
            let next = f.chain.load(Relaxed);
            if next == n {
                f.chain.store(after, Release);
                break;
            }
            at = next;
        }
    }
    gone.key.clear();
}

/// After a death inside: a chain whose lock was held is made anew. The instance is halted.
pub(super) fn repair_chains(cx: &Cx<'_>) {
    let t = &cx.inst.net.tcp;
    let mut broken = false;
    for b in &t.demux.flows {
        if b.lock.is_held() {
            broken |= b.lock.take_over(cx.me).is_some();
        }
    }
    if broken {
        for b in &t.demux.flows {
            b.head.store(0, Relaxed);
        }
        for (id, f) in t.flows.iter() {
            // What is not to be there goes when its flow is looked at.
            if f.key.is_set() {
                let b = &t.demux.flows[hash(&f.key.words(), seed(cx)) as usize % BUCKETS];
                f.chain.store(b.head.swap(id.0, Release), Release);
            }
        }
    }
    for head in &t.demux.listeners {
        // Those that are listeners still are put back one by one.
        if let Some(mut head) = head.take_over(cx.me) {
            *head = 0;
        }
    }
}

/// Puts a listener back into its chain.
pub(super) fn enter_listener(cx: &Cx<'_>, n: u32, l: &Listener) {
    let (ip, port) = l.at();
    listen(cx, n, &Endpoint::new(ip, port));
}

/// TIME-WAIT anew from its entries, if anybody died in it.
pub(super) fn repair_rests(cx: &Cx<'_>) {
    let t = &cx.inst.net.tcp.demux;
    t.rests.repair();
    let mut broken = false;
    for c in &t.rest_chains {
        if c.is_held() {
            broken |= c.take_over(cx.me).is_some();
        }
    }
    let Some(mut ages) = t.ages.take_over(cx.me) else { return };
    // Each entry is in the queue by age once, or the thread that put it there died before.
    let (mut n, mut at, mut last) = (0, ages.oldest, 0);
    while let Some(r) = t.rests.get(Id::new(at)).filter(|_| n < WAITS) {
        (n, last, at) = (n + 1, at, r.younger.load(Relaxed));
    }
    broken |= n != t.rests.used() || last != ages.youngest || at != 0;
    if !broken {
        return;
    }
    *ages = Ages { oldest: 0, youngest: 0 };
    for c in &t.rest_chains {
        if let Some(mut head) = c.take_over(cx.me) {
            *head = 0;
        }
    }
    for (id, r) in t.rests.iter() {
        if r.live.load(Relaxed) == 0 {
            t.rests.free(id);
            continue;
        }
        r.younger.store(0, Relaxed);
        let mut head = t.rest_chains[(hash(&r.key.words(), seed(cx)) >> 16) as usize % WAIT_BUCKETS].lock(cx.me);
        r.chain.store(*head, Relaxed);
        *head = id.0;
        match t.rests.get(Id::new(ages.youngest)) {
            Some(last) => last.younger.store(id.0, Relaxed),
            None => ages.oldest = id.0,
        }
        ages.youngest = id.0;
    }
}

/// The reservations of ports that connections in TIME-WAIT have.
pub(super) fn each_ticket(cx: &Cx<'_>, each: &mut dyn FnMut(u32)) {
    for (_, r) in cx.inst.net.tcp.demux.rests.iter() {
        if r.live.load(Relaxed) != 0 {
            each(r.ticket.load(Relaxed));
        }
    }
}

/// Puts a listener where segments find it.
pub(super) fn listen(cx: &Cx<'_>, n: u32, at: &Endpoint) {
    let t = &cx.inst.net.tcp;
    let mut head = t.demux.listeners[usize::from(at.port) % PORTS].lock(cx.me);
    if let Some(l) = t.listeners.get(Id::new(n)) {
        l.chain.store(*head, Release);
        *head = n;
    }
}

/// Takes it away again.
pub(super) fn unlisten(cx: &Cx<'_>, n: u32, at: &Endpoint) {
    let t = &cx.inst.net.tcp;
    let mut head = t.demux.listeners[usize::from(at.port) % PORTS].lock(cx.me);
    let after = t.listeners.get(Id::new(n)).map_or(0, |l| l.chain.load(Relaxed));
    if *head == n {
        *head = after;
        return;
    }
    let mut at = *head;
    while let Some(l) = t.listeners.get(Id::new(at)) {
        let next = l.chain.load(Relaxed);
        if next == n {
            l.chain.store(after, Release);
            return;
        }
        at = next;
    }
}

/// The listener a connection request is for.
pub(super) fn listener(cx: &Cx<'_>, t: &Tuple) -> Option<(u32, &'static Listener)> {
    let all = &cx.inst.net.tcp;
    let head = all.demux.listeners[usize::from(t.local.port) % PORTS].lock(cx.me);
    let rank_of = |l: &Listener| {
        let (ip, port) = l.at();
        let dual = ip == Ip::ANY6 && t.local.ip.is_v4() && l.v6only.load(Relaxed) == 0;
        match () {
            () if port != t.local.port => 0,
            () if ip == t.local.ip => 3,
            () if ip.is_unspecified() && ip.is_v4() == t.local.ip.is_v4() => 2,
            () if dual => 1,
            () => 0,
        }
    };
    let (mut best, mut count, mut n) = (0, 0u64, *head);
    while let Some(l) = all.listeners.get(Id::new(n)) {
        let r = rank_of(l);
        if r > best {
            (best, count) = (r, 0);
        }
        count += u64::from(r == best && r > 0);
        n = l.chain.load(Relaxed);
    }
    if count == 0 {
        return None;
    }
    let mut pick = if count == 1 { 0 } else { (hash(&words(t), seed(cx)) >> 20) % count };
    let mut n = *head;
    while let Some(l) = all.listeners.get(Id::new(n)) {
        if rank_of(l) == best {
            if pick == 0 {
                return Some((n, l));
            }
            pick -= 1;
        }
        n = l.chain.load(Relaxed);
    }
    None
}

fn chain_of(cx: &Cx<'_>, w: &Words) -> &'static Lock<u32, { rank::TABLE }> {
    &cx.inst.net.tcp.demux.rest_chains[(hash(w, seed(cx)) >> 16) as usize % WAIT_BUCKETS]
}

/// Takes an entry out of its chain; its ticket, if it was still there.
fn unchain(cx: &Cx<'_>, n: u32, r: &Rest) -> Option<u32> {
    let t = &cx.inst.net.tcp.demux;
    let mut head = chain_of(cx, &r.key.words()).lock(cx.me);
    if r.live.swap(0, AcqRel) == 0 {
        return None;
    }
    let after = r.chain.load(Relaxed);
    if *head == n {
        *head = after;
    } else {
        let mut at = *head;
        while let Some(x) = t.rests.get(Id::new(at)) {
            let next = x.chain.load(Relaxed);
            if next == n {
                x.chain.store(after, Relaxed);
                break;
            }
            at = next;
        }
    }
    Some(r.ticket.swap(0, AcqRel))
}

/// Takes the oldest entry if it is dead or older than `age`. False if there is none such.
fn drop_oldest(cx: &Cx<'_>, age: Nanos) -> bool {
    let t = &cx.inst.net.tcp.demux;
    let (n, r) = {
        let mut ages = t.ages.lock(cx.me);
        let n = ages.oldest;
        let Some(r) = t.rests.get(Id::new(n)) else { return false };
        if r.live.load(Acquire) != 0 && cx.now().saturating_sub(r.since.load(Relaxed)) < age {
            return false;
        }
        ages.oldest = r.younger.load(Relaxed);
        if ages.oldest == 0 {
            ages.youngest = 0;
        }
        (n, r)
    };
    if let Some(ticket) = unchain(cx, n, r) {
        port::redeem(cx, Space::Tcp, Ticket(ticket));
    }
    t.rests.free(Id::new(n));
    true
}

/// Puts a finished connection to rest for [`TIME_WAIT`].
pub(super) fn rest(cx: &Cx<'_>, w: &Words, snd_nxt: u32, rcv_nxt: u32, ticket: u32) {
    let t = &cx.inst.net.tcp.demux;
    // Each one that comes sees two off, so the table holds what the last minute brought.
    for _ in 0..2 {
        drop_oldest(cx, TIME_WAIT);
    }
    let Some((id, r)) = t.rests.alloc().or_else(|| {
        drop_oldest(cx, 0);
        t.rests.alloc()
    }) else {
        port::redeem(cx, Space::Tcp, Ticket(ticket));
        return;
    };
    r.key.set(w);
    r.since.store(cx.now(), Relaxed);
    r.snd_nxt.store(snd_nxt, Relaxed);
    r.rcv_nxt.store(rcv_nxt, Relaxed);
    r.ticket.store(ticket, Relaxed);
    r.younger.store(0, Relaxed);
    {
        let mut head = chain_of(cx, w).lock(cx.me);
        r.chain.store(*head, Relaxed);
        r.live.store(1, Release);
        *head = id.0;
    }
    let mut ages = t.ages.lock(cx.me);
    match t.rests.get(Id::new(ages.youngest)) {
        Some(last) => last.younger.store(id.0, Relaxed),
        None => ages.oldest = id.0,
    }
    ages.youngest = id.0;
}

/// A connection in TIME-WAIT: its number, how long it has rested, the sequence numbers it would send and expect next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resting {
    n: u32,
    pub(super) age: Nanos,
    pub(super) snd_nxt: u32,
    pub(super) rcv_nxt: u32,
}

/// Is this tuple in TIME-WAIT?
pub(super) fn resting(cx: &Cx<'_>, w: &Words) -> Option<Resting> {
    let t = &cx.inst.net.tcp.demux;
    if t.rests.used() == 0 {
        return None;
    }
    let head = chain_of(cx, w).lock(cx.me);
    let mut n = *head;
    while let Some(r) = t.rests.get(Id::new(n)) {
        if r.key.is(w) {
            let age = cx.now().saturating_sub(r.since.load(Relaxed));
            let found = Resting { n, age, snd_nxt: r.snd_nxt.load(Relaxed), rcv_nxt: r.rcv_nxt.load(Relaxed) };
            return (age < TIME_WAIT).then_some(found);
        }
        n = r.chain.load(Relaxed);
    }
    None
}

/// Ends a TIME-WAIT early (a reset, a new connection). Its entry is freed when it is the oldest.
pub(super) fn disturb(cx: &Cx<'_>, r: &Resting) {
    let t = &cx.inst.net.tcp.demux;
    if let Some(rest) = t.rests.get(Id::new(r.n))
        && let Some(ticket) = unchain(cx, r.n, rest)
    {
        port::redeem(cx, Space::Tcp, Ticket(ticket));
    }
}

/// Everything in TIME-WAIT, for ss(8).
pub(super) fn each_resting(cx: &Cx<'_>, mut each: impl FnMut(&Tuple, Nanos)) {
    for (_, r) in cx.inst.net.tcp.demux.rests.iter() {
        let age = cx.now().saturating_sub(r.since.load(Relaxed));
        if r.live.load(Relaxed) != 0 && age < TIME_WAIT {
            let w = r.key.words();
            let ip = |a: u64, b: u64| {
                let mut ip = [0; 16];
                ip[..8].copy_from_slice(&a.to_ne_bytes());
                ip[8..].copy_from_slice(&b.to_ne_bytes());
                Ip(ip)
            };
            let t = Tuple { local: Endpoint::new(ip(w[0], w[1]), w[4] as u16), remote: Endpoint::new(ip(w[2], w[3]), (w[4] >> 16) as u16) };
            each(&t, TIME_WAIT - age);
        }
    }
}
