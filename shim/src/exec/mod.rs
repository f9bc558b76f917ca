//! exec(2) and posix_spawn(3): another program, the same instance.
//!
//! # Theory of operation
//! **Purpose.** A program started by a process of the instance is of the instance, and finds the virtual descriptors it inherits.
//! **How it works.** The environment is completed ([`preload`]): the library is injected again, and a ticket says which table of descriptors
//! and which arena are the program's. A program started by execve(2) keeps its pid and its table; posix_spawn(3) makes the child's table beforehand.
//! The constructor ([`rejoin`]) finds the arena by the inherited descriptor ([`crate::fdguard`]), else by the ticket, through the keeper ([`rendezvous`]),
//! and compares the table with the descriptors there really are (close-on-exec, file actions, closes that nobody saw).
//! Until then the table is marked ([`csel_core::fd::Proc::leaving`]), and the keeper compares it with `/proc/PID/fd`: so a program that cannot attach, or
//! does not, holds what it has inherited and nothing else. [`target`] tells beforehand whether it can; then its sockets go pumped ([`crate::pump`]).
//! **Limits.** A program started by a raw system call with an environment of its own is not hooked: it uses the kernel's network.
//! **Locks.** None. **Failure.** Without a table the inherited descriptors are found by their inodes.
//! **See also.** execve(2), posix_spawn(3), environ(7).
use crate::{enter, pump};
use core::ffi::CStr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use csel_core::arena::Id;
use csel_core::fd::leaving;
use csel_core::gate;
use libc::{c_char, c_int};
use preload::{Argv, Ticket};

pub(crate) mod preload;
pub(crate) mod rendezvous;
pub(crate) mod search;
pub(crate) mod target;

/// The table that the ticket names; 0: none.
static CLAIMED: AtomicU32 = AtomicU32::new(0);
/// Inode of the family's arena.
static ARENA: AtomicU64 = AtomicU64::new(0);

/// The family's arena has this inode.
pub(crate) fn arena_is(inode: u64) {
    ARENA.store(inode, Relaxed);
}

/// The constructor of a program whose family has an instance: attaches if there may be virtual descriptors.
pub(crate) fn rejoin(ticket: Option<&Ticket>) {
    let wanted = match ticket {
        Some(t) => t.table != 0,
        None => {
            // Started behind our back: a socket among the descriptors may be a shadow; without one there is no hurry.
            let mut sockets = false;
            each_descriptor(|fd| sockets |= crate::shadow::inode(fd).is_some());
            sockets
        }
    };
    if !wanted {
        return;
    }
    CLAIMED.store(ticket.map_or(0, |t| t.table), Relaxed);
    if crate::init::instance().is_ok() {
        crate::init::check_descriptors();
    }
}

/// Takes over the table that a spawning parent made for us.
pub(crate) fn claim(inst: &'static csel_core::instance::Instance) {
    let n = CLAIMED.swap(0, Relaxed);
    let me = gate::getpid();
    // Whoever of this process was inside was ended by exec(2).
    inst.desks.succeed(me);
    if n != 0
        && let Some(p) = inst.procs.table.get(Id::new(n))
    {
        let announced = p.pid.load(Acquire);
        if announced != 0 && !csel_core::fd::is_pid(announced) {
            let _ = p.pid.compare_exchange(announced, me, AcqRel, Relaxed);
        }
    }
}

/// Calls `each` with every open descriptor, except the one used to look.
pub(crate) fn each_descriptor(mut each: impl FnMut(c_int)) {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let Ok(dir) = gate::open(c"/proc/self/fd", flags, 0) else { return };
    let mut entries = [0u64; 256];
    loop {
        let room = size_of_val(&entries);
        // SAFETY: writable for its size.
        let got = unsafe { gate::syscall(libc::SYS_getdents64, [dir as usize, entries.as_mut_ptr() as usize, room, 0, 0, 0]) };
        let Ok(n @ 1..) = got else { break };
        let base = entries.as_ptr().cast::<u8>();
        let mut at = 0;
        while at < n {
            // SAFETY: linux_dirent64 as the kernel wrote it: d_reclen at 16, d_name at 19, NUL-terminated.
            let (len, name) = unsafe { (base.add(at + 16).cast::<u16>().read_unaligned(), CStr::from_ptr(base.add(at + 19).cast())) };
            if let Some(fd) = name.to_str().ok().and_then(|t| t.parse::<c_int>().ok())
                && fd != dir
            {
                each(fd);
            }
            at += len as usize;
        }
    }
    let _ = gate::close(dir);
}

