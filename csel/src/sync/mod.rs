//! Locks that work across processes and know their owner.
//!
//! # Theory of operation
//! **Purpose.** The arena is shared by a family of processes; parking_lot and std park in process-private tables and their locks do not survive
//! the death of a holder. [`Lock`] is a futex word that holds the owner's thread id.
//! **How it works.** 0 is free; otherwise the low 30 bits are the owner's tid and bit 31 says somebody sleeps. Lock spins briefly, then sleeps
//! on the word for at most 5 ms at a time and asks the kernel whether the owner is alive; a dead owner's lock is taken over and the guard
//! says so ([`Guard::inherited`]), so the caller can check what it protects.
//! **Limits.** Not reentrant. A stopped (SIGSTOP) owner stalls the others: that is bounded by never holding a lock over a wait.
//! **Locks.** Each lock has a rank; a thread may only take locks of a higher rank than those it holds (checked in debug builds, see [`rank`]).
//! **Failure.** None. **See also.** futex(2), `reference/interposers.md` 5.2.
#![allow(unsafe_code)]

use crate::arena::Shared;
use crate::gate;
use core::cell::{Cell, UnsafeCell};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering::*};

pub mod rank;

const WAITERS: u32 = 1 << 31;
const TID: u32 = (1 << 30) - 1;

/// The calling thread, as locks need to know it.
#[derive(Debug)]
pub struct Me {
    /// The thread's id (gettid(2)).
    pub tid: u32,
    /// The process's id.
    pub pid: u32,
    /// Its desk ([`crate::desk`]), from 1; 0: none yet.
    pub(crate) desk: Cell<u32>,
    /// Numbers of threads that exec(2) ended inside, while the instance is halted: a lock of theirs is nobody's, though the number lives.
    pub(crate) former: [Cell<u32>; 4],
    /// Ranks of the locks held, one bit each; debug builds only look at it.
    held: Cell<u64>,
}

impl Me {
    /// The thread `tid` of process `pid`.
    #[inline]
    pub const fn new(pid: u32, tid: u32) -> Self {
        Self { tid, pid, desk: Cell::new(0), former: [const { Cell::new(0) }; 4], held: Cell::new(0) }
    }
    /// Asks the kernel; two system calls, so front ends cache the answer per thread.
    pub fn ask() -> Self {
        Self::new(gate::getpid(), gate::gettid())
    }
    /// Is the owner of a lock that is not ours dead? (Our own number on a lock that we want: the main thread of before exec(2) had it.)
    fn outlives(&self, owner: u32) -> bool {
        owner == self.tid || self.is_former(owner) || !gate::thread_exists(owner)
    }
    fn is_former(&self, owner: u32) -> bool {
        self.former.iter().any(|f| f.get() == owner)
    }
    /// Is any lock held? Nothing may block while this is true.
    pub fn holds_any(&self) -> bool {
        self.held.get() != 0
    }
}

/// A value behind a futex lock of rank `R`. All-zero bytes are a free lock around an all-zero value.
#[repr(C)]
pub struct Lock<T, const R: u8> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives one thread at a time access to the value.
unsafe impl<T: Send, const R: u8> Sync for Lock<T, R> {}
// SAFETY: as above.
unsafe impl<T: Send, const R: u8> Send for Lock<T, R> {}
// SAFETY: a futex word and a value that is itself shareable.
unsafe impl<T: Shared, const R: u8> Shared for Lock<T, R> {}

/// The lock held. Dropping it lets go.
pub struct Guard<'a, T, const R: u8> {
    lock: &'a Lock<T, R>,
    me: &'a Me,
    inherited: bool,
}

