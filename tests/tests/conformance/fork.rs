//! fork(2) and threads: what must be safe before sockets are shared, and what is shared.
//!
//! A child does its part with calls only and leaves by _exit; its status is the verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{bound_udp, listener, pair, pattern, put_all, quiet, sleep, take, take_all, take_to_end, until, wait_in};
use crate::poll::pipe;
use crate::sys::{Fd, Net, sys};
use libc::{POLLIN, SHUT_WR};

cases! {
    one: [vfork_exec_beside_sockets, exec_keeps_socket, exec_drops_cloexec, exec_reuses_numbers, popen_beside_sockets],
    net: [
        child_makes_its_own, child_of_threads, parent_unharmed_by_child, child_close_is_not_the_connections, child_exit_is_not_the_connections,
        child_uses_inherited, child_accepts, accept_then_fork, both_read, child_writes_then_exits, killed_child_with_socket, fork_while_traffic,
        child_epoll_is_its_own, many_children, udp_inherited, threads_connect_at_once, threads_make_and_close, exit_with_data_queued,
        killed_process_ends_connection, grandchild, signal_in_child, preforked_acceptors,
    ],
}

/// Forks; the child runs `f` and exits with 0, or 1 if an assertion of it failed.
fn fork(f: impl FnOnce()) -> i32 {
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        let failed = catch_unwind(AssertUnwindSafe(f)).is_err();
        // SAFETY: ends the child without the parent's handlers.
        unsafe { libc::_exit(failed as i32) };
    }
    pid
}

fn status(pid: i32) -> i32 {
    let mut status = -1;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    status
}

#[track_caller]
fn succeeds(pid: i32) {
    assert_eq!(status(pid), 0, "the child's status");
}

fn echo_pair(net: Net) {
    let (c, s) = pair(net);
    c.write(b"ping").is(4);
    assert_eq!(take(&s, 9), b"ping");
    s.write(b"pong").is(4);
    assert_eq!(take(&c, 9), b"pong");
}

fn child_makes_its_own(net: Net) {
    echo_pair(net);
    succeeds(fork(|| echo_pair(net)));
    echo_pair(net);
}

fn child_of_threads(net: Net) {
    // Forked while other threads are in the middle of things.
    let (c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                echo_pair(net);
            }
        });
        let reader = scope.spawn(|| take(&s, 9));
        for _ in 0..5 {
            succeeds(fork(|| echo_pair(net)));
        }
        c.write(b"done").is(4);
        assert_eq!(reader.join().expect("reader"), b"done");
    });
}

fn parent_unharmed_by_child(net: Net) {
    let (c, s) = pair(net);
    succeeds(fork(|| {
        let (x, y) = pair(net);
        put_all(&x, &pattern(100_000));
        assert_eq!(take_all(&y, 100_000), pattern(100_000));
    }));
    c.write(b"fine").is(4);
    assert_eq!(take(&s, 9), b"fine");
}

fn child_close_is_not_the_connections(net: Net) {
    let (c, s) = pair(net);
    succeeds(fork(|| {
        sys!(libc::close(c.raw())).is(0);
    }));
    quiet(&s, POLLIN);
    c.write(b"open").is(4);
    assert_eq!(take(&s, 9), b"open");
}

fn child_exit_is_not_the_connections(net: Net) {
    let (c, s) = pair(net);
    succeeds(fork(|| ()));
    quiet(&s, POLLIN);
    c.write(b"open").is(4);
    assert_eq!(take(&s, 9), b"open");
}

fn child_uses_inherited(net: Net) {
    let (c, s) = pair(net);
    let pid = fork(|| {
        assert_eq!(take(&s, 32), b"to the child");
        s.write(b"back").is(4);
    });
    c.write(b"to the child").is(12);
    assert_eq!(take(&c, 9), b"back");
    succeeds(pid);
}

fn child_accepts(net: Net) {
    let (l, at) = listener(net);
    let pid = fork(|| {
        let s = l.accept().fd();
        assert_eq!(take(&s, 9), b"hello");
        s.write(b"served").is(6);
    });
    let c = net.tcp();
    c.connect(&at).is(0);
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"served");
    succeeds(pid);
    assert_eq!(take(&c, 9), b"");
}

