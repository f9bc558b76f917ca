//! Watches on nested epoll descriptors.
//!
//! # Theory of operation
//! **Purpose.** The core asks a watch ([`csel_core::gate::edge`]) whether something has happened in the kernel's half of a nested epoll descriptor; its
//! descriptors are this process's (and its children's), so they are made and let go of here.
//! **How it works.** An edge-triggered interest in a nested descriptor gets one ([`add`]). Those whose interest is gone are found when the next one is
//! made or an interest is taken away.
//! **Limits.** [`MOST`]; an interest without a watch misses edges of the kernel's half whose level is the replica's. After exec(3) there is none.
//! **Locks.** None: an entry is claimed by compare-and-swap. **Failure.** No watch. **See also.** [`csel_core::poll::epoll`].
use crate::enter::with_cx;
use crate::fdguard;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::*};
use csel_core::call::epoll;
use csel_core::gate::edge;
use libc::c_int;

/// Watches of a process.
const MOST: usize = 16;
/// An entry that somebody is at.
const CLAIMED: u32 = u32::MAX;

struct Entry {
    /// The interest; 0: free.
    interest: AtomicU32,
    watch: AtomicI32,
    between: AtomicI32,
}

static ENTRIES: [Entry; MOST] =
    [const { Entry { interest: AtomicU32::new(0), watch: AtomicI32::new(-1), between: AtomicI32::new(-1) } }; MOST];

/// Something that is always readable, for all of them.
static ALWAYS: AtomicI32 = AtomicI32::new(-1);

fn always() -> c_int {
    let fd = ALWAYS.load(Acquire);
    if fd >= 0 {
        return fd;
    }
    let Ok(made) = edge::always() else { return -1 };
    let made = fdguard::adopt(made);
    match ALWAYS.compare_exchange(-1, made, AcqRel, Acquire) {
        Ok(_) => made,
        Err(other) => {
            fdguard::disown(made);
            other
        }
    }
}

/// The interest of `epfd` in the nested `fd` is watched from now on.
#[cold]
pub(crate) fn add(epfd: c_int, fd: c_int) {
    sweep(false);
    let Some(e) = ENTRIES.iter().find(|e| e.interest.compare_exchange(0, CLAIMED, AcqRel, Relaxed).is_ok()) else { return };
    let interest = edge::watch(fd, always()).ok().and_then(|(watch, between)| {
        let (watch, between) = (fdguard::adopt(watch), fdguard::adopt(between));
        let told = with_cx(|cx| {
            let proc = cx.inst.procs.get(cx.proc);
            let (ep, target) = (proc.get(cx.inst, epfd)?, proc.get(cx.inst, fd));
            let told = target.as_ref().and_then(|t| epoll::watch(cx, &ep, t, fd, watch));
            ep.release(cx);
            if let Some(t) = target {
                t.release(cx);
            }
            told
        });
        e.watch.store(watch, Relaxed);
        e.between.store(between, Relaxed);
        let told = told.ok().flatten();
        if told.is_none() {
            close(e);
        }
        told
    });
    e.interest.store(interest.unwrap_or(0), Release);
}

fn close(e: &Entry) {
    fdguard::disown(e.watch.swap(-1, Relaxed));
    fdguard::disown(e.between.swap(-1, Relaxed));
}

/// Lets go of those that nobody needs any more, or of all of them.
pub(crate) fn sweep(all: bool) {
    for e in &ENTRIES {
        let interest = e.interest.load(Acquire);
        if interest == 0 || interest == CLAIMED {
            continue;
        }
        let watch = e.watch.load(Relaxed);
        let needed = with_cx(|cx| epoll::is_watched(cx, interest, watch)).unwrap_or(true);
        if (all || !needed) && e.interest.compare_exchange(interest, CLAIMED, AcqRel, Relaxed).is_ok() {
            if needed {
                let _ = with_cx(|cx| epoll::unwatch(cx, interest, watch));
            }
            close(e);
            e.interest.store(0, Release);
        }
    }
}

/// Is there any?
pub(crate) fn any() -> bool {
    ENTRIES.iter().any(|e| e.interest.load(Relaxed) != 0)
}