impl<T, const R: u8> Lock<T, R> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Takes the lock, waiting as long as a living owner holds it.
    #[inline]
    pub fn lock<'a>(&'a self, me: &'a Me) -> Guard<'a, T, R> {
        debug_assert!(me.held.get() >> R == 0, "lock rank {R} taken while holding {:#b}", me.held.get());
        let inherited =
            self.word.compare_exchange(0, me.tid & TID, Acquire, Relaxed).is_err() && self.contended(me, u64::MAX) == Some(true);
        self.guard(me, inherited)
    }

    /// Takes the lock if it is free (or its owner has died).
    #[inline]
    pub fn try_lock<'a>(&'a self, me: &'a Me) -> Option<Guard<'a, T, R>> {
        match self.word.compare_exchange(0, me.tid & TID, Acquire, Relaxed) {
            Ok(_) => Some(self.guard(me, false)),
            Err(_) => None,
        }
    }

    /// Takes the lock if it can be had before `until` (CLOCK_MONOTONIC).
    pub fn lock_until<'a>(&'a self, me: &'a Me, until: u64) -> Option<Guard<'a, T, R>> {
        match self.word.compare_exchange(0, me.tid & TID, Acquire, Relaxed) {
            Ok(_) => Some(self.guard(me, false)),
            Err(_) => self.contended(me, until).map(|inherited| self.guard(me, inherited)),
        }
    }

    /// Takes the lock if it is free or its owner has died; waits for nobody for long. For [`crate::repair`].
    pub fn take_over<'a>(&'a self, me: &'a Me) -> Option<Guard<'a, T, R>> {
        // Somebody who only looks (csel ss) may hold it for a moment.
        for _ in 0..1000 {
            let w = self.word.load(Acquire);
            if w & TID == 0 {
                if let Some(g) = self.try_lock(me) {
                    return Some(g);
                }
            } else if (me.is_former(w & TID) || !gate::thread_exists(w & TID))
                && self.word.compare_exchange(w, me.tid & TID, AcqRel, Relaxed).is_ok()
            {
                return Some(self.guard(me, true));
            }
            gate::sched_yield();
        }
        None
    }

    /// If the owner died inside, frees the lock. For try-lock users (the receive token), asked now and then.
    pub fn bury(&self) -> bool {
        let w = self.word.load(Relaxed);
        w & TID != 0 && !gate::thread_exists(w & TID) && self.word.compare_exchange(w, 0, AcqRel, Relaxed).is_ok()
    }

    /// Is somebody inside just now? A hint.
    pub fn is_held(&self) -> bool {
        self.word.load(Relaxed) != 0
    }

    #[inline]
    fn guard<'a>(&'a self, me: &'a Me, inherited: bool) -> Guard<'a, T, R> {
        if cfg!(debug_assertions) {
            me.held.set(me.held.get() | 1 << R);
        }
        Guard { lock: self, me, inherited }
    }

    /// The slow path: spin, then sleep. Some(true) if the lock was taken from a dead owner, none if `until` has passed.
    #[cold]
    fn contended(&self, me: &Me, until: u64) -> Option<bool> {
        for _ in 0..200 {
            if self.word.load(Relaxed) == 0 && self.word.compare_exchange(0, me.tid & TID, Acquire, Relaxed).is_ok() {
                return Some(false);
            }
            core::hint::spin_loop();
        }
        loop {
            let w = self.word.load(Relaxed);
            if w & TID == 0 {
                // Others may sleep: keep saying so, whoever unlocks will wake one more than needed at worst.
                if self.word.compare_exchange(w, me.tid & TID | WAITERS, Acquire, Relaxed).is_ok() {
                    return Some(false);
                }
                continue;
            }
            if w & WAITERS == 0 && self.word.compare_exchange(w, w | WAITERS, Relaxed, Relaxed).is_err() {
                continue;
            }
            let w = w | WAITERS;
            // (A lock without a deadline asks no clock: a confined process may not.)
            if until == u64::MAX {
                let _ = gate::futex_wait_for(&self.word, w, 5_000_000);
            } else {
                let now = gate::clock_gettime(libc::CLOCK_MONOTONIC);
                if now >= until {
                    return None;
                }
                let _ = gate::futex_wait(&self.word, w, until.min(now + 5_000_000));
            }
            let now = self.word.load(Relaxed);
            if now == w && me.outlives(w & TID) && self.word.compare_exchange(w, me.tid & TID | WAITERS, Acquire, Relaxed).is_ok() {
                return Some(true);
            }
        }
    }
}

impl<T, const R: u8> Guard<'_, T, R> {
    /// Was this lock taken from a thread that died holding it? Then what it protects may be half changed.
    pub fn inherited(&self) -> bool {
        self.inherited
    }
}

impl<T, const R: u8> Deref for Guard<'_, T, R> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: we hold the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, const R: u8> DerefMut for Guard<'_, T, R> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: we hold the lock, and &mut self says nobody else uses this guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, const R: u8> Drop for Guard<'_, T, R> {
    #[inline]
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            self.me.held.set(self.me.held.get() & !(1 << R));
        }
        if self.lock.word.swap(0, Release) & WAITERS != 0 {
            gate::futex_wake(&self.lock.word, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excludes() {
        let lock: Lock<u64, 3> = Lock::new(0);
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let me = Me::ask();
                    for _ in 0..20_000 {
                        *lock.lock(&me) += 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(&Me::ask()), 80_000);
    }

    #[test]
    fn a_dead_owner_is_succeeded() {
        let lock: Lock<u64, 3> = Lock::new(7);
        std::thread::scope(|s| {
            s.spawn(|| core::mem::forget(lock.lock(&Me::ask())));
        });
        let me = Me::ask();
        let g = lock.lock(&me);
        assert!(g.inherited());
        assert_eq!(*g, 7);
    }
}
