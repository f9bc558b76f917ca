//! The keeper's process: libcsel.so executed.
//!
//! # Theory of operation
//! **Purpose.** [`csel_core::keeper`] does what the kernel would do when no thread of the application calls; under LD_PRELOAD somebody must give it a
//! process, and the application must not notice that.
//! **How it works.** At the first virtual socket [`ensure`] makes a grandchild by two raw clone(2)s without SIGCHLD, so that no wait(2) of the
//! application sees either. It has a session of its own, /dev/null as its three streams, and no descriptor but the arena and the segment; then it executes
//! this library, whose entry point is [`entry`] (the dynamic linker takes it for the program, since it names an interpreter, and does not run our
//! constructor). The keeper claims its office in the arena, or ends if somebody has it. It sleeps in ppoll(2) on its bell and the pidfds of the
//! family's processes, at most a second, so that processes it has not heard of are found too.
//! **Limits.** [`WATCHED`] processes are watched by pidfd, the others once a second. A subreaper (prctl(2)) among the ancestors inherits it.
//! **Locks.** None. **Failure.** Without a keeper everything works while some thread of the instance is in a call. **See also.** clone(2), pidfd_open(2).
use crate::enter::{clock, with_cx};
use crate::fdguard::{self, Which};
use core::ffi::CStr;
use csel_core::arena::found;
use csel_core::errno::Errno;
use csel_core::gate::{self, bell};
use csel_core::instance::{Cx, Env, Instance};
use csel_core::keeper::{self, Keeper, Rest};
use csel_core::net::link::join;
use csel_core::sync::Me;
use libc::{c_char, c_int};

/// Processes watched by pidfd.
const WATCHED: usize = 256;

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

