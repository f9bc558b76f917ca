//! Entering the core: what a thread and a process are to it.
//!
//! # Theory of operation
//! **Purpose.** Every call of the core is made through [`with_cx`]: it knows the thread, counts the depth (signal handlers wait until it is zero
//! again) and turns a panic of the core into EIO.
//! **How it works.** The process's view of its instance ([`Env`]) is written once, before [`PROC`] is published; a null [`PROC`] means that this
//! process has no virtual socket, and every hook passes. A thread's state is a constant-initialised thread-local without a destructor, so it
//! costs no allocation and works in signal handlers. After fork the child's copy is put right by [`crate::fork`].
//! **Limits.** A handler that was installed behind our back (raw rt_sigaction) and calls us while the core is at work gets EAGAIN.
//! **Locks.** None. **Failure.** EIO after a panic, and one line on standard error.
//! **See also.** [`crate::signal`], [`crate::wait`].
use crate::wait::Holds;
use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicPtr, Ordering::*, compiler_fence};
use csel_core::arena::Id;
use csel_core::clock::Nanos;
use csel_core::errno::{Errno, Result};
use csel_core::fd::Proc;
use csel_core::instance::{Cx, Env};
use csel_core::sync::Me;
use libc::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a thread has of its own.
pub(crate) struct Thread {
    me: UnsafeCell<Me>,
    /// How deep in the core it is.
    pub(crate) depth: Cell<u32>,
    /// Signals that came while it was in the core, as bits (signal 1 is bit 0). They are blocked and pending in the kernel.
    pub(crate) deferred: Cell<u64>,
    /// How many handlers of the application have run.
    pub(crate) handled: Cell<u32>,
    /// How many of them were installed without SA_RESTART.
    pub(crate) broke: Cell<u32>,
    /// A pointer of the application was bad.
    pub(crate) faulted: Cell<bool>,
    /// A small structure of the application is being copied ([`crate::user`]).
    pub(crate) copying: Cell<bool>,
    /// Inside an interruptible call: the cancellation type to go back to, plus one.
    pub(crate) cancel_type: Cell<c_int>,
    /// Its waits under way.
    pub(crate) holds: Holds,
    /// The core was entered since the trace began.
    pub(crate) touched: Cell<bool>,
    /// The table that a child about to be forked will have.
    pub(crate) child: Cell<u32>,
    /// Whether its system calls are made or come to [`crate::inward`], which the kernel reads.
    pub(crate) selector: Cell<u8>,
    /// A fork of ours is under way, not one that libc makes by itself.
    pub(crate) forking: Cell<bool>,
    /// A child of vfork(2) runs on this thread's stack and storage.
    pub(crate) vforked: Cell<bool>,
    /// Its view of the instance.
    pub(crate) other: Cell<Option<Env>>,
    /// Who the thread is while the child has its place.
    aside: UnsafeCell<Me>,
    /// Where the private descriptors were before it ran.
    pub(crate) kept: Cell<[c_int; 2]>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            me: UnsafeCell::new(Me::new(0, 0)),
            depth: Cell::new(0),
            deferred: Cell::new(0),
            handled: Cell::new(0),
            broke: Cell::new(0),
            faulted: Cell::new(false),
            copying: Cell::new(false),
            cancel_type: Cell::new(0),
            holds: Holds::new(),
            touched: Cell::new(false),
            child: Cell::new(0),
            selector: Cell::new(crate::inward::ALLOW),
            forking: Cell::new(false),
            vforked: Cell::new(false),
            other: Cell::new(None),
            aside: UnsafeCell::new(Me::new(0, 0)),
            kept: Cell::new([-1; 2]),
        }
    };
}

/// The calling thread's state.
#[inline]
pub(crate) fn thread() -> &'static Thread {
    // SAFETY: thread-local storage lives as long as the thread, and the reference does not leave the thread: it is !Sync.
    THREAD.with(|t| unsafe { &*core::ptr::from_ref(t) })
}

impl Thread {
    /// The thread as the core's locks know it.
    #[inline]
    pub(crate) fn me(&self) -> &Me {
        // SAFETY: written only by this thread, by `learn` and `forget`, when no reference is alive.
        let me = unsafe { &*self.me.get() };
        if me.tid == 0 { self.learn() } else { me }
    }
    #[cold]
    fn learn(&self) -> &Me {
        // SAFETY: as above; nobody holds a reference to an unknown Me.
        unsafe {
            *self.me.get() = Me::ask();
            &*self.me.get()
        }
    }
    /// In a child of vfork(2): it is somebody else on this thread's storage.
    pub(crate) fn step_aside(&self) {
        // SAFETY: the thread waits in the kernel, and the child has no reference yet.
        unsafe { *self.aside.get() = core::mem::replace(&mut *self.me.get(), Me::new(0, 0)) };
    }
    /// The thread has its place again.
    pub(crate) fn step_back(&self) {
        // SAFETY: the child is gone, and the thread has no reference.
        unsafe { *self.me.get() = core::mem::replace(&mut *self.aside.get(), Me::new(0, 0)) };
    }
    /// Who the thread is must be asked again (after fork).
    pub(crate) fn forget(&self) {
        // SAFETY: the child of a fork runs nothing else.
        unsafe { *self.me.get() = Me::new(0, 0) };
    }
}

