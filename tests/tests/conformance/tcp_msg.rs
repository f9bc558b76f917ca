//! Vectors and messages over a stream: readv, writev, sendmsg, recvmsg, sendmmsg, recvmmsg.

use std::mem;
use std::thread;

use crate::cases;
use crate::msg::{Got, header, iov, iov_mut, recvmsg, sendmsg};
use crate::net::{pair, pattern, put_all, quiet, take, take_all, until, wait_in};
use crate::sys::{Net, sys};
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, POLLIN};

cases! {
    one: [bad_fd],
    net: [
        writev_gathers, readv_scatters, readv_is_short, empty_vectors_in_between, vector_of_nothing, too_many_vectors, negative_vector_count,
        null_vector, vector_length_overflows, vectors_1024, writev_large, sendmsg_and_recvmsg, recvmsg_name_is_empty, recvmsg_flags_are_clean,
        recvmsg_has_no_controls, sendmsg_ignores_name, sendmsg_too_many_vectors, recvmsg_too_many_vectors, sendmsg_null_header, recvmsg_null_header,
        sendmsg_nothing, recvmsg_peek, recvmsg_waitall, recvmsg_dontwait, recvmsg_trunc, recvmsg_at_end, sendmsg_bad_control, sendmsg_unknown_control,
        sendmmsg_all, sendmmsg_none, recvmmsg_waitforone, recvmmsg_none, recvmmsg_dontwait_empty, recvmmsg_timeout_arg, preadv2_flags, recvmsg_bad_vector,
    ],
}

fn bad_fd() {
    let v = iov(&[b"x"]);
    let mut hdr = header(&mut []);
    for fd in [-1, 777] {
        sys!(libc::writev(fd, v.as_ptr(), 1)).fails(libc::EBADF);
        sys!(libc::readv(fd, v.as_ptr(), 1)).fails(libc::EBADF);
        sys!(libc::sendmsg(fd, &raw const hdr, 0)).fails(libc::EBADF);
        sys!(libc::recvmsg(fd, &raw mut hdr, 0)).fails(libc::EBADF);
        sys!(libc::sendmmsg(fd, std::ptr::null_mut(), 0, 0)).fails(libc::EBADF);
        sys!(libc::recvmmsg(fd, std::ptr::null_mut(), 0, 0, std::ptr::null_mut())).fails(libc::EBADF);
    }
}

fn writev_gathers(net: Net) {
    let (c, s) = pair(net);
    let v = iov(&[b"ab", b"c", b"defg"]);
    sys!(libc::writev(c.raw(), v.as_ptr(), 3)).is(7);
    assert_eq!(take_all(&s, 7), b"abcdefg");
}

fn readv_scatters(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abcdefg").is(7);
    let mut bufs = vec![vec![0; 2], vec![0; 4], vec![0; 1]];
    let v = iov_mut(&mut bufs);
    sys!(libc::readv(s.raw(), v.as_ptr(), 3)).is(7);
    assert_eq!(bufs, [b"ab".to_vec(), b"cdef".to_vec(), b"g".to_vec()]);
}

fn readv_is_short(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    let mut bufs = vec![vec![b'.'; 2], vec![b'.'; 4]];
    let v = iov_mut(&mut bufs);
    sys!(libc::readv(s.raw(), v.as_ptr(), 2)).is(3);
    assert_eq!(bufs, [b"ab".to_vec(), b"c...".to_vec()]);
}

fn empty_vectors_in_between(net: Net) {
    let (c, s) = pair(net);
    let mut v = iov(&[b"", b"ab", b"", b"c", b""]);
    v[2].iov_base = std::ptr::null_mut();
    sys!(libc::writev(c.raw(), v.as_ptr(), 5)).is(3);
    let mut bufs = vec![vec![], vec![0; 1], vec![], vec![0; 2]];
    until(|| s.ioctl_int(libc::FIONREAD) == 3);
    let v = iov_mut(&mut bufs);
    sys!(libc::readv(s.raw(), v.as_ptr(), 4)).is(3);
    assert_eq!(bufs.concat(), b"abc");
}

