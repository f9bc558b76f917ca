//! What this program does when a case has executed it: `conformance --after csel|native WHAT FD...`.
//!
//! # Theory of operation
//! A case cannot go on after exec(2); so the other half of it is here, named by [`what`]. It learns from its arguments alone what it needs (the environment may be
//! empty), says by its status whether all was as it must be (0), and under csel asserts first that it was injected again.

use std::ffi::OsString;

use crate::epoll::{Ep, IN};
use crate::net::{take, take_all, take_to_end, wait_in};
use crate::sys::{Addr, Fd, R, sys};

/// The first argument.
pub(crate) const AFTER: &str = "--after";

/// Runs the half that the arguments name.
pub(crate) fn main(args: &[OsString]) {
    let text: Vec<&str> = args.iter().map(|a| a.to_str().expect("UTF-8")).collect();
    let [mode, what, rest @ ..] = &text[..] else { panic!("{AFTER} MODE WHAT FD...") };
    if *mode == "csel" {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
        assert!(maps.contains("libcsel.so"), "the library was not injected again");
    }
    let fds: Vec<Fd> = rest.iter().map(|n| Fd(n.parse().expect("a descriptor"))).collect();
    self::what(what, &fds);
    // They end with the process.
    for fd in fds {
        fd.take();
    }
}

fn flags(fd: &Fd) -> R {
    sys!(libc::fcntl(fd.raw(), libc::F_GETFL))
}

fn what(what: &str, fds: &[Fd]) {
    match (what, fds) {
        // Reads five bytes and gives them back in capitals.
        ("shout", [s]) => {
            let said = take_all(s, 5).to_ascii_uppercase();
            s.write(&said).is(5);
        }
        ("bare", [s]) => {
            let there: Vec<_> = std::env::vars_os().collect();
            assert!(there.is_empty(), "the environment was to be empty: {there:?}");
            assert_eq!(s.peer().ip(), s.name().ip());
            s.write(b"bare").is(4);
        }
        ("serve", [l]) => {
            assert_eq!(l.opt(libc::SOL_SOCKET, libc::SO_ACCEPTCONN), 1);
            let s = l.accept().fd();
            let got = take_to_end(&s);
            s.write(&got).is(got.len() as isize);
        }
        ("datagram", [u]) => {
            let (mut room, mut from) = ([0; 32], Addr::room());
            let n = u.recvfrom(&mut room, 0, &mut from).ok();
            assert_eq!(u.sendto(&room[..n as usize], 0, &from).ok(), n);
        }
        // A set with one interest in `s`; data 7.
        ("epoll", [e, s]) => {
            let set = Ep(Fd(e.raw()));
            assert_eq!(set.wait(16, 10_000), [(7, IN)]);
            assert_eq!(take(s, 9), b"one");
            assert_eq!(set.wait(16, 0), []);
            s.write(b"next").is(4);
            assert_eq!(set.wait(16, 10_000), [(7, IN)]);
            assert_eq!(take(s, 9), b"two");
            set.modify(s, IN | crate::epoll::OUT);
            set.reaches(s, crate::epoll::OUT);
            set.del(s);
            set.quiet();
            set.add(s, crate::epoll::OUT);
            set.gives(s, crate::epoll::OUT);
            set.0.take();
            s.write(b"done").is(4);
        }
        ("nonblocking", [s]) => {
            assert_ne!(flags(s).ok() as i32 & libc::O_NONBLOCK, 0);
            s.recv(&mut [0; 4], 0).fails(libc::EAGAIN);
            s.nonblock(false);
        }
        ("peeked", [s]) => assert_eq!(take_all(s, 5), b"there"),
        ("options", [s]) => {
            assert_eq!(s.opt(libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
            assert_eq!(s.opt(libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
            assert_eq!(s.opt(libc::SOL_SOCKET, libc::SO_TYPE), libc::SOCK_STREAM);
        }
        // The first is there, the second is not.
        ("first", [a, b]) => {
            flags(a).ok();
            flags(b).fails(libc::EBADF);
        }
        ("gone", fds) => fds.iter().for_each(|fd| flags(fd).fails(libc::EBADF)),
        ("same", [a, b]) => {
            let ino = |fd: &Fd| {
                // SAFETY: all-zero is a valid stat.
                let mut st: libc::stat = unsafe { std::mem::zeroed() };
                sys!(libc::fstat(fd.raw(), &raw mut st)).is(0);
                st.st_ino
            };
            assert_eq!(ino(a), ino(b));
            a.nonblock(true);
            assert_ne!(flags(b).ok() as i32 & libc::O_NONBLOCK, 0);
        }
        // Opens its own, beside what it has inherited.
        ("own", [s]) => {
            let (a, b) = crate::net::pair(crate::sys::Net::V4);
            a.write(b"mine").is(4);
            assert_eq!(take(&b, 9), b"mine");
            s.write(b"ours").is(4);
        }
        // Another exec, twice removed.
        ("again", [s]) => {
            let pid = crate::ways::start_after("shout", &[s.raw()]);
            crate::ways::succeeds(pid);
        }
        ("hold", [s]) => {
            s.write(b"here").is(4);
            assert_eq!(take_to_end(s), b"");
        }
        ("rights", [u]) => {
            let [fd] = crate::rights::receive(u, 1)[..] else { panic!("one descriptor") };
            Fd(fd).write(b"after exec").is(10);
        }
        ("wait", [s]) => wait_in(s),
        _ => panic!("{what} {fds:?}"),
    }
}