struct Slot(UnsafeCell<MaybeUninit<Env>>);
// SAFETY: written before PROC is published, and by the only thread of a forked child.
unsafe impl Sync for Slot {}

static ENV: Slot = Slot(UnsafeCell::new(MaybeUninit::uninit()));
/// The process's descriptor table; null while the process has no virtual socket.
static PROC: AtomicPtr<Proc> = AtomicPtr::new(core::ptr::null_mut());

/// The process has an instance from now on. False: its table is not there (any more).
pub(crate) fn publish(env: Env) -> bool {
    let Some(proc) = env.inst.procs.table.get(Id::new(env.proc)) else { return false };
    // SAFETY: one thread does this at a time (init's turn, or the only thread of a child).
    unsafe { (*ENV.0.get()).write(env) };
    PROC.store(core::ptr::from_ref(proc).cast_mut(), Release);
    true
}

/// The process has no instance any more: it is about to end.
pub(crate) fn retire() {
    let t = thread();
    if t.vforked.get() {
        t.other.set(None);
        return;
    }
    PROC.store(core::ptr::null_mut(), Release);
}

/// As many children of vfork(2) at once are told apart: what fits in the low bits of [`PROC`], which count them.
const DIVIDED: usize = align_of::<Proc>().next_power_of_two() - 1;

/// A child of vfork(2) is about to be: from now on [`proc`] asks the thread. False: there are too many.
pub(crate) fn divide() -> bool {
    let change = |p: *mut Proc| (!p.is_null() && p.addr() & DIVIDED != DIVIDED).then(|| p.wrapping_byte_add(1));
    PROC.fetch_update(AcqRel, Relaxed, change).is_ok()
}

/// It has gone its way.
pub(crate) fn unite() {
    let change = |p: *mut Proc| (p.addr() & DIVIDED != 0).then(|| p.wrapping_byte_sub(1));
    let _ = PROC.fetch_update(AcqRel, Relaxed, change);
}

/// The process's descriptor table; a vfork child's own.
#[inline]
pub(crate) fn proc() -> Option<&'static Proc> {
    let p = PROC.load(Acquire);
    if p.addr() & DIVIDED != 0 {
        return divided(p);
    }
    // SAFETY: null, or a table in the arena, which is never unmapped.
    unsafe { p.as_ref() }
}

#[cold]
fn divided(p: *mut Proc) -> Option<&'static Proc> {
    match thread().other.get() {
        Some(env) => env.inst.procs.table.get(Id::new(env.proc)),
        // SAFETY: the table in the arena, without the count.
        None => unsafe { p.map_addr(|a| a & !DIVIDED).as_ref() },
    }
}

/// The process's view of its instance.
#[inline]
pub(crate) fn env() -> Option<&'static Env> {
    let p = PROC.load(Acquire);
    if p.addr() & DIVIDED != 0
        && let Some(other) = others()
    {
        return Some(other);
    }
    // SAFETY: ENV was written before PROC.
    (!p.is_null()).then(|| unsafe { (*ENV.0.get()).assume_init_ref() })
}

#[cold]
fn others() -> Option<&'static Env> {
    // SAFETY: written by this thread only, when it has no reference (vfork's two ends); thread-local storage lives as long as the thread.
    unsafe { (*thread().other.as_ptr()).as_ref() }
}

/// Is the descriptor the replica's?
#[inline(always)]
pub(crate) fn is_virtual(fd: c_int) -> bool {
    proc().is_some_and(|p| p.is_virtual(fd))
}

/// CLOCK_MONOTONIC from the vDSO.
pub(crate) fn clock() -> Nanos {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: ts is writable. clock_gettime is not hooked and does not touch errno when it succeeds.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

/// Calls the core. ENOSYS: this process has no instance. EIO: the core panicked, which is a bug of csel.
#[inline]
pub(crate) fn with_cx<R>(f: impl FnOnce(&Cx<'_>) -> R) -> Result<R> {
    match env() {
        Some(env) => with_env(env, f),
        None => Err(Errno::ENOSYS),
    }
}

/// Calls the core with an [`Env`] that may not be published yet.
#[inline]
pub(crate) fn with_env<R>(env: &Env, f: impl FnOnce(&Cx<'_>) -> R) -> Result<R> {
    let t = thread();
    if t.depth.get() != 0 {
        return Err(Errno::EAGAIN);
    }
    let me = t.me();
    t.depth.set(1);
    t.touched.set(true);
    compiler_fence(SeqCst);
    let r = catch_unwind(AssertUnwindSafe(|| f(&Cx::new(env, me))));
    compiler_fence(SeqCst);
    t.depth.set(0);
    if t.deferred.get() != 0 {
        crate::signal::deliver(t);
    }
    r.or_else(|_| panicked(env))
}

#[cold]
fn panicked<R>(env: &Env) -> Result<R> {
    csel_core::stats::bump(&env.inst.stats.panics);
    Err(Errno::EIO)
}

/// Runs `f` with handlers put off, without entering the core: for short process-local work.
pub(crate) fn undisturbed<R>(f: impl FnOnce() -> R) -> R {
    let t = thread();
    t.depth.set(t.depth.get() + 1);
    compiler_fence(SeqCst);
    let r = f();
    compiler_fence(SeqCst);
    t.depth.set(t.depth.get() - 1);
    if t.depth.get() == 0 && t.deferred.get() != 0 {
        crate::signal::deliver(t);
    }
    r
}
