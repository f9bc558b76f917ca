//! vfork(2), clone(2), forks that libc makes by itself, and forks in the middle of things.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::thread;

use crate::cases;
use crate::epoll::{Ep, IN, OUT};
use crate::net::{bound_udp, listener, pair, sleep, take, take_all, take_to_end, until};
use crate::poll::pipe;
use crate::process::{fork, in_child};
use crate::sys::{Fd, Net, sys};
use crate::ways::{status, succeeds};
use libc::{O_NONBLOCK, POLLIN, SHUT_RD, SHUT_RDWR, SHUT_WR};

cases! {
    one: [
        vfork_memory_is_shared, vfork_parent_waits, vfork_child_is_another_process, vfork_exit_status, vfork_child_killed, vfork_signals_are_its_own,
        vfork_twice, vfork_in_threads, clone_exit_status, clone_vfork_memory, clone_files_child_closes, sys_clone_child, sys_clone3_child, sys_vfork_child,
        fork_without_sockets_then_both, fork_in_handler, wait_sees_no_other_child, atfork_handlers, forkpty_child, fork_stress, fork_stress_epoll,
        many_inherited, daemon_serves,
    ],
    net: [vfork_close_is_its_own, vfork_dup2_is_its_own, vfork_uses_socket, vfork_flags_are_shared, clone_child_uses, clone_closes_its_own],
}

/// vfork(2); the child runs `f` on this stack and exits with its result.
#[allow(deprecated)]
fn vfork(f: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child makes system calls only, and leaves by _exit.
    unsafe {
        let pid = libc::vfork();
        assert!(pid >= 0);
        if pid == 0 {
            libc::_exit(f());
        }
        pid
    }
}

