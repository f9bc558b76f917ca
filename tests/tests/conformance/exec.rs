//! exec(2): virtual descriptors in the program that comes after ([`crate::after`]). What every way of starting one has is in [`crate::ways`].

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::ptr::{null, null_mut};

use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{bound_udp, listener, pair, quiet, take, take_all, take_to_end, until, wait_in};
use crate::sys::{Fd, Net, sys};
use crate::ways::{List, Program, forked, spawned, start_after, status, succeeds};
use libc::{EPOLL_CTL_ADD, POLLIN, SHUT_WR, c_char};

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
