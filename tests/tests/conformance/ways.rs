//! The ways to start a program: each is a module of its own with the same cases.
//!
//! The program that is started is this one, in the role that [`crate::after`] gives it.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::ptr::null;

use crate::after::AFTER;
use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{bound_udp, listener, pair, quiet, take, take_all, take_to_end, wait_in};
use crate::sys::{self, Net, sys};
use libc::{EPOLL_CTL_ADD, POLLIN, SHUT_WR, c_char};

pub(crate) type List = Vec<*const c_char>;

/// A program to be started: this one, as [`crate::after`].
pub(crate) struct Program {
    pub(crate) path: CString,
    args: Vec<CString>,
    /// With an empty environment.
    bare: bool,
}

impl Program {
    pub(crate) fn new(what: &str, fds: &[i32], bare: bool) -> Self {
        let path = std::fs::read_link("/proc/self/exe").expect("our path");
        let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        let mode = if sys::csel() { "csel" } else { "native" };
        let numbers = fds.iter().map(ToString::to_string);
        let words = [AFTER, mode, what].into_iter().map(str::to_owned).chain(numbers);
        let args = std::iter::once(path.clone()).chain(words.map(|w| CString::new(w).expect("no NUL"))).collect();
        Self { path, args, bare }
    }
    pub(crate) fn argv(&self) -> List {
        self.args.iter().map(|a| a.as_ptr()).chain([null()]).collect()
    }
    fn env(&self) -> *const *const c_char {
        unsafe extern "C" {
            static environ: *const *const c_char;
        }
        static EMPTY: [usize; 1] = [0];
        // SAFETY: libc's variable.
        if self.bare { EMPTY.as_ptr().cast() } else { unsafe { environ } }
    }
    /// For ways that take no environment: the process's own is emptied.
    fn strip(&self) {
        if self.bare {
            // SAFETY: the child of a fork has one thread.
            unsafe { libc::clearenv() };
        }
    }
    pub(crate) fn command(&self) -> CString {
        let words: Vec<&str> = self.args.iter().map(|a| a.to_str().expect("UTF-8")).collect();
        let clean = if self.bare { "env -i " } else { "" };
        CString::new(format!("exec {clean}{}", words.join(" "))).expect("no NUL")
    }
}

/// A child by fork(2) that runs `f`, which must not come back.
pub(crate) fn forked(f: impl FnOnce()) -> i32 {
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        f();
        // SAFETY: ends the child.
        unsafe { libc::_exit(99) };
    }
    pid
}

pub(crate) fn status(pid: i32) -> i32 {
    let mut status = -1;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    status
}

#[track_caller]
pub(crate) fn succeeds(pid: i32) {
    assert_eq!(status(pid), 0, "the status of the program that was executed");
}

/// Starts `what` by fork and execve.
pub(crate) fn start_after(what: &str, fds: &[i32]) -> i32 {
    by_execve(&Program::new(what, fds, false))
}

