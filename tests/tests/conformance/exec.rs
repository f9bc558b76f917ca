//! exec(2) in all its forms: virtual descriptors in the program that comes after ([`crate::after`]).
//!
//! Each way of starting a program is a module of its own with the same cases ([`ways`]); what only one of them can do follows below.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::ptr::{null, null_mut};

use crate::after::AFTER;
use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{bound_udp, listener, pair, quiet, take, take_all, take_to_end, until, wait_in};
use crate::sys::{self, Fd, Net, sys};
use libc::{EPOLL_CTL_ADD, POLLIN, SHUT_WR, c_char};

type List = Vec<*const c_char>;

/// A program to be started: this one, as [`crate::after`].
struct Program {
    path: CString,
    args: Vec<CString>,
    /// With an empty environment.
    bare: bool,
}

impl Program {
    fn new(what: &str, fds: &[i32], bare: bool) -> Self {
        let path = std::fs::read_link("/proc/self/exe").expect("our path");
        let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
        let mode = if sys::csel() { "csel" } else { "native" };
        let numbers = fds.iter().map(ToString::to_string);
        let words = [AFTER, mode, what].into_iter().map(str::to_owned).chain(numbers);
        let args = std::iter::once(path.clone()).chain(words.map(|w| CString::new(w).expect("no NUL"))).collect();
        Self { path, args, bare }
    }
    fn argv(&self) -> List {
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
    fn command(&self) -> CString {
        let words: Vec<&str> = self.args.iter().map(|a| a.to_str().expect("UTF-8")).collect();
        let clean = if self.bare { "env -i " } else { "" };
        CString::new(format!("exec {clean}{}", words.join(" "))).expect("no NUL")
    }
}

/// A child by fork(2) that runs `f`, which must not come back.
fn forked(f: impl FnOnce()) -> i32 {
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        f();
        // SAFETY: ends the child.
        unsafe { libc::_exit(99) };
    }
    pid
}