struct Body<'a>(&'a mut dyn FnMut() -> i32);
extern "C" fn start(body: *mut libc::c_void) -> i32 {
    // SAFETY: of `clone`'s frame, or of a copy of it.
    unsafe { ((*body.cast::<Body<'_>>()).0)() }
}

/// clone(2) with a stack of its own for the child.
fn clone(flags: i32, mut f: impl FnMut() -> i32) -> i32 {
    let mut stack = vec![0u128; 16384];
    let mut body = Body(&mut f);
    // SAFETY: the top of a stack of 256 KiB; what the function needs lives as long as the parent waits or is copied.
    let pid = unsafe { libc::clone(start, stack.as_mut_ptr_range().end.cast(), flags | libc::SIGCHLD, (&raw mut body).cast()) };
    assert!(pid > 0);
    pid
}

fn vfork_close_is_its_own(net: Net) {
    let (c, s) = pair(net);
    let n = s.raw();
    // SAFETY: a system call.
    succeeds(vfork(|| unsafe { libc::close(n) }));
    s.write(b"mine").is(4);
    assert_eq!(take(&c, 9), b"mine");
}

fn vfork_dup2_is_its_own(net: Net) {
    let (c, s) = pair(net);
    let (c2, s2) = pair(net);
    let (a, b) = (s.raw(), s2.raw());
    // SAFETY: system calls on bytes that live.
    succeeds(vfork(|| unsafe {
        libc::dup2(b, a);
        i32::from(libc::write(a, c"second".as_ptr().cast(), 6) != 6)
    }));
    assert_eq!(take(&c2, 9), b"second");
    s.write(b"first").is(5);
    assert_eq!(take(&c, 9), b"first");
}

fn vfork_uses_socket(net: Net) {
    let (c, s) = pair(net);
    c.write(b"ask").is(3);
    let n = s.raw();
    // SAFETY: system calls on bytes that live.
    succeeds(vfork(|| unsafe {
        let mut room = [0u8; 8];
        let got = libc::read(n, room.as_mut_ptr().cast(), 8);
        i32::from(got != 3 || libc::write(n, room.as_ptr().cast(), 3) != 3)
    }));
    assert_eq!(take(&c, 9), b"ask");
}

fn vfork_flags_are_shared(net: Net) {
    let (_c, s) = pair(net);
    let n = s.raw();
    // SAFETY: a system call.
    succeeds(vfork(|| unsafe { libc::fcntl(n, libc::F_SETFL, O_NONBLOCK) }));
    s.recv(&mut [0], 0).fails(libc::EAGAIN);
}

fn vfork_memory_is_shared() {
    static SEEN: AtomicI32 = AtomicI32::new(0);
    let (c, s) = pair(Net::V4);
    succeeds(vfork(|| {
        SEEN.store(42, SeqCst);
        0
    }));
    assert_eq!(SEEN.load(SeqCst), 42);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn vfork_parent_waits() {
    let (_c, _s) = pair(Net::V4);
    let before = std::time::Instant::now();
    succeeds(vfork(|| {
        let t = libc::timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        // SAFETY: a system call on a value that lives.
        unsafe { libc::nanosleep(&raw const t, std::ptr::null_mut()) }
    }));
    assert!(before.elapsed().as_millis() >= 200);
}

fn vfork_child_is_another_process() {
    static PID: AtomicI32 = AtomicI32::new(0);
    let (c, s) = pair(Net::V4);
    let me = sys!(libc::getpid()).ok() as i32;
    let pid = vfork(|| {
        // SAFETY: a system call.
        PID.store(unsafe { libc::getpid() }, SeqCst);
        0
    });
    assert_eq!(PID.load(SeqCst), pid);
    assert_ne!(pid, me);
    succeeds(pid);
    // And we are who we were: our descriptors are ours.
    s.write(b"x").is(1);
    assert_eq!(take(&c, 9), b"x");
    echo(Net::V6);
}

fn echo(net: Net) {
    let (a, b) = pair(net);
    a.write(b"ping").is(4);
    assert_eq!(take(&b, 9), b"ping");
}

fn vfork_exit_status() {
    let (_c, _s) = pair(Net::V4);
    assert_eq!(status(vfork(|| 7)), 7 << 8);
}

fn vfork_child_killed() {
    let (c, s) = pair(Net::V4);
    // SAFETY: a system call.
    let st = status(vfork(|| unsafe { libc::kill(libc::getpid(), libc::SIGKILL) }));
    assert!(libc::WIFSIGNALED(st) && libc::WTERMSIG(st) == libc::SIGKILL);
    s.write(b"x").is(1);
    assert_eq!(take(&c, 9), b"x");
    echo(Net::V4);
}

static CAUGHT: AtomicI32 = AtomicI32::new(0);
extern "C" fn catch(_: i32) {
    CAUGHT.fetch_add(1, SeqCst);
}

fn vfork_signals_are_its_own() {
    let (c, s) = pair(Net::V4);
    // SAFETY: a handler that counts; all-zero is a valid sigaction.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = catch as *const () as usize;
        sys!(libc::sigaction(libc::SIGUSR1, &raw const act, std::ptr::null_mut())).is(0);
        sys!(libc::sigaction(libc::SIGSEGV, &raw const act, std::ptr::null_mut())).is(0);
        // What every careful program does between vfork and exec.
        succeeds(vfork(|| {
            for sig in [libc::SIGUSR1, libc::SIGSEGV, libc::SIGPIPE] {
                libc::signal(sig, libc::SIG_DFL);
            }
            0
        }));
        libc::raise(libc::SIGUSR1);
        libc::raise(libc::SIGSEGV);
        let mut now: libc::sigaction = std::mem::zeroed();
        sys!(libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut now)).is(0);
        assert_eq!(now.sa_sigaction, catch as *const () as usize);
    }
    assert_eq!(CAUGHT.load(SeqCst), 2);
    s.write(b"x").is(1);
    assert_eq!(take(&c, 9), b"x");
}

fn vfork_twice() {
    let (c, s) = pair(Net::V4);
    let n = s.raw();
    for i in 0..20u8 {
        let byte = [i];
        // SAFETY: system calls on bytes that live.
        succeeds(vfork(|| unsafe { i32::from(libc::write(n, byte.as_ptr().cast(), 1) != 1) }));
    }
    assert_eq!(take_all(&c, 20), (0..20).collect::<Vec<u8>>());
}

fn vfork_in_threads() {
    // Several at once, while others talk.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let talker = scope.spawn(|| {
            while !stop.load(SeqCst) {
                echo(Net::V4);
            }
        });
        let forkers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let (c, s) = pair(Net::V4);
                    for i in 0..30u8 {
                        let (n, byte) = (s.raw(), [i]);
                        // SAFETY: system calls on bytes that live.
                        succeeds(vfork(|| unsafe {
                            let sent = libc::write(n, byte.as_ptr().cast(), 1);
                            libc::close(n);
                            i32::from(sent != 1)
                        }));
                        assert_eq!(take_all(&c, 1), byte);
                    }
                })
            })
            .collect();
        for f in forkers {
            f.join().expect("a thread that forks");
        }
        stop.store(true, SeqCst);
        talker.join().expect("the talker");
    });
}

fn clone_child_uses(net: Net) {
    let (c, s) = pair(net);
    let pid = clone(0, || {
        s.write(b"from clone").is(10);
        3
    });
    assert_eq!(take(&c, 32), b"from clone");
    assert_eq!(status(pid), 3 << 8);
    s.write(b"mine").is(4);
    assert_eq!(take(&c, 9), b"mine");
}

