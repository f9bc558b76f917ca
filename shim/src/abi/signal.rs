//! sigaction(2) and its older forms.
use crate::ret::IntoC;
use crate::signal::{action, armed};
use crate::table::interpose;
use crate::user;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use csel_core::errno::Result;
use libc::{c_int, sigaction as sigaction_t, sighandler_t};

/// Signals for which siginterrupt(3) was said: signal(2) then does not set SA_RESTART.
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

fn set(sig: c_int, act: *const sigaction_t, old: *mut sigaction_t) -> Result<()> {
    let new = if act.is_null() { None } else { Some(user::get(act)?) };
    if old.is_null() {
        return action(sig, new.as_ref(), None);
    }
    // SAFETY: all-zero is a valid sigaction.
    let mut was: sigaction_t = unsafe { core::mem::zeroed() };
    action(sig, new.as_ref(), Some(&mut was))?;
    user::put(old, &was)
}

/// signal(2) with these flags; the old handler or SIG_ERR.
fn simple(sig: c_int, handler: sighandler_t, flags: c_int) -> sighandler_t {
    // SAFETY: all-zero is a valid sigaction.
    let (mut new, mut old): (sigaction_t, sigaction_t) = unsafe { (core::mem::zeroed(), core::mem::zeroed()) };
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    if handler == libc::SIG_ERR {
        crate::ret::fail(csel_core::errno::Errno::EINVAL);
        return libc::SIG_ERR;
    }
    // signal(2) in the BSD way blocks the signal itself, which the kernel does without SA_NODEFER.
    match action(sig, Some(&new), Some(&mut old)) {
        Ok(()) => old.sa_sigaction,
        Err(e) => {
            crate::ret::fail(e);
            libc::SIG_ERR
        }
    }
}

fn restarting(sig: c_int) -> c_int {
    let bit = 1u64.checked_shl((sig - 1) as u32).unwrap_or(0);
    if INTERRUPTS.load(Relaxed) & bit != 0 { 0 } else { libc::SA_RESTART }
}

interpose! {
    family signal;

    /// sigaction(2).
    plain fn sigaction(sig: c_int, act: *const sigaction_t, old: *mut sigaction_t) -> c_int = Full "" {
        if armed() {
            set(sig, act, old).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::sigaction(sig, act, old) }
        }
    }
    /// sigaction(2), libc's other name for it.
    plain fn __sigaction(sig: c_int, act: *const sigaction_t, old: *mut sigaction_t) -> c_int = Full "" {
        if armed() {
            set(sig, act, old).into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__sigaction(sig, act, old) }
        }
    }
    /// signal(2).
    plain fn signal(sig: c_int, handler: sighandler_t) -> sighandler_t = Full "" {
        if armed() {
            simple(sig, handler, restarting(sig))
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::signal(sig, handler) }
        }
    }
    /// bsd_signal(3).
    plain fn bsd_signal(sig: c_int, handler: sighandler_t) -> sighandler_t = Full "" {
        if armed() {
            simple(sig, handler, restarting(sig))
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::bsd_signal(sig, handler) }
        }
    }
    /// ssignal(3).
    plain fn ssignal(sig: c_int, handler: sighandler_t) -> sighandler_t = Full "" {
        if armed() {
            simple(sig, handler, restarting(sig))
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::ssignal(sig, handler) }
        }
    }
    /// sysv_signal(3): the handler is reset when it runs.
    plain fn sysv_signal(sig: c_int, handler: sighandler_t) -> sighandler_t = Full "" {
        if armed() {
            simple(sig, handler, libc::SA_RESETHAND | libc::SA_NODEFER)
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::sysv_signal(sig, handler) }
        }
    }
    /// signal(2) of programs built without _BSD_SOURCE.
    plain fn __sysv_signal(sig: c_int, handler: sighandler_t) -> sighandler_t = Full "" {
        if armed() {
            simple(sig, handler, libc::SA_RESETHAND | libc::SA_NODEFER)
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::__sysv_signal(sig, handler) }
        }
    }
    /// sigset(3): its mask handling is libc's, its disposition ours.
    plain fn sigset(sig: c_int, handler: sighandler_t) -> sighandler_t = Partial "sigset: SIG_HOLD is handed to libc" {
        if armed() && handler != 2 {
            simple(sig, handler, 0)
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::sigset(sig, handler) }
        }
    }
    /// sigignore(3).
    plain fn sigignore(sig: c_int) -> c_int = Full "" {
        if armed() {
            if simple(sig, libc::SIG_IGN, 0) == libc::SIG_ERR { -1 } else { 0 }
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::sigignore(sig) }
        }
    }
    /// siginterrupt(3).
    plain fn siginterrupt(sig: c_int, interrupt: c_int) -> c_int = Full "" {
        if armed() {
            // SAFETY: all-zero is a valid sigaction.
            let mut a: sigaction_t = unsafe { core::mem::zeroed() };
            let done = action(sig, None, Some(&mut a)).and_then(|()| {
                let bit = 1u64 << (sig - 1);
                if interrupt != 0 {
                    INTERRUPTS.fetch_or(bit, Relaxed);
                    a.sa_flags &= !libc::SA_RESTART;
                } else {
                    INTERRUPTS.fetch_and(!bit, Relaxed);
                    a.sa_flags |= libc::SA_RESTART;
                }
                action(sig, Some(&a), None)
            });
            done.into_c()
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::siginterrupt(sig, interrupt) }
        }
    }
}
