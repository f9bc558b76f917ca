//! The same calls through libc's other doors: syscall(2), _chk and old-version symbols, stdio on a socket, dlsym.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::cases;
use crate::net::{bound_udp, listener, nobody, pair, take, take_all, take_to_end, udp_pair, wait_in};
use crate::sys::{Addr, Fd, Net, R, sys};

cases! {
    one: [syscall_errors, found_by_dlsym],
    net: [
        syscall_socket, syscall_connect_accept, syscall_read_write, syscall_sendto_recvfrom, syscall_sendmsg, syscall_options, syscall_poll,
        syscall_epoll, syscall_close, syscall_dup, syscall_fcntl, syscall_ioctl, chk_read, chk_recv, chk_recvfrom, chk_poll, fdopen_write,
        fdopen_read_lines, fdopen_both, fprintf_socket, fclose_closes, fgets_eof, dprintf_socket, getline, fileno_is_the_fd, old_send_is_sendto,
        isfdtype_socket, ppoll_chk, std_net_works, std_net_udp_works,
    ],
}

fn call(nr: libc::c_long, a: [usize; 6]) -> R {
    sys!(libc::syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]))
}

fn syscall_errors() {
    call(libc::SYS_socket, [999, 1, 0, 0, 0, 0]).fails(libc::EAFNOSUPPORT);
    call(libc::SYS_recvfrom, [777, 0, 0, 0, 0, 0]).fails(libc::EBADF);
    call(libc::SYS_shutdown, [777, 0, 0, 0, 0, 0]).fails(libc::EBADF);
}

fn syscall_socket(net: Net) {
    let fd = call(libc::SYS_socket, [net.af() as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0]).fd();
    // The same world as through the front door.
    let (_l, at) = listener(net);
    fd.connect(&at).is(0);
    assert_eq!(fd.peer(), at);
}

fn syscall_connect_accept(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    call(libc::SYS_connect, [c.raw() as usize, at.ptr() as usize, at.len as usize, 0, 0, 0]).is(0);
    let s = call(libc::SYS_accept4, [l.raw() as usize, 0, 0, libc::SOCK_NONBLOCK as usize, 0, 0]).fd();
    s.read(&mut [0; 4]).fails(libc::EAGAIN);
    let gone = nobody(net, libc::SOCK_STREAM);
    call(libc::SYS_connect, [net.tcp().raw() as usize, gone.ptr() as usize, gone.len as usize, 0, 0, 0]).fails(libc::ECONNREFUSED);
}

fn syscall_read_write(net: Net) {
    let (c, s) = pair(net);
    call(libc::SYS_write, [c.raw() as usize, b"abc".as_ptr() as usize, 3, 0, 0, 0]).is(3);
    let mut room = [0u8; 8];
    call(libc::SYS_read, [s.raw() as usize, room.as_mut_ptr() as usize, 8, 0, 0, 0]).is(3);
    assert_eq!(&room[..3], b"abc");
    let v = crate::msg::iov(&[b"d", b"ef"]);
    call(libc::SYS_writev, [c.raw() as usize, v.as_ptr() as usize, 2, 0, 0, 0]).is(3);
    assert_eq!(take_all(&s, 3), b"def");
}

fn syscall_sendto_recvfrom(net: Net) {
    let ((a, at_a), (b, at_b)) = (bound_udp(net), bound_udp(net));
    call(libc::SYS_sendto, [a.raw() as usize, b"abc".as_ptr() as usize, 3, 0, at_b.ptr() as usize, at_b.len as usize]).is(3);
    let mut from = Addr::room();
    let mut room = [0u8; 8];
    call(libc::SYS_recvfrom, [b.raw() as usize, room.as_mut_ptr() as usize, 8, 0, from.mut_ptr() as usize, (&raw mut from.len) as usize])
        .is(3);
    assert_eq!(from, at_a);
}

fn syscall_sendmsg(net: Net) {
    let (a, b) = udp_pair(net);
    let mut v = crate::msg::iov(&[b"abc"]);
    let hdr = crate::msg::header(&mut v);
    call(libc::SYS_sendmsg, [a.raw() as usize, (&raw const hdr) as usize, 0, 0, 0, 0]).is(3);
    assert_eq!(take(&b, 9), b"abc");
}