fn by_execve(p: &Program) -> i32 {
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: strings and arrays that live.
    forked(|| unsafe {
        libc::execve(p.path.as_ptr(), argv.as_ptr(), env);
    })
}
fn by_execv(p: &Program) -> i32 {
    let argv = p.argv();
    // SAFETY: as above.
    forked(|| unsafe {
        p.strip();
        libc::execv(p.path.as_ptr(), argv.as_ptr());
    })
}
fn by_execvp(p: &Program) -> i32 {
    let argv = p.argv();
    // SAFETY: as above.
    forked(|| unsafe {
        p.strip();
        libc::execvp(p.path.as_ptr(), argv.as_ptr());
    })
}
fn by_execvpe(p: &Program) -> i32 {
    // Looked up in PATH.
    let path = std::path::Path::new(p.path.to_str().expect("UTF-8")).to_owned();
    let name = CString::new(path.file_name().expect("a name").as_bytes()).expect("no NUL");
    let dirs = CString::new(format!("/nowhere:{}:/bin", path.parent().expect("a directory").display())).expect("no NUL");
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: as above; the child has one thread.
    forked(|| unsafe {
        libc::setenv(c"PATH".as_ptr(), dirs.as_ptr(), 1);
        libc::execvpe(name.as_ptr(), argv.as_ptr(), env);
    })
}
fn by_execl(p: &Program) -> i32 {
    let a = p.argv();
    let at = |i: usize| a.get(i).copied().unwrap_or(null());
    // SAFETY: as above; NULL ends the list.
    forked(|| unsafe {
        p.strip();
        libc::execl(p.path.as_ptr(), at(0), at(1), at(2), at(3), at(4), at(5), at(6), null::<c_char>());
    })
}
fn by_execlp(p: &Program) -> i32 {
    let a = p.argv();
    let at = |i: usize| a.get(i).copied().unwrap_or(null());
    // SAFETY: as above.
    forked(|| unsafe {
        p.strip();
        libc::execlp(p.path.as_ptr(), at(0), at(1), at(2), at(3), at(4), at(5), at(6), null::<c_char>());
    })
}
fn by_execle(p: &Program) -> i32 {
    let a = p.argv();
    let env = p.env();
    // SAFETY: as above; after the NULL comes the environment.
    forked(|| unsafe {
        match a.len() {
            6 => libc::execle(p.path.as_ptr(), a[0], a[1], a[2], a[3], a[4], null::<c_char>(), env),
            7 => libc::execle(p.path.as_ptr(), a[0], a[1], a[2], a[3], a[4], a[5], null::<c_char>(), env),
            n => panic!("{n} arguments"),
        };
    })
}
fn opened(p: &Program) -> i32 {
    sys!(libc::open(p.path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC)).ok() as i32
}
fn by_fexecve(p: &Program) -> i32 {
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: as above.
    forked(|| unsafe {
        libc::fexecve(opened(p), argv.as_ptr(), env);
    })
}
fn by_execveat(p: &Program) -> i32 {
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: as above.
    forked(|| unsafe {
        libc::syscall(libc::SYS_execveat, opened(p), c"".as_ptr(), argv.as_ptr(), env, libc::AT_EMPTY_PATH);
    })
}
fn by_sys_execve(p: &Program) -> i32 {
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: as above.
    forked(|| unsafe {
        libc::syscall(libc::SYS_execve, p.path.as_ptr(), argv.as_ptr(), env);
    })
}
fn by_sys_fork(p: &Program) -> i32 {
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: as above; one thread.
    unsafe {
        let pid = libc::syscall(libc::SYS_fork) as i32;
        if pid == 0 {
            libc::execve(p.path.as_ptr(), argv.as_ptr(), env);
            libc::_exit(99);
        }
        pid
    }
}
pub(crate) fn spawned(p: &Program, actions: *const libc::posix_spawn_file_actions_t) -> i32 {
    let mut pid = -1;
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: as above.
    let r = unsafe { libc::posix_spawn(&raw mut pid, p.path.as_ptr(), actions, null(), argv.as_ptr().cast(), env.cast()) };
    assert_eq!(r, 0, "posix_spawn");
    pid
}
fn by_spawn(p: &Program) -> i32 {
    spawned(p, null())
}
fn by_spawnp(p: &Program) -> i32 {
    let mut pid = -1;
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: as above.
    let r = unsafe { libc::posix_spawnp(&raw mut pid, p.path.as_ptr(), null(), null(), argv.as_ptr().cast(), env.cast()) };
    assert_eq!(r, 0, "posix_spawnp");
    pid
}
#[allow(deprecated)]
fn by_vfork(p: &Program) -> i32 {
    let (argv, env) = (p.argv(), p.env());
    // SAFETY: the child calls execve and _exit only.
    unsafe {
        let pid = libc::vfork();
        if pid == 0 {
            libc::execve(p.path.as_ptr(), argv.as_ptr(), env);
            libc::_exit(99);
        }
        pid
    }
}

