//! sendfile(2), splice(2), tee(2), vmsplice(2), copy_file_range(2): where one end is a socket.

use std::io::Write as _;
use std::os::fd::{FromRawFd as _, IntoRawFd as _};
use std::thread;

use crate::cases;
use crate::net::{listener, pair, pattern, put_all, take, take_all, take_to_end, udp_pair, wait_in};
use crate::poll::pipe;
use crate::sys::{Fd, Net, R, sys};
use libc::{EBADF, EINVAL, ESPIPE};

cases! {
    one: [bad_fds],
    net: [
        sendfile_whole, sendfile_with_offset, sendfile_moves_position, sendfile_at_end, sendfile_large, sendfile_nonblocking_partial,
        sendfile_to_closed, sendfile_from_socket, sendfile_bad_offset, sendfile_zero, sendfile_after_shutdown, splice_pipe_to_socket,
        splice_socket_to_pipe, splice_socket_to_pipe_waits, splice_nonblock, splice_end_is_zero, splice_two_sockets, splice_offset_is_espipe,
        splice_round_trip, tee_needs_pipes, copy_file_range_refused, vmsplice_refused, splice_from_listener, splice_udp,
    ],
}

/// A file with these bytes and no name, at its start.
fn file(data: &[u8]) -> Fd {
    let fd = sys!(libc::memfd_create(c"conformance".as_ptr(), 0)).ok() as i32;
    // SAFETY: just made, and nobody else's.
    let mut f = unsafe { std::fs::File::from_raw_fd(fd) };
    f.write_all(data).expect("memfd");
    let fd = Fd(f.into_raw_fd());
    sys!(libc::lseek(fd.raw(), 0, libc::SEEK_SET)).is(0);
    fd
}

fn sendfile(out: &Fd, from: &Fd, offset: Option<&mut i64>, n: usize) -> R {
    sys!(libc::sendfile(out.raw(), from.raw(), offset.map_or(std::ptr::null_mut(), std::ptr::from_mut), n))
}

fn splice(from: &Fd, to: &Fd, n: usize, flags: u32) -> R {
    sys!(libc::splice(from.raw(), std::ptr::null_mut(), to.raw(), std::ptr::null_mut(), n, flags))
}

fn bad_fds() {
    let (c, _s) = pair(Net::V4);
    let f = file(b"x");
    sys!(libc::sendfile(777, f.raw(), std::ptr::null_mut(), 1)).fails(EBADF);
    sys!(libc::sendfile(c.raw(), 777, std::ptr::null_mut(), 1)).fails(EBADF);
    sys!(libc::splice(777, std::ptr::null_mut(), c.raw(), std::ptr::null_mut(), 1, 0)).fails(EBADF);
    sys!(libc::splice(c.raw(), std::ptr::null_mut(), 777, std::ptr::null_mut(), 1, 0)).fails(EBADF);
}

fn sendfile_whole(net: Net) {
    let (c, s) = pair(net);
    sendfile(&c, &file(b"the file"), None, 100).is(8);
    assert_eq!(take_all(&s, 8), b"the file");
}

fn sendfile_with_offset(net: Net) {
    let (c, s) = pair(net);
    let f = file(b"0123456789");
    let mut at = 3;
    sendfile(&c, &f, Some(&mut at), 4).is(4);
    assert_eq!(at, 7);
    assert_eq!(take_all(&s, 4), b"3456");
    sys!(libc::lseek(f.raw(), 0, libc::SEEK_CUR)).is(0);
}

fn sendfile_moves_position(net: Net) {
    let (c, s) = pair(net);
    let f = file(b"0123456789");
    sendfile(&c, &f, None, 4).is(4);
    sys!(libc::lseek(f.raw(), 0, libc::SEEK_CUR)).is(4);
    sendfile(&c, &f, None, 4).is(4);
    assert_eq!(take_all(&s, 8), b"01234567");
}

fn sendfile_at_end(net: Net) {
    let (c, _s) = pair(net);
    let mut at = 10;
    sendfile(&c, &file(b"0123456789"), Some(&mut at), 4).is(0);
    at = 1000;
    sendfile(&c, &file(b"0123456789"), Some(&mut at), 4).is(0);
}

fn sendfile_zero(net: Net) {
    let (c, _s) = pair(net);
    sendfile(&c, &file(b"0123456789"), None, 0).is(0);
}

fn sendfile_large(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(6 << 20);
    let f = file(&data);
    thread::scope(|scope| {
        let reader = scope.spawn(|| take_to_end(&s));
        let mut sent = 0;
        while sent < data.len() {
            let n = sendfile(&c, &f, None, data.len() - sent).ok() as usize;
            assert!(n > 0);
            sent += n;
        }
        c.shutdown(libc::SHUT_WR).is(0);
        assert!(reader.join().expect("reader") == data);
    });
}

fn sendfile_nonblocking_partial(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(32 << 20);
    let f = file(&data);
    c.nonblock(true);
    let mut sent = 0;
    loop {
        match sendfile(&c, &f, None, data.len()).get() {
            Ok(n) => sent += n as usize,
            Err(e) => break assert_eq!(e, libc::EAGAIN),
        }
    }
    assert!(sent > 0 && sent < data.len());
    // The file stands where the socket stopped: no byte is skipped.
    sys!(libc::lseek(f.raw(), 0, libc::SEEK_CUR)).is(sent as isize);
    assert!(take_all(&s, sent) == data[..sent]);
}

