//! Waiting: leader and followers, spinning, sleeping.
//!
//! # Theory of operation
//! **Purpose.** A thread that waits is the thread that drains the port; when it has to sleep, exactly one sleeper must be known to the other
//! instances' producers as the one to ring, and no wake-up may be lost however threads come, go and die.
//! **How it works.** Each waiting thread has a *slot* in its port's [`Seat`], in the segment; it sleeps on its own slot's word, be it leader or
//! not. The thread that goes to sleep last makes itself [`Seat::leader`]; a producer that has committed a frame wakes the leader and takes it off
//! its seat (compare-and-swap to 0), so that a burst costs one system call. A thread that goes back to the application hands the seat to
//! another sleeper, which need not wake for that; if nobody sleeps, to the keeper's slot if that sleeps deeply, else to nobody: whoever is
//! awake drains before it sleeps.
//! *Hints.* Whom a producer rings if it knows better than the seat: see [`seat`].
//!
//! Every hand-over is "store, then look again" against "leave, then look" of the other side, all SeqCst:
//! ```text
//! sleeper: word = armed; leader = me;        ring pending? sock ready?   then sleep while word is armed
//! producer:              frame committed;    leader? word = awake, wake; leader -> 0
//!                                            leader and hint armed? hint's word = rung, wake; the leader stays
//! protocol:              level set;          hook?   -> word = awake, wake (after the locks)
//! leaver:  asleep bit off; leader me or 0 -> next;   next still asleep? ring pending?     (rung: ring pending? in any case)
//! keeper:  deep = 1;                         leader 0 or its older self -> keeper; ring pending? timers?  then sleep
//! ```
//! *Spinning.* Before it sleeps a thread may spin, one per instance, with the seat empty so that nobody pays for ringing. It does so only if recent
//! waits were shorter than `spin_us`, there is a second CPU, and it yields its own CPU after the first microseconds: if the peer is queued
//! behind us there, it runs at once. Waits that were too long stop spinning, but every [`PROBE`]th wait
//! tries again: sleeping itself may be what makes them long.
//! *Kernel sleepers.* A thread that waits for kernel descriptors too sleeps in ppoll(2) and is rung by its bell ([`gate::bell`]).
//! **Limits.** [`SLOTS`] sleeping threads; one more naps for a millisecond at a time. **Locks.** None of its own.
//! **Failure.** A thread that dies in its sleep is found by the keeper ([`bury`]). A ring that cannot cross network namespaces rings the keeper.
//! **See also.** design section 6; `tests/tests/wakeup.rs` (the model and its proof); futex(2).
use crate::arena::{Id, Shared};
use crate::clock::{MS, NEVER, Nanos};
use crate::fd::{Held, Sock};
use crate::gate;
use crate::instance::Cx;
use crate::net::{self, link, timer};
use crate::poll::queue::{self, Hook, Who};
use crate::poll::{self, ev};
use crate::stats;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};

pub(crate) mod repair;
mod seat;
pub(crate) use seat::wake;
use seat::{ARMED, AWAKE, RUNG, Slot, claim, rouse, seat};
pub use seat::{KEEPER, NO_HINT, SLOTS, Seat, kind, knock, learn, ring, ring_keeper};

/// While waits are long, every so many waits spin all the same.
const PROBE: u32 = 16;
/// In a hook's mask: an epoll set's own waiter, content with the hint that something may be ready.
pub const HINT: u32 = 1 << 30;

/// What we know of the thread in a slot.
#[repr(C)]
#[derive(Shared)]
struct Sleeper {
    /// Process number and thread id; 0: the slot is free.
    owner: AtomicU64,
    /// Its hooks, chained by sibling.
    first: AtomicU32,
    /// The socket whose [`crate::poll::WaitQueue`] has it as the only one.
    only: AtomicU32,
}

