//! Bytes over a stream: read, write, send, recv and their flags.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use crate::cases;
use crate::net::{fill, listener, pair, pattern, put_all, quiet, sleep, take, take_all, take_to_end, until, wait, wait_in, wait_out};
use crate::sys::{Fd, Net, sys};
use libc::{MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, POLLIN, POLLOUT, SHUT_WR, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET};

cases! {
    one: [sigpipe_kills, sigpipe_is_delivered_once_per_write, bad_fd, not_a_socket],
    net: [
        peek, peek_then_more, waitall, dontwait, bulk_1m, bulk_both_ways, read_returns_what_is_there, peek_waitall, waitall_cut_by_end,
        waitall_nonblocking, waitall_dontwait, waitall_timeout, trunc_discards, trunc_peek_keeps, zero_recv, zero_recv_with_data, zero_read, zero_send,
        fill_then_eagain, fill_then_drain, large_blocking_write, large_nonblocking_write, send_null, recv_null, recv_null_keeps_data,
        write_bad_pointer_partly, seek_is_espipe, pread_is_espipe, pread_negative_offset, two_sends_are_one_stream, more_is_sent, more_then_plain,
        ping_pong, many_pairs, small_buffers, byte_by_byte, epipe_with_nosignal, epipe_ignored, unknown_recv_flags, cmsg_cloexec_flag,
        errqueue_is_empty, recv_at_end_is_zero_again, peek_at_end, big_recv_buffer, writer_wakes_reader, reader_wakes_writer, two_readers,
        two_writers, read_after_nonblock_toggle, dontroute_and_confirm, blocked_send_and_recv_together,
    ],
}

fn peek(net: Net) {
    let (c, s) = pair(net);
    c.write(b"hello").is(5);
    let mut room = [0; 9];
    s.recv(&mut room, MSG_PEEK).is(5);
    s.recv(&mut room[..2], MSG_PEEK).is(2);
    assert_eq!(&room[..2], b"he");
    assert_eq!(take(&s, 9), b"hello");
    s.recv(&mut room, MSG_PEEK | MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn peek_then_more(net: Net) {
    let (c, s) = pair(net);
    c.write(b"ab").is(2);
    s.recv(&mut [0; 9], MSG_PEEK).is(2);
    c.write(b"cd").is(2);
    assert_eq!(take_all(&s, 4), b"abcd");
}

/// Sends in two halves with a pause, while `f` receives.
fn in_halves(net: Net, f: impl FnOnce(&Fd) + Send) {
    let (c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| f(&s));
        c.write(b"01234").is(5);
        sleep(30);
        c.write(b"56789").is(5);
    });
}

fn waitall(net: Net) {
    in_halves(net, |s| {
        let mut room = [0; 10];
        s.recv(&mut room, MSG_WAITALL).is(10);
        assert_eq!(&room, b"0123456789");
    });
}

fn peek_waitall(net: Net) {
    in_halves(net, |s| {
        let mut room = [0; 10];
        s.recv(&mut room, MSG_WAITALL | MSG_PEEK).is(10);
        assert_eq!(&room, b"0123456789");
        assert_eq!(take(s, 10), b"0123456789");
    });
}

fn waitall_cut_by_end(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    c.shutdown(SHUT_WR).is(0);
    s.recv(&mut [0; 10], MSG_WAITALL).is(3);
    s.recv(&mut [0; 10], MSG_WAITALL).is(0);
}

fn waitall_nonblocking(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    s.nonblock(true).recv(&mut [0; 10], MSG_WAITALL).is(3);
    s.recv(&mut [0; 10], MSG_WAITALL).fails(libc::EAGAIN);
}

fn waitall_dontwait(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    s.recv(&mut [0; 10], MSG_WAITALL | MSG_DONTWAIT).is(3);
}

fn waitall_timeout(net: Net) {
    let (c, s) = pair(net);
    s.set(SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 60_000 }).is(0);
    c.write(b"abc").is(3);
    wait_in(&s);
    s.recv(&mut [0; 10], MSG_WAITALL).is(3);
    s.recv(&mut [0; 10], MSG_WAITALL).fails(libc::EAGAIN);
}

fn dontwait(net: Net) {
    let (c, s) = pair(net);
    s.recv(&mut [0; 4], MSG_DONTWAIT).fails(libc::EAGAIN);
    c.write(b"x").is(1);
    wait_in(&s);
    s.recv(&mut [0; 4], MSG_DONTWAIT).is(1);
    s.recv(&mut [0; 4], MSG_DONTWAIT).fails(libc::EWOULDBLOCK);
}

