//! Spawning: posix_spawn(3), system(3), popen(3).
//!
//! system(3) and popen(3) of libc's spawn by themselves, where no hook stands: they are done here by the posix_spawn(3) of this file, so that the shell gets a table,
//! its LD_PRELOAD and its ticket.
use super::process::environment;
use crate::exec::preload::Argv;
use crate::exec::{self, table_for_child};
use crate::fork;
use crate::init;
use crate::table::interpose;
use core::ffi::CStr;
use libc::{FILE, c_char, c_int, c_void, pid_t};
use parking_lot::Mutex;

/// posix_spawn(3) with a table for the child.
///
/// # Safety
/// As the man page says.
unsafe fn spawn(
    pid: *mut pid_t,
    path: &CStr,
    argv: Argv,
    envp: Argv,
    go: impl FnOnce(*mut pid_t, *const c_char, Argv, Argv) -> c_int,
) -> c_int {
    if init::inert() {
        return go(pid, path.as_ptr(), argv, envp);
    }
    let table = table_for_child();
    let mut child: pid_t = -1;
    // SAFETY: the caller vouches for envp.
    let r = unsafe { exec::spawn(path, table, argv, envp, |path, argv, e| go(&raw mut child, path, argv, e)) };
    if table != 0 {
        fork::settle(table, if r == 0 { child } else { -1 });
    }
    if r == 0 && !pid.is_null() {
        // SAFETY: where the application wants the pid.
        unsafe { *pid = child };
    }
    r
}

/// The shell with a command, as system(3) and popen(3) start it.
///
/// # Safety
/// `actions` and `attr` are NULL or initialised; `command` is a string.
unsafe fn shell(pid: *mut pid_t, command: *const c_char, actions: *const c_void, attr: *const c_void) -> c_int {
    let argv = [c"sh".as_ptr(), c"-c".as_ptr(), c"--".as_ptr(), command, core::ptr::null()];
    // SAFETY: the caller vouches.
    unsafe { posix_spawn(pid, c"/bin/sh".as_ptr(), actions, attr, argv.as_ptr(), environment()) }
}

/// What system(3) changes of the process while a command runs: SIGINT and SIGQUIT are ignored as long as any does.
struct Ignoring {
    count: usize,
    int: libc::sigaction,
    quit: libc::sigaction,
}
// SAFETY: plain data behind a lock.
unsafe impl Send for Ignoring {}

static IGNORING: Mutex<Option<Ignoring>> = Mutex::new(None);

/// A command under way: undone also when the thread is cancelled.
struct System {
    pid: pid_t,
    mask: libc::sigset_t,
}

impl System {
    fn begin() -> Self {
        // SAFETY: all-zero sets and actions are valid; libc's calls on locals.
        unsafe {
            let mut now: libc::sigaction = core::mem::zeroed();
            now.sa_sigaction = libc::SIG_IGN;
            let mut all = IGNORING.lock();
            let all = all.get_or_insert_with(|| Ignoring { count: 0, int: core::mem::zeroed(), quit: core::mem::zeroed() });
            if all.count == 0 {
                super::signal::sigaction(libc::SIGINT, &raw const now, &raw mut all.int);
                super::signal::sigaction(libc::SIGQUIT, &raw const now, &raw mut all.quit);
            }
            all.count += 1;
            let (mut chld, mut mask): (libc::sigset_t, libc::sigset_t) = core::mem::zeroed();
            libc::sigaddset(&raw mut chld, libc::SIGCHLD);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const chld, &raw mut mask);
            Self { pid: -1, mask }
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // SAFETY: a child of ours; libc's calls on locals.
        unsafe {
            if self.pid > 0 {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, core::ptr::null_mut(), 0);
            }
            if let Some(all) = IGNORING.lock().as_mut() {
                all.count -= 1;
                if all.count == 0 {
                    super::signal::sigaction(libc::SIGINT, &raw const all.int, core::ptr::null_mut());
                    super::signal::sigaction(libc::SIGQUIT, &raw const all.quit, core::ptr::null_mut());
                }
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask, core::ptr::null_mut());
        }
    }
}

/// system(3).
///
/// # Safety
/// `command` is a string.
unsafe fn system_of(command: *const c_char) -> c_int {
    // SAFETY: all-zero is room for an attribute object; libc's calls on locals; the caller vouches for the command.
    unsafe {
        let mut system = System::begin();
        let mut attr: libc::posix_spawnattr_t = core::mem::zeroed();
        let mut defaults: libc::sigset_t = core::mem::zeroed();
        if let Some(all) = IGNORING.lock().as_ref() {
            for (sig, old) in [(libc::SIGINT, &all.int), (libc::SIGQUIT, &all.quit)] {
                if old.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(&raw mut defaults, sig);
                }
            }
        }
        libc::posix_spawnattr_init(&raw mut attr);
        libc::posix_spawnattr_setsigmask(&raw mut attr, &raw const system.mask);
        libc::posix_spawnattr_setsigdefault(&raw mut attr, &raw const defaults);
        libc::posix_spawnattr_setflags(&raw mut attr, (libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK) as _);
        let mut pid = -1;
        let r = shell(&raw mut pid, command, core::ptr::null(), (&raw const attr).cast());
        libc::posix_spawnattr_destroy(&raw mut attr);
        if r != 0 {
            // As if the shell had ended with status 127.
            return 127 << 8;
        }
        system.pid = pid;
        let mut status = 0;
        // A cancellation point: the drop ends the command.
        while libc::waitpid(pid, &raw mut status, 0) < 0 {
            if crate::ret::errno() != csel_core::errno::Errno::EINTR {
                status = -1;
                break;
            }
        }
        system.pid = -1;
        status
    }
}

