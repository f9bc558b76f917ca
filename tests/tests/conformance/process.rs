//! fork(2), vfork(2), clone(2): what parent and child share, and what each has of its own.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use std::thread;

use crate::cases;
use crate::epoll::{ET, Ep, IN, ONESHOT, OUT};
use crate::exec::succeeds;
use crate::net::{bound_udp, listener, pair, pattern, put_all, quiet, sleep, take, take_all, take_to_end, until, wait_in};
use crate::poll::pipe;
use crate::sys::{Fd, Net, sys};
use libc::{EPOLL_CTL_ADD, O_NONBLOCK, POLLIN, SHUT_RD, SHUT_RDWR, SHUT_WR};

cases! {
    one: [
        vfork_memory_is_shared, vfork_parent_waits, vfork_child_is_another_process, vfork_exit_status, vfork_child_killed, vfork_signals_are_its_own,
        vfork_twice, vfork_in_threads, clone_exit_status, clone_vfork_memory, clone_files_child_closes, sys_clone_child, sys_clone3_child, sys_vfork_child,
        fork_without_sockets_then_both, fork_in_handler, wait_sees_no_other_child, atfork_handlers, forkpty_child, fork_stress, fork_stress_epoll,
        many_inherited, daemon_serves,
    ],
    net: [
        flags_are_shared, flags_set_by_child, cloexec_is_not_shared, error_is_shared, peeked_by_child, shutdown_by_child, options_by_child, timeout_by_child,
        linger_close_by_child, listener_closed_by_parent, listener_by_both, connects_in_child, nonblocking_connect_across, dup2_in_child,
        close_range_in_child, number_reused_in_child, epoll_is_shared, epoll_added_by_child, epoll_deleted_by_child, epoll_oneshot_is_shared,
        epoll_edge_is_shared, epoll_of_closed, epoll_made_by_child_is_not, epoll_waited_by_both, udp_both_read, udp_connected_by_child, reads_split,
        writes_interleave, blocked_reader_survives, poll_in_child_while_parent_reads, grandchild_outlives, exit_of_parent, orphan_writes,
        vfork_close_is_its_own, vfork_dup2_is_its_own, vfork_uses_socket, vfork_flags_are_shared, clone_child_uses, clone_closes_its_own,
        exiting_child_leaves_all, child_exec_fails,
    ],
}

/// Forks; the child runs `f` and exits with 0, or 101 if an assertion of it failed.
fn fork(f: impl FnOnce()) -> i32 {
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        in_child(f);
    }
    pid
}

fn in_child(f: impl FnOnce()) -> ! {
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    // SAFETY: ends the child without the parent's handlers.
    unsafe { libc::_exit(if failed { 101 } else { 0 }) }
}

