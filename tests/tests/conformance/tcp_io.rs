//! Bytes over a stream: read, write, send, recv and their flags, vectors and messages.

use crate::cases;
use crate::net::{pair, pattern, put_all, take, take_all, take_to_end, wait_in};
use crate::sys::Net;
use libc::{MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL};

cases! {
    one: [],
    net: [peek, peek_then_more, waitall, dontwait, bulk_1m, bulk_both_ways, read_returns_what_is_there],
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

fn waitall(net: Net) {
    let (c, s) = pair(net);
    let reader = std::thread::spawn(move || {
        let mut room = [0; 10];
        s.recv(&mut room, MSG_WAITALL).is(10);
        assert_eq!(&room, b"0123456789");
    });
    c.write(b"01234").is(5);
    crate::net::sleep(30);
    c.write(b"56789").is(5);
    reader.join().expect("reader");
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
    let writer = std::thread::spawn(move || {
        put_all(&c, &sent);
        c.close().is(0);
    });
    let got = take_to_end(&s);
    writer.join().expect("writer");
    assert!(got == data, "got {} bytes, or others", got.len());
}

fn bulk_both_ways(net: Net) {
    let (c, s) = pair(net);
    let echo = std::thread::spawn(move || {
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
    std::thread::scope(|scope| {
        scope.spawn(|| {
            put_all(&c, &data);
            c.shutdown(libc::SHUT_WR).is(0);
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