/// Who waits, who leads, who spins.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    sleepers: [Sleeper; SLOTS],
    used: [AtomicU64; SLOTS / 64],
    asleep: [AtomicU64; SLOTS / 64],
    /// The thread that spins.
    spinner: AtomicU32,
    /// How long recent waits took, nanoseconds, smoothed.
    recent: AtomicU32,
    /// Waits that did not spin because recent ones were long.
    slept: AtomicU32,
    /// CPUs we may run on; 0: not asked yet.
    cpus: AtomicU32,
    /// The keeper sleeps until somebody rings it.
    deep: AtomicU32,
    /// When somebody will look at the timers at the latest: a timer armed for before that is worth a ring. 0: somebody is awake.
    alarm: AtomicU64,
    /// What a thread without a slot naps on; never changes.
    nap: AtomicU32,
}

impl State {
    /// How many threads wait.
    pub(crate) fn census(&self) -> u64 {
        self.used.iter().map(|w| u64::from(w.load(Relaxed).count_ones())).sum()
    }
    fn take(&self, proc: u32, tid: u32) -> u32 {
        // A thread's slot is mostly the one it had before ([`Seat::hints`]).
        let (usual, bit) = (tid % 63 + 1, 1 << (tid % 63 + 1));
        if self.used[0].load(Relaxed) & bit == 0 && self.used[0].fetch_or(bit, AcqRel) & bit == 0 {
            self.sleepers[usual as usize].owner.store(u64::from(proc) << 32 | u64::from(tid), Relaxed);
            return usual + 1;
        }
        for (i, word) in self.used.iter().enumerate() {
            // The keeper's slot is never given out.
            let reserved = u64::from(i == 0);
            loop {
                let w = word.load(Relaxed);
                let bit = (!(w | reserved)).trailing_zeros();
                if bit == 64 {
                    break;
                }
                if word.compare_exchange(w, w | 1 << bit, AcqRel, Relaxed).is_ok() {
                    let n = i as u32 * 64 + bit;
                    self.sleepers[n as usize].owner.store(u64::from(proc) << 32 | u64::from(tid), Relaxed);
                    return n + 1;
                }
            }
        }
        0
    }
    fn give(&self, slot: u32) {
        let n = slot as usize - 1;
        self.sleepers[n].owner.store(0, Relaxed);
        self.used[n / 64].fetch_and(!(1 << (n % 64)), AcqRel);
    }
    fn mark(&self, slot: u32, asleep: bool) {
        let n = slot as usize - 1;
        if asleep {
            self.asleep[n / 64].fetch_or(1 << (n % 64), SeqCst);
        } else {
            self.asleep[n / 64].fetch_and(!(1 << (n % 64)), SeqCst);
        }
    }
    fn is_asleep(&self, slot: u32) -> bool {
        if slot == KEEPER {
            return self.deep.load(SeqCst) != 0;
        }
        let n = slot as usize - 1;
        self.asleep[n / 64].load(SeqCst) >> (n % 64) & 1 != 0
    }
    /// Who could lead: a sleeping thread, else the keeper in deep sleep, else 0.
    fn successor(&self) -> u32 {
        for (i, w) in self.asleep.iter().enumerate() {
            let w = w.load(SeqCst);
            if w != 0 {
                return i as u32 * 64 + w.trailing_zeros() + 1;
            }
            // Slots are given out lowest first: behind an unused word nobody sleeps.
            if self.used[i].load(Relaxed) == 0 && i > 0 {
                break;
            }
        }
        if self.deep.load(SeqCst) != 0 { KEEPER } else { 0 }
    }
    /// May a thread spin, how long? 0: no.
    fn budget(&self, cx: &Cx<'_>) -> Nanos {
        let spin = Nanos::from(cx.config().spin_us) * 1000;
        if spin == 0 {
            return 0;
        }
        // Sleeping may be what makes waits long (a wake-up across CPUs costs more than a spin): try again now and then.
        if Nanos::from(self.recent.load(Relaxed)) > spin && !self.slept.fetch_add(1, Relaxed).is_multiple_of(PROBE) {
            return 0;
        }
        let mut cpus = self.cpus.load(Relaxed);
        if cpus == 0 {
            cpus = gate::cpus();
            self.cpus.store(cpus, Relaxed);
        }
        if cpus > 1 { spin } else { 0 }
    }
    fn learn(&self, cx: &Cx<'_>, took: Nanos) {
        let spin = u64::from(cx.config().spin_us) * 1000;
        if spin != 0 {
            let r = u64::from(self.recent.load(Relaxed));
            let r = r - r / 4 + took.min(4 * spin) / 4;
            self.recent.store(r.min(u64::from(u32::MAX)) as u32, Relaxed);
        }
    }
}