fn status(pid: i32) -> i32 {
    let mut status = -1;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    status
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

fn flags(fd: &Fd) -> i32 {
    sys!(libc::fcntl(fd.raw(), libc::F_GETFL)).ok() as i32
}

fn flags_are_shared(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let pid = fork(|| {
        r.read(&mut [0]).is(1);
        assert_ne!(flags(&s) & O_NONBLOCK, 0);
        s.recv(&mut [0], 0).fails(libc::EAGAIN);
    });
    s.nonblock(true);
    w.write(b"x").is(1);
    succeeds(pid);
    drop(c);
}

fn flags_set_by_child(net: Net) {
    let (_c, s) = pair(net);
    succeeds(fork(|| {
        s.nonblock(true);
    }));
    s.recv(&mut [0], 0).fails(libc::EAGAIN);
}

fn cloexec_is_not_shared(net: Net) {
    let (_c, s) = pair(net);
    succeeds(fork(|| sys!(libc::fcntl(s.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0)));
    sys!(libc::fcntl(s.raw(), libc::F_GETFD)).is(0);
}

fn error_is_shared(net: Net) {
    let at = crate::net::nobody(net, libc::SOCK_STREAM);
    let c = net.tcp();
    c.nonblock(true);
    c.connect(&at).get().expect_err("refused or under way");
    until(|| c.poll(libc::POLLOUT, 0) != 0);
    // Whoever asks first takes it.
    succeeds(fork(|| {
        c.error();
    }));
    assert_eq!(c.error(), 0);
}

fn peeked_by_child(net: Net) {
    let (c, s) = pair(net);
    c.write(b"look").is(4);
    succeeds(fork(|| {
        wait_in(&s);
        let mut room = [0; 9];
        s.recv(&mut room, libc::MSG_PEEK).is(4);
    }));
    assert_eq!(take(&s, 9), b"look");
}

fn shutdown_by_child(net: Net) {
    let (c, s) = pair(net);
    succeeds(fork(|| s.shutdown(SHUT_WR).is(0)));
    assert_eq!(take(&c, 9), b"");
    s.send(b"x", libc::MSG_NOSIGNAL).fails(libc::EPIPE);
    c.write(b"still").is(5);
    assert_eq!(take(&s, 9), b"still");
}

fn options_by_child(net: Net) {
    let (_c, s) = pair(net);
    succeeds(fork(|| {
        s.on(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        s.on(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    }));
    assert_eq!((s.opt(libc::SOL_SOCKET, libc::SO_KEEPALIVE), s.opt(libc::IPPROTO_TCP, libc::TCP_NODELAY)), (1, 1));
}

fn timeout_by_child(net: Net) {
    let (_c, s) = pair(net);
    succeeds(fork(|| {
        let t = libc::timeval { tv_sec: 0, tv_usec: 30_000 };
        s.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &t).is(0);
    }));
    s.recv(&mut [0], 0).fails(libc::EAGAIN);
}

fn linger_close_by_child(net: Net) {
    // A close with SO_LINGER in the child is not the last one: nothing happens to the connection.
    let (c, s) = pair(net);
    let zero = libc::linger { l_onoff: 1, l_linger: 0 };
    s.set(libc::SOL_SOCKET, libc::SO_LINGER, &zero).is(0);
    succeeds(fork(|| {
        sys!(libc::close(s.raw())).is(0);
    }));
    quiet(&c, POLLIN);
    s.close().is(0);
    wait_in(&c);
    c.recv(&mut [0], 0).fails(libc::ECONNRESET);
}

fn listener_closed_by_parent(net: Net) {
    let (l, at) = listener(net);
    let (r, w) = pipe();
    let pid = fork(|| {
        r.read(&mut [0]).is(1);
        let s = l.accept().fd();
        assert_eq!(take_to_end(&s), b"late");
    });
    l.close().is(0);
    let c = net.tcp();
    c.connect(&at).is(0);
    c.write(b"late").is(4);
    c.shutdown(SHUT_WR).is(0);
    w.write(b"x").is(1);
    succeeds(pid);
}

fn listener_by_both(net: Net) {
    let (l, at) = listener(net);
    let pid = fork(|| {
        let s = l.accept().fd();
        s.write(b"c").is(1);
        take_to_end(&s);
    });
    let a = net.tcp();
    a.connect(&at).is(0);
    assert_eq!(take_all(&a, 1), b"c");
    let b = net.tcp();
    b.connect(&at).is(0);
    let s = l.accept().fd();
    s.write(b"p").is(1);
    assert_eq!(take_all(&b, 1), b"p");
    drop(a);
    succeeds(pid);
}

fn connects_in_child(net: Net) {
    // A socket made before the fork, connected by the child, used by the parent.
    let (l, at) = listener(net);
    let c = net.tcp();
    succeeds(fork(|| c.connect(&at).is(0)));
    let s = l.accept().fd();
    c.write(b"mine").is(4);
    assert_eq!(take(&s, 9), b"mine");
    c.connect(&at).fails(libc::EISCONN);
}

fn nonblocking_connect_across(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.nonblock(true);
    let _ = c.connect(&at).get();
    succeeds(fork(|| {
        until(|| c.poll(libc::POLLOUT, 0) & libc::POLLOUT != 0);
        assert_eq!(c.error(), 0);
        c.write(b"hello").is(5);
    }));
    let s = l.accept().fd();
    assert_eq!(take(&s, 9), b"hello");
}

fn dup2_in_child(net: Net) {
    let (c, s) = pair(net);
    let (c2, s2) = pair(net);
    succeeds(fork(|| {
        sys!(libc::dup2(s2.raw(), s.raw())).is(s.raw() as isize);
        s.write(b"second").is(6);
    }));
    assert_eq!(take(&c2, 9), b"second");
    s.write(b"first").is(5);
    assert_eq!(take(&c, 9), b"first");
}

fn close_range_in_child(net: Net) {
    let (c, s) = pair(net);
    succeeds(fork(|| {
        sys!(libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0)).is(0);
        s.write(b"x").fails(libc::EBADF);
        // And can have sockets again.
        let (a, b) = pair(net);
        a.write(b"new").is(3);
        assert_eq!(take(&b, 9), b"new");
    }));
    s.write(b"old").is(3);
    assert_eq!(take(&c, 9), b"old");
}

fn number_reused_in_child(net: Net) {
    let (c, s) = pair(net);
    let number = s.raw();
    succeeds(fork(|| {
        sys!(libc::close(number)).is(0);
        let r = sys!(libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY)).fd();
        let r = if r.raw() == number { r } else { sys!(libc::dup2(r.raw(), number)).fd() };
        let mut room = [1; 4];
        r.read(&mut room).is(4);
        assert_eq!(room, [0; 4]);
    }));
    s.write(b"mine").is(4);
    assert_eq!(take(&c, 9), b"mine");
}

fn epoll_is_shared(net: Net) {
    let (c, s) = pair(net);
    let set = Ep::new();
    set.add(&s, IN);
    let pid = fork(|| set.gives(&s, IN));
    c.write(b"x").is(1);
    succeeds(pid);
    set.gives(&s, IN);
}

fn epoll_added_by_child(net: Net) {
    let (c, s) = pair(net);
    let set = Ep::new();
    succeeds(fork(|| set.add(&s, IN)));
    set.ctl(EPOLL_CTL_ADD, s.raw(), IN, 0).fails(libc::EEXIST);
    c.write(b"x").is(1);
    set.gives(&s, IN);
}

fn epoll_deleted_by_child(net: Net) {
    let (c, s) = pair(net);
    let set = Ep::new();
    set.add(&s, IN);
    succeeds(fork(|| set.del(&s)));
    c.write(b"x").is(1);
    wait_in(&s);
    set.quiet();
}

fn epoll_oneshot_is_shared(net: Net) {
    let (c, s) = pair(net);
    let set = Ep::new();
    set.add(&s, IN | ONESHOT);
    c.write(b"x").is(1);
    succeeds(fork(|| set.gives(&s, IN)));
    set.quiet();
    succeeds(fork(|| set.modify(&s, IN | ONESHOT)));
    set.gives(&s, IN);
}

fn epoll_edge_is_shared(net: Net) {
    let (c, s) = pair(net);
    let set = Ep::new();
    set.add(&s, IN | ET);
    c.write(b"x").is(1);
    succeeds(fork(|| set.gives(&s, IN)));
    set.quiet();
    c.write(b"y").is(1);
    set.gives(&s, IN);
}

fn epoll_of_closed(net: Net) {
    // epoll(7) Q6: the child's copy keeps the registration alive.
    let (c, s) = pair(net);
    let set = Ep::new();
    set.add(&s, IN);
    let (r, w) = pipe();
    let pid = fork(|| {
        r.read(&mut [0]).is(1);
    });
    let number = s.raw() as u64;
    s.close().is(0);
    c.write(b"x").is(1);
    assert_eq!(set.wait(16, 10_000), [(number, IN)]);
    w.write(b"x").is(1);
    succeeds(pid);
    until(|| set.wait(16, 0).is_empty());
}

fn epoll_made_by_child_is_not(net: Net) {
    let (c, s) = pair(net);
    succeeds(fork(|| {
        let set = Ep::new();
        set.add(&s, IN);
    }));
    let set = Ep::new();
    set.add(&s, IN);
    c.write(b"x").is(1);
    set.gives(&s, IN);
}

fn epoll_waited_by_both(net: Net) {
    let (c, s) = pair(net);
    let set = Ep::new();
    set.add(&s, IN | ET);
    let (r, w) = pipe();
    let waiting = || {
        fork(|| {
            let got = set.wait(1, 3000).len() as u8;
            w.write(&[got]).is(1);
        })
    };
    let pids = [waiting(), waiting()];
    sleep(100);
    c.write(b"x").is(1);
    let mut got = [0; 2];
    r.read(&mut got[..1]).is(1);
    assert_eq!(got[0], 1, "one of them is told at once");
    c.write(b"y").is(1);
    r.read(&mut got[1..]).is(1);
    assert_eq!(got[1], 1, "the other at the next edge");
    pids.into_iter().for_each(succeeds);
}

fn udp_both_read(net: Net) {
    let (u, at) = bound_udp(net);
    let (r, w) = pipe();
    let pid = fork(|| {
        let got = take(&u, 9);
        w.write(&got).is(1);
        quiet(&u, POLLIN);
    });
    let c = net.udp();
    c.sendto(b"1", 0, &at).is(1);
    let mut got = [0];
    r.read(&mut got).is(1);
    succeeds(pid);
    c.sendto(b"2", 0, &at).is(1);
    assert_eq!((got, take(&u, 9)), (*b"1", b"2".to_vec()));
}

fn udp_connected_by_child(net: Net) {
    let (u, at) = bound_udp(net);
    let c = net.udp();
    succeeds(fork(|| c.connect(&at).is(0)));
    c.write(b"to").is(2);
    assert_eq!(take(&u, 9), b"to");
    assert_eq!(c.peer(), at);
}

fn reads_split(net: Net) {
    // Turn about: what one has read the other does not see.
    let (c, s) = pair(net);
    c.write(b"abcdef").is(6);
    wait_in(&s);
    until(|| s.ioctl_int(libc::FIONREAD) == 6);
    succeeds(fork(|| assert_eq!(take(&s, 2), b"ab")));
    assert_eq!(take(&s, 2), b"cd");
    succeeds(fork(|| assert_eq!(take(&s, 2), b"ef")));
    quiet(&s, POLLIN);
}

fn writes_interleave(net: Net) {
    // Each write is whole.
    let (c, s) = pair(net);
    let write = |b: u8| {
        fork(|| {
            for _ in 0..200 {
                c.write(&[b; 50]).is(50);
            }
        })
    };
    let pids = [write(b'a'), write(b'b')];
    let all = take_all(&s, 20_000);
    pids.into_iter().for_each(succeeds);
    for piece in all.chunks(50) {
        assert!(piece.iter().all(|b| *b == piece[0]), "a write in two pieces");
    }
    assert_eq!(all.iter().filter(|b| **b == b'a').count(), 10_000);
}

fn blocked_reader_survives(net: Net) {
    // A fork while another thread waits in recv: it goes on waiting, in the parent only.
    let (c, s) = pair(net);
    thread::scope(|scope| {
        let reader = scope.spawn(|| take(&s, 9));
        sleep(50);
        for _ in 0..3 {
            succeeds(fork(|| ()));
        }
        c.write(b"awake").is(5);
        assert_eq!(reader.join().expect("reader"), b"awake");
    });
}

fn poll_in_child_while_parent_reads(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let pid = fork(|| {
        w.write(b"r").is(1);
        wait_in(&s);
    });
    r.read(&mut [0]).is(1);
    sleep(20);
    c.write(b"x").is(1);
    succeeds(pid);
    assert_eq!(take(&s, 9), b"x");
}

fn grandchild_outlives(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let pid = fork(|| {
        fork(|| {
            r.read(&mut [0]).is(1);
            s.write(b"last").is(4);
        });
    });
    succeeds(pid);
    s.close().is(0);
    quiet(&c, POLLIN);
    w.write(b"x").is(1);
    assert_eq!(take_to_end(&c), b"last");
}

fn exit_of_parent(net: Net) {
    // Who made the socket ends; who inherited it goes on.
    let (l, at) = listener(net);
    let (r, w) = pipe();
    let pid = fork(|| {
        let c = net.tcp();
        c.connect(&at).is(0);
        fork(|| {
            r.read(&mut [0]).is(1);
            c.write(b"heir").is(4);
        });
    });
    let s = l.accept().fd();
    succeeds(pid);
    quiet(&s, POLLIN);
    w.write(b"x").is(1);
    assert_eq!(take_to_end(&s), b"heir");
}

fn orphan_writes(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(500_000);
    let pid = fork(|| {
        fork(|| {
            sleep(20);
            put_all(&c, &data);
            c.shutdown(SHUT_WR).is(0);
        });
    });
    succeeds(pid);
    c.close().is(0);
    assert!(take_to_end(&s) == data);
}

fn exiting_child_leaves_all(net: Net) {
    let (c, s) = pair(net);
    let (l, at) = listener(net);
    let set = Ep::new();
    set.add(&s, IN);
    for _ in 0..20 {
        succeeds(fork(|| ()));
    }
    c.write(b"x").is(1);
    set.gives(&s, IN);
    let d = net.tcp();
    d.connect(&at).is(0);
    l.accept().fd();
}

fn child_exec_fails(net: Net) {
    let (c, s) = pair(net);
    let argv = [c"x".as_ptr(), std::ptr::null()];
    succeeds(fork(|| {
        sys!(libc::execv(c"/no/such".as_ptr(), argv.as_ptr())).fails(libc::ENOENT);
        s.write(b"here").is(4);
    }));
    assert_eq!(take(&c, 9), b"here");
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
