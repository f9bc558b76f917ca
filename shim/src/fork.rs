//! fork(2) and the end of a process.
//!
//! # Theory of operation
//! **Purpose.** A child has its parent's descriptors; a process that ends lets go of its own.
//! **How it works.** Before the fork the parent makes the child's table ([`csel_core::fd::Procs::fork`]), so that no reference is ever missing; the child
//! takes it over in an atfork handler, which runs before anybody else's, and learns its new ids. vfork(2) is done as fork(2): a child that
//! shares our memory would change our tables. [`leave`] drops the references of a process that ends in good order; the keeper does it for others.
//! **Limits.** A child made by raw clone(2) is unknown until it opens a socket of its own.
//! **Locks.** None is held over the fork. **Failure.** If there is no table left, the child has no virtual descriptors.
//! **See also.** fork(2), pthread_atfork(3), [`crate::exec`].
use crate::enter::{self, thread, with_cx};
use core::sync::atomic::Ordering::*;
use csel_core::arena::Id;
use csel_core::gate;
use csel_core::instance::Env;
use libc::c_int;

unsafe extern "C" {
    fn pthread_atfork(prepare: Option<extern "C" fn()>, parent: Option<extern "C" fn()>, child: Option<extern "C" fn()>) -> c_int;
}

/// Registers the handlers. Called once, by the constructor: so our child handler runs first.
pub(crate) fn register() {
    // SAFETY: three functions that stay.
    unsafe { pthread_atfork(Some(prepare), None, Some(child)) };
}

/// Makes the table of the child that is about to be.
extern "C" fn prepare() {
    let t = thread();
    if t.child.get() == 0 && enter::proc().is_some() {
        crate::keeper::replace();
        crate::bells::tie();
        // Relaxed loads and references only; it takes no lock.
        if let Ok(Ok(n)) = with_cx(|cx| cx.inst.procs.fork(cx, cx.proc)) {
            t.child.set(n);
        }
    }
}

/// In the child: who we are now.
extern "C" fn child() {
    let t = thread();
    t.forget();
    t.holds.forget();
    crate::init::after_fork();
    let n = t.child.replace(0);
    let Some(env) = enter::env() else { return };
    if n == 0 {
        return anew(env);
    }
    let mine = env.inst.procs.table.get(Id::new(n)).is_some_and(|p| {
        let pid = gate::getpid();
        // The parent may have written it already.
        p.pid.compare_exchange(u32::MAX, pid, AcqRel, Relaxed).map_or_else(|is| is == pid, |_| true)
    });
    if mine {
        enter::publish(Env { proc: n, ..*env });
    } else {
        anew(env);
    }
}

/// A table of our own with nothing in it: there was none left, or we came so late that ours was taken for a stillborn's.
fn anew(env: &Env) {
    if let Ok(Ok(n)) = enter::with_env(env, |cx| cx.inst.procs.enter(cx, gate::getpid())) {
        enter::publish(Env { proc: n, ..*env });
    }
}

/// fork(2) by `real`, which calls the atfork handlers or (if `bare`) does not.
pub(crate) fn fork(real: impl FnOnce() -> c_int, bare: bool) -> c_int {
    prepare();
    let pid = real();
    let t = thread();
    if pid == 0 {
        if bare {
            child();
        }
        return 0;
    }
    let n = t.child.replace(0);
    if n != 0 {
        settle(n, pid);
    }
    pid
}

/// In the parent, after a process was made (or not): its table gets its pid, or goes.
pub(crate) fn settle(n: u32, pid: c_int) {
    let saved = crate::ret::errno();
    let _ = with_cx(|cx| {
        if pid < 0 {
            cx.inst.procs.bury(cx, n);
        } else if let Some(p) = cx.inst.procs.table.get(Id::new(n)) {
            let _ = p.pid.compare_exchange(u32::MAX, pid as u32, AcqRel, Relaxed);
            // The keeper watches it from now on.
            csel_core::net::wait::knock(cx);
        }
    });
    crate::ret::fail(saved);
}

/// The process ends: its descriptors close.
pub(crate) fn leave() {
    let Some(env) = enter::env() else { return };
    if env.inst.procs.get(env.proc).pid.load(Relaxed) != gate::getpid() {
        // A vfork-like child that shares our memory.
        return;
    }
    crate::keeper::replace();
    let _ = with_cx(|cx| {
        if cx.inst.desks.has_others(cx.me) {
            if cx.config().keeper || csel_core::keeper::is_kept(cx) {
                // Other threads of ours are at work until the process ends: the keeper closes what is ours then, as for those that are killed.
                csel_core::net::wait::knock(cx);
                return;
            }
            // Nobody would: they find no instance any more, and what we close is not closed under them.
            enter::retire();
            if !cx.inst.desks.wait_for_others(cx.me) {
                return;
            }
        }
        enter::retire();
        csel_core::net::wait::bury(cx, cx.proc);
        cx.inst.procs.bury(cx, cx.proc);
        csel_core::net::wait::knock(cx);
    });
}