fn syscall_options(net: Net) {
    let t = net.tcp();
    let one = 1i32;
    let (level, option) = (libc::SOL_SOCKET as usize, libc::SO_KEEPALIVE as usize);
    call(libc::SYS_setsockopt, [t.raw() as usize, level, option, (&raw const one) as usize, 4, 0]).is(0);
    assert_eq!(t.opt(libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
    let mut a = Addr::room();
    call(libc::SYS_getsockname, [t.raw() as usize, a.mut_ptr() as usize, (&raw mut a.len) as usize, 0, 0, 0]).is(0);
    assert_eq!(a, net.any());
}

fn syscall_poll(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    let mut p = libc::pollfd { fd: s.raw(), events: libc::POLLIN, revents: 0 };
    let t = libc::timespec { tv_sec: 10, tv_nsec: 0 };
    call(libc::SYS_ppoll, [(&raw mut p) as usize, 1, (&raw const t) as usize, 0, 8, 0]).is(1);
    assert_eq!(p.revents, libc::POLLIN);
}

fn syscall_epoll(net: Net) {
    let (c, s) = pair(net);
    let e = call(libc::SYS_epoll_create1, [0; 6]).fd();
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 5 };
    call(libc::SYS_epoll_ctl, [e.raw() as usize, libc::EPOLL_CTL_ADD as usize, s.raw() as usize, (&raw mut event) as usize, 0, 0]).is(0);
    c.write(b"x").is(1);
    event.u64 = 0;
    call(libc::SYS_epoll_pwait, [e.raw() as usize, (&raw mut event) as usize, 1, 10_000, 0, 8]).is(1);
    let data = event.u64;
    assert_eq!(data, 5);
}

fn syscall_close(net: Net) {
    let (c, s) = pair(net);
    call(libc::SYS_close, [c.take() as usize, 0, 0, 0, 0, 0]).is(0);
    assert_eq!(take(&s, 9), b"");
}

fn syscall_dup(net: Net) {
    let (c, s) = pair(net);
    let d = call(libc::SYS_dup, [c.raw() as usize, 0, 0, 0, 0, 0]).fd();
    c.close().is(0);
    d.write(b"dup").is(3);
    assert_eq!(take(&s, 9), b"dup");
}

fn syscall_fcntl(net: Net) {
    let (c, _s) = pair(net);
    call(libc::SYS_fcntl, [c.raw() as usize, libc::F_SETFL as usize, libc::O_NONBLOCK as usize, 0, 0, 0]).is(0);
    c.read(&mut [0; 4]).fails(libc::EAGAIN);
    let d = call(libc::SYS_fcntl, [c.raw() as usize, libc::F_DUPFD as usize, 90, 0, 0, 0]).fd();
    assert_eq!(d.raw(), 90);
    d.read(&mut [0; 4]).fails(libc::EAGAIN);
}

fn syscall_ioctl(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abcd").is(4);
    wait_in(&s);
    let mut n = 0i32;
    call(libc::SYS_ioctl, [s.raw() as usize, libc::FIONREAD as usize, (&raw mut n) as usize, 0, 0, 0]).is(0);
    assert_eq!(n, 4);
}

/// What -D_FORTIFY_SOURCE compiles calls to, and other symbols without a binding.
mod raw {
    use super::{c_char, c_int, c_void};
    unsafe extern "C" {
        pub(super) fn __read_chk(fd: c_int, room: *mut c_void, n: usize, size: usize) -> isize;
        pub(super) fn __recv_chk(fd: c_int, room: *mut c_void, n: usize, size: usize, flags: c_int) -> isize;
        pub(super) fn __recvfrom_chk(
            fd: c_int,
            room: *mut c_void,
            n: usize,
            size: usize,
            flags: c_int,
            from: *mut libc::sockaddr,
            len: *mut libc::socklen_t,
        ) -> isize;
        pub(super) fn __poll_chk(fds: *mut libc::pollfd, n: libc::nfds_t, timeout: c_int, size: usize) -> c_int;
        pub(super) fn __ppoll_chk(
            fds: *mut libc::pollfd,
            n: libc::nfds_t,
            timeout: *const libc::timespec,
            mask: *const libc::sigset_t,
            size: usize,
        ) -> c_int;
        pub(super) fn __send(fd: c_int, data: *const c_void, n: usize, flags: c_int) -> isize;
        pub(super) fn isfdtype(fd: c_int, kind: c_int) -> c_int;
        pub(super) fn fprintf(file: *mut libc::FILE, format: *const c_char, ...) -> c_int;
        pub(super) fn dprintf(fd: c_int, format: *const c_char, ...) -> c_int;
    }
}

fn chk_read(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    let mut room = [0u8; 8];
    sys!(raw::__read_chk(s.raw(), room.as_mut_ptr().cast(), 8, 8)).is(3);
}

fn chk_recv(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    let mut room = [0u8; 8];
    sys!(raw::__recv_chk(s.raw(), room.as_mut_ptr().cast(), 8, 8, libc::MSG_PEEK)).is(3);
    assert_eq!(take(&s, 9), b"abc");
}

fn chk_recvfrom(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"abc").is(3);
    let mut room = [0u8; 8];
    let mut from = Addr::room();
    sys!(raw::__recvfrom_chk(b.raw(), room.as_mut_ptr().cast(), 8, 8, 0, from.mut_ptr(), &raw mut from.len)).is(3);
    assert_eq!(from, a.name());
}

