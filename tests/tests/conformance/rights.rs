//! SCM_RIGHTS: sockets passed over AF_UNIX, in flight and after.

use crate::cases;
use crate::epoll::{Ep, IN};
use crate::msg::{Control, encode, header, iov, recvmsg, sendmsg, space};
use crate::net::{bound_udp, listener, pair, pattern, put_all, quiet, sleep, take, take_all, take_to_end, until, wait_in};
use crate::poll::{pipe, unixpair};
use crate::sys::{Fd, Net, sys};
use crate::ways::{start_after, succeeds};
use libc::{O_NONBLOCK, POLLIN, SCM_RIGHTS, SHUT_WR, SOL_SOCKET};

cases! {
    one: [
        mixed_with_kernels, several_messages, same_twice_in_one, recvmmsg_brings, sendmmsg_carries, by_syscall, over_datagrams, over_named_socket,
        refused_send_keeps_nothing, not_a_descriptor, bad_pointer, through_a_third, chain_of_processes, receiver_after_exec,
        to_itself_many_times, unread_when_socketpair_closes, ping_pong, thousand_passes, fd_number_of_closed, in_thread,
        passed_over_tcp_is_refused, with_credentials,
    ],
    net: [
        connection_to_child, connection_to_self, listener_to_child, datagram_socket_to_child, listener_and_connection, sender_closes_in_flight,
        sender_exits_in_flight, in_flight_holds_connection, never_received, truncated, truncated_some, peeked, peeked_then_received, cloexec_on_receive,
        no_cloexec_on_receive, flags_come_along, flags_are_shared_after, data_in_flight_stays, closed_by_receiver, epoll_in_receiver, received_by_both,
        epoll_registration_in_flight,
    ],
}

fn fork(f: impl FnOnce()) -> i32 {
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
        // SAFETY: ends the child without the parent's handlers.
        unsafe { libc::_exit(if failed { 101 } else { 0 }) };
    }
    pid
}

fn rights(fds: &[i32]) -> Vec<Control> {
    vec![(SOL_SOCKET, SCM_RIGHTS, fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect())]
}

#[track_caller]
fn send(u: &Fd, fds: &[i32]) {
    sendmsg(u, &[b"m"], None, &rights(fds), 0).is(1);
}

fn numbers(controls: &[Control]) -> Vec<i32> {
    let ours = controls.iter().filter(|c| c.0 == SOL_SOCKET && c.1 == SCM_RIGHTS);
    ours.flat_map(|c| c.2.chunks(4)).map(|b| i32::from_ne_bytes(b.try_into().expect("4"))).collect()
}

/// The descriptors of one message; room for `n`.
#[track_caller]
pub(crate) fn receive(u: &Fd, n: usize) -> Vec<i32> {
    receive_with(u, n, 0)
}

#[track_caller]
fn receive_with(u: &Fd, n: usize, flags: i32) -> Vec<i32> {
    let got = recvmsg(u, &[8], flags, space(n * 4));
    assert_eq!(got.data, b"m");
    assert_eq!(got.flags & libc::MSG_CTRUNC, 0);
    numbers(&got.controls)
}

#[track_caller]
fn receive_one(u: &Fd) -> Fd {
    let got = receive(u, 1);
    assert_eq!(got.len(), 1);
    Fd(got[0])
}

fn connection_to_child(net: Net) {
    let (a, b) = unixpair();
    let pid = fork(|| {
        let s = receive_one(&b);
        assert_eq!(take(&s, 9), b"ask");
        s.write(b"answer").is(6);
    });
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    s.close().is(0);
    c.write(b"ask").is(3);
    assert_eq!(take_to_end(&c), b"answer");
    succeeds(pid);
}