fn accept_then_fork(net: Net) {
    // The classic server: accept, fork, close in the parent.
    let (l, at) = listener(net);
    let clients: Vec<Fd> = (0..3).map(|_| net.tcp()).collect();
    let mut children = Vec::new();
    for (i, c) in clients.iter().enumerate() {
        c.connect(&at).is(0);
        let s = l.accept().fd();
        children.push(fork(|| {
            let got = take_to_end(&s);
            s.write(&got).is(got.len() as isize);
        }));
        s.close().is(0);
        c.write(&[i as u8; 5]).is(5);
        c.shutdown(SHUT_WR).is(0);
    }
    for (i, c) in clients.iter().enumerate() {
        assert_eq!(take_to_end(c), [i as u8; 5]);
    }
    children.into_iter().for_each(succeeds);
}

fn both_read(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let data = pattern(300_000);
    let pid = fork(|| {
        let n = take_to_end(&s).len();
        w.write(&n.to_ne_bytes()).is(8);
    });
    let mine = thread::scope(|scope| {
        scope.spawn(|| {
            put_all(&c, &data);
            c.shutdown(SHUT_WR).is(0);
        });
        take_to_end(&s).len()
    });
    let mut theirs = [0; 8];
    r.read(&mut theirs).is(8);
    succeeds(pid);
    assert_eq!(mine + usize::from_ne_bytes(theirs), data.len(), "each byte went to one of the two");
}

fn child_writes_then_exits(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(200_000);
    let pid = fork(|| put_all(&c, &data));
    c.close().is(0);
    assert!(take_to_end(&s) == data);
    succeeds(pid);
}

fn exit_with_data_queued(net: Net) {
    // What was written before exit arrives, though nobody reads it until the writer is gone.
    let (l, at) = listener(net);
    let pid = fork(|| {
        let c = net.tcp();
        c.connect(&at).is(0);
        put_all(&c, &pattern(30_000));
    });
    let s = l.accept().fd();
    succeeds(pid);
    sleep(50);
    assert!(take_to_end(&s) == pattern(30_000));
}

fn killed_child_with_socket(net: Net) {
    let (c, s) = pair(net);
    let pid = fork(|| {
        take(&s, 1);
    });
    sleep(50);
    sys!(libc::kill(pid, libc::SIGKILL)).is(0);
    assert!(libc::WIFSIGNALED(status(pid)));
    c.write(b"mine").is(4);
    assert_eq!(take(&s, 9), b"mine");
}

fn killed_process_ends_connection(net: Net) {
    let (l, at) = listener(net);
    let pid = fork(|| {
        let c = net.tcp();
        c.connect(&at).is(0);
        c.write(b"last").is(4);
        sleep(60_000);
    });
    let s = l.accept().fd();
    assert_eq!(take_all(&s, 4), b"last");
    sys!(libc::kill(pid, libc::SIGKILL)).is(0);
    assert!(libc::WIFSIGNALED(status(pid)));
    wait_in(&s);
    assert_eq!(take(&s, 9), b"");
}

fn fork_while_traffic(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(2 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            put_all(&c, &data);
            c.shutdown(SHUT_WR).is(0);
        });
        let reader = scope.spawn(|| take_to_end(&s));
        for _ in 0..5 {
            succeeds(fork(|| ()));
        }
        assert!(reader.join().expect("reader") == data);
    });
}