fn vector_of_nothing(net: Net) {
    let (c, s) = pair(net);
    let v = iov(&[b"", b""]);
    sys!(libc::writev(c.raw(), v.as_ptr(), 0)).is(0);
    sys!(libc::writev(c.raw(), v.as_ptr(), 2)).is(0);
    sys!(libc::readv(s.raw(), v.as_ptr(), 0)).is(0);
    sys!(libc::readv(s.raw(), v.as_ptr(), 2)).is(0);
    quiet(&s, POLLIN);
}

fn too_many_vectors(net: Net) {
    let (c, s) = pair(net);
    let one: &[u8] = b"x";
    let v = iov(&vec![one; 1025]);
    sys!(libc::writev(c.raw(), v.as_ptr(), 1025)).fails(libc::EINVAL);
    sys!(libc::readv(s.raw(), v.as_ptr(), 1025)).fails(libc::EINVAL);
}

fn negative_vector_count(net: Net) {
    let (c, s) = pair(net);
    let v = iov(&[b"x"]);
    sys!(libc::writev(c.raw(), v.as_ptr(), -1)).fails(libc::EINVAL);
    sys!(libc::readv(s.raw(), v.as_ptr(), -1)).fails(libc::EINVAL);
}

fn null_vector(net: Net) {
    let (c, s) = pair(net);
    sys!(libc::writev(c.raw(), std::ptr::null(), 1)).fails(libc::EFAULT);
    sys!(libc::readv(s.raw(), std::ptr::null(), 1)).fails(libc::EFAULT);
}

fn vector_length_overflows(net: Net) {
    let (c, _s) = pair(net);
    let mut v = iov(&[b"x", b"y"]);
    v[1].iov_len = usize::MAX;
    sys!(libc::writev(c.raw(), v.as_ptr(), 2)).fails(libc::EINVAL);
}

fn vectors_1024(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(1024);
    let v = iov(&data.chunks(1).collect::<Vec<_>>());
    sys!(libc::writev(c.raw(), v.as_ptr(), 1024)).is(1024);
    assert_eq!(take_all(&s, 1024), data);
}

fn writev_large(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(5 << 20);
    thread::scope(|scope| {
        let reader = scope.spawn(|| take_all(&s, data.len()));
        let v = iov(&data.chunks(1 << 19).collect::<Vec<_>>());
        sys!(libc::writev(c.raw(), v.as_ptr(), v.len() as i32)).is(data.len() as isize);
        assert!(reader.join().expect("reader") == data);
    });
}

fn sendmsg_and_recvmsg(net: Net) {
    let (c, s) = pair(net);
    sendmsg(&c, &[b"abc", b"de"], None, &[], 0).is(5);
    until(|| s.ioctl_int(libc::FIONREAD) == 5);
    let got = recvmsg(&s, &[1, 3, 9], 0, 0);
    got.result.is(5);
    assert_eq!(got.data, b"abcde"[..].to_vec());
}

/// One message through a pair.
fn one(net: Net, flags: i32, control: usize) -> Got {
    let (c, s) = pair(net);
    c.write(b"abcde").is(5);
    wait_in(&s);
    recvmsg(&s, &[9], flags, control)
}

fn recvmsg_name_is_empty(net: Net) {
    assert_eq!(one(net, 0, 0).from.len, 0);
}

fn recvmsg_flags_are_clean(net: Net) {
    assert_eq!(one(net, 0, 64).flags, 0);
}

fn recvmsg_has_no_controls(net: Net) {
    assert_eq!(one(net, 0, 64).controls, []);
}

fn sendmsg_ignores_name(net: Net) {
    let (c, s) = pair(net);
    sendmsg(&c, &[b"abc"], Some(&net.lo().at(9)), &[], 0).is(3);
    assert_eq!(take(&s, 9), b"abc");
}

fn sendmsg_too_many_vectors(net: Net) {
    let (c, _s) = pair(net);
    let one: &[u8] = b"x";
    sendmsg(&c, &vec![one; 1025], None, &[], 0).fails(libc::EMSGSIZE);
}

