//! Pumped mode, this side: a kernel's socket in place of a virtual one, for those who cannot be hooked.
//!
//! # Theory of operation
//! **Purpose.** A program that is about to replace this one and cannot have the library, or a stranger who is sent a descriptor, gets one that plain
//! read(2) and write(2) work on. It is one way: what has been pumped stays so in that process.
//! **How it works.** [`ask`] goes to the keeper's door ([`crate::keeper::door`]) with the open description's number and comes back with a descriptor.
//! execve(2) of a program that cannot attach does so for each virtual descriptor that it inherits ([`inherited`]), in the calling process and just before
//! the exec. posix_spawn(3) has no such moment: there this library itself is spawned, as `csel-pump`, in the program's place; it finds out which of its
//! descriptors are shadows, has them pumped, and executes the program ([`spawned`]).
//! Nothing is allocated and no libc function is called by [`ask`] and [`inherited`]: they run between fork or vfork and exec.
//! **Limits.** Those of the door. **Locks.** None. **Failure.** What could not be pumped stays a shadow, on which every operation fails; the warning counts
//! only the others. **See also.** design section 7.
use crate::enter::{self, with_cx};
use crate::exec::target::Why;
use crate::fdguard;
use crate::keeper::{door, kernel};
use core::ffi::CStr;
use core::fmt::Write as _;
use core::sync::atomic::Ordering::*;
use csel_core::arena::{Id, found};
use csel_core::clock::{Nanos, SEC};
use csel_core::config::Str;
use csel_core::errno::{Errno, Result};
use csel_core::fd::Sock;
use csel_core::gate;
use csel_core::instance::Instance;
use libc::{c_char, c_int};

/// How long the keeper's door is waited for.
const PATIENCE: Nanos = 5 * SEC;

/// A connection to the keeper's door.
struct Visit(kernel::Fd);

impl Visit {
    fn new(inst: &Instance) -> Result<Self> {
        let key = inst.header.door.load(Acquire);
        if key == 0 {
            return Err(Errno::ECONNREFUSED);
        }
        let s = kernel::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET)?;
        kernel::connect_unix(s.0, &door::name(key))?;
        let keeper = inst.header.keeper.load(Relaxed);
        if kernel::peer(s.0).is_none_or(|who| who.pid as u32 != keeper) {
            return Err(Errno::EACCES);
        }
        Ok(Self(s))
    }

    /// [`Self::new`]; waits for a keeper that is to come and has not opened its door yet: a program may exec sooner than a keeper starts.
    fn awaited(inst: &Instance) -> Result<Self> {
        let until = enter::clock() + PATIENCE;
        let facts = inst.facts.get();
        let comes = (facts.config.keeper || !facts.config.publish.is_empty()) && !gate::sandbox::is_confined();
        loop {
            match Self::new(inst) {
                Err(_) if comes && enter::clock() < until => {
                    // One that was killed is replaced, a moment after the last was begun.
                    crate::keeper::replace();
                    let ts = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000 };
                    // SAFETY: no descriptors, a timeout, no mask.
                    let _ = unsafe { gate::syscall(libc::SYS_ppoll, [0, 0, &raw const ts as usize, 0, 8, 0]) };
                }
                done => return done,
            }
        }
    }

    /// The kernel's descriptor for open description `id`, close-on-exec.
    fn ask(&self, id: Id<Sock>) -> Result<c_int> {
        let mut wish = [0u8; 8];
        wish[..4].copy_from_slice(&id.0.to_ne_bytes());
        kernel::send(self.0.0, &wish)?;
        kernel::recv_fd(self.0.0)
    }
}

/// A kernel's descriptor (close-on-exec) that stands for a virtual socket from now on, for somebody else.
pub(crate) fn ask(inst: &Instance, id: Id<Sock>) -> Result<c_int> {
    Visit::awaited(inst)?.ask(id)
}