fn status(pid: i32) -> i32 {
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
fn spawned(p: &Program, actions: *const libc::posix_spawn_file_actions_t) -> i32 {
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

cases! {
    one: [
        script, script_by_execvp, not_found_leaves_all, not_executable_leaves_all, cloexec_set_late, cloexec_of_socket, cloexec_of_accept4, cloexec_of_dup3,
        cloexec_of_fcntl, cloexec_by_ioctl, cloexec_by_range, cloexec_epoll, cloexec_ends_connection_in_static, second_exec, own_beside_inherited,
        dup_is_same, options_stay, two_children, spawn_moves, spawn_closes, spawn_closefrom, spawn_opens_over, spawn_cloexec_target,
        closefrom_between, close_range_between, loop_closes_all, low_limit, another_preload, preload_emptied, chdir_between, setsid_daemon, libc_daemon,
        long_environment, stdin_is_a_socket, ends_with_program, held_by_program, killed_program, in_a_thread_among_others, epoll_moved,
        epoll_set_of_two, nested_sets, unshared_files_are_inherited,
    ],
    net: [nonblocking_stays, peeked_stays, half_closed_stays, queued_connection_stays, unread_datagram_stays],
}

fn run(what: &str, fds: &[i32]) {
    succeeds(start_after(what, fds));
}

fn nonblocking_stays(net: Net) {
    let (c, s) = pair(net);
    s.nonblock(true);
    run("nonblocking", &[s.raw()]);
    // The program has cleared the flag of the description we share.
    assert_eq!(sys!(libc::fcntl(s.raw(), libc::F_GETFL)).ok() as i32 & libc::O_NONBLOCK, 0);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn peeked_stays(net: Net) {
    let (c, s) = pair(net);
    c.write(b"there").is(5);
    wait_in(&s);
    let mut room = [0; 5];
    s.recv(&mut room, libc::MSG_PEEK).is(5);
    run("peeked", &[s.raw()]);
    quiet(&s, POLLIN);
}

fn half_closed_stays(net: Net) {
    let (c, s) = pair(net);
    c.shutdown(SHUT_WR).is(0);
    let pid = start_after("hold", &[s.raw()]);
    assert_eq!(take_all(&c, 4), b"here");
    succeeds(pid);
    s.close().is(0);
    assert_eq!(take(&c, 1), b"");
}

fn queued_connection_stays(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    c.write(b"early").is(5);
    c.shutdown(SHUT_WR).is(0);
    run("serve", &[l.raw()]);
    assert_eq!(take_to_end(&c), b"early");
}

fn unread_datagram_stays(net: Net) {
    let (u, at) = bound_udp(net);
    let c = net.udp();
    c.sendto(b"early", 0, &at).is(5);
    wait_in(&u);
    run("datagram", &[u.raw()]);
    assert_eq!(take(&c, 9), b"early");
}

/// A script that executes this program.
fn a_script(p: &Program, interpreter: &str) -> (CString, std::path::PathBuf) {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").expect("a directory of the trial's");
    let path = std::path::Path::new(&dir).join("script");
    let text = format!("{interpreter}{}\n", p.command().to_str().expect("UTF-8"));
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    (CString::new(path.as_os_str().as_bytes()).expect("no NUL"), path)
}

fn script() {
    let (c, s) = pair(Net::V4);
    let (path, _) = a_script(&Program::new("shout", &[s.raw()], false), "#!/bin/sh -e\n");
    // SAFETY: strings that live.
    let pid = forked(|| unsafe {
        libc::execl(path.as_ptr(), path.as_ptr(), null::<c_char>());
    });
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

fn script_by_execvp() {
    // No `#!`: execve refuses it, execvp gives it to the shell.
    let (c, s) = pair(Net::V4);
    let (path, _) = a_script(&Program::new("shout", &[s.raw()], true), "");
    let argv = [path.as_ptr(), null()];
    // SAFETY: as above.
    let pid = forked(|| unsafe {
        sys!(libc::execv(path.as_ptr(), argv.as_ptr())).fails(libc::ENOEXEC);
        libc::execvp(path.as_ptr(), argv.as_ptr());
    });
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

fn not_found_leaves_all() {
    let (c, s) = pair(Net::V4);
    sys!(libc::fcntl(s.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0);
    let argv = [c"x".as_ptr(), null()];
    sys!(libc::execv(c"/no/such/program".as_ptr(), argv.as_ptr())).fails(libc::ENOENT);
    sys!(libc::execvp(c"no-such-program-anywhere".as_ptr(), argv.as_ptr())).fails(libc::ENOENT);
    sys!(libc::execvp(c"".as_ptr(), argv.as_ptr())).fails(libc::ENOENT);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn not_executable_leaves_all() {
    let (c, s) = pair(Net::V4);
    let argv = [c"x".as_ptr(), null()];
    sys!(libc::execv(c"/etc/passwd".as_ptr(), argv.as_ptr())).fails(libc::EACCES);
    sys!(libc::execv(c"/etc".as_ptr(), argv.as_ptr())).fails(libc::EACCES);
    sys!(libc::execvp(c"/etc/passwd".as_ptr(), argv.as_ptr())).fails(libc::EACCES);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

/// The program has not got `s`: when ours closes, the peer sees the end, while the program runs.
fn not_inherited(c: &Fd, s: Fd) {
    let (far, near) = pair(Net::V4);
    let pid = start_after("first", &[near.raw(), s.raw()]);
    succeeds(pid);
    let pid = start_after("hold", &[near.raw()]);
    assert_eq!(take_all(&far, 4), b"here");
    s.close().is(0);
    assert_eq!(take(c, 9), b"");
    far.shutdown(SHUT_WR).is(0);
    succeeds(pid);
}

fn cloexec_set_late() {
    let (c, s) = pair(Net::V4);
    sys!(libc::fcntl(s.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0);
    not_inherited(&c, s);
}

fn cloexec_of_socket() {
    let (l, at) = listener(Net::V4);
    let s = Net::V4.socket(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
    s.connect(&at).is(0);
    let c = l.accept().fd();
    not_inherited(&c, s);
}

fn cloexec_of_accept4() {
    let (l, at) = listener(Net::V4);
    let c = Net::V4.tcp();
    c.connect(&at).is(0);
    let s = sys!(libc::accept4(l.raw(), null_mut(), null_mut(), libc::SOCK_CLOEXEC)).fd();
    not_inherited(&c, s);
}

fn cloexec_of_dup3() {
    let (c, s) = pair(Net::V4);
    let d = sys!(libc::dup3(s.raw(), 77, libc::O_CLOEXEC)).fd();
    s.close().is(0);
    not_inherited(&c, d);
}

fn cloexec_of_fcntl() {
    let (c, s) = pair(Net::V4);
    let d = sys!(libc::fcntl(s.raw(), libc::F_DUPFD_CLOEXEC, 50)).fd();
    s.close().is(0);
    not_inherited(&c, d);
}

fn cloexec_by_ioctl() {
    let (c, s) = pair(Net::V4);
    sys!(libc::ioctl(s.raw(), libc::FIOCLEX)).is(0);
    not_inherited(&c, s);
}

fn cloexec_by_range() {
    let (c, s) = pair(Net::V4);
    let d = sys!(libc::fcntl(s.raw(), libc::F_DUPFD, 400)).fd();
    s.close().is(0);
    sys!(libc::syscall(libc::SYS_close_range, 400, 410, libc::CLOSE_RANGE_CLOEXEC)).is(0);
    not_inherited(&c, d);
}

fn cloexec_epoll() {
    let (_c, s) = pair(Net::V4);
    let set = Ep::new();
    set.add(&s, IN);
    run("first", &[s.raw(), set.0.raw()]);
    set.del(&s);
}

/// A program that cannot be hooked holds what it has inherited, and not what was close-on-exec.
fn cloexec_ends_connection_in_static() {
    let (c, s) = pair(Net::V4);
    let (c2, s2) = pair(Net::V4);
    sys!(libc::fcntl(s.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0);
    // As good as static: the library does nothing there.
    let argv = [c"sleep".as_ptr(), c"2".as_ptr(), null()];
    let off = [c"CSEL_DISABLE=1".as_ptr(), null()];
    // SAFETY: strings that live.
    let pid = forked(|| unsafe {
        libc::execve(c"/bin/sleep".as_ptr(), argv.as_ptr(), off.as_ptr());
    });
    s.close().is(0);
    s2.close().is(0);
    // Gone with the exec.
    until(|| c.poll(POLLIN, 0) == POLLIN);
    assert_eq!(take(&c, 9), b"");
    // This one is held as long as the program runs.
    quiet(&c2, POLLIN);
    succeeds(pid);
    wait_in(&c2);
    assert_eq!(take(&c2, 9), b"");
}

fn second_exec() {
    let (c, s) = pair(Net::V4);
    let pid = start_after("again", &[s.raw()]);
    c.write(b"twice").is(5);
    assert_eq!(take(&c, 9), b"TWICE");
    succeeds(pid);
}

fn own_beside_inherited() {
    let (c, s) = pair(Net::V4);
    run("own", &[s.raw()]);
    assert_eq!(take(&c, 9), b"ours");
}

fn dup_is_same() {
    let (_c, s) = pair(Net::V4);
    let d = sys!(libc::dup(s.raw())).fd();
    run("same", &[s.raw(), d.raw()]);
    assert_ne!(sys!(libc::fcntl(s.raw(), libc::F_GETFL)).ok() as i32 & libc::O_NONBLOCK, 0);
}

fn options_stay() {
    let (_c, s) = pair(Net::V4);
    s.on(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    s.on(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    run("options", &[s.raw()]);
}

fn two_children() {
    let (l, at) = listener(Net::V4);
    let pids = [start_after("serve", &[l.raw()]), start_after("serve", &[l.raw()])];
    for text in [b"first", b"other"] {
        let c = Net::V4.tcp();
        c.connect(&at).is(0);
        c.write(text).is(5);
        c.shutdown(SHUT_WR).is(0);
        assert_eq!(take_to_end(&c), text);
    }
    pids.into_iter().for_each(succeeds);
}

/// File actions.
struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new(add: impl FnOnce(*mut libc::posix_spawn_file_actions_t)) -> Self {
        // SAFETY: initialised where it stays for the call; libc's object may be moved.
        unsafe {
            let mut a = Self(std::mem::zeroed());
            libc::posix_spawn_file_actions_init(&raw mut a.0);
            add(&raw mut a.0);
            a
        }
    }
}

fn spawn_moves() {
    let (c, s) = pair(Net::V4);
    sys!(libc::fcntl(s.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0);
    // SAFETY: an initialised object.
    let actions = Actions::new(|a| unsafe {
        assert_eq!(libc::posix_spawn_file_actions_adddup2(a, s.raw(), 200), 0);
    });
    let pid = spawned(&Program::new("shout", &[200], false), &raw const actions.0);
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

fn spawn_closes() {
    let (c, s) = pair(Net::V4);
    let (_c2, s2) = pair(Net::V4);
    // SAFETY: as above.
    let actions = Actions::new(|a| unsafe {
        assert_eq!(libc::posix_spawn_file_actions_addclose(a, s.raw()), 0);
    });
    succeeds(spawned(&Program::new("first", &[s2.raw(), s.raw()], false), &raw const actions.0));
    s.write(b"x").is(1);
    assert_eq!(take(&c, 9), b"x");
}

unsafe extern "C" {
    fn posix_spawn_file_actions_addclosefrom_np(actions: *mut libc::posix_spawn_file_actions_t, from: i32) -> i32;
}

fn spawn_closefrom() {
    // What the library keeps for itself goes too; it is found again.
    let (c, s) = pair(Net::V4);
    let (_c2, s2) = pair(Net::V4);
    let far = sys!(libc::fcntl(s2.raw(), libc::F_DUPFD, 300)).fd();
    // SAFETY: as above.
    let actions = Actions::new(|a| unsafe {
        assert_eq!(libc::posix_spawn_file_actions_adddup2(a, s.raw(), 60), 0);
        assert_eq!(posix_spawn_file_actions_addclosefrom_np(a, 61), 0);
    });
    for bare in [false, true] {
        let what = if bare { "bare" } else { "shout" };
        let pid = spawned(&Program::new(what, &[60], bare), &raw const actions.0);
        if bare {
            assert_eq!(take_all(&c, 4), b"bare");
        } else {
            c.write(b"hello").is(5);
            assert_eq!(take_all(&c, 5), b"HELLO");
        }
        succeeds(pid);
    }
    succeeds(spawned(&Program::new("first", &[60, far.raw()], false), &raw const actions.0));
}

fn spawn_opens_over() {
    // A socket's number is taken by a file; another is moved.
    let (c, s) = pair(Net::V4);
    let (c2, s2) = pair(Net::V4);
    // SAFETY: as above.
    let actions = Actions::new(|a| unsafe {
        assert_eq!(libc::posix_spawn_file_actions_adddup2(a, s2.raw(), 90), 0);
        assert_eq!(libc::posix_spawn_file_actions_addopen(a, s.raw(), c"/dev/null".as_ptr(), libc::O_RDWR, 0), 0);
    });
    let pid = spawned(&Program::new("shout", &[90], false), &raw const actions.0);
    c2.write(b"hello").is(5);
    assert_eq!(take(&c2, 9), b"HELLO");
    succeeds(pid);
    s.write(b"x").is(1);
    assert_eq!(take(&c, 9), b"x");
}

fn spawn_cloexec_target() {
    // dup2 onto itself clears close-on-exec.
    let (c, s) = pair(Net::V4);
    sys!(libc::fcntl(s.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0);
    // SAFETY: as above.
    let actions = Actions::new(|a| unsafe {
        assert_eq!(libc::posix_spawn_file_actions_adddup2(a, s.raw(), s.raw()), 0);
    });
    let pid = spawned(&Program::new("shout", &[s.raw()], false), &raw const actions.0);
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

/// Forks; the child does `between`, then executes `shout` on descriptor 50, with an empty environment or not.
fn between(between: impl FnOnce()) {
    let (c, s) = pair(Net::V4);
    let p = Program::new("shout", &[50], false);
    let argv = p.argv();
    let none = [null::<c_char>()];
    // SAFETY: strings that live.
    let pid = forked(|| unsafe {
        sys!(libc::dup2(s.raw(), 50)).is(50);
        between();
        libc::execve(p.path.as_ptr(), argv.as_ptr(), none.as_ptr());
    });
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

unsafe extern "C" {
    fn closefrom(first: i32);
}

fn closefrom_between() {
    // SAFETY: the child of a fork; no descriptor above is needed.
    between(|| unsafe { closefrom(51) });
}

fn close_range_between() {
    between(|| {
        sys!(libc::syscall(libc::SYS_close_range, 3, 49, 0)).is(0);
        sys!(libc::syscall(libc::SYS_close_range, 51, u32::MAX, 0)).is(0);
    });
}

fn loop_closes_all() {
    between(|| {
        for fd in (3..2000).filter(|fd| *fd != 50) {
            let _ = sys!(libc::close(fd)).get();
        }
    });
}

fn low_limit() {
    between(|| {
        let few = libc::rlimit { rlim_cur: 64, rlim_max: 64 };
        sys!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const few)).is(0);
    });
}

fn chdir_between() {
    between(|| {
        sys!(libc::chdir(c"/".as_ptr())).is(0);
        // SAFETY: the child has one thread.
        unsafe { libc::clearenv() };
    });
}

/// With another LD_PRELOAD than ours: both are loaded.
fn preloaded(value: &str) {
    let (c, s) = pair(Net::V4);
    let p = Program::new("shout", &[s.raw()], false);
    let (argv, text) = (p.argv(), CString::new(format!("LD_PRELOAD={value}")).expect("no NUL"));
    let env = [text.as_ptr(), null()];
    // SAFETY: strings that live.
    let pid = forked(|| unsafe {
        libc::execve(p.path.as_ptr(), argv.as_ptr(), env.as_ptr());
    });
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

fn another_preload() {
    preloaded("libm.so.6");
    preloaded("libm.so.6 libdl.so.2");
}

fn preload_emptied() {
    preloaded("");
}

fn setsid_daemon() {
    // The double fork of old.
    let (c, s) = pair(Net::V4);
    let pid = forked(|| {
        sys!(libc::setsid()).ok();
        forked(|| {
            start_after("shout", &[s.raw()]);
        });
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    });
    succeeds(pid);
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
}

fn libc_daemon() {
    // daemon(3) forks inside libc.
    let (c, s) = pair(Net::V4);
    let p = Program::new("shout", &[s.raw()], false);
    let argv = p.argv();
    // SAFETY: the child of a fork; strings that live.
    let pid = forked(|| unsafe {
        #[allow(deprecated)]
        sys!(libc::daemon(1, 1)).is(0);
        // Once more, after libc's own.
        succeeds(forked(|| libc::_exit(0)));
        libc::execv(p.path.as_ptr(), argv.as_ptr());
    });
    succeeds(pid);
    s.close().is(0);
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    assert_eq!(take(&c, 9), b"");
}

fn long_environment() {
    let (c, s) = pair(Net::V4);
    let p = Program::new("shout", &[s.raw()], false);
    let texts: Vec<CString> = (0..3000).map(|i| CString::new(format!("VARIABLE_{i}={i:040}")).expect("no NUL")).collect();
    let (argv, env): (List, List) = (p.argv(), texts.iter().map(|t| t.as_ptr()).chain([null()]).collect());
    // SAFETY: strings that live.
    let pid = forked(|| unsafe {
        libc::execve(p.path.as_ptr(), argv.as_ptr(), env.as_ptr());
    });
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

fn stdin_is_a_socket() {
    // As inetd does.
    let (c, s) = pair(Net::V4);
    // SAFETY: strings that live.
    let pid = forked(|| unsafe {
        for fd in 0..2 {
            sys!(libc::dup2(s.raw(), fd)).is(fd as isize);
        }
        libc::execlp(c"tr".as_ptr(), c"tr".as_ptr(), c"a-z".as_ptr(), c"A-Z".as_ptr(), null::<c_char>());
    });
    s.close().is(0);
    c.write(b"inetd\n").is(6);
    c.shutdown(SHUT_WR).is(0);
    assert_eq!(take_to_end(&c), b"INETD\n");
    succeeds(pid);
}

fn ends_with_program() {
    let (c, s) = pair(Net::V4);
    let pid = start_after("shout", &[s.raw()]);
    s.close().is(0);
    c.write(b"hello").is(5);
    assert_eq!(take_all(&c, 5), b"HELLO");
    assert_eq!(take(&c, 1), b"");
    succeeds(pid);
}

fn held_by_program() {
    let (c, s) = pair(Net::V4);
    let pid = start_after("hold", &[s.raw()]);
    s.close().is(0);
    assert_eq!(take_all(&c, 4), b"here");
    quiet(&c, POLLIN);
    c.shutdown(SHUT_WR).is(0);
    assert_eq!(take(&c, 1), b"");
    succeeds(pid);
}

fn killed_program() {
    let (c, s) = pair(Net::V4);
    let pid = start_after("hold", &[s.raw()]);
    s.close().is(0);
    assert_eq!(take_all(&c, 4), b"here");
    sys!(libc::kill(pid, libc::SIGKILL)).is(0);
    assert_eq!(take(&c, 1), b"");
    assert!(libc::WIFSIGNALED(status(pid)));
}

fn in_a_thread_among_others() {
    // exec ends the process's other threads, in the middle of what they do.
    let (c, s) = pair(Net::V4);
    let p = Program::new("shout", &[s.raw()], false);
    let argv = p.argv();
    // SAFETY: strings that live; the threads touch sockets of their own.
    let pid = forked(|| unsafe {
        for _ in 0..3 {
            std::thread::spawn(|| {
                loop {
                    let (a, b) = pair(Net::V4);
                    a.write(b"busy").is(4);
                    assert_eq!(take(&b, 9), b"busy");
                }
            });
        }
        crate::net::sleep(30);
        libc::execv(p.path.as_ptr(), argv.as_ptr());
    });
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

fn epoll_moved() {
    // The set on another number, by dup2 before the exec.
    let (c, s) = pair(Net::V4);
    let set = Ep::new();
    set.ctl(EPOLL_CTL_ADD, s.raw(), IN, 7).is(0);
    c.write(b"one").is(3);
    wait_in(&s);
    let p = Program::new("epoll", &[120, s.raw()], false);
    let argv = p.argv();
    // SAFETY: strings that live.
    let pid = forked(|| unsafe {
        sys!(libc::dup2(set.0.raw(), 120)).is(120);
        libc::execv(p.path.as_ptr(), argv.as_ptr());
    });
    assert_eq!(take_all(&c, 4), b"next");
    c.write(b"two").is(3);
    assert_eq!(take_all(&c, 4), b"done");
    succeeds(pid);
}

fn epoll_set_of_two() {
    // A kernel's descriptor and one of ours in one set, over exec: the other half knows both.
    let (c, s) = pair(Net::V4);
    let (r, w) = crate::poll::pipe();
    let set = Ep(sys!(libc::epoll_create1(0)).fd());
    set.ctl(EPOLL_CTL_ADD, s.raw(), IN, 7).is(0);
    set.ctl(EPOLL_CTL_ADD, r.raw(), IN | crate::epoll::ET, 8).is(0);
    c.write(b"one").is(3);
    wait_in(&s);
    let pid = start_after("epoll", &[set.0.raw(), s.raw()]);
    assert_eq!(take_all(&c, 4), b"next");
    c.write(b"two").is(3);
    assert_eq!(take_all(&c, 4), b"done");
    succeeds(pid);
    set.del(&s);
    w.write(b"x").is(1);
    assert_eq!(set.wait(16, 10_000), [(8, IN)]);
}

fn nested_sets() {
    // A set in a set, over exec.
    let (c, s) = pair(Net::V4);
    let (inner, outer) = (Ep(sys!(libc::epoll_create1(0)).fd()), Ep(sys!(libc::epoll_create1(0)).fd()));
    inner.ctl(EPOLL_CTL_ADD, s.raw(), IN, 7).is(0);
    outer.ctl(EPOLL_CTL_ADD, inner.0.raw(), IN, 9).is(0);
    let pid = start_after("wait", &[outer.0.raw()]);
    crate::net::sleep(50);
    c.write(b"x").is(1);
    succeeds(pid);
    assert_eq!(outer.wait(16, 10_000), [(9, IN)]);
}

fn unshared_files_are_inherited() {
    let (c, s) = pair(Net::V4);
    let p = Program::new("shout", &[s.raw()], false);
    let argv = p.argv();
    // SAFETY: strings that live.
    let pid = forked(|| unsafe {
        sys!(libc::unshare(libc::CLONE_FILES)).is(0);
        libc::execv(p.path.as_ptr(), argv.as_ptr());
    });
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}
