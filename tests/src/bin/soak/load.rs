//! The load: servers and clients, each a thread of a member. All by plain system calls, so that what csel answers is what is looked at.
use crate::board::{Board, Me, Rng};
use std::sync::atomic::Ordering::*;

/// Where the family listens: blocking accept(2), epoll(7), datagrams.
pub(crate) const PORT: u16 = 7000;

/// What a family's processes inherit from its root.
#[derive(Clone, Copy)]
pub(crate) struct Doors {
    /// Listener of those who block in accept(2).
    pub(crate) blocking: i32,
    /// Listener of those who wait with epoll(7).
    pub(crate) polled: i32,
    /// The datagram socket they all read.
    pub(crate) udp: i32,
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// An IPv4 address and port as connect(2) wants it.
pub(crate) fn addr(ip: [u8; 4], port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip) },
        sin_zero: [0; 8],
    }
}

fn socket(ty: i32) -> i32 {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, ty | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
    fd
}

fn close(me: &Me, fd: i32) {
    // SAFETY: the descriptor is ours.
    me.op(10, fd, true, || unsafe { libc::close(fd) });
}

fn bind(fd: i32, port: u16) {
    let on = 1i32;
    let at = addr([0; 4], port);
    // SAFETY: pointers to live values of the sizes said.
    let r = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const on).cast(), 4);
        libc::bind(fd, (&raw const at).cast(), 16)
    };
    assert_eq!(r, 0, "bind {port}: {}", std::io::Error::last_os_error());
}

/// Opens the family's doors.
pub(crate) fn open_doors() -> Doors {
    let (blocking, polled, udp) = (socket(libc::SOCK_STREAM), socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK), socket(libc::SOCK_DGRAM));
    bind(blocking, PORT);
    bind(polled, PORT + 1);
    bind(udp, PORT + 2);
    for fd in [blocking, polled] {
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::listen(fd, 128) }, 0);
    }
    Doors { blocking, polled, udp }
}

