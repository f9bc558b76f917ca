//! fork(2), vfork(2), clone(2) and the end of a process.
//!
//! # Theory of operation
//! **Purpose.** A child has its parent's descriptors; a process that ends lets go of its own.
//! **How it works.** Before the fork the parent makes the child's table ([`csel_core::fd::Procs::fork`]), so that no reference is ever missing; the child
//! takes it over in an atfork handler, which runs before anybody else's, and learns its new ids. Forks that libc makes inside itself (daemon(3),
//! forkpty(3)) go the same way, by the handlers alone. [`leave`] drops the references of a process that ends in good order; the keeper does it for others.
//! *A child of vfork(2) shares our memory*, the calling thread's thread-local storage included, and has descriptors of its own. Its table is the thread's
//! [`crate::enter::Thread::other`] while it runs, and [`crate::enter::proc`] looks there while any thread is in a vfork; what it does to process-wide state
//! (private descriptors, handlers) is not written down, or undone when the parent goes on. clone(2) with CLONE_VM and CLONE_VFORK is the same with a
//! stack of its own; without CLONE_VM it is a fork. With CLONE_FILES and a memory of its own the child shares the table ([`csel_core::fd::Proc::partner`]).
//! **Limits.** clone(2) with CLONE_VM alone (no thread, no vfork) is passed on: two processes that write one memory are taken for one. By
//! syscall(2) CLONE_VM is left out where there is CLONE_VFORK: the child returns on the parent's stack.
//! **Locks.** None is held over the fork. **Failure.** If there is no table left, the child has no virtual descriptors.
//! **See also.** fork(2), vfork(2), clone(2), pthread_atfork(3), [`crate::exec`].
use crate::enter::{self, thread, with_cx};
use core::sync::atomic::Ordering::*;
use csel_core::arena::Id;
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::instance::Env;
use libc::{c_int, c_void};

unsafe extern "C" {
    fn pthread_atfork(prepare: Option<extern "C" fn()>, parent: Option<extern "C" fn()>, child: Option<extern "C" fn()>) -> c_int;
}

/// Registers the handlers. Called once, by the constructor: so our child handler runs first.
pub(crate) fn register() {
    // SAFETY: three functions that stay.
    unsafe { pthread_atfork(Some(prepare), Some(parent), Some(child)) };
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

/// In the parent of a fork that libc made by itself: the next one makes a table anew. (If it failed, the keeper finds that nobody came.)
extern "C" fn parent() {
    let t = thread();
    if !t.forking.get() {
        t.child.set(0);
    }
}

/// In the child: who we are now.
extern "C" fn child() {
    let t = thread();
    // As the parent's thread, whose name we still have, announced us.
    let announced = csel_core::fd::announcement(t.me());
    t.forget();
    t.holds.forget();
    t.forking.set(false);
    t.other.set(None);
    crate::init::after_fork();
    let n = t.child.replace(0);
    let Some(env) = enter::env() else { return };
    if n == 0 {
        return anew(env);
    }
    let mine = env.inst.procs.table.get(Id::new(n)).is_some_and(|p| {
        let pid = gate::getpid();
        // The parent may have written it already.
        p.pid.compare_exchange(announced, pid, AcqRel, Relaxed).map_or_else(|is| is == pid, |_| true)
    });
    if !mine || !enter::publish(Env { proc: n, ..*env }) {
        anew(env);
    }
}

/// A table of our own with nothing in it: there was none left, or we came so late that ours was taken for a stillborn's.
fn anew(env: &Env) {
    if let Ok(Ok(n)) = enter::with_env(env, |cx| cx.inst.procs.enter(cx, gate::getpid())) {
        let _ = enter::publish(Env { proc: n, ..*env });
    }
}

/// fork(2) by `real`, which calls the atfork handlers or (if `bare`) does not.
pub(crate) fn fork(real: impl FnOnce() -> c_int, bare: bool) -> c_int {
    if crate::init::inert() {
        return real();
    }
    prepare();
    let t = thread();
    t.forking.set(true);
    let pid = real();
    if pid == 0 {
        if bare {
            child();
        }
        return 0;
    }
    t.forking.set(false);
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
            let _ = p.pid.compare_exchange(csel_core::fd::announcement(cx.me), pid as u32, AcqRel, Relaxed);
            // The keeper watches it soon.
            cx.inst.procs.forked(cx);
        }
    });
    crate::ret::fail(saved);
}