/// Passes the seat on when `me` (or nobody) has it and `me` goes back to the application. `rung`: `me` was rung and has not drained since.
fn hand_over(cx: &Cx<'_>, me: u32, rung: bool) {
    let (st, seat) = (&cx.inst.net.wait, seat(cx));
    let mut me = me;
    let passed = loop {
        let cur = seat.leader.load(SeqCst);
        let leads = cur & 0xffff;
        if leads != me && cur != 0 && leads != KEEPER {
            break false;
        }
        let next = st.successor();
        if next == KEEPER && leads == KEEPER {
            // It may have gone to sleep on a frame that it took for ours: we were asleep to it, and are not any more.
            break true;
        }
        if next != 0 || cur != 0 {
            if seat.leader.compare_exchange(cur, claim(seat, next), SeqCst, Relaxed).is_err() {
                continue;
            }
            if next != 0 && !st.is_asleep(next) {
                // It left before it could see that it leads.
                me = next;
                continue;
            }
            if next == 0 && st.successor() != 0 {
                continue;
            }
        }
        if next > KEEPER && cx.inst.header.keeper.load(Relaxed) == 0 && timer::next(cx) != NEVER {
            // Nobody else would run the timers: let it set its own alarm.
            rouse(cx, seat, next, false);
        }
        break true;
    };
    if (passed || rung) && link::rx::pending(cx) {
        net::progress(cx);
        cx.flush();
        if link::rx::pending(cx) {
            ring(cx, seat, NO_HINT);
        }
    }
}

/// Called when a call has done its work: a timer armed for before the next look at the timers needs somebody to look.
#[inline]
pub fn settle(cx: &Cx<'_>) {
    let next = timer::next(cx);
    if next == NEVER {
        return;
    }
    if cfg!(not(target_arch = "x86_64")) {
        fence(SeqCst);
    }
    let st = &cx.inst.net.wait;
    if next < st.alarm.load(SeqCst) {
        alarm(cx, st);
    }
}

#[cold]
fn alarm(cx: &Cx<'_>, st: &State) {
    st.alarm.store(0, SeqCst);
    let who = if st.deep.load(SeqCst) != 0 { KEEPER } else { seat(cx).leader.load(SeqCst) & 0xffff };
    if who != 0 {
        rouse(cx, seat(cx), who, false);
    }
}

/// Process `proc` is gone: its threads' hooks, slots and seat go.
pub fn bury(cx: &Cx<'_>, proc: u32) {
    let (st, hooks) = (&cx.inst.net.wait, &cx.inst.poll.hooks);
    for (n, sleeper) in st.sleepers.iter().enumerate() {
        let owner = sleeper.owner.load(Relaxed);
        if owner == 0 || (owner >> 32) as u32 != proc {
            continue;
        }
        let slot = n as u32 + 1;
        seat(cx).slots[n].word.store(AWAKE, SeqCst);
        st.mark(slot, false);
        let only = Id::new(sleeper.only.swap(0, AcqRel));
        if let Some(s) = cx.inst.socks.get(only) {
            s.queue.remove_one(slot);
            s.queue.wake(cx, ev::ALL);
            Held::from_id(cx.inst, only).release(cx);
        }
        let mut at = Id::new(sleeper.first.swap(0, AcqRel));
        while let Some(h) = hooks.get(at) {
            let next = Id::new(h.sibling.load(Relaxed));
            let id = Id::new(h.sock.load(Relaxed));
            if let Some(s) = cx.inst.socks.get(id) {
                let mask = queue::asked(h);
                if queue::remove(cx, s, at) {
                    s.queue.wake(cx, mask);
                }
                Held::from_id(cx.inst, id).release(cx);
            }
            at = next;
        }
        let _ = st.spinner.compare_exchange(owner as u32, 0, AcqRel, Relaxed);
        st.give(slot);
        hand_over(cx, slot, false);
    }
    // It may have died between saying that it wakes somebody and doing so.
    for n in 1..=SLOTS as u32 {
        if n != KEEPER && st.is_asleep(n) {
            rouse(cx, seat(cx), n, true);
        }
    }
}