/// Takes what waits in the accept queues.
pub(crate) fn drain_doors(d: Doors) {
    for _ in 0..50 {
        for fd in [d.blocking, d.polled] {
            // SAFETY: no pointers; null addresses are allowed.
            unsafe {
                libc::fcntl(fd, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK);
                loop {
                    let c = libc::accept(fd, std::ptr::null_mut(), std::ptr::null_mut());
                    if c < 0 {
                        break;
                    }
                    libc::close(c);
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Closes them.
pub(crate) fn close_doors(d: Doors) {
    for fd in [d.blocking, d.polled, d.udp] {
        // SAFETY: ours.
        unsafe { libc::close(fd) };
    }
}

fn read(fd: i32, into: &mut [u8]) -> isize {
    // SAFETY: writable for its length.
    unsafe { libc::read(fd, into.as_mut_ptr().cast(), into.len()) }
}

/// write(2) until all is gone; false if the connection broke.
fn write_all(me: &Me, op: usize, fd: i32, mut data: &[u8]) -> bool {
    while !data.is_empty() {
        // SAFETY: readable for its length. MSG_NOSIGNAL: a broken pipe is an answer.
        let n = me.op(op, fd, true, || unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) });
        match n {
            n if n > 0 => data = &data[n as usize..],
            _ if errno() == libc::EAGAIN => {
                let mut p = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
                // SAFETY: one pollfd.
                me.op(7, fd, true, || unsafe { libc::poll(&raw mut p, 1, -1) });
            }
            _ if errno() == libc::EINTR => {}
            _ => return false,
        }
    }
    true
}

/// Echoes until the peer is done.
fn serve(me: &Me, fd: i32, buf: &mut [u8]) {
    me.board.served.fetch_add(1, Relaxed);
    loop {
        let n = me.op(2, fd, true, || read(fd, buf));
        if n <= 0 || !write_all(me, 3, fd, &buf[..n as usize]) {
            break;
        }
    }
    close(me, fd);
}

/// Those who block: accept(2), then serve one connection to its end.
pub(crate) fn blocking_server(me: Me, doors: Doors) {
    let mut buf = vec![0; 65536];
    while !me.board.stop.load(Relaxed) {
        // SAFETY: null addresses are allowed.
        let fd = me.op(1, doors.blocking, false, || unsafe { libc::accept(doors.blocking, std::ptr::null_mut(), std::ptr::null_mut()) });
        if fd >= 0 {
            serve(&me, fd, &mut buf);
        } else if !matches!(errno(), libc::EINTR | libc::ECONNABORTED) {
            me.board.fail(&format!("accept: {}", std::io::Error::last_os_error()));
            return;
        }
    }
}

/// Those who wait with epoll(7) for all their connections at once.
pub(crate) fn epoll_server(me: Me, doors: Doors, exclusive: bool, edge: bool) {
    let mut buf = vec![0; 65536];
    // SAFETY: no pointers.
    let ep = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let add = |fd: i32, events: i32| {
        let mut ev = libc::epoll_event { events: events as u32, u64: fd as u64 };
        // SAFETY: ev lives.
        let r = unsafe { libc::epoll_ctl(ep, libc::EPOLL_CTL_ADD, fd, &raw mut ev) };
        if r != 0 {
            me.board.fail(&format!("epoll_ctl: {}", std::io::Error::last_os_error()));
        }
    };
    add(doors.polled, libc::EPOLLIN | if exclusive { libc::EPOLLEXCLUSIVE } else { 0 });
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
    while !me.board.stop.load(Relaxed) {
        // SAFETY: room for 16 events.
        let n = me.op(11, ep, false, || unsafe { libc::epoll_wait(ep, events.as_mut_ptr(), 16, -1) });
        for e in &events[..n.max(0) as usize] {
            let fd = e.u64 as i32;
            if fd == doors.polled {
                // SAFETY: null addresses are allowed.
                let fd = unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
                if fd >= 0 {
                    me.board.served.fetch_add(1, Relaxed);
                    add(fd, libc::EPOLLIN | if edge { libc::EPOLLET } else { 0 });
                }
                continue;
            }
            loop {
                let n = me.op(2, fd, true, || read(fd, &mut buf));
                if n < 0 && errno() == libc::EAGAIN {
                    break;
                }
                if n <= 0 || !write_all(&me, 3, fd, &buf[..n as usize]) {
                    close(&me, fd);
                    break;
                }
                if !edge {
                    break;
                }
            }
        }
    }
}

/// Answers datagrams with themselves.
pub(crate) fn udp_server(me: Me, doors: Doors) {
    let mut buf = vec![0; 4096];
    while !me.board.stop.load(Relaxed) {
        let mut from = addr([0; 4], 0);
        let mut len = 16u32;
        // SAFETY: buffer, address and its length are writable.
        let n = me.op(8, doors.udp, false, || unsafe {
            libc::recvfrom(doors.udp, buf.as_mut_ptr().cast(), buf.len(), 0, (&raw mut from).cast(), &raw mut len)
        });
        if n > 0 {
            // SAFETY: as above.
            me.op(8, doors.udp, true, || unsafe {
                libc::sendto(doors.udp, buf.as_ptr().cast(), n as usize, 0, (&raw const from).cast(), 16)
            });
        }
    }
}

/// What byte `i` of stream `key` is.
fn pattern(key: u64, i: u64) -> u8 {
    ((i.wrapping_add(key)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The bytes from `from` on are those of stream `key`?
fn check(me: &Me, what: &str, key: u64, from: u64, data: &[u8]) -> bool {
    match data.iter().enumerate().find(|(i, b)| **b != pattern(key, from + *i as u64)) {
        None => true,
        Some((i, b)) => {
            me.board.fail(&format!("{what}: byte {} is {b:#x}, not {:#x}", from + i as u64, pattern(key, from + i as u64)));
            false
        }
    }
}

/// connect(2); None: refused or broken.
fn dial(me: &Me, rng: &mut Rng, ip: [u8; 4], port: u16) -> Option<i32> {
    let nonblocking = rng.below(4) == 0;
    let fd = socket(libc::SOCK_STREAM | if nonblocking { libc::SOCK_NONBLOCK } else { 0 });
    let to = addr(ip, port);
    // SAFETY: the address lives.
    let mut ok = me.op(4, fd, true, || unsafe { libc::connect(fd, (&raw const to).cast(), 16) }) == 0;
    if !ok && errno() == libc::EINPROGRESS {
        let mut p = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
        let (mut e, mut len) = (0i32, 4u32);
        // SAFETY: pollfd, value and length live; no other pointers.
        unsafe {
            me.op(7, fd, true, || libc::poll(&raw mut p, 1, -1));
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut e).cast(), &raw mut len);
        }
        ok = e == 0;
    }
    if nonblocking && ok {
        // SAFETY: no pointers.
        unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_RDWR) };
    }
    if ok {
        return Some(fd);
    }
    me.board.refused.fetch_add(1, Relaxed);
    close(me, fd);
    None
}

/// One client's turn at random.
pub(crate) fn turn(me: &Me, rng: &mut Rng, hosts: &[[u8; 4]], buf: &mut [u8]) {
    let b: &Board = me.board;
    let ip = hosts[rng.below(hosts.len() as u64) as usize];
    let port = PORT + rng.below(2) as u16;
    let key = rng.next();
    match rng.below(10) {
        0..4 => {
            let Some(fd) = dial(me, rng, ip, port) else { return };
            let rounds = 1 + rng.below(20);
            let mut at = 0;
            let mut whole = true;
            'rounds: for _ in 0..rounds {
                let n = if rng.below(8) == 0 { 1 + rng.below(60_000) } else { 1 + rng.below(2000) } as usize;
                for (i, x) in buf[..n].iter_mut().enumerate() {
                    *x = pattern(key, at + i as u64);
                }
                whole = write_all(me, 5, fd, &buf[..n]);
                let end = at + n as u64;
                while whole && at < end {
                    let room = (end - at) as usize;
                    let got = me.op(6, fd, true, || read(fd, &mut buf[..room]));
                    whole = got > 0;
                    if whole && !check(me, "echo", key, at, &buf[..got as usize]) {
                        break 'rounds;
                    }
                    at += got.max(0) as u64;
                }
                if !whole {
                    break;
                }
            }
            if whole { &b.echoes } else { &b.broken }.fetch_add(1, Relaxed);
            b.bytes.fetch_add(at, Relaxed);
            close(me, fd);
        }
        4..6 => {
            // Connections that are hardly used.
            for _ in 0..1 + rng.below(8) {
                let Some(fd) = dial(me, rng, ip, port) else { return };
                if rng.below(2) == 0 {
                    write_all(me, 5, fd, b"x");
                }
                if rng.below(4) == 0 {
                    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                    // SAFETY: the value lives.
                    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), 8) };
                }
                b.churned.fetch_add(1, Relaxed);
                close(me, fd);
            }
        }
        6..8 => {
            // Halves: all is sent, the sending half closed, all comes back.
            let Some(fd) = dial(me, rng, ip, port) else { return };
            let n = 1 + rng.below(100_000);
            for (i, x) in buf[..n as usize].iter_mut().enumerate() {
                *x = pattern(key, i as u64);
            }
            let mut whole = write_all(me, 5, fd, &buf[..n as usize]);
            // SAFETY: no pointers.
            me.op(9, fd, true, || unsafe { libc::shutdown(fd, libc::SHUT_WR) });
            let mut at = 0;
            loop {
                let got = me.op(6, fd, true, || read(fd, &mut buf[..65536]));
                if got <= 0 {
                    break;
                }
                if !check(me, "half", key, at, &buf[..got as usize]) {
                    break;
                }
                at += got as u64;
            }
            whole &= at == n;
            if at > n {
                b.fail(&format!("half: {at} bytes came back, {n} were sent"));
            }
            if whole { &b.halves } else { &b.broken }.fetch_add(1, Relaxed);
            close(me, fd);
        }
        _ => datagrams(me, rng, ip, key),
    }
}