fn bulk_1m(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(1 << 20);
    let sent = data.clone();
    let writer = thread::spawn(move || {
        put_all(&c, &sent);
        c.close().is(0);
    });
    let got = take_to_end(&s);
    writer.join().expect("writer");
    assert!(got == data, "got {} bytes, or others", got.len());
}

fn bulk_both_ways(net: Net) {
    let (c, s) = pair(net);
    let echo = thread::spawn(move || {
        let mut room = [0; 10_000];
        loop {
            let n = s.recv(&mut room, 0).ok() as usize;
            if n == 0 {
                break;
            }
            put_all(&s, &room[..n]);
        }
    });
    let data = pattern(300_000);
    thread::scope(|scope| {
        scope.spawn(|| {
            put_all(&c, &data);
            c.shutdown(SHUT_WR).is(0);
        });
        assert!(take_to_end(&c) == data);
    });
    echo.join().expect("echo");
}

fn read_returns_what_is_there(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    let mut room = [0; 100];
    s.read(&mut room).is(3);
    c.write(b"defg").is(4);
    s.read(&mut room[..2]).is(2);
    s.read(&mut room[..2]).is(2);
    assert_eq!(&room[..3], b"fgc");
}

fn trunc_discards(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abcdef").is(6);
    let mut room = *b"......";
    s.recv(&mut room[..4], MSG_TRUNC).is(4);
    assert_eq!(&room, b"......", "the bytes are dropped, not copied");
    assert_eq!(take(&s, 9), b"ef");
}

fn trunc_peek_keeps(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abcdef").is(6);
    s.recv(&mut [0; 4], MSG_TRUNC | MSG_PEEK).is(4);
    assert_eq!(take(&s, 9), b"abcdef");
}

fn zero_recv(net: Net) {
    let (_c, s) = pair(net);
    s.recv(&mut [], MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn zero_recv_with_data(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    s.recv(&mut [], 0).is(0);
    assert_eq!(take(&s, 9), b"abc");
}

fn zero_read(net: Net) {
    let (c, s) = pair(net);
    s.read(&mut []).is(0);
    c.write(b"abc").is(3);
    s.read(&mut []).is(0);
    assert_eq!(take(&s, 9), b"abc");
}

fn zero_send(net: Net) {
    let (c, s) = pair(net);
    c.send(b"", 0).is(0);
    c.write(b"").is(0);
    quiet(&s, POLLIN);
}

fn fill_then_eagain(net: Net) {
    let (c, _s) = pair(net);
    assert!(fill(&c) > 16384);
    c.send(b"x", 0).fails(libc::EAGAIN);
    c.nonblock(false).send(b"x", MSG_DONTWAIT).fails(libc::EAGAIN);
    assert_eq!(c.ready(), 0);
}

fn fill_then_drain(net: Net) {
    let (c, s) = pair(net);
    let total = fill(&c);
    let reader = thread::spawn(move || take_all(&s, total).len());
    wait_out(&c);
    c.send(b"x", 0).is(1);
    assert_eq!(reader.join().expect("reader"), total);
}

fn large_blocking_write(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(12 << 20);
    thread::scope(|scope| {
        let reader = scope.spawn(|| take_all(&s, data.len()));
        c.write(&data).is(data.len() as isize);
        assert!(reader.join().expect("reader") == data);
    });
}

fn large_nonblocking_write(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(32 << 20);
    let n = c.nonblock(true).write(&data).ok() as usize;
    assert!(n > 0 && n < data.len(), "{n}");
    assert!(take_all(&s, n) == data[..n]);
}

fn send_null(net: Net) {
    let (c, s) = pair(net);
    sys!(libc::send(c.raw(), std::ptr::null(), 4, 0)).fails(libc::EFAULT);
    sys!(libc::write(c.raw(), std::ptr::null(), 4)).fails(libc::EFAULT);
    c.write(b"ok").is(2);
    assert_eq!(take(&s, 9), b"ok");
}

fn recv_null(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    sys!(libc::recv(s.raw(), std::ptr::null_mut(), 4, 0)).fails(libc::EFAULT);
    sys!(libc::read(s.raw(), std::ptr::without_provenance_mut(4096), 4)).fails(libc::EFAULT);
}

fn recv_null_keeps_data(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    sys!(libc::recv(s.raw(), std::ptr::null_mut(), 4, 0)).fails(libc::EFAULT);
    assert_eq!(take(&s, 9), b"abc");
}

/// A page that is there, followed by one that is not.
fn cliff() -> (*mut u8, usize) {
    let at =
        sys!(libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0))
            .ok();
    let at: *mut u8 = std::ptr::with_exposed_provenance_mut(at as usize);
    sys!(libc::munmap(at.wrapping_add(4096).cast(), 4096)).is(0);
    (at, 4096)
}

fn write_bad_pointer_partly(net: Net) {
    let (c, s) = pair(net);
    let (page, size) = cliff();
    let n = sys!(libc::send(c.raw(), page.cast(), size + 100, MSG_DONTWAIT)).get();
    match n {
        // Nothing or a prefix, never bytes that are not there.
        Err(e) => assert_eq!(e, libc::EFAULT),
        Ok(n) => {
            assert!(n as usize <= size);
            assert_eq!(take_all(&s, n as usize), vec![0; n as usize]);
        }
    }
    c.write(b"end").is(3);
    let tail = take_all(&s, 3);
    assert_eq!(tail, b"end");
}

fn seek_is_espipe(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::lseek(c.raw(), 0, libc::SEEK_SET)).fails(libc::ESPIPE);
    sys!(libc::lseek(c.raw(), 0, libc::SEEK_CUR)).fails(libc::ESPIPE);
    sys!(libc::lseek64(c.raw(), 10, libc::SEEK_END)).fails(libc::ESPIPE);
}

