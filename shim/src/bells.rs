//! Sleeping for virtual and kernel descriptors at once.
//!
//! # Theory of operation
//! **Purpose.** A thread that waits for kernel descriptors too, or under a signal mask of the call's own, sleeps in ppoll(2), which does both
//! atomically; whoever wakes it rings its bell, one more descriptor at the end of the array. No user data is involved, so nothing is mistaken for it.
//! **How it works.** Bells ([`csel_core::gate::bell`]) are made when first needed and kept in a pool; a sleeping thread has one of its own. A child of
//! fork has inherited its parent's and lets them go. [`Waiter`] is a thread's wait with all that must be undone, also when pthread_cancel(3) unwinds.
//! **Limits.** [`POOL`] threads at once; one more naps. **Locks.** None. **Failure.** Without a bell (EMFILE) the thread naps a millisecond at a time.
//! **See also.** [`csel_core::net::wait`].
use crate::enter::{Thread, thread, with_cx};
use crate::fdguard;
use crate::wait::Hooked;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};
use csel_core::clock::{NEVER, Nanos};
use csel_core::errno::{Errno, Result};
use csel_core::gate::{self, bell, sandbox};
use csel_core::instance::Cx;
use csel_core::net::wait::{Sleep, Step, Waiting};
use libc::{c_int, pollfd, timespec};

/// Bells of a process.
const POOL: usize = 1024;
const NONE: u32 = 0;
const FREE: u32 = 1;
const TAKEN: u32 = 2;

struct Entry {
    state: AtomicU32,
    /// The process that made it.
    pid: AtomicU32,
    fd: AtomicI32,
    key: AtomicU64,
}
static BELLS: [Entry; POOL] =
    [const { Entry { state: AtomicU32::new(NONE), pid: AtomicU32::new(0), fd: AtomicI32::new(-1), key: AtomicU64::new(0) } }; POOL];

/// A bell of the calling thread's own; given back when dropped.
pub(crate) struct Bell(&'static Entry);

impl Bell {
    pub(crate) fn take() -> Option<Self> {
        let pid = thread().me().pid;
        if thread().vforked.get() {
            // The table of bells is the parent's.
            return None;
        }
        for e in &BELLS {
            let mut state = e.state.load(Relaxed);
            if state == TAKEN && e.pid.load(Relaxed) != pid {
                // A thread of the parent's had it when we were forked.
                state = if e.state.compare_exchange(TAKEN, FREE, AcqRel, Relaxed).is_ok() { FREE } else { TAKEN };
            }
            if state == TAKEN || e.state.compare_exchange(state, TAKEN, AcqRel, Relaxed).is_err() {
                continue;
            }
            let mine = state == FREE && e.pid.load(Relaxed) == pid;
            if mine {
                return Some(Self(e));
            }
            if sandbox::is_confined() {
                // None can be made any more; another may be ours.
                e.state.store(state, Release);
                continue;
            }
            if state == FREE {
                fdguard::disown(e.fd.load(Relaxed));
            }
            e.pid.store(pid, Relaxed);
            return match bell::make() {
                Ok((fd, key)) => {
                    e.fd.store(fdguard::adopt(fd), Relaxed);
                    e.key.store(key, Relaxed);
                    Some(Self(e))
                }
                Err(_) => {
                    e.state.store(NONE, Release);
                    None
                }
            };
        }
        None
    }
    /// Its key.
    pub(crate) fn key(&self) -> u64 {
        self.0.key.load(Relaxed)
    }
    /// Its descriptor.
    pub(crate) fn fd(&self) -> c_int {
        self.0.fd.load(Relaxed)
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.state.store(FREE, Release);
    }
}

/// Makes the process's own socket that rings bells, and tells the core.
pub(crate) fn hang() {
    let _ = with_cx(|cx| {
        if let Ok(fd) = bell::clapper() {
            let fd = fdguard::adopt(fd);
            cx.inst.procs.get(cx.proc).clapper.store(fd as u32 + 1, Relaxed);
        }
    });
}

/// A private descriptor lies on another number now (-1: it is lost): if it is a bell, or what rings bells, that is written down.
pub(crate) fn moved(from: c_int, to: c_int) {
    for e in &BELLS {
        let _ = e.fd.compare_exchange(from, to, AcqRel, Relaxed);
    }
    if let Some(p) = crate::enter::proc() {
        let _ = p.clapper.compare_exchange(from as u32 + 1, (to + 1) as u32, AcqRel, Relaxed);
    }
}

/// The key of the bell that the process's socket for ringing is connected to; what a child of fork inherits.
static TIED: AtomicU64 = AtomicU64::new(0);

/// Connects the process's socket that rings bells with its keeper's bell, unless it is: the only way to ring that is left to a process that confines
/// itself, or to a child that does ([`sandbox`]).
pub(crate) fn tie() -> bool {
    let tied = with_cx(|cx| {
        let (key, fd) = (csel_core::net::wait::keepers_bell(cx), cx.inst.procs.get(cx.proc).clapper.load(Relaxed) as c_int - 1);
        if key != 0 && fd >= 0 && TIED.load(Relaxed) != key && bell::connect(fd, key).is_ok() {
            TIED.store(key, Relaxed);
        }
        (key != 0 && TIED.load(Relaxed) == key) || !cx.config().keeper
    });
    tied.unwrap_or(true)
}

/// The process is about to forbid itself most system calls: what may be needed later is made now.
pub(crate) fn confine() {
    if crate::enter::proc().is_none() {
        return;
    }
    crate::keeper::replace();
    // A keeper that was begun just now takes a moment to hang up its bell.
    for _ in 0..1000 {
        if tie() {
            break;
        }
        gate::file::nap(1_000_000);
    }
    drop(Bell::take());
    sandbox::enter(crate::enter::env().map_or(-1, csel_core::instance::Env::clapper));
}

/// How a sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Rung, or the time is up, or for no reason: step again.
    Step,
    /// A kernel descriptor has something to say.
    Kernel,
    /// A handler has run.
    Interrupted,
}