struct Start<'a>(&'a Program, List);
extern "C" fn go(start: *mut libc::c_void) -> i32 {
    // SAFETY: of `cloned`, whose frame lives (the parent waits), or of a copy of it.
    unsafe {
        let start = &*start.cast::<Start<'_>>();
        libc::execve(start.0.path.as_ptr(), start.1.as_ptr(), start.0.env());
    }
    99
}
fn cloned(p: &Program, flags: i32) -> i32 {
    let mut stack = vec![0u128; 16384];
    let start = Start(p, p.argv());
    // SAFETY: the top of a stack of 256 KiB; what the function needs lives.
    unsafe { libc::clone(go, stack.as_mut_ptr_range().end.cast(), flags | libc::SIGCHLD, (&raw const start).cast_mut().cast()) }
}
fn by_clone(p: &Program) -> i32 {
    cloned(p, 0)
}
fn by_clone_vfork(p: &Program) -> i32 {
    cloned(p, libc::CLONE_VM | libc::CLONE_VFORK)
}
fn by_shell(p: &Program) -> i32 {
    let command = p.command();
    // SAFETY: as above.
    forked(|| unsafe {
        libc::execl(c"/bin/sh".as_ptr(), c"sh".as_ptr(), c"-c".as_ptr(), command.as_ptr(), null::<c_char>());
    })
}
fn by_bash(p: &Program) -> i32 {
    let command = p.command();
    // SAFETY: as above; a shell that was given an environment of its own.
    forked(|| unsafe {
        let env = [c"PATH=/bin:/usr/bin".as_ptr(), null()];
        libc::execle(c"/bin/bash".as_ptr(), c"bash".as_ptr(), c"-c".as_ptr(), command.as_ptr(), null::<c_char>(), env.as_ptr());
    })
}
fn by_system(p: &Program) -> i32 {
    let command = p.command();
    // SAFETY: a string.
    forked(|| unsafe { libc::_exit(i32::from(libc::system(command.as_ptr()) != 0)) })
}
fn by_popen(p: &Program) -> i32 {
    let command = p.command();
    // SAFETY: strings; the stream is closed once.
    forked(|| unsafe {
        let f = libc::popen(command.as_ptr(), c"r".as_ptr());
        assert!(!f.is_null());
        libc::_exit(i32::from(libc::pclose(f) != 0));
    })
}

macro_rules! ways {
    ($($name:ident)*) => {
        /// All ways' tables.
        pub(crate) const WAYS: &[&[crate::Case]] = &[$($name::CASES),*];
        $(pub(crate) mod $name {
            use super::*;
            cases! { one: [serves, datagrams, waits, has_no_environment], net: [talks] }

            fn talks(net: Net) {
                talk(super::$name, net);
            }
            fn serves() {
                serve(super::$name);
            }
            fn datagrams() {
                datagram(super::$name);
            }
            fn waits() {
                wait_in_set(super::$name);
            }
            fn has_no_environment() {
                bare(super::$name);
            }
        })*
    };
}
ways! {
    by_execve by_execv by_execvp by_execvpe by_execl by_execlp by_execle by_fexecve by_execveat by_sys_execve by_sys_fork by_spawn by_spawnp by_vfork
    by_clone by_clone_vfork by_shell by_bash by_system by_popen
}

fn talk(way: fn(&Program) -> i32, net: Net) {
    let (c, s) = pair(net);
    let pid = way(&Program::new("shout", &[s.raw()], false));
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
    // It is still ours, and still open.
    quiet(&c, POLLIN);
    s.write(b"mine").is(4);
    assert_eq!(take(&c, 9), b"mine");
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn serve(way: fn(&Program) -> i32) {
    let (l, at) = listener(Net::V6);
    let pid = way(&Program::new("serve", &[l.raw()], false));
    let c = Net::V6.tcp();
    c.connect(&at).is(0);
    c.write(b"request").is(7);
    c.shutdown(SHUT_WR).is(0);
    assert_eq!(take_to_end(&c), b"request");
    succeeds(pid);
}

fn datagram(way: fn(&Program) -> i32) {
    let (u, at) = bound_udp(Net::V4);
    let pid = way(&Program::new("datagram", &[u.raw()], false));
    let c = Net::V4.udp();
    c.sendto(b"there and back", 0, &at).is(14);
    assert_eq!(take(&c, 32), b"there and back");
    succeeds(pid);
}

fn wait_in_set(way: fn(&Program) -> i32) {
    let (c, s) = pair(Net::V4);
    let set = Ep(sys!(libc::epoll_create1(0)).fd());
    set.ctl(EPOLL_CTL_ADD, s.raw(), IN, 7).is(0);
    c.write(b"one").is(3);
    wait_in(&s);
    let pid = way(&Program::new("epoll", &[set.0.raw(), s.raw()], false));
    assert_eq!(take_all(&c, 4), b"next");
    c.write(b"two").is(3);
    assert_eq!(take_all(&c, 4), b"done");
    succeeds(pid);
    // The interest that the program added is in the same set.
    assert_eq!(set.wait(16, 10_000), [(s.raw() as u64, crate::epoll::OUT)]);
}

fn bare(way: fn(&Program) -> i32) {
    let (c, s) = pair(Net::V6);
    let pid = way(&Program::new("bare", &[s.raw()], true));
    assert_eq!(take_all(&c, 4), b"bare");
    succeeds(pid);
}