/// What a waiting thread does next.
#[derive(Debug)]
pub enum Step {
    /// Something it waits for may have happened: try the call again.
    Ready,
    /// The deadline has passed.
    TimedOut,
    /// Sleep, then step again (after EINTR: [`Waiting::ready`], then [`Waiting::end`]).
    Sleep(Sleep),
}

/// How to sleep: futex(2) FUTEX_WAIT_BITSET on `word` while it is `expected`, or, with a bell, ppoll(2) with the bell's descriptor among the
/// others; until `until` (CLOCK_MONOTONIC; [`NEVER`] for ever).
#[derive(Debug)]
pub struct Sleep {
    /// The slot's word, in memory shared by processes (no FUTEX_PRIVATE_FLAG).
    pub word: &'static AtomicU32,
    /// What it is while nobody has woken us. A thread with a bell looks at it once more before ppoll(2): it need not.
    pub expected: u32,
    /// Until when.
    pub until: Nanos,
}

/// How a thread waits.
#[derive(Clone, Copy, Default, Debug)]
pub struct How {
    /// One event wakes one such thread (accept(2), a datagram, epoll_wait(2)).
    pub exclusive: bool,
    /// The key of the thread's bell if it sleeps in the kernel's poll; 0: on its word.
    pub bell: u64,
}

/// A thread's wait, from hooking on to hooking off. [`Waiting::end`] must be called; a plain drop would leak hooks.
#[derive(Debug)]
#[must_use]
pub struct Waiting {
    slot: u32,
    how: How,
    /// The only hook: socket and mask.
    only: (Id<Sock>, u32),
    /// The chain of hooks.
    first: Id<Hook>,
    /// A hook could not be had: naps.
    naps: bool,
    /// Something had been closed when the wait began.
    stale: bool,
    begun: Nanos,
    spun: bool,
    armed: bool,
    /// A producer rang it, and it has not drained since.
    rung: bool,
    /// It has been told to go and look: what it was told of is its own to take.
    answered: bool,
}

impl Waiting {
    /// Hooks the calling thread on to some sockets, for some events (EPOLLERR and EPOLLHUP always count; [`HINT`] for a set's own waiter).
    pub fn begin(cx: &Cx<'_>, on: &[(Id<Sock>, u32)], how: How) -> Self {
        Self::begin_iter(cx, on.iter().copied(), how)
    }

    /// [`Self::begin`] for those who have no slice.
    pub fn begin_iter(cx: &Cx<'_>, on: impl Iterator<Item = (Id<Sock>, u32)>, how: How) -> Self {
        let st = &cx.inst.net.wait;
        let slot = st.take(cx.proc, cx.me.tid);
        let mut w = Self {
            slot,
            how,
            only: (Id::NONE, 0),
            first: Id::NONE,
            naps: slot == 0,
            stale: false,
            begun: cx.fresh_now(),
            spun: false,
            armed: false,
            rung: false,
            answered: false,
        };
        if slot != 0 {
            seat(cx).slots[slot as usize - 1].bell.store(how.bell, Relaxed);
        }
        for (id, events) in on {
            w.hook(cx, id, events | ev::ALWAYS);
        }
        w
    }

