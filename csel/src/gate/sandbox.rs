//! A process that may make hardly any system call.
//!
//! # Theory of operation
//! **Purpose.** A program may put a seccomp(2) filter on itself that kills it for any call it does not foresee (sshd's pre-authentication child). Its
//! open sockets must go on working with read, write, poll and futex alone.
//! **How it works.** The front end sees the program ask for the filter and says [`enter`] just before. From then on this process asks nobody whether he
//! lives (others do), naps on a futex instead of sched_yield(2), gives no pages back, draws no entropy, and rings bells by its keeper: the socket that
//! rings bells has been connected to the keeper's bell, so that one write(2) of a bell's key asks the keeper to ring it ([`crate::gate::bell::ring`]).
//! **Limits.** Signals of SIGIO's kind that others are owed are not sent. Without a keeper sleepers in the kernel's poll are not woken. A filter that
//! forbids futex(2) (SECCOMP_SET_MODE_STRICT) cannot be served. **Locks.** None. **Failure.** None. **See also.** seccomp(2), prctl(2).
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

static CONFINED: AtomicBool = AtomicBool::new(false);
/// The socket connected to the keeper's bell; -1: none.
static ROPE: AtomicI32 = AtomicI32::new(-1);
static SEED: AtomicU64 = AtomicU64::new(0);
/// What naps are slept on; never changes.
static NAP: AtomicU32 = AtomicU32::new(0);

/// Is the process confined?
#[inline]
pub fn is_confined() -> bool {
    CONFINED.load(Relaxed)
}

/// The process is about to confine itself; `rope` is the socket that rings the keeper.
pub fn enter(rope: i32) {
    ROPE.store(rope, Relaxed);
    if !is_confined() {
        SEED.store(super::random(), Relaxed);
        CONFINED.store(true, Relaxed);
    }
}

/// The socket that rings the keeper.
pub(super) fn rope() -> i32 {
    ROPE.load(Relaxed)
}

/// It could not (the call failed).
pub fn leave() {
    CONFINED.store(false, Relaxed);
}

/// Sleeps for `nanos` with nothing but futex(2).
#[cold]
pub(super) fn nap(nanos: u32) {
    let _ = super::futex_wait_for(&NAP, 0, nanos);
}

/// A number from the entropy drawn beforehand (splitmix64): for ports and sequence numbers, not for keys.
#[cold]
pub(super) fn random() -> u64 {
    let mut z = SEED.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