/// Before an exec of a program that cannot attach: what it inherits goes pumped. How many sockets were, and how many could not be.
pub(crate) fn inherited() -> (usize, usize) {
    let Some(env) = enter::env() else { return (0, 0) };
    crate::keeper::replace();
    let Some(table) = env.inst.procs.table.get(Id::new(env.proc)) else { return (0, 0) };
    let (mut done, mut left) = (0, 0);
    // Only if there is something to ask for: it may have to wait.
    let mut visit = None;
    for fd in 0..table.high.load(Acquire) as c_int {
        if !table.is_virtual(fd) || gate::fcntl(fd, libc::F_GETFD, 0) != Ok(0) {
            continue;
        }
        let Some(held) = table.get(env.inst, fd) else { continue };
        let id = held.id();
        let visit = visit.get_or_insert_with(|| Visit::awaited(env.inst));
        let given = visit.as_ref().map_err(|e| *e).and_then(|v| v.ask(id));
        // Two descriptors of one description stay that, unless they are asked for one by one: the first one's pair is shared.
        let given = given.inspect_err(|_| left += 1);
        let _ = with_cx(|cx| {
            held.release(cx);
            if let Ok(new) = given {
                // SAFETY: numbers only.
                if unsafe { gate::syscall(libc::SYS_dup3, [new as usize, fd as usize, 0, 0, 0, 0]) }.is_ok() {
                    done += 1;
                }
                let _ = gate::close(new);
            }
        });
        if given.is_ok() {
            // The same socket on other numbers (0, 1 and 2 of a server's child) must be one stream again.
            for other in fd + 1..table.high.load(Acquire) as c_int {
                let same = table.fds[other as usize].load(Relaxed) == id.0 && gate::fcntl(other, libc::F_GETFD, 0) == Ok(0);
                // SAFETY: numbers only.
                if same && unsafe { gate::syscall(libc::SYS_dup3, [fd as usize, other as usize, 0, 0, 0, 0]) }.is_ok() {
                    let _ = with_cx(|cx| table.clear(cx, other));
                }
            }
            let _ = with_cx(|cx| table.clear(cx, fd));
        }
    }
    (done, left)
}

/// In the process that was spawned in the place of a program that cannot attach: what it has inherited goes pumped.
fn spawned(path: &CStr, why: &CStr) {
    let arena = fdguard::PLACES.iter().map(|p| p.0).find(|&fd| crate::init::is_arena(fd));
    let Some(inst) = arena.and_then(|fd| found::open(fd).ok()).filter(|i| found::is_founded(i)) else { return };
    let mut visit = None;
    let mut seen: Vec<(u32, c_int)> = Vec::new();
    let (mut left, mut quiet) = (0, false);
    crate::exec::each_descriptor(|fd| {
        let Some(inode) = crate::shadow::inode(fd) else { return };
        let found = inst.socks.iter().find(|(_, s)| s.inode.load(Relaxed) == inode && s.refs.load(Relaxed) != 0);
        let Some((id, _)) = found else { return };
        quiet |= fd == 2;
        let from = match seen.iter().find(|s| s.0 == id.0) {
            Some(s) => s.1,
            None => match visit.get_or_insert_with(|| Visit::awaited(inst)).as_ref().map_err(|e| *e).and_then(|v| v.ask(id)) {
                Ok(new) => new,
                Err(_) => {
                    left += 1;
                    return;
                }
            },
        };
        // SAFETY: numbers only.
        let _ = unsafe { gate::syscall(libc::SYS_dup3, [from as usize, fd as usize, 0, 0, 0, 0]) };
        if seen.iter().all(|s| s.0 != id.0) {
            seen.push((id.0, fd));
            let _ = gate::close(from);
        }
    });
    if !quiet {
        warn(inst, path, why.to_str().unwrap_or(""), seen.len(), left);
    }
}

