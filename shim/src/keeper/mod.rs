//! The keeper's process: libcsel.so executed.
//!
//! # Theory of operation
//! **Purpose.** [`csel_core::keeper`] does what the kernel would do when no thread of the application calls; under LD_PRELOAD somebody must give it a
//! process, and the application must not notice that.
//! **How it works.** At the first virtual socket [`ensure`] makes a grandchild by two raw clone(2)s without SIGCHLD, so that no wait(2) of the
//! application sees either. It has a session of its own, /dev/null as its three streams, and no descriptor but the arena and the segment; then it executes
//! this library, whose entry point is [`entry`] (the dynamic linker takes it for the program, since it names an interpreter, and does not run our
//! constructor, so no hook is live there). The keeper claims its office in the arena, or ends if somebody has it, and then is [`host`] of what an instance
//! has outside. Its office is a robust futex ([`seat`]), so one load tells whether it lives; the next attach, fork or socket(2) replaces a dead one.
//! **Limits.** A subreaper (prctl(2)) among the ancestors inherits it.
//! **Locks.** None. **Failure.** Without a keeper everything works while some thread of the instance is in a call. **See also.** clone(2), pidfd_open(2).
pub(crate) mod door;
mod family;
mod host;
#[allow(dead_code)]
mod inside;
#[allow(dead_code)]
pub(crate) mod kernel;
mod publish;
mod relay;
mod seat;
mod uplink;

use crate::enter::{self, clock, with_cx};
use crate::fdguard::{self, Which};
use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering::*};
use csel_core::arena::{Id, found};
use csel_core::clock::{Nanos, SEC};
use csel_core::config::{Path, Str};
use csel_core::errno::Errno;
use csel_core::gate::{self, bell};
use csel_core::instance::{Cx, Env, Instance};
use csel_core::keeper;
use csel_core::net::link::join;
use csel_core::sync::Me;
use host::Host;
use libc::{c_char, c_int};

#[cfg(target_arch = "x86_64")]
#[used]
#[unsafe(link_section = ".interp")]
static INTERPRETER: [u8; 28] = *b"/lib64/ld-linux-x86-64.so.2\0";
#[cfg(target_arch = "aarch64")]
#[used]
#[unsafe(link_section = ".interp")]
static INTERPRETER: [u8; 28] = *b"/lib/ld-linux-aarch64.so.1\0\0";

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.csel_keeper_entry,\"ax\",@progbits",
    ".hidden csel_keeper_entry",
    ".globl csel_keeper_entry",
    ".type csel_keeper_entry,@function",
    "csel_keeper_entry:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {entry}",
    "ud2",
    ".size csel_keeper_entry, . - csel_keeper_entry",
    ".popsection",
    entry = sym entry,
);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".pushsection .text.csel_keeper_entry,\"ax\",@progbits",
    ".hidden csel_keeper_entry",
    ".globl csel_keeper_entry",
    ".type csel_keeper_entry,@function",
    "csel_keeper_entry:",
    "mov x29, #0",
    "mov x0, sp",
    "bl {entry}",
    "brk #1",
    ".popsection",
    entry = sym entry,
);

/// Brings up another keeper if the one there was has died: what every fork and every new socket asks, at the cost of two loads.
#[inline]
pub(crate) fn replace() {
    if let Some(env) = enter::env()
        && !gate::sandbox::is_confined()
        && !keeper::seems_kept(env.inst)
        && clock().saturating_sub(BEGUN.load(Relaxed)) > START
    {
        crate::init::keep();
    }
}

/// When this process (or its parent) last began one, which takes its time to claim its office.
static BEGUN: AtomicU64 = AtomicU64::new(0);
/// How long that may take before another one is begun.
const START: Nanos = SEC;