fn clone_closes_its_own(net: Net) {
    let (c, s) = pair(net);
    succeeds(clone(0, || {
        sys!(libc::close(s.raw())).is(0);
        0
    }));
    s.write(b"mine").is(4);
    assert_eq!(take(&c, 9), b"mine");
    // And it has let go when it ended.
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn clone_exit_status() {
    let (_c, _s) = pair(Net::V4);
    assert_eq!(status(clone(0, || 5)), 5 << 8);
    assert_eq!(status(clone(libc::CLONE_VM | libc::CLONE_VFORK, || 6)), 6 << 8);
}

fn clone_vfork_memory() {
    let (c, s) = pair(Net::V4);
    let mut seen = 0;
    let n = s.raw();
    succeeds(clone(libc::CLONE_VM | libc::CLONE_VFORK, || {
        seen = 42;
        // SAFETY: a system call.
        unsafe { libc::close(n) }
    }));
    assert_eq!(seen, 42);
    s.write(b"mine").is(4);
    assert_eq!(take(&c, 9), b"mine");
}

fn clone_files_child_closes() {
    // CLONE_FILES: one table of descriptors.
    let (c, s) = pair(Net::V4);
    let (c2, s2) = pair(Net::V4);
    succeeds(clone(libc::CLONE_FILES, || {
        sys!(libc::close(s.raw())).is(0);
        s2.write(b"both").is(4);
        0
    }));
    assert_eq!(take(&c, 9), b"");
    s.write(b"x").fails(libc::EBADF);
    s.take();
    assert_eq!(take(&c2, 9), b"both");
    s2.write(b"still").is(5);
    assert_eq!(take(&c2, 9), b"still");
}

fn raw_child(pid: libc::c_long, s: &Fd) -> i32 {
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    if pid == 0 {
        in_child(|| {
            s.write(b"child").is(5);
            sys!(libc::close(s.raw())).is(0);
        });
    }
    pid as i32
}

fn sys_clone_child() {
    let (c, s) = pair(Net::V4);
    // SAFETY: as fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    succeeds(raw_child(pid, &s));
    assert_eq!(take(&c, 9), b"child");
    s.write(b"parent").is(6);
    assert_eq!(take(&c, 9), b"parent");
}

fn sys_clone3_child() {
    let (c, s) = pair(Net::V4);
    let mut args = [0u64; 8];
    args[4] = libc::SIGCHLD as u64;
    // SAFETY: a struct clone_args of the first size.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    succeeds(raw_child(pid, &s));
    assert_eq!(take(&c, 9), b"child");
    s.write(b"parent").is(6);
    assert_eq!(take(&c, 9), b"parent");
}

fn sys_vfork_child() {
    let (c, s) = pair(Net::V4);
    // SAFETY: without CLONE_VM; the parent waits.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD | libc::CLONE_VFORK, 0, 0, 0, 0) };
    let pid = raw_child(pid, &s);
    assert_eq!(take(&c, 9), b"child");
    succeeds(pid);
    s.write(b"parent").is(6);
    assert_eq!(take(&c, 9), b"parent");
}

fn fork_without_sockets_then_both() {
    // Neither had one when they parted: they find each other all the same.
    let (r, w) = pipe();
    let pid = fork(|| {
        let mut port = [0; 2];
        r.read(&mut port).is(2);
        let c = Net::V4.tcp();
        c.connect(&Net::V4.lo().at(u16::from_ne_bytes(port))).is(0);
        c.write(b"family").is(6);
    });
    let (l, at) = listener(Net::V4);
    w.write(&at.port().to_ne_bytes()).is(2);
    let s = l.accept().fd();
    assert_eq!(take_to_end(&s), b"family");
    succeeds(pid);
}

static IN_HANDLER: AtomicI32 = AtomicI32::new(0);
extern "C" fn forks(_: i32) {
    // SAFETY: fork and _exit are async-signal-safe.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::_exit(9);
        }
        IN_HANDLER.store(pid, SeqCst);
    }
}

fn fork_in_handler() {
    let (c, s) = pair(Net::V4);
    // SAFETY: a handler that forks.
    unsafe { libc::signal(libc::SIGUSR1, forks as *const () as usize) };
    thread::scope(|scope| {
        let me = sys!(libc::getpid()).ok() as i32;
        scope.spawn(move || {
            sleep(50);
            sys!(libc::kill(me, libc::SIGUSR1)).is(0);
        });
        // Waiting, most likely, when it comes.
        let mut p = libc::pollfd { fd: s.raw(), events: POLLIN, revents: 0 };
        until(|| {
            let _ = sys!(libc::poll(&raw mut p, 1, 20)).get();
            IN_HANDLER.load(SeqCst) != 0
        });
    });
    assert_eq!(status(IN_HANDLER.load(SeqCst)), 9 << 8);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn wait_sees_no_other_child() {
    let (_c, _s) = pair(Net::V4);
    sys!(libc::waitpid(-1, std::ptr::null_mut(), 0)).fails(libc::ECHILD);
    let pid = fork(|| ());
    sys!(libc::waitpid(-1, std::ptr::null_mut(), 0)).is(pid as isize);
    sys!(libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL)).fails(libc::ECHILD);
}

