//! Desks: which threads are inside the core just now, and how they are halted.
//!
//! # Theory of operation
//! **Purpose.** A thread that is killed while it is outside leaves nothing half done; one that is killed inside may leave anything. And what it left can
//! only be put right while nobody else changes it.
//! **How it works.** Every thread that calls has a desk in the arena, on which it writes that it is inside: two plain stores a call. Whoever wants to
//! repair ([`crate::repair`]) *halts* the instance: it sets a word, lets every processor see it (membarrier(2), so that the calls need no fence),
//! and waits until all desks say "outside" or belong to threads that are dead. A thread that finds the word set on its way in stands back until it is
//! cleared. No call waits inside (sleeping is done outside), so that takes microseconds, unless a thread is stopped or was preempted inside:
//! then the halt is given up and tried again later.
//! exec(2) by one thread ends the others, and the main thread's number lives on: so the program that comes back says of all desks of its process that
//! their threads have ended ([`Desks::succeed`]), and of the locks that such a thread held the repairer knows it ([`Me::former`]).
//! If whoever repairs dies at it, nobody goes on with half repaired tables: one of those who stand back takes its place.
//! **Limits.** A program that does not come back after exec(2) says nothing: what its main thread held is held until the process ends. [`DESKS`] threads; those beyond share a count. Desks of threads that ended are found when there is none left, or with their process.
//! **Locks.** None. **Failure.** None. **See also.** membarrier(2).
use crate::arena::Shared;
use crate::clock::{MS, Nanos};
use crate::gate;
use crate::sync::Me;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, compiler_fence, fence};

/// In a desk's owner: exec(2) ended the thread of this number, whoever has the number now.
const ENDED: u32 = 1 << 30;

/// Threads of an instance that can be told apart.
pub const DESKS: usize = 16_384;

/// The calling thread is inside for as long as this lives.
pub(crate) struct Inside<'a> {
    desks: &'static Desks,
    me: &'a Me,
    /// It halts the instance in the place of one that died repairing it, and is to go on with that.
    pub(crate) heir: bool,
}

impl<'a> Inside<'a> {
    /// Comes in.
    #[inline]
    pub(crate) fn new(desks: &'static Desks, me: &'a Me) -> Self {
        let heir = desks.enter(me);
        Self { desks, me, heir }
    }
}

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.desks.leave(self.me);
    }
}

/// What one thread shows.
#[repr(C, align(64))]
#[derive(Shared)]
struct Desk {
    /// Its process in the high half, its id in the low half; 0: nobody's.
    owner: AtomicU64,
    /// How deep inside it is; written by its owner only.
    inside: AtomicU32,
}

/// The desks of an instance.
#[repr(C)]
#[derive(Shared)]
pub struct Desks {
    /// The thread that halts the instance; 0: nobody. Those who stand back sleep on it.
    halt: AtomicU32,
    /// One above the highest desk ever taken.
    high: AtomicU32,
    /// Below it no desk is free.
    hint: AtomicU32,
    /// Threads without a desk that are inside.
    crowd: AtomicU32,
    /// Threads that exec(2) ended inside, and whose repair is still to be done.
    ended: AtomicU32,
    desks: [Desk; DESKS],
}

fn name(me: &Me) -> u64 {
    u64::from(me.pid) << 32 | u64::from(me.tid)
}

impl Desk {
    /// Has its thread ended?
    fn is_dead(&self) -> bool {
        let owner = self.owner.load(Relaxed);
        owner != 0 && (owner as u32 & ENDED != 0 || !gate::thread_of_exists((owner >> 32) as u32, owner as u32))
    }
}

impl Desks {
    /// The calling thread comes in. True: as an heir ([`Inside::heir`]).
    #[inline]
    fn enter(&self, me: &Me) -> bool {
        let n = match me.desk.get() {
            0 => self.claim(me),
            n => n,
        };
        let Some(d) = self.desks.get((n as usize).wrapping_sub(1)) else {
            self.crowd.fetch_add(1, SeqCst);
            return false;
        };
        let depth = d.inside.load(Relaxed);
        d.inside.store(depth + 1, Relaxed);
        // Whoever halts sees the store, or we its word: it has every processor pass a barrier in between.
        compiler_fence(SeqCst);
        if cfg!(not(target_arch = "x86_64")) {
            fence(SeqCst);
        }
        self.halt.load(Relaxed) != 0 && depth == 0 && self.stand_back(d, me)
    }