/// A child that shares our memory is about to be made. False: there are too many at once.
fn share() -> bool {
    let t = thread();
    t.child.set(0);
    if let Some(env) = enter::env() {
        let made = with_cx(|cx| cx.inst.procs.fork(cx, cx.proc));
        let Ok(Ok(n)) = made else { return false };
        if !enter::divide() {
            let _ = with_cx(|cx| env.inst.procs.bury(cx, n));
            return false;
        }
        t.child.set(n);
    }
    t.kept.set(crate::fdguard::places());
    true
}

/// In the child that shares our memory, on whatever stack.
extern "C" fn shared_child() {
    let t = thread();
    t.step_aside();
    let n = t.child.get();
    t.vforked.set(true);
    if n != 0
        && let Some(env) = enter::env()
        && let Some(table) = env.inst.procs.table.get(Id::new(n))
    {
        table.pid.store(gate::getpid(), Release);
        t.other.set(Some(Env { proc: n, ..*env }));
    }
}

/// In the parent, once the child has called exec or has ended, or could not be made.
extern "C" fn shared_parent(result: isize) -> c_int {
    let t = thread();
    if t.vforked.replace(false) {
        t.step_back();
    }
    t.other.set(None);
    crate::fdguard::put_back(t.kept.get());
    let n = t.child.replace(0);
    if n != 0 {
        enter::unite();
        settle(n, if result < 0 { -1 } else { result as c_int });
    }
    if let Some(env) = enter::env()
        && env.inst.procs.table.get(Id::new(env.proc)).is_none_or(|p| p.pid.load(Relaxed) != gate::getpid())
    {
        // The child opened the first virtual socket.
        anew(env);
    }
    if result < 0 { crate::ret::fail(Errno(-result as u16)) } else { result as c_int }
}

/// What vfork(2) goes on with: 1: our own way; else the address of the function to jump to.
extern "C" fn vfork_begin() -> usize {
    if crate::init::inert() {
        return crate::abi::process::next_vfork();
    }
    if share() { 1 } else { vfork_as_fork as *const () as usize }
}

/// vfork(2) when too many are under way.
extern "C" fn vfork_as_fork() -> c_int {
    // SAFETY: no arguments.
    fork(|| unsafe { crate::abi::process::libc_fork() }, false)
}

/// vfork(2): the child returns first, on this very stack; so the return address waits in a register, which each of the two has.
///
/// # Safety
/// As vfork(2).
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vfork() -> c_int {
    core::arch::naked_asm!(
        "sub rsp, 8",
        "call {begin}",
        "add rsp, 8",
        "cmp rax, 1",
        "jne 2f",
        "pop rdi",
        "mov eax, {nr}",
        "syscall",
        "push rdi",
        "sub rsp, 8",
        "test rax, rax",
        "jz 3f",
        "mov rdi, rax",
        "call {parent}",
        "add rsp, 8",
        "ret",
        "3:",
        "call {child}",
        "add rsp, 8",
        "xor eax, eax",
        "ret",
        "2:",
        "jmp rax",
        begin = sym vfork_begin,
        parent = sym shared_parent,
        child = sym shared_child,
        nr = const libc::SYS_vfork,
    )
}
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe extern "C" fn vfork() -> c_int {
    vfork_as_fork()
}

/// A function and its argument, for a child of clone(2).
struct Start {
    run: unsafe extern "C-unwind" fn(*mut c_void) -> c_int,
    arg: *mut c_void,
    shares_memory: bool,
    shares_files: bool,
}

/// Where a child of clone(2) begins.
unsafe extern "C-unwind" fn begin(start: *mut c_void) -> c_int {
    // SAFETY: in the frame of the parent's `clone`, which waits, or of which this is a copy.
    let start = unsafe { &*start.cast::<Start>() };
    if start.shares_files {
        let t = thread();
        t.forget();
        if !start.shares_memory {
            crate::init::after_fork();
        }
    } else if start.shares_memory {
        shared_child();
    } else {
        child();
    }
    // SAFETY: the application's.
    let status = unsafe { (start.run)(start.arg) };
    leave();
    status
}