static HANDLED: AtomicI32 = AtomicI32::new(0);
extern "C" fn before() {
    HANDLED.fetch_add(1, SeqCst);
    echo(Net::V4);
}
extern "C" fn in_parent() {
    HANDLED.fetch_add(10, SeqCst);
    echo(Net::V4);
}
extern "C" fn in_the_child() {
    HANDLED.fetch_add(100, SeqCst);
    echo(Net::V4);
}

fn atfork_handlers() {
    // Handlers that use sockets themselves.
    let (c, s) = pair(Net::V4);
    // SAFETY: functions that stay.
    unsafe {
        unsafe extern "C" {
            fn pthread_atfork(prepare: Option<extern "C" fn()>, parent: Option<extern "C" fn()>, child: Option<extern "C" fn()>) -> i32;
        }
        assert_eq!(pthread_atfork(Some(before), Some(in_parent), Some(in_the_child)), 0);
    }
    succeeds(fork(|| {
        assert_eq!(HANDLED.load(SeqCst), 101);
        s.write(b"x").is(1);
    }));
    assert_eq!(HANDLED.load(SeqCst), 11);
    assert_eq!(take(&c, 9), b"x");
}

fn forkpty_child() {
    // A fork that libc makes inside itself, and one after it.
    let (c, s) = pair(Net::V4);
    for _ in 0..2 {
        let mut master = -1;
        // SAFETY: room for the descriptor; the rest is not wanted.
        let pid = unsafe { libc::forkpty(&raw mut master, std::ptr::null_mut(), std::ptr::null(), std::ptr::null()) };
        assert!(pid >= 0);
        if pid == 0 {
            in_child(|| {
                s.write(b"pty").is(3);
                sys!(libc::close(s.raw())).is(0);
            });
        }
        assert_eq!(take(&c, 9), b"pty");
        succeeds(pid);
        sys!(libc::close(master)).is(0);
        succeeds(fork(|| {
            s.write(b"fork").is(4);
        }));
        assert_eq!(take(&c, 9), b"fork");
    }
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

/// Forks again and again while other threads are inside calls of every kind; each child uses sockets at once.
fn stress(work: impl Fn(usize) + Sync, child: impl Fn()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for i in 0..3 {
            let (stop, work) = (&stop, &work);
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    work(i);
                }
            });
        }
        for _ in 0..60 {
            succeeds(fork(&child));
        }
        stop.store(true, SeqCst);
    });
}

fn fork_stress() {
    stress(
        |i| match i {
            0 => echo(Net::V4),
            1 => drop(bound_udp(Net::V6)),
            _ => {
                let (l, at) = listener(Net::V4);
                let c = Net::V4.tcp();
                c.nonblock(true);
                let _ = c.connect(&at).get();
                c.shutdown(SHUT_RDWR).get().ok();
                drop(l);
            }
        },
        || {
            echo(Net::V4);
            echo(Net::V6);
        },
    );
}

fn fork_stress_epoll() {
    stress(
        |_| {
            let (c, s) = pair(Net::V4);
            let set = Ep::new();
            set.add(&s, IN | OUT);
            c.write(b"x").is(1);
            let _ = set.wait(4, 1);
            s.shutdown(SHUT_RD).get().ok();
        },
        || {
            let (c, s) = pair(Net::V4);
            let set = Ep::new();
            set.add(&s, IN);
            c.write(b"x").is(1);
            set.gives(&s, IN);
        },
    );
}

fn many_inherited() {
    // A table of many: the child has all, and lets all go.
    let pairs: Vec<(Fd, Fd)> = (0..150).map(|i| pair(if i % 2 == 0 { Net::V4 } else { Net::V6 })).collect();
    succeeds(fork(|| {
        for (_, s) in &pairs {
            s.write(b"c").is(1);
        }
    }));
    for (c, s) in pairs {
        assert_eq!(take(&c, 1), b"c");
        s.close().is(0);
        assert_eq!(take(&c, 1), b"");
    }
}

fn daemon_serves() {
    // A server that becomes a daemon before it serves.
    let (l, at) = listener(Net::V4);
    let pid = fork(|| {
        #[allow(deprecated)]
        // SAFETY: the child of a fork.
        unsafe {
            assert_eq!(libc::daemon(1, 1), 0);
        }
        for _ in 0..3 {
            let s = l.accept().fd();
            fork(|| {
                let got = take_to_end(&s);
                s.write(&got).is(got.len() as isize);
            });
        }
    });
    succeeds(pid);
    for text in [b"one", b"two", b"six"] {
        let c = Net::V4.tcp();
        c.connect(&at).is(0);
        c.write(text).is(3);
        c.shutdown(SHUT_WR).is(0);
        assert_eq!(take_to_end(&c), text);
    }
}