fn chk_poll(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    let mut p = libc::pollfd { fd: s.raw(), events: libc::POLLIN, revents: 0 };
    sys!(raw::__poll_chk(&raw mut p, 1, 10_000, size_of::<libc::pollfd>())).is(1);
}

fn ppoll_chk(net: Net) {
    let (c, s) = pair(net);
    c.write(b"x").is(1);
    let mut p = libc::pollfd { fd: s.raw(), events: libc::POLLIN, revents: 0 };
    let t = libc::timespec { tv_sec: 10, tv_nsec: 0 };
    sys!(raw::__ppoll_chk(&raw mut p, 1, &t, std::ptr::null(), size_of::<libc::pollfd>())).is(1);
}

fn old_send_is_sendto(net: Net) {
    let (c, s) = pair(net);
    sys!(raw::__send(c.raw(), b"abc".as_ptr().cast(), 3, 0)).is(3);
    assert_eq!(take(&s, 9), b"abc");
}

fn isfdtype_socket(net: Net) {
    let (c, _s) = pair(net);
    sys!(raw::isfdtype(c.raw(), libc::S_IFSOCK as c_int)).is(1);
    sys!(raw::isfdtype(c.raw(), libc::S_IFREG as c_int)).is(0);
}

fn open(fd: Fd, mode: &CStr) -> *mut libc::FILE {
    // SAFETY: the descriptor is given up to the stream.
    let file = unsafe { libc::fdopen(fd.take(), mode.as_ptr()) };
    assert!(!file.is_null());
    file
}

fn fdopen_write(net: Net) {
    let (c, s) = pair(net);
    let f = open(c, c"w");
    sys!(libc::fputs(c"one line\n".as_ptr(), f)).ok();
    sys!(libc::fflush(f)).is(0);
    assert_eq!(take_all(&s, 9), b"one line\n");
    sys!(libc::fclose(f)).is(0);
    assert_eq!(take(&s, 9), b"");
}

fn line(f: *mut libc::FILE) -> Option<String> {
    let mut room = [0 as c_char; 128];
    // SAFETY: the room is as long as said.
    unsafe {
        let got = libc::fgets(room.as_mut_ptr(), 128, f);
        (!got.is_null()).then(|| CStr::from_ptr(got).to_string_lossy().into_owned())
    }
}

fn fdopen_read_lines(net: Net) {
    let (c, s) = pair(net);
    c.write(b"first\nsecond\nrest").is(17);
    c.close().is(0);
    let f = open(s, c"r");
    assert_eq!(line(f).as_deref(), Some("first\n"));
    assert_eq!(line(f).as_deref(), Some("second\n"));
    assert_eq!(line(f).as_deref(), Some("rest"));
    assert_eq!(line(f), None);
    sys!(libc::feof(f)).is(1);
    sys!(libc::fclose(f)).is(0);
}

fn fdopen_both(net: Net) {
    let (c, s) = pair(net);
    let out = open(sys!(libc::dup(s.raw())).fd(), c"w");
    let inp = open(s, c"r");
    c.write(b"ask\n").is(4);
    assert_eq!(line(inp).as_deref(), Some("ask\n"));
    sys!(libc::fputs(c"answer\n".as_ptr(), out)).ok();
    sys!(libc::fclose(out)).is(0);
    assert_eq!(take_all(&c, 7), b"answer\n");
    sys!(libc::fclose(inp)).is(0);
    assert_eq!(take(&c, 9), b"");
}

