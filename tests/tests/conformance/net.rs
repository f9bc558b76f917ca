//! Listeners, pairs, and waiting that cannot flake.
//!
//! # Theory of operation
//! Delivery over loopback is not promised to be done when the sending call returns (the kernel may leave it to ksoftirqd, csel to
//! the receiver), so a case never reads "now": it waits for an event with [`wait_in`] and friends, whose limit ([`LIMIT`]) is only there to turn a
//! hang into a message. To show that something does *not* happen, a case waits [`QUIET`]; that can only ever pass wrongly, not fail wrongly.

use std::time::{Duration, Instant};

use crate::sys::{Addr, Fd, Net};

/// How long something may take that must happen, in milliseconds.
pub(crate) const LIMIT: i32 = 10_000;
/// How long to watch for something that must not happen, in milliseconds.
pub(crate) const QUIET: i32 = 60;

/// How long a full way must stay full.
const FULL: Duration = Duration::from_millis(700);

/// A listening socket on the loopback address, and where it is.
#[track_caller]
pub(crate) fn listener(net: Net) -> (Fd, Addr) {
    let fd = net.tcp();
    fd.bind(&net.lo()).is(0);
    fd.listen(16).is(0);
    let at = fd.name();
    (fd, at)
}

/// A connected pair: the one that connected, the one accepted.
#[track_caller]
pub(crate) fn pair(net: Net) -> (Fd, Fd) {
    let (l, at) = listener(net);
    let c = net.tcp();
    c.connect(&at).is(0);
    let s = l.accept().fd();
    (c, s)
}

/// A UDP socket bound to the loopback address, and where it is.
#[track_caller]
pub(crate) fn bound_udp(net: Net) -> (Fd, Addr) {
    let fd = net.udp();
    fd.bind(&net.lo()).is(0);
    let at = fd.name();
    (fd, at)
}

/// Two UDP sockets connected to each other.
#[track_caller]
pub(crate) fn udp_pair(net: Net) -> (Fd, Fd) {
    let ((a, at_a), (b, at_b)) = (bound_udp(net), bound_udp(net));
    a.connect(&at_b).is(0);
    b.connect(&at_a).is(0);
    (a, b)
}

/// A loopback address nobody is at: bound and given up again.
#[track_caller]
pub(crate) fn nobody(net: Net, kind: i32) -> Addr {
    let fd = net.socket(kind);
    fd.bind(&net.lo()).is(0);
    fd.name()
}

/// Waits until one of `events` (or an error) is there; what is there.
#[track_caller]
pub(crate) fn wait(fd: &Fd, events: i16) -> i16 {
    let got = fd.poll(events, LIMIT);
    assert!(got != 0, "nothing of {events:#x} came within {LIMIT} ms");
    got
}

#[track_caller]
pub(crate) fn wait_in(fd: &Fd) {
    let got = wait(fd, libc::POLLIN);
    assert!(got & libc::POLLIN != 0, "revents {got:#x}");
}

#[track_caller]
pub(crate) fn wait_out(fd: &Fd) {
    let got = wait(fd, libc::POLLOUT);
    assert!(got & libc::POLLOUT != 0, "revents {got:#x}");
}

/// Waits until `events` are exactly what [`Fd::ready`] shows.
#[track_caller]
pub(crate) fn wait_ready(fd: &Fd, events: i16) {
    let mut last = 0;
    let came = eventually(|| {
        last = fd.ready();
        last == events
    });
    assert!(came, "ready {last:#x}, expected {events:#x}");
}

/// None of `events` comes.
#[track_caller]
pub(crate) fn quiet(fd: &Fd, events: i16) {
    let got = fd.poll(events, QUIET);
    assert_eq!(got, 0, "revents {got:#x} where nothing was to come");
}

/// Whether `cond` became true before the limit.
pub(crate) fn eventually(mut cond: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_millis(LIMIT as u64);
    loop {
        if cond() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `cond` becomes true before the limit.
#[track_caller]
pub(crate) fn until(cond: impl FnMut() -> bool) {
    assert!(eventually(cond), "did not come true within {LIMIT} ms");
}

pub(crate) fn sleep(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// One recv, of at most `n` bytes.
#[track_caller]
pub(crate) fn take(fd: &Fd, n: usize) -> Vec<u8> {
    let mut room = vec![0; n];
    let got = fd.recv(&mut room, 0).ok() as usize;
    room.truncate(got);
    room
}

/// Reads exactly `n` bytes.
#[track_caller]
pub(crate) fn take_all(fd: &Fd, n: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(n);
    while all.len() < n {
        let some = take(fd, n - all.len());
        assert!(!some.is_empty(), "end of stream after {} of {n} bytes", all.len());
        all.extend(some);
    }
    all
}

/// Reads to the end of the stream.
#[track_caller]
pub(crate) fn take_to_end(fd: &Fd) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let some = take(fd, 65536);
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// Fills the way from `c` (nonblocking from then on) until no byte goes; how many went.
///
/// Room comes back after "full" for a while: the kernel charges what it has queued anew, and a probe of the closed window may find some left. So
/// full is: refused, and refused still after [`FULL`].
#[track_caller]
pub(crate) fn fill(c: &Fd) -> usize {
    let chunk = [7; 16384];
    let mut total = 0;
    c.nonblock(true);
    let mut since: Option<Instant> = None;
    while since.is_none_or(|t| t.elapsed() < FULL) {
        let data = if since.is_none() { &chunk[..] } else { &chunk[..1] };
        match c.send(data, 0).get() {
            Ok(n) => (total, since) = (total + n as usize, None),
            Err(e) => {
                assert_eq!(e, libc::EAGAIN);
                since.get_or_insert_with(Instant::now);
                c.poll(libc::POLLOUT, 50);
                sleep(5);
            }
        }
    }
    total
}

/// Writes all of it, however often that takes.
#[track_caller]
pub(crate) fn put_all(fd: &Fd, mut data: &[u8]) {
    while !data.is_empty() {
        let n = fd.send(data, libc::MSG_NOSIGNAL).ok() as usize;
        data = &data[n..];
    }
}

/// `n` bytes in which a lost, doubled or moved one shows.
pub(crate) fn pattern(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Waits until a thread sleeps, in whatever call it is: seen three times, since a thread may sleep for a moment on its way there.
pub(crate) fn asleep(tid: i32) {
    let mut seen = 0;
    until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
        let sleeps = stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" S"));
        seen = if sleeps { seen + 1 } else { 0 };
        sleep(8);
        seen >= 3
    });
}