/// Makes sure that the instance has a keeper, if it is to have one.
pub(crate) fn ensure(dir: &CStr) {
    let wanted = with_cx(|cx| cx.config().keeper && !keeper::is_kept(cx));
    if wanted != Ok(true) {
        return;
    }
    // SAFETY: all-zero is a valid Dl_info.
    let mut info: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: an address in this library; info is writable.
    if unsafe { libc::dladdr((&raw const INTERPRETER).cast(), &raw mut info) } == 0 || info.dli_fname.is_null() {
        return;
    }
    // SAFETY: the dynamic linker's string, which stays.
    let library = unsafe { CStr::from_ptr(info.dli_fname) };
    let (arena, segment) = (fdguard::get(Which::Arena), fdguard::get(Which::Segment));
    let all = u64::MAX;
    let mut old = 0u64;
    // SAFETY: masks of eight bytes.
    let _ = unsafe {
        gate::syscall(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, &raw const all as usize, &raw mut old as usize, 8, 0, 0])
    };
    if let Ok(child) = clone() {
        if child == 0 {
            match clone() {
                Ok(0) => become_keeper(library, arena, segment, dir),
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
}

/// A copy of the process that sends no SIGCHLD when it ends.
fn clone() -> csel_core::errno::Result<usize> {
    // SAFETY: no flags, no stack: as fork(2). The copy only makes raw system calls.
    unsafe { gate::syscall(libc::SYS_clone, [0; 6]) }
}

/// In the grandchild: sheds everything of the application's and executes the library.
fn become_keeper(library: &CStr, arena: c_int, segment: c_int, dir: &CStr) -> ! {
    // SAFETY: raw system calls on numbers and strings that live; nothing else runs in this copy.
    unsafe {
        let _ = gate::syscall(libc::SYS_setsid, [0; 6]);
        if let Ok(null) = gate::open(c"/dev/null", libc::O_RDWR, 0) {
            for fd in 0..3 {
                let _ = gate::syscall(libc::SYS_dup3, [null as usize, fd, 0, 0, 0, 0]);
            }
        }
        // Low numbers that stay, so that one range closes all the rest.
        let keep = |fd: c_int, to: c_int| {
            let high = gate::fcntl(fd, libc::F_DUPFD, 10).unwrap_or(usize::MAX);
            let _ = gate::syscall(libc::SYS_dup3, [high, to as usize, 0, 0, 0, 0]);
        };
        let (a, s) =
            (gate::fcntl(arena, libc::F_DUPFD, 10).unwrap_or(0) as c_int, gate::fcntl(segment, libc::F_DUPFD, 10).unwrap_or(0) as c_int);
        keep(a, 3);
        keep(s, 4);
        let _ = gate::syscall(libc::SYS_close_range, [5, u32::MAX as usize, 0, 0, 0, 0]);
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
    let called = |name: &CStr| argc == 2 && unsafe { CStr::from_ptr(argv0) == name };
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
    let Ok(inst) = found::open(3) else { return false };
    if !found::is_founded(inst) {
        return false;
    }
    let dir = csel_core::config::Str::cut(dir.to_bytes());
    let seg = match join::inherited(4) {
        Some(seg) => seg,
        None => {
            let Ok((seg, fd)) = join::open(&dir, &inst.facts.get().config.net, false) else { return false };
            let _ = gate::close(fd);
            seg
        }
    };
    let me = Me::ask();
    let env = Env { inst, seg, clock, proc: 0 };
    if !keeper::claim(&Cx::new(&env, &me), me.pid) {
        return true;
    }
    let (ear, key) = bell::make().unwrap_or((-1, 0));
    let mut keeper = Keeper::new(&Cx::new(&env, &me), key);
    let mut watch = Watch { fds: [libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 }; WATCHED + 1], pids: [0; WATCHED + 1] };
    watch.fds[0].fd = ear;
    loop {
        let rest = keeper.turn(&Cx::new(&env, &me));
        match rest {
            Rest::Leave => return true,
            Rest::Sleep(s) => {
                let until = s.until.min(clock() + csel_core::clock::SEC);
                watch.refresh(inst);
                if key != 0 {
                    if s.word.load(core::sync::atomic::Ordering::SeqCst) == s.expected {
                        watch.sleep(until);
                    }
                    bell::still(ear);
                } else {
                    let _ = gate::futex_wait(s.word, s.expected, until);
                }
                keeper.died();
            }
        }
    }
}

/// What the keeper sleeps on: its bell, and the processes of the family.
struct Watch {
    fds: [libc::pollfd; WATCHED + 1],
    pids: [u32; WATCHED + 1],
}

impl Watch {
    /// Follows the table of processes.
    fn refresh(&mut self, inst: &'static Instance) {
        use core::sync::atomic::Ordering::Relaxed;
        for n in 1..=WATCHED {
            let pid = self.pids[n];
            if pid != 0 && !inst.procs.table.iter().any(|(_, p)| p.pid.load(Relaxed) == pid) {
                let _ = gate::close(self.fds[n].fd);
                self.fds[n].fd = -1;
                self.pids[n] = 0;
            }
        }
        for (_, p) in inst.procs.table.iter() {
            let pid = p.pid.load(Relaxed);
            if pid == 0 || pid == u32::MAX || self.pids.contains(&pid) {
                continue;
            }
            let Some(n) = (1..=WATCHED).find(|&n| self.pids[n] == 0) else { break };
            // SAFETY: no pointers.
            if let Ok(fd) = unsafe { gate::syscall(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0, 0]) } {
                self.fds[n].fd = fd as c_int;
                self.pids[n] = pid;
            }
        }
    }

    fn sleep(&mut self, until: u64) {
        let left = until.saturating_sub(clock());
        let ts = libc::timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 };
        let a = [self.fds.as_mut_ptr() as usize, self.fds.len(), &raw const ts as usize, 0, 8, 0];
        // SAFETY: the array and the timeout live; no mask.
        let _ = unsafe { gate::syscall(libc::SYS_ppoll, a) };
    }
}