/// Makes sure that the instance has a keeper, if it is to have one. If it has ports of the host to listen on, waits until it does; the result is
/// why it does not, for the user.
pub(crate) fn ensure(dir: &CStr) -> Option<Str<500>> {
    // (An instance with something outside has a keeper, whatever the options say.)
    let wanted = with_cx(|cx| (!keeper::is_kept(cx)).then(|| (cx.config().keeper, !cx.config().publish.is_empty())));
    let Ok(Some((wanted, outside))) = wanted else { return None };
    if !wanted && !outside {
        return None;
    }
    BEGUN.store(clock(), Relaxed);
    let library = library()?;
    let (arena, segment) = (fdguard::get(Which::Arena), fdguard::get(Which::Segment));
    let mut pipe = [-1 as c_int; 2];
    if outside {
        // SAFETY: room for two descriptors.
        let _ = unsafe { gate::syscall(libc::SYS_pipe2, [pipe.as_mut_ptr() as usize, libc::O_CLOEXEC as usize, 0, 0, 0, 0]) };
    }
    let all = u64::MAX;
    let mut old = 0u64;
    // SAFETY: masks of eight bytes.
    let _ = unsafe {
        gate::syscall(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, &raw const all as usize, &raw mut old as usize, 8, 0, 0])
    };
    if let Ok(child) = clone() {
        if child == 0 {
            // Before the parent goes on: a copy of a descriptor that it closes next would keep that open (a peer would see no end).
            shed([arena, segment, pipe[1]]);
            match clone() {
                Ok(0) => become_keeper(library, dir),
                _ => crate::init::exit_now(0),
            }
        }
        let mut status = 0;
        // SAFETY: status is writable. __WCLONE: children without SIGCHLD.
        while unsafe { gate::syscall(libc::SYS_wait4, [child, &raw mut status as usize, libc::__WCLONE as usize, 0, 0, 0]) }
            == Err(Errno::EINTR)
        {}
    }
    // SAFETY: as above.
    let _ = unsafe { gate::syscall(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, &raw const old as usize, 0, 8, 0, 0]) };
    if pipe[0] < 0 {
        return None;
    }
    let _ = gate::close(pipe[1]);
    let said = heard(pipe[0]);
    let _ = gate::close(pipe[0]);
    match said.as_bytes() {
        b"ready" => None,
        b"" => Some(Str::literal("the keeper, which listens on the host for -p (CSEL_PUBLISH), did not start")),
        _ => Some(said),
    }
}

/// This library's file.
pub(crate) fn library() -> Option<&'static CStr> {
    // SAFETY: all-zero is a valid Dl_info.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: an address in this library; info is writable.
    if unsafe { libc::dladdr((&raw const INTERPRETER).cast(), &raw mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the dynamic linker's string, which stays.
    Some(unsafe { CStr::from_ptr(info.dli_fname) })
}

/// A copy of the process that sends no SIGCHLD when it ends.
fn clone() -> csel_core::errno::Result<usize> {
    // SAFETY: no flags, no stack: as fork(2). The copy only makes raw system calls.
    unsafe { gate::syscall(libc::SYS_clone, [0; 6]) }
}

/// In the child: lets go of everything of the application's but `keep`, which become descriptors 3 to 5.
fn shed(keep: [c_int; 3]) {
    // SAFETY: raw system calls on numbers; nothing else runs in this copy.
    unsafe {
        let _ = gate::syscall(libc::SYS_setsid, [0; 6]);
        if let Ok(null) = gate::open(c"/dev/null", libc::O_RDWR, 0) {
            for fd in 0..3 {
                let _ = gate::syscall(libc::SYS_dup3, [null as usize, fd, 0, 0, 0, 0]);
            }
        }
        // Low numbers that stay, so that one range closes all the rest.
        let high = keep.map(|fd| gate::fcntl(fd, libc::F_DUPFD, 10).unwrap_or(usize::MAX));
        for (fd, to) in high.into_iter().zip(3..) {
            if gate::syscall(libc::SYS_dup3, [fd, to as usize, 0, 0, 0, 0]).is_err() {
                let _ = gate::close(to);
            }
        }
        let _ = gate::syscall(libc::SYS_close_range, [6, u32::MAX as usize, 0, 0, 0, 0]);
    }
}

/// In the grandchild: executes the library.
fn become_keeper(library: &CStr, dir: &CStr) -> ! {
    // SAFETY: raw system calls on strings that live; nothing else runs in this copy.
    unsafe {
        let none = 0u64;
        let _ = gate::syscall(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, &raw const none as usize, 0, 8, 0, 0]);
        let _ = gate::syscall(libc::SYS_chdir, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]);
        let argv: [*const c_char; 3] = [c"csel-keeper".as_ptr(), dir.as_ptr(), core::ptr::null()];
        let envp: [*const c_char; 1] = [core::ptr::null()];
        let _ = gate::syscall(libc::SYS_execve, [library.as_ptr() as usize, argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0, 0]);
    }
    crate::init::exit_now(1)
}