fn pread_is_espipe(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    wait_in(&s);
    let mut room = [0u8; 4];
    sys!(libc::pread(s.raw(), room.as_mut_ptr().cast(), 4, 0)).fails(libc::ESPIPE);
    sys!(libc::pread64(s.raw(), room.as_mut_ptr().cast(), 4, 0)).fails(libc::ESPIPE);
    sys!(libc::pwrite(s.raw(), room.as_ptr().cast(), 4, 0)).fails(libc::ESPIPE);
    let iov = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: 4 };
    sys!(libc::preadv(s.raw(), &iov, 1, 0)).fails(libc::ESPIPE);
    sys!(libc::pwritev(s.raw(), &iov, 1, 0)).fails(libc::ESPIPE);
    assert_eq!(take(&s, 9), b"abc");
}

fn pread_negative_offset(net: Net) {
    let (c, _s) = pair(net);
    let mut room = [0u8; 4];
    sys!(libc::pread(c.raw(), room.as_mut_ptr().cast(), 4, -1)).fails(libc::EINVAL);
    sys!(libc::pwrite(c.raw(), room.as_ptr().cast(), 4, -1)).fails(libc::EINVAL);
}

fn two_sends_are_one_stream(net: Net) {
    let (c, s) = pair(net);
    c.write(b"abc").is(3);
    c.write(b"def").is(3);
    until(|| s.ioctl_int(libc::FIONREAD) == 6);
    assert_eq!(take(&s, 9), b"abcdef");
}

fn more_is_sent(net: Net) {
    let (c, s) = pair(net);
    c.send(b"abc", libc::MSG_MORE).is(3);
    // Held back at most 200 ms.
    wait_in(&s);
    assert_eq!(take(&s, 9), b"abc");
}

fn more_then_plain(net: Net) {
    let (c, s) = pair(net);
    c.send(b"abc", libc::MSG_MORE).is(3);
    c.send(b"def", libc::MSG_MORE).is(3);
    c.send(b"g", 0).is(1);
    assert_eq!(take_all(&s, 7), b"abcdefg");
}

fn ping_pong(net: Net) {
    let (c, s) = pair(net);
    let echo = thread::spawn(move || {
        for i in 0..2000u32 {
            let got = take_all(&s, 4);
            assert_eq!(got, i.to_ne_bytes());
            s.write(&got).is(4);
        }
    });
    for i in 0..2000u32 {
        c.write(&i.to_ne_bytes()).is(4);
        assert_eq!(take_all(&c, 4), i.to_ne_bytes());
    }
    echo.join().expect("echo");
}

fn many_pairs(net: Net) {
    let (l, at) = listener(net);
    let all: Vec<(Fd, Fd)> = (0..60)
        .map(|_| {
            let c = net.tcp();
            c.connect(&at).is(0);
            (c, l.accept().fd())
        })
        .collect();
    for round in 0..3u8 {
        for (i, (c, _)) in all.iter().enumerate() {
            c.write(&[i as u8, round]).is(2);
        }
        for (i, (_, s)) in all.iter().enumerate() {
            assert_eq!(take_all(s, 2), [i as u8, round]);
        }
    }
}