fn recvmsg_too_many_vectors(net: Net) {
    let (_c, s) = pair(net);
    recvmsg(&s, &[1; 1025], MSG_DONTWAIT, 0).result.fails(libc::EMSGSIZE);
}

fn sendmsg_null_header(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::sendmsg(c.raw(), std::ptr::null(), 0)).fails(libc::EFAULT);
}

fn recvmsg_null_header(net: Net) {
    let (_c, s) = pair(net);
    sys!(libc::recvmsg(s.raw(), std::ptr::null_mut(), MSG_DONTWAIT)).fails(libc::EFAULT);
}

fn recvmsg_bad_vector(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    let mut v = [libc::iovec { iov_base: std::ptr::without_provenance_mut(8), iov_len: 4 }];
    let mut hdr = header(&mut v);
    sys!(libc::recvmsg(s.raw(), &raw mut hdr, 0)).fails(libc::EFAULT);
    hdr.msg_iov = std::ptr::without_provenance_mut(8);
    sys!(libc::recvmsg(s.raw(), &raw mut hdr, 0)).fails(libc::EFAULT);
    assert_eq!(take(&s, 9), b"abc");
}

fn sendmsg_nothing(net: Net) {
    let (c, s) = pair(net);
    sendmsg(&c, &[], None, &[], 0).is(0);
    quiet(&s, POLLIN);
}

fn recvmsg_peek(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abcde").is(5);
    wait_in(&s);
    let got = recvmsg(&s, &[3], MSG_PEEK, 0);
    assert_eq!((got.data, got.flags), (b"abc".to_vec(), 0));
    assert_eq!(take(&s, 9), b"abcde");
}

fn recvmsg_waitall(net: Net) {
    let (c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| {
            let got = recvmsg(&s, &[2, 6], MSG_WAITALL, 0);
            assert_eq!(got.data, b"abcdefgh");
        });
        c.write(b"abc").is(3);
        crate::net::sleep(30);
        c.write(b"defgh").is(5);
    });
}

fn recvmsg_dontwait(net: Net) {
    let (_c, s) = pair(net);
    recvmsg(&s, &[4], MSG_DONTWAIT, 0).result.fails(libc::EAGAIN);
}

fn recvmsg_trunc(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abcde").is(5);
    wait_in(&s);
    // A stream is never truncated: the flag means drop.
    let got = recvmsg(&s, &[2], MSG_TRUNC, 0);
    got.result.is(2);
    assert_eq!(got.flags & MSG_TRUNC, 0);
    assert_eq!(take(&s, 9), b"cde");
}

fn recvmsg_at_end(net: Net) {
    let (c, s) = pair(net);
    c.close().is(0);
    let got = recvmsg(&s, &[4], 0, 64);
    got.result.is(0);
    assert_eq!((got.flags, got.from.len), (0, 0));
}

fn sendmsg_bad_control(net: Net) {
    let (c, _s) = pair(net);
    let mut v = iov(&[b"x"]);
    let mut hdr = header(&mut v);
    // A control message that says it is longer than all of them.
    let mut control = [100u64, 1, 0, 0];
    hdr.msg_control = control.as_mut_ptr().cast();
    hdr.msg_controllen = 32;
    sys!(libc::sendmsg(c.raw(), &raw const hdr, MSG_NOSIGNAL)).fails(libc::EINVAL);
}

fn sendmsg_unknown_control(net: Net) {
    let (c, s) = pair(net);
    // SOL_SOCKET with a type nobody knows is refused, another level is not TCP's business.
    sendmsg(&c, &[b"x"], None, &[(libc::SOL_SOCKET, 999, vec![0; 4])], 0).fails(libc::EINVAL);
    sendmsg(&c, &[b"y"], None, &[(libc::IPPROTO_IP, 999, vec![0; 4])], 0).is(1);
    assert_eq!(take(&s, 9), b"y");
}