    fn hook(&mut self, cx: &Cx<'_>, id: Id<Sock>, mask: u32) {
        let Some(held) = Held::take(cx.inst, id) else {
            self.stale = true;
            return;
        };
        let me = self.slot.checked_sub(1).map(|n| &cx.inst.net.wait.sleepers[n as usize]);
        if let Some(me) = me {
            if self.only.0.is_none() && (!self.how.exclusive || mask & HINT != 0) && held.queue.add_one(self.slot, mask, self.how.exclusive)
            {
                me.only.store(id.0, Relaxed);
                self.only = (held.into_id(), mask);
                return;
            }
            if let Some(h) = queue::add(cx, id, &held, Who::Thread(self.slot), mask, self.how.exclusive) {
                if let Some(hook) = cx.inst.poll.hooks.get(h) {
                    hook.sibling.store(self.first.0, Relaxed);
                    hook.hint.store(u32::from(mask & HINT != 0), Relaxed);
                }
                self.first = h;
                me.first.store(h.0, Relaxed);
                let _ = held.into_id();
                return;
            }
        }
        // No slot or no hook: the caller's own reference keeps the socket, we nap and let the caller look.
        self.naps = true;
        held.release(cx);
    }

    /// Is anything of what it waits for there? No side effect.
    pub fn ready(&self, cx: &Cx<'_>) -> bool {
        if self.stale {
            return true;
        }
        let (id, mask) = self.only;
        if let Some(s) = cx.inst.socks.get(id)
            && level(cx, s, mask & HINT != 0) & mask != 0
        {
            return true;
        }
        let mut at = self.first;
        while let Some(h) = cx.inst.poll.hooks.get(at) {
            if let Some(s) = cx.inst.socks.get(Id::new(h.sock.load(Relaxed)))
                && level(cx, s, h.hint.load(Relaxed) != 0) & queue::asked(h) != 0
            {
                return true;
            }
            at = Id::new(h.sibling.load(Relaxed));
        }
        false
    }

    /// Exclusive hooks that were told are hooked on again, at the tail.
    fn rehook(&self, cx: &Cx<'_>) {
        if !self.how.exclusive {
            return;
        }
        let mut at = self.first;
        while let Some(h) = cx.inst.poll.hooks.get(at) {
            if let Some(s) = cx.inst.socks.get(Id::new(h.sock.load(Relaxed))) {
                queue::again(cx, s, at);
            }
            at = Id::new(h.sibling.load(Relaxed));
        }
    }

    /// Says that we are awake.
    fn disarm(&mut self, cx: &Cx<'_>) {
        if core::mem::take(&mut self.armed) {
            self.rung |= seat(cx).slots[self.slot as usize - 1].word.swap(AWAKE, SeqCst) == RUNG;
            cx.inst.net.wait.mark(self.slot, false);
        }
    }

    /// What to do next. `cx` is flushed before this says "sleep". Called with no lock held.
    pub fn step(&mut self, cx: &Cx<'_>, deadline: Nanos) -> Step {
        let (st, seat) = (&cx.inst.net.wait, seat(cx));
        self.disarm(cx);
        let mut busy = 0;
        loop {
            self.rung = false;
            net::progress(cx);
            cx.flush();
            let now = cx.fresh_now();
            if self.ready(cx) {
                st.learn(cx, now.saturating_sub(self.begun));
                self.answered = true;
                return Step::Ready;
            }
            if now >= deadline {
                return Step::TimedOut;
            }
            if self.naps {
                return self.nap(cx, deadline.min(now + MS));
            }
            if !self.spun {
                self.spun = true;
                let budget = st.budget(cx);
                if budget > 0 && self.spin(cx, now, (now + budget).min(deadline)) {
                    stats::bump(&cx.inst.stats.waits_spun);
                    // A spin that found something is worth more than the history of sleeps.
                    let took = cx.fresh_now().saturating_sub(self.begun);
                    st.recent.store(took.min(Nanos::from(u32::MAX)) as u32, Relaxed);
                    self.answered = true;
                    return Step::Ready;
                }
            }
            let slot = &seat.slots[self.slot as usize - 1];
            self.rehook(cx);
            self.armed = true;
            slot.turn.fetch_add(1, Relaxed);
            slot.word.store(ARMED, SeqCst);
            st.mark(self.slot, true);
            seat.leader.store(claim(seat, self.slot), SeqCst);
            fence(SeqCst);
            if link::rx::pending(cx) {
                // A frame came just now, or somebody else is draining: no sleep before the ring is empty.
                self.disarm(cx);
                busy += 1;
                if busy > 200 {
                    // Whoever drains is not getting on (stopped, or starved of its CPU): look again in a while.
                    return self.nap(cx, deadline.min(now + MS));
                }
                if busy > 2 {
                    gate::sched_yield();
                }
                continue;
            }
            if self.ready(cx) {
                self.disarm(cx);
                self.answered = true;
                return Step::Ready;
            }
            // Due timers that another thread is running just now are no reason to turn in circles.
            let timers = timer::next(cx).max(now + MS / 20);
            let until = deadline.min(timers);
            if cx.inst.header.keeper.load(Relaxed) == 0 {
                st.alarm.store(until, SeqCst);
            }
            stats::bump(&cx.inst.stats.waits_slept);
            return Step::Sleep(Sleep { word: &slot.word, expected: ARMED, until });
        }
    }