/// A thread's wait.
pub(crate) struct Waiter {
    hooked: Hooked,
    t: &'static Thread,
    seen: u32,
}

impl Waiter {
    /// Hooks on by `begin`, which is given the key of the bell (0: none). `kernel`: the thread will sleep in ppoll(2).
    pub(crate) fn begin(seen: u32, kernel: bool, begin: impl FnOnce(&Cx<'_>, u64) -> Waiting) -> Result<Self> {
        let t = thread();
        Ok(Self { hooked: Hooked::begin(t, kernel, begin)?, t, seen })
    }

    /// What to do next.
    pub(crate) fn step(&mut self, deadline: Nanos) -> Result<Step> {
        self.hooked.step(self.t, deadline)
    }

    /// Sleeps as told: on the word if `kernel` is empty and there is no mask, else in ppoll(2) on all but the last of `kernel`; the last one's place is
    /// the bell's. A pthread_cancel(3) unwinds from here.
    pub(crate) fn sleep(&mut self, t: &Thread, s: &Sleep, kernel: &mut [pollfd], mask: Option<&u64>) -> End {
        let Some((last, rest)) = kernel.split_last_mut() else {
            let r = crate::wait::futex(t, self.seen, s.word, s.expected, s.until);
            return self.ended(t, r == Err(Errno::EINTR));
        };
        let bell = self.hooked.bell(t);
        *last = pollfd { fd: bell.unwrap_or(-1), events: libc::POLLIN, revents: 0 };
        let n = rest.len() + 1;
        let now = crate::enter::clock();
        // Without a bell nobody can end the sleep: a short one.
        let until = if bell.is_some() { s.until } else { s.until.min(now + 1_000_000) };
        let ts = spec(until.saturating_sub(now));
        let timeout = if until == NEVER { 0 } else { &raw const ts as usize };
        let mask = mask.map_or(0, |m| core::ptr::from_ref(m) as usize);
        // SAFETY: n valid pollfds, a timespec or null, eight bytes of mask or null.
        let r =
            unsafe { crate::wait::interruptible(t, self.seen, libc::SYS_ppoll, [kernel.as_mut_ptr() as usize, n, timeout, mask, 8, 0]) };
        if r == Err(Errno::EINVAL) {
            return self.cramped(t, s, kernel);
        }
        if let Some(b) = bell
            && kernel[n - 1].revents != 0
        {
            bell::still(b);
        }
        match r {
            Err(Errno::EINTR) => self.ended(t, true),
            Ok(_) if kernel[..n - 1].iter().any(|p| p.revents != 0) => End::Kernel,
            _ => self.ended(t, false),
        }
    }

    /// The process may not poll as many descriptors as it has (RLIMIT_NOFILE was lowered behind them): short sleeps on the word, and looks between them.
    #[cold]
    fn cramped(&self, t: &Thread, s: &Sleep, kernel: &mut [pollfd]) -> End {
        let until = s.until.min(crate::enter::clock() + 1_000_000);
        let last = kernel.len() - 1;
        if self.hooked.bell(t).is_none() {
            // The word is ours to sleep on only if nobody was told to ring a bell instead.
            let r = crate::wait::futex(t, self.seen, s.word, s.expected, until);
            if r == Err(Errno::EINTR) {
                return End::Interrupted;
            }
        } else {
            gate::sched_yield();
        }
        match poll_now(&mut kernel[..last]) {
            Ok(1..) => End::Kernel,
            _ => self.ended(t, false),
        }
    }

    fn ended(&self, t: &Thread, interrupted: bool) -> End {
        if interrupted || t.handled.get() != self.seen { End::Interrupted } else { End::Step }
    }
}

/// What the kernel says of these descriptors now. EINVAL of poll(2) (more than RLIMIT_NOFILE allows) is got around by select(2), which has no such limit.
pub(crate) fn poll_now(fds: &mut [pollfd]) -> Result<usize> {
    let zero = spec(0);
    // SAFETY: valid pollfds, a timespec.
    let r = unsafe { gate::syscall(libc::SYS_ppoll, [fds.as_mut_ptr() as usize, fds.len(), &raw const zero as usize, 0, 8, 0]) };
    if r != Err(Errno::EINVAL) {
        return r;
    }
    let mut n = 0;
    for p in fds.iter_mut() {
        p.revents = 0;
        if !(0..1024).contains(&p.fd) {
            continue;
        }
        // One at a time: a bad one spoils nothing for the others.
        let (word, bit) = (p.fd as usize / 64, 1u64 << (p.fd % 64));
        let asked = [libc::POLLIN | libc::POLLRDNORM | libc::POLLHUP, libc::POLLOUT | libc::POLLWRNORM, libc::POLLPRI];
        let mut sets = [[0u64; 16]; 3];
        for (set, events) in sets.iter_mut().zip(asked) {
            set[word] = if p.events & events != 0 { bit } else { 0 };
        }
        let [r, w, x] = sets.each_mut().map(|s| s.as_mut_ptr() as usize);
        // SAFETY: three sets of 1024 bits, a timespec, no mask.
        let got = unsafe { gate::syscall(libc::SYS_pselect6, [p.fd as usize + 1, r, w, x, &raw const zero as usize, 0]) };
        p.revents = match got {
            Err(Errno::EBADF) => libc::POLLNVAL,
            Err(e) => return Err(e),
            Ok(_) => sets.iter().zip(asked).fold(0, |all, (s, events)| if s[word] != 0 { all | events & p.events } else { all }),
        };
        n += usize::from(p.revents != 0);
    }
    Ok(n)
}

/// A span as a timespec.
pub(crate) fn spec(span: Nanos) -> timespec {
    timespec { tv_sec: (span / 1_000_000_000).min(i64::MAX as u64) as i64, tv_nsec: (span % 1_000_000_000) as i64 }
}