    /// It goes out.
    #[inline]
    fn leave(&self, me: &Me) {
        match self.desks.get((me.desk.get() as usize).wrapping_sub(1)) {
            Some(d) => d.inside.store(d.inside.load(Relaxed).saturating_sub(1), Release),
            None => {
                self.crowd.fetch_sub(1, SeqCst);
            }
        }
    }

    #[cold]
    fn stand_back(&self, d: &Desk, me: &Me) -> bool {
        loop {
            d.inside.store(0, SeqCst);
            let by = self.halt.load(SeqCst);
            if by != 0 {
                let _ = gate::futex_wait_for(&self.halt, by, 5_000_000);
                if self.halt.load(SeqCst) == by && self.has_died(by) {
                    d.inside.store(1, SeqCst);
                    if self.halt.compare_exchange(by, me.tid, SeqCst, Relaxed).is_ok() {
                        return true;
                    }
                }
                continue;
            }
            d.inside.store(1, SeqCst);
            if self.halt.load(SeqCst) == 0 {
                return false;
            }
        }
    }

    /// Did the thread of this number die inside? (Its number may be another's by now.)
    fn has_died(&self, tid: u32) -> bool {
        self.taken().any(|d| d.owner.load(Relaxed) as u32 & !ENDED == tid && d.inside.load(Relaxed) != 0 && d.is_dead())
    }

    #[cold]
    fn claim(&self, me: &Me) -> u32 {
        for _ in 0..2 {
            let from = self.hint.load(Relaxed) as usize;
            for (n, d) in self.desks.iter().enumerate().skip(from.min(DESKS)) {
                if d.owner.load(Relaxed) == 0 && d.owner.compare_exchange(0, name(me), AcqRel, Relaxed).is_ok() {
                    d.inside.store(0, Relaxed);
                    self.high.fetch_max(n as u32 + 1, AcqRel);
                    self.hint.fetch_max(n as u32, Relaxed);
                    me.desk.set(n as u32 + 1);
                    return n as u32 + 1;
                }
            }
            self.clear(|d| d.inside.load(Relaxed) == 0 && d.is_dead());
        }
        0
    }

    fn taken(&self) -> impl Iterator<Item = &Desk> {
        let high = (self.high.load(Acquire) as usize).min(DESKS);
        self.desks[..high].iter().filter(|d| d.owner.load(Relaxed) != 0)
    }

    /// Frees the desks for which `which` says so.
    fn clear(&self, which: impl Fn(&Desk) -> bool) {
        let mut lowest = DESKS as u32;
        let high = (self.high.load(Acquire) as usize).min(DESKS);
        for (n, d) in self.desks[..high].iter().enumerate() {
            if d.owner.load(Relaxed) != 0 && which(d) {
                d.inside.store(0, Relaxed);
                d.owner.store(0, Release);
                lowest = lowest.min(n as u32);
            }
        }
        self.hint.fetch_min(lowest, Relaxed);
    }

    /// Did a thread die inside? A few loads for each desk, a system call for each thread that is inside just now.
    pub(crate) fn any_died_inside(&self, me: &Me) -> bool {
        self.taken().any(|d| d.inside.load(Relaxed) != 0 && d.owner.load(Relaxed) != name(me) && d.is_dead())
    }

    /// Has the process another thread that knows the core, and lives?
    pub fn has_others(&self, me: &Me) -> bool {
        let other = |owner: u64| owner >> 32 == u64::from(me.pid) && owner as u32 != me.tid;
        self.taken().any(|d| other(d.owner.load(Relaxed)) && !d.is_dead())
    }

    /// Waits until the process's other threads are outside. False: that takes too long.
    pub fn wait_for_others(&self, me: &Me) -> bool {
        let busy = |d: &Desk| {
            let owner = d.owner.load(Relaxed);
            owner >> 32 == u64::from(me.pid) && owner as u32 != me.tid && d.inside.load(Acquire) != 0
        };
        gate::membarrier();
        let until = gate::clock_gettime(libc::CLOCK_MONOTONIC) + 200 * MS;
        while self.taken().any(busy) {
            if gate::clock_gettime(libc::CLOCK_MONOTONIC) > until {
                return false;
            }
            gate::sched_yield();
        }
        true
    }