fn small_buffers(net: Net) {
    let l = net.tcp();
    l.on(SOL_SOCKET, SO_RCVBUF, 4096);
    l.bind(&net.lo()).is(0);
    l.listen(1).is(0);
    let c = net.tcp();
    c.on(SOL_SOCKET, SO_SNDBUF, 4096);
    c.connect(&l.name()).is(0);
    let s = l.accept().fd();
    let data = pattern(400_000);
    thread::scope(|scope| {
        let reader = scope.spawn(|| take_all(&s, data.len()));
        c.write(&data).is(data.len() as isize);
        assert!(reader.join().expect("reader") == data);
    });
}

fn byte_by_byte(net: Net) {
    let (c, s) = pair(net);
    c.on(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    let data = pattern(700);
    for b in &data {
        c.write(std::slice::from_ref(b)).is(1);
    }
    assert_eq!(take_all(&s, 700), data);
}

/// A pair whose accepted end is gone and whose other end knows: the next write is EPIPE.
fn broken(net: Net) -> Fd {
    let (c, s) = pair(net);
    s.close().is(0);
    wait_in(&c);
    c.send(b"x", MSG_NOSIGNAL).is(1);
    // The answer to that is RST.
    until(|| c.ready() & libc::POLLERR != 0 || c.ready() & libc::POLLHUP != 0);
    assert_eq!(c.error(), libc::EPIPE);
    c
}

fn epipe_with_nosignal(net: Net) {
    let c = broken(net);
    c.send(b"x", MSG_NOSIGNAL).fails(libc::EPIPE);
    c.send(b"x", MSG_NOSIGNAL).fails(libc::EPIPE);
}

fn epipe_ignored(net: Net) {
    let c = broken(net);
    sys!(libc::signal(libc::SIGPIPE, libc::SIG_IGN)).ok();
    c.send(b"x", 0).fails(libc::EPIPE);
    c.write(b"x").fails(libc::EPIPE);
}

static PIPES: AtomicI32 = AtomicI32::new(0);

extern "C" fn count_pipe(_: i32) {
    PIPES.fetch_add(1, Ordering::SeqCst);
}

fn sigpipe_is_delivered_once_per_write() {
    let c = broken(Net::V4);
    sys!(libc::signal(libc::SIGPIPE, count_pipe as *const () as libc::sighandler_t)).ok();
    c.write(b"x").fails(libc::EPIPE);
    assert_eq!(PIPES.load(Ordering::SeqCst), 1);
    c.send(b"x", 0).fails(libc::EPIPE);
    assert_eq!(PIPES.load(Ordering::SeqCst), 2);
    c.send(b"x", MSG_NOSIGNAL).fails(libc::EPIPE);
    assert_eq!(PIPES.load(Ordering::SeqCst), 2);
}

fn sigpipe_kills() {
    let c = broken(Net::V4);
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        let _ = c.write(b"x");
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(3) };
    }
    let mut status = 0;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGPIPE, "status {status:#x}");
}

fn bad_fd() {
    let mut room = [0u8; 4];
    for fd in [-1, 777] {
        sys!(libc::send(fd, room.as_ptr().cast(), 4, 0)).fails(libc::EBADF);
        sys!(libc::recv(fd, room.as_mut_ptr().cast(), 4, 0)).fails(libc::EBADF);
        sys!(libc::read(fd, room.as_mut_ptr().cast(), 4)).fails(libc::EBADF);
        sys!(libc::write(fd, room.as_ptr().cast(), 4)).fails(libc::EBADF);
        sys!(libc::shutdown(fd, SHUT_WR)).fails(libc::EBADF);
    }
    let closed = Net::V4.tcp().take();
    sys!(libc::close(closed)).is(0);
    sys!(libc::send(closed, room.as_ptr().cast(), 4, 0)).fails(libc::EBADF);
    sys!(libc::close(closed)).fails(libc::EBADF);
}

fn not_a_socket() {
    let f = sys!(libc::open(c"/dev/null".as_ptr(), libc::O_RDWR)).fd();
    f.send(b"x", 0).fails(libc::ENOTSOCK);
    f.recv(&mut [0; 4], 0).fails(libc::ENOTSOCK);
    f.shutdown(SHUT_WR).fails(libc::ENOTSOCK);
    f.write(b"x").is(1);
    f.read(&mut [0; 4]).is(0);
}

fn unknown_recv_flags(net: Net) {
    let (c, s) = pair(net);
    c.write(b"ab").is(2);
    // Flags nobody knows are ignored.
    s.recv(&mut [0; 1], 0x0800_0000).is(1);
    c.send(b"c", libc::MSG_EOR).is(1);
    assert_eq!(take_all(&s, 2), b"bc");
}