/// Says once for an instance that a program cannot be of it, and what that means.
pub(crate) fn warn(inst: &Instance, path: &CStr, why: &str, done: usize, left: usize) {
    if done + left == 0 || inst.header.warned.swap(1, Relaxed) != 0 {
        return;
    }
    let mut n = Str::<100>::EMPTY;
    let _ = match left {
        0 => write!(n, "{done}"),
        _ => write!(n, "{done} of {}", done + left),
    };
    let path = path.to_str().unwrap_or("a program");
    let what = "socket(s) it inherits are pumped by the keeper: correct, slower, without their options (said once)";
    crate::ret::say(&["csel: ", path, ": ", why, "; ", n.as_str(), " ", what]);
}

/// What the process spawned in a program's place is called: argv\[0\]. After it: the program's path, why, its LD_PRELOAD, its arguments.
pub(crate) const STAND_IN: &CStr = c"csel-pump";

/// The arguments of a stand-in for `path`, and its environment: the program's, but for LD_PRELOAD, which is not for the stand-in.
pub(crate) struct StandIn {
    /// Its arguments.
    pub(crate) argv: Vec<*const c_char>,
    /// Its environment.
    pub(crate) envp: Vec<*const c_char>,
}

impl StandIn {
    /// For a program about to be spawned.
    ///
    /// # Safety
    /// `argv` and `envp` must be arrays of strings, ended by NULL, that live as long as this is used; so must `path`.
    pub(crate) unsafe fn new(path: &CStr, why: Why, argv: *const *const c_char, envp: *const *const c_char) -> Self {
        let mut preload = c"".as_ptr();
        let mut env = Vec::new();
        // SAFETY: the caller vouches.
        for text in unsafe { each(envp) } {
            match text.to_bytes().strip_prefix(b"LD_PRELOAD=") {
                Some(_) => preload = text.as_ptr().wrapping_add(b"LD_PRELOAD=".len()),
                None => env.push(text.as_ptr()),
            }
        }
        env.push(core::ptr::null());
        let mut args = vec![STAND_IN.as_ptr(), path.as_ptr(), why.words_c().as_ptr(), preload];
        // SAFETY: as above.
        args.extend(unsafe { each(argv) }.map(CStr::as_ptr));
        args.push(core::ptr::null());
        Self { argv: args, envp: env }
    }
}

/// The strings of an array that NULL ends.
///
/// # Safety
/// It must be one (or NULL), and live as long as the result.
unsafe fn each<'a>(mut at: *const *const c_char) -> impl Iterator<Item = &'a CStr> {
    core::iter::from_fn(move || {
        // SAFETY: the caller vouches; never beyond the NULL.
        unsafe {
            if at.is_null() || (*at).is_null() {
                return None;
            }
            let text = CStr::from_ptr(*at);
            at = at.add(1);
            Some(text)
        }
    })
}

/// The stand-in's life: what it has inherited goes pumped, then it becomes the program. Returns if that fails.
///
/// # Safety
/// `argv` must be the arguments of [`StandIn`] and the environment be behind them, as the kernel lays both out.
pub(crate) unsafe fn stand_in(argc: usize, argv: *const *const c_char) -> Errno {
    if argc < 4 {
        return Errno::EINVAL;
    }
    // SAFETY: the caller vouches: argc strings.
    unsafe { spawned(CStr::from_ptr(*argv.add(1)), CStr::from_ptr(*argv.add(2))) };
    // SAFETY: the caller vouches: argc strings, NULL, the environment.
    unsafe {
        let (path, preload) = (*argv.add(1), CStr::from_ptr(*argv.add(3)));
        let mut env: Vec<*const c_char> = each(argv.add(argc + 1)).map(CStr::as_ptr).collect();
        let mut text = b"LD_PRELOAD=".to_vec();
        text.extend_from_slice(preload.to_bytes_with_nul());
        if !preload.is_empty() {
            env.push(text.as_ptr().cast());
        }
        env.push(core::ptr::null());
        let a = [path as usize, argv.add(4) as usize, env.as_ptr() as usize, 0, 0, 0];
        gate::syscall(libc::SYS_execve, a).err().unwrap_or(Errno::EINVAL)
    }
}