fn child_epoll_is_its_own(net: Net) {
    let (c, s) = pair(net);
    succeeds(fork(|| {
        let e = Ep::new();
        let (x, y) = pair(net);
        e.add(&y, IN);
        x.write(b"x").is(1);
        e.gives(&y, IN);
    }));
    let e = Ep::new();
    e.add(&s, IN);
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn many_children(net: Net) {
    let (l, at) = listener(net);
    let children: Vec<i32> = (0..6u8)
        .map(|i| {
            fork(|| {
                let c = net.tcp();
                c.connect(&at).is(0);
                c.write(&[i]).is(1);
                assert_eq!(take_all(&c, 1), [i + 100]);
            })
        })
        .collect();
    for _ in 0..6 {
        let s = l.accept().fd();
        let got = take_all(&s, 1);
        s.write(&[got[0] + 100]).is(1);
        assert_eq!(take(&s, 9), b"");
    }
    children.into_iter().for_each(succeeds);
}

fn udp_inherited(net: Net) {
    let (u, at) = bound_udp(net);
    let pid = fork(|| assert_eq!(take(&u, 9), b"datagram"));
    net.udp().sendto(b"datagram", 0, &at).is(8);
    succeeds(pid);
}

fn grandchild(net: Net) {
    let (c, s) = pair(net);
    let pid = fork(|| {
        succeeds(fork(|| {
            c.write(b"from afar").is(9);
        }));
    });
    assert_eq!(take(&s, 32), b"from afar");
    succeeds(pid);
}

fn signal_in_child(net: Net) {
    let (_c, s) = pair(net);
    let pid = fork(|| {
        s.recv(&mut [0; 4], 0).ok();
    });
    sleep(50);
    sys!(libc::kill(pid, libc::SIGTERM)).is(0);
    let st = status(pid);
    assert!(libc::WIFSIGNALED(st) && libc::WTERMSIG(st) == libc::SIGTERM, "{st:#x}");
}

fn preforked_acceptors(net: Net) {
    let (l, at) = listener(net);
    let children: Vec<i32> = (0..3)
        .map(|_| {
            fork(|| {
                let s = l.accept().fd();
                s.write(&sys!(libc::getpid()).ok().to_ne_bytes()).is(8);
            })
        })
        .collect();
    sleep(50);
    let mut served: Vec<i32> = (0..3)
        .map(|_| {
            let c = net.tcp();
            c.connect(&at).is(0);
            isize::from_ne_bytes(take_all(&c, 8).try_into().expect("8")) as i32
        })
        .collect();
    served.sort_unstable();
    let mut want = children.clone();
    want.sort_unstable();
    assert_eq!(served, want, "each child served one");
    children.into_iter().for_each(succeeds);
}

fn threads_connect_at_once(net: Net) {
    let (l, at) = listener(net);
    thread::scope(|scope| {
        for i in 0..8u8 {
            let at = &at;
            scope.spawn(move || {
                let c = net.tcp();
                c.connect(at).is(0);
                c.write(&[i]).is(1);
                assert_eq!(take_all(&c, 1), [i]);
            });
        }
        for _ in 0..8 {
            let s = l.accept().fd();
            scope.spawn(move || {
                let got = take_all(&s, 1);
                s.write(&got).is(1);
            });
        }
    });
}

fn threads_make_and_close(net: Net) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for i in 0..60 {
                    if i % 2 == 0 { echo_pair(net) } else { drop(bound_udp(net)) }
                }
            });
        }
    });
}

/// Runs a shell command as a child made by fork and exec.
fn shell(command: &str) -> i32 {
    let command = std::ffi::CString::new(command).expect("no NUL");
    let argv = [c"sh".as_ptr(), c"-c".as_ptr(), command.as_ptr(), std::ptr::null()];
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        // SAFETY: the strings outlive the call.
        unsafe {
            libc::execv(c"/bin/sh".as_ptr(), argv.as_ptr());
            libc::_exit(127);
        }
    }
    pid
}

fn exec_keeps_socket() {
    let (c, s) = pair(Net::V4);
    let pid = shell(&format!("echo through exec >&{}", s.raw()));
    succeeds(pid);
    assert_eq!(take_all(&c, 13), b"through exec\n");
    s.write(b"still mine").is(10);
    assert_eq!(take(&c, 32), b"still mine");
}

/// A number that was a close-on-exec socket's is a file's in the program executed, also after that has made a socket of its own.
fn exec_reuses_numbers() {
    let (l, at) = listener(Net::V4);
    let n = l.raw().max(3);
    sys!(libc::fcntl(l.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0);
    let path = std::env::temp_dir().join(format!("csel-reuse-{}", std::process::id()));
    let file = path.display();
    let made = "for w in 7 8 9; do eval \"exec $w<>/dev/tcp/127.0.0.1/$PORT\"; done";
    let pid = shell(&format!("PORT={} exec bash -c 'exec {n}>{file}; {made}; echo whole >&{n}'", at.port()));
    succeeds(pid);
    assert_eq!(std::fs::read(&path).expect("the file"), b"whole\n");
    let _ = std::fs::remove_file(&path);
}

fn exec_drops_cloexec() {
    let (c, s) = pair(Net::V4);
    sys!(libc::fcntl(s.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0);
    let pid = shell(&format!("sleep 0.3; [ ! -e /proc/self/fd/{} ]", s.raw()));
    s.close().is(0);
    // The child has let go of it at exec: ours was the last copy.
    until(|| c.poll(POLLIN, 0) == POLLIN);
    assert_eq!(take(&c, 9), b"");
    succeeds(pid);
}

fn vfork_exec_beside_sockets() {
    let (c, s) = pair(Net::V4);
    let out = std::process::Command::new("/bin/echo").arg("spawned").output().expect("spawn");
    assert_eq!(out.stdout, b"spawned\n");
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn popen_beside_sockets() {
    let (c, s) = pair(Net::V4);
    sys!(libc::system(c"true".as_ptr())).is(0);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}