fn sendfile_to_closed(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::signal(libc::SIGPIPE, libc::SIG_IGN)).ok();
    c.shutdown(libc::SHUT_WR).is(0);
    let f = file(b"abc");
    sendfile(&c, &f, None, 3).fails(libc::EPIPE);
    sys!(libc::lseek(f.raw(), 0, libc::SEEK_CUR)).is(0);
}

fn sendfile_after_shutdown(net: Net) {
    let (c, s) = pair(net);
    s.shutdown(libc::SHUT_WR).is(0);
    sendfile(&c, &file(b"abc"), None, 3).is(3);
    assert_eq!(take_all(&s, 3), b"abc");
}

fn sendfile_from_socket(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    // The source has to be a file with a position.
    sendfile(&c, &s, None, 3).fails(EINVAL);
    assert_eq!(take(&s, 9), b"abc");
}

fn sendfile_bad_offset(net: Net) {
    let (c, _s) = pair(net);
    let mut at = -1;
    sendfile(&c, &file(b"abc"), Some(&mut at), 3).fails(EINVAL);
    sys!(libc::sendfile(c.raw(), file(b"abc").raw(), std::ptr::without_provenance_mut(8), 3)).fails(libc::EFAULT);
}

fn splice_pipe_to_socket(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    w.write(b"through").is(7);
    splice(&r, &c, 100, 0).is(7);
    assert_eq!(take_all(&s, 7), b"through");
}

fn splice_socket_to_pipe(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    c.write(b"through").is(7);
    wait_in(&s);
    splice(&s, &w, 4, 0).is(4);
    splice(&s, &w, 100, 0).is(3);
    let mut room = [0; 16];
    r.read(&mut room).is(7);
    assert_eq!(&room[..7], b"through");
}

fn splice_socket_to_pipe_waits(net: Net) {
    let (c, s) = pair(net);
    let (_r, w) = pipe();
    thread::scope(|scope| {
        let t = scope.spawn(|| splice(&s, &w, 100, 0));
        crate::net::sleep(40);
        c.write(b"abc").is(3);
        t.join().expect("splicer").is(3);
    });
}

fn splice_nonblock(net: Net) {
    let (_c, s) = pair(net);
    let (_r, w) = pipe();
    s.nonblock(true);
    splice(&s, &w, 100, libc::SPLICE_F_NONBLOCK).fails(libc::EAGAIN);
}

fn splice_end_is_zero(net: Net) {
    let (c, s) = pair(net);
    let (_r, w) = pipe();
    c.close().is(0);
    splice(&s, &w, 100, 0).is(0);
}

fn splice_two_sockets(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    // One of the two has to be a pipe.
    splice(&s, &c, 3, 0).fails(EINVAL);
}

fn splice_offset_is_espipe(net: Net) {
    let (c, _s) = pair(net);
    let (r, w) = pipe();
    w.write(b"abc").is(3);
    let mut at = 0;
    sys!(libc::splice(r.raw(), &raw mut at, c.raw(), std::ptr::null_mut(), 3, 0)).fails(ESPIPE);
    sys!(libc::splice(r.raw(), std::ptr::null_mut(), c.raw(), &raw mut at, 3, 0)).fails(EINVAL);
}

fn splice_round_trip(net: Net) {
    let ((c, s), (d, e)) = (pair(net), pair(net));
    let (r, w) = pipe();
    let data = pattern(500_000);
    thread::scope(|scope| {
        scope.spawn(|| {
            put_all(&c, &data);
            c.shutdown(libc::SHUT_WR).is(0);
        });
        // A proxy: s to d through a pipe.
        scope.spawn(|| {
            loop {
                let n = splice(&s, &w, 65_536, libc::SPLICE_F_MOVE).ok();
                if n == 0 {
                    break;
                }
                let mut left = n;
                while left > 0 {
                    left -= splice(&r, &d, left as usize, libc::SPLICE_F_MORE).ok();
                }
            }
            d.shutdown(libc::SHUT_WR).is(0);
        });
        assert!(take_to_end(&e) == data);
    });
}

fn splice_from_listener(net: Net) {
    let (l, _) = listener(net);
    let (_r, w) = pipe();
    splice(&l, &w, 10, 0).fails(libc::ENOTCONN);
}

fn splice_udp(net: Net) {
    let (a, b) = udp_pair(net);
    let (r, w) = pipe();
    w.write(b"datagram").is(8);
    splice(&r, &a, 8, 0).is(8);
    assert_eq!(take(&b, 32), b"datagram");
}

fn tee_needs_pipes(net: Net) {
    let (c, _s) = pair(net);
    let (r, w) = pipe();
    sys!(libc::tee(r.raw(), c.raw(), 10, 0)).fails(EINVAL);
    sys!(libc::tee(c.raw(), w.raw(), 10, 0)).fails(EINVAL);
}

fn copy_file_range_refused(net: Net) {
    let (c, _s) = pair(net);
    let f = file(b"abc");
    sys!(libc::copy_file_range(f.raw(), std::ptr::null_mut(), c.raw(), std::ptr::null_mut(), 3, 0)).fails(EINVAL);
    sys!(libc::copy_file_range(c.raw(), std::ptr::null_mut(), f.raw(), std::ptr::null_mut(), 3, 0)).fails(EINVAL);
}

fn vmsplice_refused(net: Net) {
    let (c, _s) = pair(net);
    let v = libc::iovec { iov_base: b"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    sys!(libc::vmsplice(c.raw(), &v, 1, 0)).fails(EBADF);
}