    /// The process has called exec(2) and comes back: whoever of it had a desk has ended. Before any of its threads is inside.
    pub fn succeed(&self, pid: u32) {
        let its = |owner: u64| owner >> 32 == u64::from(pid) && owner as u32 & ENDED == 0;
        for d in self.taken() {
            let owner = d.owner.load(Relaxed);
            if its(owner) && d.inside.load(Acquire) != 0 {
                // The others' numbers are nobody's.
                if owner as u32 == pid {
                    d.owner.store(owner | u64::from(ENDED), Release);
                }
                self.ended.fetch_add(1, AcqRel);
            }
        }
        self.clear(|d| its(d.owner.load(Relaxed)) && d.inside.load(Relaxed) == 0);
    }

    /// Did exec(2) end a thread inside, and nobody has put it right yet? One load.
    pub(crate) fn any_ended(&self) -> bool {
        self.ended.load(Acquire) != 0
    }

    /// The instance is halted: tells the caller's locks whose numbers are not those of the threads that have them now.
    pub(crate) fn tell_ended(&self, me: &Me) {
        let numbers = || self.taken().map(|d| d.owner.load(Relaxed) as u32).filter(|tid| tid & ENDED != 0);
        for (known, tid) in me.former.iter().zip(numbers()) {
            known.set(tid & !ENDED);
        }
    }

    /// Is nobody inside but the caller (and the dead)? Some patience is shown: a process that leaves knocks when it is all but out.
    pub(crate) fn all_out(&self, me: &Me) -> bool {
        gate::membarrier();
        let busy = |d: &Desk| d.inside.load(Acquire) != 0 && d.owner.load(Relaxed) != name(me) && !d.is_dead();
        for _ in 0..64 {
            if self.crowd.load(SeqCst) == 0 && !self.taken().any(busy) {
                return true;
            }
            gate::sched_yield();
        }
        false
    }

    /// Process `pid` has ended and what it left has been put right: its desks go.
    pub(crate) fn bury(&self, pid: u32) {
        self.clear(|d| d.owner.load(Relaxed) >> 32 == u64::from(pid) && d.inside.load(Relaxed) == 0);
    }

    /// Halts the instance for the calling thread, which is inside. False: not everybody would come out in `patience`.
    pub(crate) fn halt(&self, me: &Me, patience: Nanos) -> bool {
        let held = self.halt.compare_exchange(0, me.tid, SeqCst, Relaxed);
        if let Err(by) = held
            && (!self.has_died(by) || self.halt.compare_exchange(by, me.tid, SeqCst, Relaxed).is_err())
        {
            return false;
        }
        self.await_all_out(me, patience)
    }

    /// The second half of a halt, for its heir too.
    pub(crate) fn await_all_out(&self, me: &Me, patience: Nanos) -> bool {
        gate::membarrier();
        let until = gate::clock_gettime(libc::CLOCK_MONOTONIC) + patience;
        let out = |d: &Desk| d.inside.load(Acquire) == 0 || d.owner.load(Relaxed) == name(me) || d.is_dead();
        let mut turns = 0u32;
        while self.crowd.load(SeqCst) != 0 || !self.taken().all(out) {
            turns += 1;
            if turns > 64 && gate::clock_gettime(libc::CLOCK_MONOTONIC) > until {
                self.resume(me);
                return false;
            }
            gate::sched_yield();
        }
        true
    }

    /// What the dead left has been put right: their desks go, and everybody goes on.
    pub(crate) fn repaired(&self, me: &Me) {
        me.former.iter().for_each(|f| f.set(0));
        self.ended.store(0, Release);
        self.clear(|d| d.owner.load(Relaxed) != name(me) && d.is_dead());
        self.resume(me);
    }

    fn resume(&self, me: &Me) {
        if self.halt.compare_exchange(me.tid, 0, SeqCst, Relaxed).is_ok() {
            gate::futex_wake(&self.halt, u32::MAX >> 1);
        }
    }
}