fn sendmmsg_all(net: Net) {
    let (c, s) = pair(net);
    let (mut a, mut b) = (iov(&[b"ab", b"c"]), iov(&[b"defg"]));
    let mut all = [libc::mmsghdr { msg_hdr: header(&mut a), msg_len: 99 }, libc::mmsghdr { msg_hdr: header(&mut b), msg_len: 99 }];
    sys!(libc::sendmmsg(c.raw(), all.as_mut_ptr(), 2, 0)).is(2);
    assert_eq!((all[0].msg_len, all[1].msg_len), (3, 4));
    assert_eq!(take_all(&s, 7), b"abcdefg");
}

fn sendmmsg_none(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::sendmmsg(c.raw(), std::ptr::null_mut(), 0, 0)).is(0);
    sys!(libc::sendmmsg(c.raw(), std::ptr::null_mut(), 1, 0)).fails(libc::EFAULT);
}

/// Two message headers over `bufs`.
fn two(bufs: &mut [Vec<libc::iovec>; 2]) -> [libc::mmsghdr; 2] {
    bufs.each_mut().map(|v| libc::mmsghdr { msg_hdr: header(v), msg_len: 0 })
}

fn recvmmsg_waitforone(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abcdef").is(6);
    until(|| s.ioctl_int(libc::FIONREAD) == 6);
    let mut bufs = [vec![0; 4], vec![0; 4]];
    let (x, y) = bufs.split_at_mut(1);
    let mut iovs = [iov_mut(x), iov_mut(y)];
    let mut all = two(&mut iovs);
    sys!(libc::recvmmsg(s.raw(), all.as_mut_ptr(), 2, libc::MSG_WAITFORONE, std::ptr::null_mut())).is(2);
    assert_eq!((all[0].msg_len, all[1].msg_len), (4, 2));
    assert_eq!(&bufs.concat()[..6], b"abcdef");
    // Now only one would come: it waits for the first alone.
    put_all(&c, b"gh");
    let mut iovs = {
        let (x, y) = bufs.split_at_mut(1);
        [iov_mut(x), iov_mut(y)]
    };
    let mut all = two(&mut iovs);
    sys!(libc::recvmmsg(s.raw(), all.as_mut_ptr(), 2, libc::MSG_WAITFORONE, std::ptr::null_mut())).is(1);
}

fn recvmmsg_none(net: Net) {
    let (_c, s) = pair(net);
    sys!(libc::recvmmsg(s.raw(), std::ptr::null_mut(), 0, 0, std::ptr::null_mut())).is(0);
}

fn recvmmsg_dontwait_empty(net: Net) {
    let (_c, s) = pair(net);
    let mut iovs = [vec![], vec![]];
    let mut all = two(&mut iovs);
    sys!(libc::recvmmsg(s.raw(), all.as_mut_ptr(), 2, MSG_DONTWAIT, std::ptr::null_mut())).fails(libc::EAGAIN);
}

fn recvmmsg_timeout_arg(net: Net) {
    let (_c, s) = pair(net);
    let mut iovs = [vec![], vec![]];
    let mut all = two(&mut iovs);
    let mut bad = libc::timespec { tv_sec: 0, tv_nsec: 2_000_000_000 };
    sys!(libc::recvmmsg(s.raw(), all.as_mut_ptr(), 2, MSG_DONTWAIT, &raw mut bad)).fails(libc::EINVAL);
}

fn preadv2_flags(net: Net) {
    let (c, s) = pair(net);
    let v = iov(&[b"abc"]);
    // Offset -1 means the file's own position: read and write.
    sys!(libc::pwritev2(c.raw(), v.as_ptr(), 1, -1, 0)).is(3);
    let mut bufs = [vec![0; 4]];
    let v = iov_mut(&mut bufs);
    wait_in(&s);
    sys!(libc::preadv2(s.raw(), v.as_ptr(), 1, -1, 0)).is(3);
    sys!(libc::preadv2(s.raw(), v.as_ptr(), 1, -1, libc::RWF_NOWAIT)).fails(libc::EAGAIN);
    sys!(libc::preadv2(s.raw(), v.as_ptr(), 1, 0, 0)).fails(libc::ESPIPE);
    assert_eq!(mem::take(&mut bufs[0])[..3], *b"abc");
}