    fn nap(&self, cx: &Cx<'_>, until: Nanos) -> Step {
        Step::Sleep(Sleep { word: &cx.inst.net.wait.nap, expected: 0, until })
    }

    /// Spins until something is ready (true) or the time is up.
    fn spin(&self, cx: &Cx<'_>, from: Nanos, until: Nanos) -> bool {
        let (st, seat) = (&cx.inst.net.wait, seat(cx));
        if st.spinner.compare_exchange(0, cx.me.tid, AcqRel, Relaxed).is_err() {
            return false;
        }
        // Nobody need ring: we look.
        seat.leader.store(0, SeqCst);
        let mut turns = 0u32;
        let found = loop {
            if link::rx::pending(cx) {
                net::progress(cx);
                cx.flush();
            }
            if self.ready(cx) {
                break true;
            }
            turns += 1;
            if turns.is_multiple_of(32) {
                let now = cx.fresh_now();
                if now >= until {
                    break false;
                }
                if now - from > 2_000 {
                    // Whoever we wait for may be queued behind us on this CPU.
                    gate::sched_yield();
                }
            }
            core::hint::spin_loop();
        };
        st.spinner.store(0, Release);
        found
    }

    /// Hooks off and, if we led or nobody does, hands the seat over. Also after a signal or a cancellation.
    pub fn end(mut self, cx: &Cx<'_>) {
        self.disarm(cx);
        let (st, slot) = (&cx.inst.net.wait, self.slot);
        let (id, mask) = self.only;
        if let Some(s) = cx.inst.socks.get(id) {
            s.queue.remove_one(slot);
            st.sleepers[slot as usize - 1].only.store(0, Relaxed);
            if self.how.exclusive && !self.answered && level(cx, s, true) & mask != 0 {
                s.queue.wake(cx, mask);
            }
            Held::from_id(cx.inst, id).release(cx);
        }
        let mut at = self.first;
        while let Some(h) = cx.inst.poll.hooks.get(at) {
            let next = Id::new(h.sibling.load(Relaxed));
            let id = Id::new(h.sock.load(Relaxed));
            if let Some(s) = cx.inst.socks.get(id) {
                let mask = queue::asked(h);
                if queue::remove(cx, s, at) && !self.answered {
                    // We were chosen for an event and go without taking it: the next one is.
                    s.queue.wake(cx, mask);
                }
                Held::from_id(cx.inst, id).release(cx);
            }
            at = next;
        }
        if slot != 0 {
            st.sleepers[slot as usize - 1].first.store(0, Relaxed);
            st.give(slot);
        }
        hand_over(cx, slot, self.rung);
    }
}

fn level(cx: &Cx<'_>, s: &Sock, hint: bool) -> u32 {
    if hint { s.ready.load(SeqCst) } else { poll::now(cx, s) }
}

pub(crate) mod keeping;

/// Hooks the keeper on to an epoll set of its own: it is woken when something in it is ready. The hook goes with the set.
pub fn attend(set: &Sock) -> bool {
    set.queue.add_one(KEEPER, ev::IN | HINT, false)
}

/// The key of the keeper's bell; 0: it has none (yet).
pub fn keepers_bell(cx: &Cx<'_>) -> u64 {
    seat(cx).slots[KEEPER as usize - 1].bell.load(Relaxed)
}