/// Where the executed library begins: argc, argv lie on the stack.
unsafe extern "C" fn entry(stack: *const usize) -> ! {
    // SAFETY: as the kernel lays it out.
    let (argc, argv0, dir) = unsafe {
        let argv = stack.add(1).cast::<*const c_char>();
        (*stack, *argv, *argv.add(1))
    };
    // SAFETY: strings the kernel put there.
    let called = |name: &CStr| argc >= 2 && unsafe { CStr::from_ptr(argv0) == name };
    if called(crate::pump::STAND_IN) {
        // SAFETY: the kernel's layout; only StandIn makes such arguments.
        let _ = unsafe { crate::pump::stand_in(argc, stack.add(1).cast()) };
        crate::init::exit_now(127);
    }
    if !called(c"csel-keeper") {
        crate::ret::say(&["libcsel.so is preloaded, not run: LD_PRELOAD=/path/libcsel.so program, or csel run -- program"]);
        crate::init::exit_now(2);
    }
    // SAFETY: as above.
    let dir = unsafe { CStr::from_ptr(dir) };
    let kept = std::panic::catch_unwind(|| run(dir));
    crate::init::exit_now(if kept.is_ok_and(|done| done) { 0 } else { 1 })
}

/// The arena is descriptor 3, the segment 4 (kept open: its lock is the instance's port).
fn run(dir: &CStr) -> bool {
    let awaited = gate::fcntl(REPORT, libc::F_GETFD, 0).is_ok();
    let Ok(inst) = found::open(3) else { return false };
    if !found::is_founded(inst) {
        return false;
    }
    let dir = Str::cut(dir.to_bytes());
    let seg = match join::inherited(4) {
        Some(seg) => seg,
        None => {
            let Ok((seg, fd)) = join::open(&dir, &inst.facts.get().config.net, false) else { return false };
            let _ = gate::close(fd);
            seg
        }
    };
    let me = Me::ask();
    let mut env = Env { inst, seg, clock, proc: 0 };
    let _ = seat::take(&inst.header.keeper);
    // Not while another keeper leaves: what we wrote would be emptied under us, or come into the next instance.
    let office = found::attach(inst, || {
        let cx = Cx::new(&env, &me);
        // A table of its own, like every process: what it holds is let go of when it dies.
        Some(keeper::claim(&cx, me.pid).then(|| inst.procs.enter(&cx, me.pid).unwrap_or(0)))
    });
    match office {
        Some(Some(proc)) => env.proc = proc,
        // Another one has it, or there is nothing to keep any more.
        Some(None) | None => return true,
    }
    seat::room();
    if let Some(table) = inst.procs.table.get(Id::new(env.proc))
        && let Ok(fd) = bell::clapper()
    {
        table.clapper.store(fd as u32 + 1, Relaxed);
    }
    crate::exec::rendezvous::publish(dir.as_bytes(), 3);
    let Ok(mut host) = Host::new(&env, &me) else { return false };
    let begun = begin_sources(&mut host, inst, &dir);
    if awaited {
        report(begun.as_ref().err().map_or("ready", String::as_str));
    }
    if begun.is_err() {
        inst.header.keeper.store(0, SeqCst);
        return false;
    }
    host.run();
    crate::exec::rendezvous::withdraw(dir.as_bytes(), 3);
    drop(host);
    found::vacate(inst);
    true
}

/// Begins all that the options ask for. An error is the message for the user.
fn begin_sources(host: &mut Host<'_>, inst: &'static Instance, dir: &Path) -> Result<(), String> {
    // Without a door nothing can be pumped; all else works.
    if let Ok(source) = door::Door::begin(&host.desk(), dir) {
        host.add(source);
    }
    let facts = inst.facts.get();
    if !facts.config.publish.is_empty() {
        let source = publish::Published::begin(&host.desk(), facts)?;
        host.add(source);
    }
    // An uplink that cannot be had says so in the arena, where whoever waits for its address looks.
    if let Some(uplink) = uplink::Uplink::begin(&host.desk(), clock()) {
        host.add(uplink);
    }
    Ok(())
}

/// In the keeper: the other end of the pipe that [`ensure`] waits on.
const REPORT: c_int = 5;

/// Tells whoever waits how it went.
fn report(text: &str) {
    let _ = gate::write(REPORT, text.as_bytes());
    let _ = gate::close(REPORT);
}

/// In [`ensure`]: what the keeper has to say before it is ready; an empty text if it says nothing for ten seconds, or died.
fn heard(pipe: c_int) -> Str<500> {
    let mut text = [0u8; 500];
    let mut p = libc::pollfd { fd: pipe, events: libc::POLLIN, revents: 0 };
    let ts = libc::timespec { tv_sec: 10, tv_nsec: 0 };
    // SAFETY: one pollfd and a timeout; no mask.
    let r = unsafe { gate::syscall(libc::SYS_ppoll, [&raw mut p as usize, 1, &raw const ts as usize, 0, 8, 0]) };
    let n = if r == Ok(1) { gate::read(pipe, &mut text).unwrap_or(0) } else { 0 };
    Str::cut(&text[..n])
}