fn cmsg_cloexec_flag(net: Net) {
    let (c, s) = pair(net);
    c.write(b"ab").is(2);
    s.recv(&mut [0; 4], libc::MSG_CMSG_CLOEXEC).is(2);
}

fn errqueue_is_empty(net: Net) {
    let (_c, s) = pair(net);
    s.recv(&mut [0; 4], libc::MSG_ERRQUEUE).fails(libc::EAGAIN);
    s.recv(&mut [0; 4], libc::MSG_ERRQUEUE | MSG_DONTWAIT).fails(libc::EAGAIN);
}

fn recv_at_end_is_zero_again(net: Net) {
    let (c, s) = pair(net);
    c.write(b"z").is(1);
    c.shutdown(SHUT_WR).is(0);
    assert_eq!(take_to_end(&s), b"z");
    for flags in [0, MSG_DONTWAIT, MSG_WAITALL, MSG_PEEK] {
        s.recv(&mut [0; 4], flags).is(0);
    }
}

fn peek_at_end(net: Net) {
    let (c, s) = pair(net);
    c.write(b"z").is(1);
    c.close().is(0);
    s.recv(&mut [0; 4], MSG_PEEK).is(1);
    assert_eq!(take(&s, 4), b"z");
    s.recv(&mut [0; 4], MSG_PEEK).is(0);
}

fn big_recv_buffer(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(100_000);
    put_all(&c, &data[..50_000]);
    put_all(&c, &data[50_000..]);
    let mut room = vec![0; 1 << 20];
    let mut got = 0;
    while got < data.len() {
        got += s.recv(&mut room[got..], 0).ok() as usize;
    }
    assert!(room[..got] == data);
}

fn writer_wakes_reader(net: Net) {
    let (c, s) = pair(net);
    let reader = thread::spawn(move || take(&s, 9));
    sleep(40);
    c.write(b"wake").is(4);
    assert_eq!(reader.join().expect("reader"), b"wake");
}

fn reader_wakes_writer(net: Net) {
    let (c, s) = pair(net);
    let total = fill(&c);
    c.nonblock(false);
    let writer = thread::spawn(move || {
        c.write(b"tail").is(4);
    });
    sleep(40);
    assert_eq!(take_all(&s, total).len(), total);
    assert_eq!(take_all(&s, 4), b"tail");
    writer.join().expect("writer");
}

fn two_readers(net: Net) {
    let (c, s) = pair(net);
    let got = thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| take_to_end(&s).len())).collect();
        put_all(&c, &pattern(200_000));
        c.shutdown(SHUT_WR).is(0);
        readers.into_iter().map(|r| r.join().expect("reader")).sum::<usize>()
    });
    assert_eq!(got, 200_000);
}

fn two_writers(net: Net) {
    let (c, s) = pair(net);
    let got = thread::scope(|scope| {
        let writers: Vec<_> = [b'a', b'b']
            .into_iter()
            .map(|b| {
                let c = &c;
                scope.spawn(move || put_all(c, &[b; 100_000]))
            })
            .collect();
        let got = take_all(&s, 200_000);
        writers.into_iter().for_each(|w| w.join().expect("writer"));
        got
    });
    assert_eq!(got.iter().filter(|b| **b == b'a').count(), 100_000);
}

fn read_after_nonblock_toggle(net: Net) {
    let (c, s) = pair(net);
    s.nonblock(true).read(&mut [0; 4]).fails(libc::EAGAIN);
    s.nonblock(false);
    let writer = thread::spawn(move || {
        sleep(30);
        c.write(b"x").is(1);
        c
    });
    s.read(&mut [0; 4]).is(1);
    let c = writer.join().expect("writer");
    s.nonblock(true).read(&mut [0; 4]).fails(libc::EAGAIN);
    drop(c);
}

fn dontroute_and_confirm(net: Net) {
    let (c, s) = pair(net);
    c.send(b"a", libc::MSG_DONTROUTE).is(1);
    c.send(b"b", libc::MSG_CONFIRM).is(1);
    assert_eq!(take_all(&s, 2), b"ab");
}

fn blocked_send_and_recv_together(net: Net) {
    // Both directions full at once, one thread per direction and end.
    let (c, s) = pair(net);
    let data = pattern(3 << 20);
    thread::scope(|scope| {
        for (a, b) in [(&c, &s), (&s, &c)] {
            scope.spawn(|| put_all(a, &data));
            scope.spawn(|| assert!(take_all(b, data.len()) == data));
        }
    });
    assert_eq!(wait(&c, POLLOUT) & POLLOUT, POLLOUT);
    assert_eq!(c.poll(POLLIN, 0), 0);
}
