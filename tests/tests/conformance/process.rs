//! fork(2): what parent and child share, and what each has of its own.

use std::thread;

use crate::cases;
use crate::epoll::{ET, Ep, IN, ONESHOT};
use crate::net::{bound_udp, listener, pair, pattern, put_all, quiet, sleep, take, take_all, take_to_end, until, wait_in};
use crate::poll::pipe;
use crate::sys::{Fd, Net, sys};
use crate::ways::succeeds;
use libc::{EPOLL_CTL_ADD, O_NONBLOCK, POLLIN, SHUT_WR};

cases! {
    one: [],
    net: [flags_are_shared, flags_set_by_child, cloexec_is_not_shared, error_is_shared, peeked_by_child, shutdown_by_child, options_by_child, timeout_by_child, linger_close_by_child, listener_closed_by_parent, listener_by_both, connects_in_child, nonblocking_connect_across, dup2_in_child, close_range_in_child, number_reused_in_child, epoll_is_shared, epoll_added_by_child, epoll_deleted_by_child, epoll_oneshot_is_shared, epoll_edge_is_shared, epoll_of_closed, epoll_made_by_child_is_not, epoll_waited_by_both, udp_both_read, udp_connected_by_child, reads_split, writes_interleave, blocked_reader_survives, poll_in_child_while_parent_reads, grandchild_outlives, exit_of_parent, orphan_writes, exiting_child_leaves_all, child_exec_fails],
}

/// Forks; the child runs `f` and exits with 0, or 101 if an assertion of it failed.
pub(crate) fn fork(f: impl FnOnce()) -> i32 {
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        in_child(f);
    }
    pid
}

pub(crate) fn in_child(f: impl FnOnce()) -> ! {
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    // SAFETY: ends the child without the parent's handlers.
    unsafe { libc::_exit(if failed { 101 } else { 0 }) }
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