/// Datagrams with sequence numbers: what comes back is one that was sent, whole.
fn datagrams(me: &Me, rng: &mut Rng, ip: [u8; 4], key: u64) {
    let fd = socket(libc::SOCK_DGRAM);
    let to = addr(ip, PORT + 2);
    let wait = libc::timeval { tv_sec: 0, tv_usec: 200_000 };
    // SAFETY: values that live.
    unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), 16);
        libc::connect(fd, (&raw const to).cast(), 16);
    }
    for seq in 0..1 + rng.below(20) {
        let n = 8 + rng.below(1400) as usize;
        let mut d = vec![0; n];
        d[..8].copy_from_slice(&seq.to_le_bytes());
        for (i, x) in d.iter_mut().enumerate().skip(8) {
            *x = pattern(key ^ seq, i as u64);
        }
        // SAFETY: readable, writable for their lengths.
        me.op(8, fd, true, || unsafe { libc::send(fd, d.as_ptr().cast(), n, 0) });
        let mut back = [0; 2048];
        let got = me.op(8, fd, true, || read(fd, &mut back));
        if got < 8 {
            me.board.lost.fetch_add(1, Relaxed);
            continue;
        }
        let mut s = [0; 8];
        s.copy_from_slice(&back[..8]);
        let came = u64::from_le_bytes(s);
        if came > seq {
            me.board.fail(&format!("datagram {came} came back, {seq} was the last sent"));
        } else {
            check(me, "datagram", key ^ came, 8, &back[8..got as usize]);
        }
        me.board.datagrams.fetch_add(1, Relaxed);
    }
    close(me, fd);
}