/// clone(2): `real` is given the function, its argument and the flags.
pub(crate) fn clone(
    run: unsafe extern "C-unwind" fn(*mut c_void) -> c_int,
    arg: *mut c_void,
    flags: c_int,
    real: impl FnOnce(unsafe extern "C-unwind" fn(*mut c_void) -> c_int, *mut c_void) -> c_int,
) -> c_int {
    let has = |f: c_int| flags & f != 0;
    let (memory, files) = (has(libc::CLONE_VM), has(libc::CLONE_FILES));
    if crate::init::inert() || has(libc::CLONE_THREAD) || memory && !has(libc::CLONE_VFORK) {
        return real(run, arg);
    }
    let mut start = Start { run, arg, shares_memory: memory, shares_files: files };
    let at = (&raw mut start).cast();
    if files {
        let pid = real(begin, at);
        if memory {
            thread().forget();
        } else if pid > 0 {
            partner(pid as u32);
        }
        return pid;
    }
    if memory {
        if !share() {
            return crate::ret::fail(Errno::EAGAIN);
        }
        let pid = real(begin, at);
        let saved = crate::ret::errno();
        return shared_parent(if pid < 0 { -(saved.0 as isize) } else { pid as isize });
    }
    prepare();
    let pid = real(begin, at);
    let n = thread().child.replace(0);
    if n != 0 {
        settle(n, pid);
    }
    pid
}

/// Another process shares our table from now on.
fn partner(pid: u32) {
    if let Some(p) = enter::proc() {
        p.partner.store(pid, Release);
        let _ = with_cx(csel_core::net::wait::knock);
    }
}

/// clone(2), clone3(2), fork(2) or vfork(2) by syscall(2): the child returns where the parent does. `flags` are the call's, `go` is it, given the flags
/// it may have.
pub(crate) fn raw(flags: u64, go: impl FnOnce(u64) -> Result<usize>) -> Result<usize> {
    let has = |f: c_int| flags & f as u64 != 0;
    if crate::init::inert() || has(libc::CLONE_THREAD) || has(libc::CLONE_VM) && !has(libc::CLONE_VFORK) {
        return go(flags);
    }
    let flags = flags & !(libc::CLONE_VM as u64);
    if has(libc::CLONE_FILES) {
        let pid = go(flags);
        match pid {
            Ok(0) => {
                thread().forget();
                crate::init::after_fork();
            }
            Ok(pid) => partner(pid as u32),
            Err(_) => {}
        }
        return pid;
    }
    prepare();
    let pid = go(flags);
    if pid == Ok(0) {
        child();
        return pid;
    }
    let n = thread().child.replace(0);
    if n != 0 {
        settle(n, pid.map_or(-1, |p| p as c_int));
    }
    pid
}

/// Has the process more than one thread? (One that has not called us yet may be about to.)
fn has_threads() -> bool {
    if gate::sandbox::is_confined() {
        return false;
    }
    let Ok(fd) = gate::open(c"/proc/self/task", libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC, 0) else { return false };
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: st is writable.
    let known = unsafe { gate::syscall(libc::SYS_fstat, [fd as usize, &raw mut st as usize, 0, 0, 0, 0]) };
    let _ = gate::close(fd);
    // Two links of every directory's, and one for each thread.
    known.is_ok() && st.st_nlink > 3
}

/// The process ends: its descriptors close.
pub(crate) fn leave() {
    let Some(env) = enter::env() else { return };
    let me = gate::getpid();
    let Some(table) = env.inst.procs.table.get(Id::new(env.proc)) else { return };
    let _ = table.partner.compare_exchange(me, 0, AcqRel, Relaxed);
    if table.pid.load(Relaxed) != me {
        // One that shares our memory or our descriptors.
        return;
    }
    let partner = table.partner.swap(0, AcqRel);
    if partner != 0 && gate::process_exists(partner) {
        table.pid.store(partner, Release);
        return;
    }
    crate::keeper::replace();
    let _ = with_cx(|cx| {
        if cx.inst.desks.has_others(cx.me) || has_threads() {
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
        if cx.inst.procs.table.used() <= 1 {
            // Only the keeper is left: it sees the instance off.
            csel_core::net::wait::knock(cx);
        }
    });
}