/// What a program started by this process is told; `table`: one made for it, 0: this process's own if there is anything in it.
fn ticket(table: u32) -> Ticket {
    let family = crate::init::family_has_instance();
    let own = || enter::proc().filter(|p| p.any()).and_then(|_| enter::env()).map_or(0, |e| e.proc);
    Ticket {
        table: if table != 0 { table } else { own() },
        arena: if family { ARENA.load(Relaxed) } else { 0 },
        at: crate::fdguard::get(crate::fdguard::Which::Arena),
        hidden: 0,
    }
}

/// Does what comes before and after an exec of `path` (empty: of the descriptor `dir`, by `flags`). `go` is the call, given the environment.
///
/// # Safety
/// `envp` is an environment, ended by NULL, or NULL.
pub(crate) unsafe fn replace(dir: c_int, path: &CStr, flags: c_int, envp: Argv, go: impl FnOnce(Argv) -> c_int) -> c_int {
    let table = enter::proc().filter(|p| p.any());
    if let Some(p) = table {
        let how = match target::can_attach_at(dir, path, flags) {
            Ok(()) => leaving::COMES_BACK,
            Err(why) => {
                stranger(path, why);
                leaving::STRANGER
            }
        };
        p.leaving.store(how, Release);
    }
    // SAFETY: the caller vouches.
    let r = unsafe { preload::with(envp, ticket(0), go) };
    if let Some(p) = table {
        p.leaving.store(leaving::NO, Release);
    }
    r
}

/// Does what comes before and after a posix_spawn(3) of `path` with the table `table`. `go` is the call, given path, arguments and environment.
///
/// # Safety
/// `argv` and `envp` are arrays of strings, ended by NULL, or NULL.
pub(crate) unsafe fn spawn(path: &CStr, table: u32, argv: Argv, envp: Argv, go: impl FnOnce(*const c_char, Argv, Argv) -> c_int) -> c_int {
    let stranger = if table != 0 { target::can_attach(path).err() } else { None };
    let library = stranger.filter(|_| gate::file::is_executable(path)).and_then(|why| Some((why, crate::keeper::library()?)));
    // SAFETY: the caller vouches.
    unsafe {
        preload::with(envp, ticket(table), |e| match library {
            Some((why, library)) => {
                // What it inherits is known only when the file actions are done.
                let s = pump::StandIn::new(path, why, argv, e);
                go(library.as_ptr(), s.argv.as_ptr(), s.envp.as_ptr())
            }
            None => go(path.as_ptr(), argv, e),
        })
    }
}

/// A program that cannot be of the instance is about to be started and may inherit virtual sockets: those go pumped.
fn stranger(path: &CStr, why: target::Why) {
    let quiet = enter::is_virtual(2);
    let (done, left) = pump::inherited();
    if let Some(env) = enter::env().filter(|_| !quiet) {
        pump::warn(env.inst, path, why.words(), done, left);
    }
}

/// A table for a child about to be spawned; 0: there is nothing to inherit.
pub(crate) fn table_for_child() -> u32 {
    if !enter::proc().is_some_and(csel_core::fd::Proc::any) {
        return 0;
    }
    enter::with_cx(|cx| {
        let n = cx.inst.procs.fork(cx, cx.proc).unwrap_or(0);
        if n != 0 {
            cx.inst.procs.get(n).leaving.store(leaving::COMES_BACK, Release);
        }
        n
    })
    .unwrap_or(0)
}