fn fprintf_socket(net: Net) {
    let (c, s) = pair(net);
    let f = open(c, c"w");
    sys!(raw::fprintf(f, c"%d %s\n".as_ptr(), 42 as c_int, c"words".as_ptr())).is(9);
    sys!(libc::fflush(f)).is(0);
    assert_eq!(take_all(&s, 9), b"42 words\n");
    sys!(libc::fclose(f)).is(0);
}

fn dprintf_socket(net: Net) {
    let (c, s) = pair(net);
    sys!(raw::dprintf(c.raw(), c"%s-%d".as_ptr(), c"d".as_ptr(), 7 as c_int)).is(3);
    assert_eq!(take_all(&s, 3), b"d-7");
}

fn fclose_closes(net: Net) {
    let (c, s) = pair(net);
    let f = open(c, c"r+");
    sys!(libc::fclose(f)).is(0);
    assert_eq!(take_to_end(&s), b"");
}

fn fgets_eof(net: Net) {
    let (c, s) = pair(net);
    let f = open(s, c"r");
    c.close().is(0);
    assert_eq!(line(f), None);
    sys!(libc::ferror(f)).is(0);
    sys!(libc::fclose(f)).is(0);
}

fn getline(net: Net) {
    let (c, s) = pair(net);
    c.write(b"a line of some length\n").is(22);
    let f = open(s, c"r");
    let mut at: *mut c_char = std::ptr::null_mut();
    let mut size = 0;
    sys!(libc::getline(&raw mut at, &raw mut size, f)).is(22);
    // SAFETY: getline allocated it.
    unsafe { libc::free(at.cast()) };
    sys!(libc::fclose(f)).is(0);
}

fn fileno_is_the_fd(net: Net) {
    let (c, s) = pair(net);
    let number = c.raw();
    let f = open(c, c"r+");
    sys!(libc::fileno(f)).is(number as isize);
    sys!(libc::send(number, b"under".as_ptr().cast(), 5, 0)).is(5);
    assert_eq!(take_all(&s, 5), b"under");
    sys!(libc::fclose(f)).is(0);
}

fn found_by_dlsym() {
    // SAFETY: the symbol is libc's (or csel's) recv.
    let recv: unsafe extern "C" fn(c_int, *mut c_void, usize, c_int) -> isize = unsafe {
        let at = libc::dlsym(libc::RTLD_DEFAULT, c"recv".as_ptr());
        assert!(!at.is_null());
        std::mem::transmute(at)
    };
    let (c, s) = pair(Net::V4);
    c.write(b"abc").is(3);
    let mut room = [0u8; 8];
    sys!(recv(s.raw(), room.as_mut_ptr().cast(), 8, 0)).is(3);
}

fn std_net_works(net: Net) {
    use std::io::{Read as _, Write as _};
    let l = std::net::TcpListener::bind((net.lo().ip(), 0)).expect("bind");
    let at = l.local_addr().expect("name");
    let t = std::thread::spawn(move || {
        let (mut s, _) = l.accept().expect("accept");
        let mut got = String::new();
        s.read_to_string(&mut got).expect("read");
        s.write_all(got.to_uppercase().as_bytes()).expect("write");
    });
    let mut c = std::net::TcpStream::connect_timeout(&at, std::time::Duration::from_secs(10)).expect("connect");
    c.write_all(b"std").expect("write");
    c.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let mut got = String::new();
    c.read_to_string(&mut got).expect("read");
    assert_eq!(got, "STD");
    t.join().expect("server");
}

fn std_net_udp_works(net: Net) {
    let a = std::net::UdpSocket::bind((net.lo().ip(), 0)).expect("bind");
    let b = std::net::UdpSocket::bind((net.lo().ip(), 0)).expect("bind");
    a.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("timeout");
    b.send_to(b"hey", a.local_addr().expect("name")).expect("send");
    let mut room = [0; 8];
    let (n, from) = a.recv_from(&mut room).expect("recv");
    assert_eq!((n, from), (3, b.local_addr().expect("name")));
}