fn connection_to_self(net: Net) {
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    let t = receive_one(&b);
    assert_ne!(t.raw(), s.raw());
    t.write(b"two").is(3);
    assert_eq!(take(&c, 9), b"two");
    s.close().is(0);
    quiet(&c, POLLIN);
    t.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn listener_to_child(net: Net) {
    let (a, b) = unixpair();
    let (l, at) = listener(net);
    let pid = fork(|| {
        let l = receive_one(&b);
        let s = l.accept().fd();
        s.write(b"accepted").is(8);
    });
    send(&a, &[l.raw()]);
    l.close().is(0);
    let c = net.tcp();
    c.connect(&at).is(0);
    assert_eq!(take_to_end(&c), b"accepted");
    succeeds(pid);
}

fn datagram_socket_to_child(net: Net) {
    let (a, b) = unixpair();
    let (u, at) = bound_udp(net);
    let pid = fork(|| {
        let u = receive_one(&b);
        assert_eq!(take(&u, 9), b"datagram");
    });
    send(&a, &[u.raw()]);
    u.close().is(0);
    net.udp().sendto(b"datagram", 0, &at).is(8);
    succeeds(pid);
}

fn listener_and_connection(net: Net) {
    let (a, b) = unixpair();
    let (l, at) = listener(net);
    let (c, s) = pair(net);
    let (u, _) = bound_udp(net);
    let pid = fork(|| {
        let got = receive(&b, 3);
        let [l, s, u] = got[..] else { panic!("three: {got:?}") };
        let (l, s, u) = (Fd(l), Fd(s), Fd(u));
        assert_eq!(u.opt(SOL_SOCKET, libc::SO_TYPE), libc::SOCK_DGRAM);
        s.write(b"s").is(1);
        l.accept().fd().write(b"l").is(1);
    });
    send(&a, &[l.raw(), s.raw(), u.raw()]);
    drop((l, s, u));
    assert_eq!(take(&c, 9), b"s");
    let d = net.tcp();
    d.connect(&at).is(0);
    assert_eq!(take(&d, 9), b"l");
    succeeds(pid);
}

fn sender_closes_in_flight(net: Net) {
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    s.close().is(0);
    quiet(&c, POLLIN);
    c.write(b"waiting").is(7);
    let s = receive_one(&b);
    assert_eq!(take(&s, 9), b"waiting");
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn sender_exits_in_flight(net: Net) {
    let (a, b) = unixpair();
    let (l, at) = listener(net);
    let pid = fork(|| {
        let c = net.tcp();
        c.connect(&at).is(0);
        c.write(b"first").is(5);
        send(&a, &[c.raw()]);
    });
    let s = l.accept().fd();
    succeeds(pid);
    assert_eq!(take(&s, 9), b"first");
    quiet(&s, POLLIN);
    let c = receive_one(&b);
    c.write(b"second").is(6);
    assert_eq!(take(&s, 9), b"second");
    drop(c);
    assert_eq!(take(&s, 9), b"");
}

fn in_flight_holds_connection(net: Net) {
    // Longer than anybody's patience with the dead.
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    s.close().is(0);
    sleep(1500);
    quiet(&c, POLLIN);
    let s = receive_one(&b);
    s.write(b"alive").is(5);
    assert_eq!(take(&c, 9), b"alive");
}

fn never_received(net: Net) {
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    s.close().is(0);
    quiet(&c, POLLIN);
    // The message is thrown away with the socket it waits in.
    b.close().is(0);
    a.close().is(0);
    wait_in(&c);
    assert_eq!(take(&c, 9), b"");
}

fn unread_when_socketpair_closes() {
    // The same by the end of the process that was to receive it.
    let (a, b) = unixpair();
    let (c, s) = pair(Net::V4);
    let (r, w) = pipe();
    let pid = fork(|| {
        r.read(&mut [0]).is(1);
    });
    b.close().is(0);
    send(&a, &[s.raw()]);
    s.close().is(0);
    quiet(&c, POLLIN);
    w.write(b"x").is(1);
    succeeds(pid);
    wait_in(&c);
    assert_eq!(take(&c, 9), b"");
}

fn truncated(net: Net) {
    // No room: the descriptor is closed, and with it the connection.
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    s.close().is(0);
    let got = recvmsg(&b, &[8], 0, 0);
    assert_eq!(got.data, b"m");
    assert_ne!(got.flags & libc::MSG_CTRUNC, 0);
    wait_in(&c);
    assert_eq!(take(&c, 9), b"");
}

fn truncated_some(net: Net) {
    let (a, b) = unixpair();
    let ((c1, s1), (c2, s2)) = (pair(net), pair(net));
    send(&a, &[s1.raw(), s2.raw()]);
    drop((s1, s2));
    // Exactly one fits.
    let got = recvmsg(&b, &[8], 0, 16 + 4);
    assert_ne!(got.flags & libc::MSG_CTRUNC, 0);
    let fds = numbers(&got.controls);
    assert_eq!(fds.len(), 1);
    let s1 = Fd(fds[0]);
    s1.write(b"one").is(3);
    assert_eq!(take(&c1, 9), b"one");
    wait_in(&c2);
    assert_eq!(take(&c2, 9), b"");
}

fn peeked(net: Net) {
    // A look installs a copy, and leaves the message.
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    s.close().is(0);
    for _ in 0..2 {
        let got = receive_with(&b, 1, libc::MSG_PEEK);
        let s = Fd(got[0]);
        s.write(b"look").is(4);
        assert_eq!(take(&c, 9), b"look");
        s.close().is(0);
        quiet(&c, POLLIN);
    }
    let s = receive_one(&b);
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn peeked_then_received(net: Net) {
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    s.close().is(0);
    let one = Fd(receive_with(&b, 1, libc::MSG_PEEK)[0]);
    let two = receive_one(&b);
    one.close().is(0);
    quiet(&c, POLLIN);
    two.write(b"two").is(3);
    assert_eq!(take(&c, 9), b"two");
    two.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn cloexec_on_receive(net: Net) {
    let (a, b) = unixpair();
    let (_c, s) = pair(net);
    send(&a, &[s.raw()]);
    let t = Fd(receive_with(&b, 1, libc::MSG_CMSG_CLOEXEC)[0]);
    sys!(libc::fcntl(t.raw(), libc::F_GETFD)).is(libc::FD_CLOEXEC as isize);
    succeeds(start_after("first", &[s.raw(), t.raw()]));
}

fn no_cloexec_on_receive(net: Net) {
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    sys!(libc::fcntl(s.raw(), libc::F_SETFD, libc::FD_CLOEXEC)).is(0);
    send(&a, &[s.raw()]);
    let t = receive_one(&b);
    sys!(libc::fcntl(t.raw(), libc::F_GETFD)).is(0);
    let pid = start_after("shout", &[t.raw()]);
    c.write(b"hello").is(5);
    assert_eq!(take(&c, 9), b"HELLO");
    succeeds(pid);
}

fn flags_come_along(net: Net) {
    let (a, b) = unixpair();
    let (_c, s) = pair(net);
    s.nonblock(true);
    send(&a, &[s.raw()]);
    let t = receive_one(&b);
    assert_ne!(sys!(libc::fcntl(t.raw(), libc::F_GETFL)).ok() as i32 & O_NONBLOCK, 0);
    t.recv(&mut [0], 0).fails(libc::EAGAIN);
}

fn flags_are_shared_after(net: Net) {
    let (a, b) = unixpair();
    let (_c, s) = pair(net);
    send(&a, &[s.raw()]);
    let pid = fork(|| {
        let t = receive_one(&b);
        t.nonblock(true);
    });
    succeeds(pid);
    s.recv(&mut [0], 0).fails(libc::EAGAIN);
}

fn data_in_flight_stays(net: Net) {
    // Bytes come while the socket itself is under way.
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    s.close().is(0);
    let data = pattern(60_000);
    put_all(&c, &data);
    c.shutdown(SHUT_WR).is(0);
    let s = receive_one(&b);
    assert!(take_to_end(&s) == data);
}

fn closed_by_receiver(net: Net) {
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    let pid = fork(|| drop(receive_one(&b)));
    send(&a, &[s.raw()]);
    succeeds(pid);
    quiet(&c, POLLIN);
    s.write(b"mine").is(4);
    assert_eq!(take(&c, 9), b"mine");
}

fn epoll_in_receiver(net: Net) {
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    let pid = fork(|| {
        let s = receive_one(&b);
        let set = Ep::new();
        set.add(&s, IN);
        set.gives(&s, IN);
        assert_eq!(take(&s, 9), b"event");
    });
    send(&a, &[s.raw()]);
    s.close().is(0);
    c.write(b"event").is(5);
    succeeds(pid);
    assert_eq!(take(&c, 9), b"");
}

fn epoll_registration_in_flight(net: Net) {
    // The registration is the description's: it stays while a message holds it.
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    let set = Ep::new();
    set.add(&s, IN);
    let number = s.raw() as u64;
    send(&a, &[s.raw()]);
    s.close().is(0);
    c.write(b"x").is(1);
    assert_eq!(set.wait(16, 10_000), [(number, IN)]);
    drop(receive_one(&b));
    until(|| set.wait(16, 0).is_empty());
}

fn received_by_both(net: Net) {
    let (a, b) = unixpair();
    let (c, s) = pair(net);
    send(&a, &[s.raw()]);
    send(&a, &[s.raw()]);
    s.close().is(0);
    let pid = fork(|| {
        receive_one(&b).write(b"child").is(5);
    });
    succeeds(pid);
    assert_eq!(take(&c, 9), b"child");
    quiet(&c, POLLIN);
    let s = receive_one(&b);
    s.write(b"parent").is(6);
    drop(s);
    assert_eq!(take_to_end(&c), b"parent");
}

fn mixed_with_kernels() {
    let (a, b) = unixpair();
    let (c, s) = pair(Net::V4);
    let (r, w) = pipe();
    send(&a, &[r.raw(), s.raw(), w.raw()]);
    drop((r, s, w));
    let got = receive(&b, 3);
    let [r, s, w] = got[..] else { panic!("three: {got:?}") };
    let (r, s, w) = (Fd(r), Fd(s), Fd(w));
    w.write(b"p").is(1);
    r.read(&mut [0]).is(1);
    s.write(b"s").is(1);
    assert_eq!(take(&c, 9), b"s");
}

fn several_messages() {
    let (a, b) = unixpair();
    let pairs: Vec<_> = (0..5).map(|_| pair(Net::V4)).collect();
    let mut far = Vec::new();
    for (c, s) in pairs {
        send(&a, &[s.raw()]);
        far.push(c);
    }
    for (i, c) in far.iter().enumerate() {
        let s = receive_one(&b);
        s.write(&[i as u8]).is(1);
        assert_eq!(take(c, 9), [i as u8]);
        drop(s);
        assert_eq!(take(c, 9), b"");
    }
}

fn same_twice_in_one() {
    let (a, b) = unixpair();
    let (c, s) = pair(Net::V4);
    send(&a, &[s.raw(), s.raw()]);
    s.close().is(0);
    let got = receive(&b, 2);
    assert_eq!(got.len(), 2);
    Fd(got[0]).close().is(0);
    quiet(&c, POLLIN);
    Fd(got[1]).close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn recvmmsg_brings() {
    let (a, b) = unixpair();
    let (c, s) = pair(Net::V4);
    send(&a, &[s.raw()]);
    s.close().is(0);
    let mut data = [0u8; 8];
    let mut vec = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: 8 };
    let mut room = [0u64; 8];
    // SAFETY: all-zero is a valid mmsghdr.
    let mut hdr: libc::mmsghdr = unsafe { std::mem::zeroed() };
    hdr.msg_hdr.msg_iov = &raw mut vec;
    hdr.msg_hdr.msg_iovlen = 1;
    hdr.msg_hdr.msg_control = room.as_mut_ptr().cast();
    hdr.msg_hdr.msg_controllen = size_of_val(&room);
    sys!(libc::recvmmsg(b.raw(), &raw mut hdr, 1, 0, std::ptr::null_mut())).is(1);
    let s = Fd(room[2] as i32);
    s.write(b"mm").is(2);
    drop(s);
    assert_eq!(take_to_end(&c), b"mm");
}

fn sendmmsg_carries() {
    let (a, b) = unixpair();
    let ((c1, s1), (c2, s2)) = (pair(Net::V4), pair(Net::V6));
    let mut controls = [encode(&rights(&[s1.raw()])), encode(&rights(&[s2.raw()]))];
    let mut vecs = [iov(&[b"m"]), iov(&[b"m"])];
    let mut hdrs: Vec<libc::mmsghdr> = (0..2)
        .map(|i| {
            let mut msg_hdr = header(&mut vecs[i]);
            msg_hdr.msg_control = controls[i].as_mut_ptr().cast();
            msg_hdr.msg_controllen = controls[i].len();
            libc::mmsghdr { msg_hdr, msg_len: 9 }
        })
        .collect();
    sys!(libc::sendmmsg(a.raw(), hdrs.as_mut_ptr(), 2, 0)).is(2);
    assert_eq!((hdrs[0].msg_len, hdrs[1].msg_len), (1, 1));
    drop((s1, s2));
    for c in [c1, c2] {
        receive_one(&b).write(b"y").is(1);
        assert_eq!(take_to_end(&c), b"y");
    }
}

fn by_syscall() {
    let (a, b) = unixpair();
    let (c, s) = pair(Net::V4);
    let mut vec = iov(&[b"m"]);
    let mut hdr = header(&mut vec);
    let mut control = encode(&rights(&[s.raw()]));
    hdr.msg_control = control.as_mut_ptr().cast();
    hdr.msg_controllen = control.len();
    sys!(libc::syscall(libc::SYS_sendmsg, a.raw(), &raw const hdr, 0)).is(1);
    s.close().is(0);
    quiet(&c, POLLIN);
    let mut room = [0u64; 4];
    let mut data = [vec![0u8; 4]];
    let mut vec = crate::msg::iov_mut(&mut data);
    let mut hdr = header(&mut vec);
    hdr.msg_control = room.as_mut_ptr().cast();
    hdr.msg_controllen = size_of_val(&room);
    sys!(libc::syscall(libc::SYS_recvmsg, b.raw(), &raw mut hdr, 0)).is(1);
    let s = Fd(room[2] as i32);
    s.write(b"raw").is(3);
    drop(s);
    assert_eq!(take_to_end(&c), b"raw");
}

fn over_datagrams() {
    let mut fds = [0; 2];
    sys!(libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, fds.as_mut_ptr())).is(0);
    let (a, b) = (Fd(fds[0]), Fd(fds[1]));
    let (c, s) = pair(Net::V4);
    send(&a, &[s.raw()]);
    s.close().is(0);
    receive_one(&b).write(b"d").is(1);
    assert_eq!(take_to_end(&c), b"d");
}

fn over_named_socket() {
    // A server that hands out sockets by name.
    let dir = std::env::var_os("XDG_RUNTIME_DIR").expect("the trial's directory");
    let path = std::path::Path::new(&dir).join("named");
    let server = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let (c, s) = pair(Net::V4);
    let pid = fork(|| {
        use std::os::fd::AsRawFd;
        let client = std::os::unix::net::UnixStream::connect(&path).expect("connected");
        let u = Fd(client.as_raw_fd());
        let s = receive_one(&u);
        u.take();
        s.write(b"named").is(5);
    });
    let (accepted, _) = server.accept().expect("accepted");
    let u = Fd(std::os::fd::IntoRawFd::into_raw_fd(accepted));
    send(&u, &[s.raw()]);
    s.close().is(0);
    assert_eq!(take_to_end(&c), b"named");
    succeeds(pid);
}

fn refused_send_keeps_nothing() {
    let (a, b) = unixpair();
    let (c, s) = pair(Net::V4);
    b.close().is(0);
    sendmsg(&a, &[b"m"], None, &rights(&[s.raw()]), libc::MSG_NOSIGNAL).fails(libc::EPIPE);
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn not_a_descriptor() {
    let (a, _b) = unixpair();
    let (c, s) = pair(Net::V4);
    sendmsg(&a, &[b"m"], None, &rights(&[s.raw(), 900]), 0).fails(libc::EBADF);
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn bad_pointer() {
    let (a, b) = unixpair();
    let (_c, _s) = pair(Net::V4);
    let mut vec = iov(&[b"m"]);
    let mut hdr = header(&mut vec);
    hdr.msg_control = 64 as *mut libc::c_void;
    hdr.msg_controllen = 24;
    sys!(libc::sendmsg(a.raw(), &raw const hdr, 0)).fails(libc::EFAULT);
    sys!(libc::sendmsg(a.raw(), std::ptr::null(), 0)).fails(libc::EFAULT);
    quiet(&b, POLLIN);
}

fn through_a_third() {
    // Received, and passed on at once by one that does not use it.
    let ((a, b), (d, e)) = (unixpair(), unixpair());
    let (c, s) = pair(Net::V4);
    let middle = fork(|| {
        let s = receive_one(&b);
        send(&d, &[s.raw()]);
    });
    let last = fork(|| {
        let s = receive_one(&e);
        assert_eq!(take(&s, 9), b"far");
        s.write(b"back").is(4);
    });
    send(&a, &[s.raw()]);
    s.close().is(0);
    c.write(b"far").is(3);
    assert_eq!(take_to_end(&c), b"back");
    succeeds(middle);
    succeeds(last);
}

fn chain_of_processes() {
    // A socket that only ever was in messages: its makers are gone.
    let (a, b) = unixpair();
    let (l, at) = listener(Net::V4);
    let pid = fork(|| {
        succeeds(fork(|| {
            let c = Net::V4.tcp();
            c.connect(&at).is(0);
            send(&a, &[c.raw()]);
        }));
        let c = receive_one(&b);
        c.write(b"1").is(1);
        send(&a, &[c.raw()]);
    });
    let s = l.accept().fd();
    succeeds(pid);
    let c = receive_one(&b);
    c.write(b"2").is(1);
    drop(c);
    assert_eq!(take_to_end(&s), b"12");
}

fn receiver_after_exec() {
    let (a, b) = unixpair();
    sys!(libc::fcntl(b.raw(), libc::F_SETFD, 0)).is(0);
    let (c, s) = pair(Net::V4);
    let pid = start_after("rights", &[b.raw()]);
    send(&a, &[s.raw()]);
    s.close().is(0);
    assert_eq!(take_to_end(&c), b"after exec");
    succeeds(pid);
}

fn to_itself_many_times() {
    let (a, b) = unixpair();
    let (c, mut s) = pair(Net::V4);
    for _ in 0..100 {
        send(&a, &[s.raw()]);
        s.close().is(0);
        s = receive_one(&b);
    }
    s.write(b"worn").is(4);
    drop(s);
    assert_eq!(take_to_end(&c), b"worn");
}

fn ping_pong() {
    // Between two processes, back and forth.
    let (a, b) = unixpair();
    let (c, s) = pair(Net::V4);
    let pid = fork(|| {
        for _ in 0..30 {
            let s = receive_one(&b);
            s.write(b"c").is(1);
            send(&b, &[s.raw()]);
        }
    });
    let mut s = s;
    for _ in 0..30 {
        send(&a, &[s.raw()]);
        s.close().is(0);
        s = receive_one(&a);
        s.write(b"p").is(1);
    }
    drop(s);
    assert_eq!(take_to_end(&c), b"cp".repeat(30));
    succeeds(pid);
}

fn thousand_passes() {
    // Each connection is passed and closed: nothing is left over.
    let (a, b) = unixpair();
    let (l, at) = listener(Net::V4);
    for i in 0..300u32 {
        let c = Net::V4.tcp();
        c.connect(&at).is(0);
        let s = l.accept().fd();
        send(&a, &[s.raw()]);
        drop(s);
        let s = receive_one(&b);
        s.write(&i.to_ne_bytes()).is(4);
        drop(s);
        assert_eq!(take_to_end(&c), i.to_ne_bytes());
    }
}

fn fd_number_of_closed() {
    // The received one takes a number that was another socket's.
    let (a, b) = unixpair();
    let ((c, s), (c2, s2)) = (pair(Net::V4), pair(Net::V4));
    send(&a, &[s.raw()]);
    let number = s2.raw();
    s2.close().is(0);
    let t = receive_one(&b);
    assert!(t.raw() <= number);
    t.write(b"t").is(1);
    assert_eq!(take(&c, 9), b"t");
    assert_eq!(take(&c2, 9), b"");
    drop(s);
}

fn in_thread() {
    let (a, b) = unixpair();
    let (c, s) = pair(Net::V4);
    std::thread::scope(|scope| {
        scope.spawn(|| receive_one(&b).write(b"thread").is(6));
        sleep(20);
        send(&a, &[s.raw()]);
        s.close().is(0);
    });
    assert_eq!(take_to_end(&c), b"thread");
}

fn passed_over_tcp_is_refused() {
    // SCM_RIGHTS means something on AF_UNIX only.
    let ((c, s), (_x, y)) = (pair(Net::V4), pair(Net::V4));
    let r = sendmsg(&c, &[b"m"], None, &rights(&[y.raw()]), 0).get();
    if r.is_ok() {
        let got = recvmsg(&s, &[8], 0, 64);
        assert_eq!(got.controls, []);
    } else {
        assert_eq!(r, Err(libc::EINVAL));
    }
}

fn with_credentials() {
    let (a, b) = unixpair();
    b.on(SOL_SOCKET, libc::SO_PASSCRED, 1);
    let (c, s) = pair(Net::V4);
    send(&a, &[s.raw()]);
    s.close().is(0);
    let got = recvmsg(&b, &[8], 0, 128);
    assert!(got.controls.iter().any(|c| c.1 == libc::SCM_CREDENTIALS));
    let fds = numbers(&got.controls);
    assert_eq!(fds.len(), 1);
    Fd(fds[0]).write(b"cred").is(4);
    assert_eq!(take_all(&c, 4), b"cred");
    assert_eq!(take(&c, 9), b"");
}