/// The streams of popen(3) and their processes.
struct Stream {
    file: *mut FILE,
    pid: pid_t,
}
// SAFETY: the pointer is only compared.
unsafe impl Send for Stream {}

static STREAMS: Mutex<Vec<Stream>> = Mutex::new(Vec::new());

/// popen(3).
///
/// # Safety
/// Both are strings.
unsafe fn popen_of(command: *const c_char, mode: *const c_char) -> *mut FILE {
    let none = core::ptr::null_mut();
    // SAFETY: the caller vouches; libc's calls on locals.
    unsafe {
        let (mut reads, mut writes, mut cloexec) = (false, false, false);
        for &b in CStr::from_ptr(mode).to_bytes() {
            match b {
                b'r' => reads = true,
                b'w' => writes = true,
                b'e' => cloexec = true,
                _ => {
                    crate::ret::fail(csel_core::errno::Errno::EINVAL);
                    return none;
                }
            }
        }
        if reads == writes {
            crate::ret::fail(csel_core::errno::Errno::EINVAL);
            return none;
        }
        let mut ends = [0; 2];
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return none;
        }
        let (ours, theirs, to) = if reads { (ends[0], ends[1], 1) } else { (ends[1], ends[0], 0) };
        let mut streams = STREAMS.lock();
        let mut actions: libc::posix_spawn_file_actions_t = core::mem::zeroed();
        libc::posix_spawn_file_actions_init(&raw mut actions);
        for s in streams.iter() {
            let fd = libc::fileno(s.file);
            if fd != to {
                libc::posix_spawn_file_actions_addclose(&raw mut actions, fd);
            }
        }
        libc::posix_spawn_file_actions_adddup2(&raw mut actions, theirs, to);
        let mut pid = -1;
        let r = shell(&raw mut pid, command, (&raw const actions).cast(), core::ptr::null());
        libc::posix_spawn_file_actions_destroy(&raw mut actions);
        libc::close(theirs);
        let file = if r == 0 { libc::fdopen(ours, if reads { c"r".as_ptr() } else { c"w".as_ptr() }) } else { none };
        if file.is_null() {
            libc::close(ours);
            if r != 0 {
                crate::ret::fail(csel_core::errno::Errno(r as u16));
            }
            return none;
        }
        if !cloexec {
            libc::fcntl(ours, libc::F_SETFD, 0);
        }
        streams.push(Stream { file, pid });
        file
    }
}

interpose! {
    family spawn;

    /// posix_spawn(3).
    plain fn posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const c_void, attr: *const c_void, argv: Argv, envp: Argv) -> c_int = Partial
        "static and setuid programs use the kernel's network" {
        // SAFETY: as the application passed it.
        unsafe { spawn(pid, CStr::from_ptr(path), argv, envp, |pid, path, argv, e| real::posix_spawn(pid, path, actions, attr, argv, e)) }
    }
    /// posix_spawnp(3).
    plain fn posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const c_void, attr: *const c_void, argv: Argv, envp: Argv) -> c_int = Partial
        "static and setuid programs use the kernel's network" {
        // SAFETY: as the application passed it.
        unsafe {
            let mut path = [0; 4096];
            let path = if init::inert() { c"" } else { exec::search::find(CStr::from_ptr(file), &mut path) };
            spawn(pid, path, argv, envp, |pid, to, argv, e| {
                // Its stand-in is found without PATH.
                if to == path.as_ptr() {
                    real::posix_spawnp(pid, file, actions, attr, argv, e)
                } else {
                    real::posix_spawn(pid, to, actions, attr, argv, e)
                }
            })
        }
    }
    /// system(3).
    cancels fn system(command: *const c_char) -> c_int = Full "" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::system(command) }
        } else if command.is_null() {
            // SAFETY: a string.
            c_int::from(unsafe { system_of(c"exit 0".as_ptr()) } == 0)
        } else {
            // SAFETY: as the application passed it.
            unsafe { system_of(command) }
        }
    }
    /// popen(3).
    plain fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE = Full "" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::popen(command, mode) }
        } else {
            // SAFETY: as the application passed it.
            unsafe { popen_of(command, mode) }
        }
    }
    /// pclose(3).
    cancels fn pclose(file: *mut FILE) -> c_int = Full "" {
        let mine = {
            let mut streams = STREAMS.lock();
            streams.iter().position(|s| s.file == file).map(|i| streams.swap_remove(i))
        };
        match mine {
            // SAFETY: as the application passed it.
            None => unsafe { real::pclose(file) },
            // SAFETY: a stream and a child of popen(3)'s.
            Some(s) => unsafe {
                libc::fclose(s.file);
                let mut status = -1;
                while libc::waitpid(s.pid, &raw mut status, 0) < 0 {
                    if crate::ret::errno() != csel_core::errno::Errno::EINTR {
                        status = -1;
                        break;
                    }
                }
                status
            },
        }
    }
}
