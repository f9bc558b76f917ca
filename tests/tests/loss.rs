//! Loss: bulk data over a link that loses, doubles and swaps frames arrives whole.
//!
//! # Theory of operation
//! **Purpose.** TCP's retransmission, and the link's impairments that show it. **How it works.** Two instances on an anonymous segment in one thread;
//! both ends' frames pass a bad link (`--impair`). The sender writes a pseudo-random stream, the receiver compares every byte; when nothing
//! moves, the virtual clock goes on to the next timer, so that the test takes as long as the copying takes, whatever the timeouts are.
//! **Limits.** `LOSS_MIB` (100) for each case. **Failure.** The seed is fixed: a failure repeats.
//! **See also.** `csel/src/net/link/impair.rs`; tc-netem(8).
use csel_core::call::io::{Recv, Send};
use csel_core::call::{Outcome, RecvMsg, SendMsg, socket};
use csel_core::config::Impair;
use csel_core::errno::Errno;
use csel_core::fd::Held;
use csel_core::gate::user::{IoIn, IoOut};
use csel_core::net::addr::{Endpoint, Ip};
use csel_core::net::timer;
use csel_core::testing::{self, Host, World};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The byte at position `at` of the stream.
fn byte(at: u64) -> u8 {
    let x = (at ^ at >> 7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 56) as u8
}

fn nonblocking(h: &Host) -> Held {
    let s = h.socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    s.flags.fetch_or(libc::O_NONBLOCK as u32, Relaxed);
    s
}

fn sockaddr(ip: Ip, port: u16) -> [u8; 28] {
    let mut sa = [0; 28];
    Endpoint::new(ip, port).emit(libc::AF_INET as u16, &mut sa);
    sa
}

/// Lets everything happen that can; if nothing can, time passes up to the next timer.
fn go_on(w: &World) {
    let mut any = false;
    for h in &w.hosts {
        any |= h.progress();
    }
    if !any {
        let next = w.hosts.iter().map(|h| h.call(timer::next)).min().unwrap();
        assert_ne!(next, u64::MAX, "nothing moves and no timer runs");
        testing::pass(next.saturating_sub(testing::now()).max(1));
    }
}

fn transfer(impair: Impair, mtu: u32) {
    let total = std::env::var("LOSS_MIB").ok().and_then(|s| s.parse().ok()).unwrap_or(100u64) << 20;
    let w = World::with(2, |i, c| {
        c.mtu = mtu;
        c.impair = Impair { seed: 11 + i as u32, ..impair };
    });
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let deadline = Instant::now() + Duration::from_secs(300);
    let (from, listener) = (nonblocking(a), nonblocking(b));
    let at = sockaddr(b.env.inst.facts.get().addrs[0].ip, 80);
    b.call(|cx| socket::bind(cx, &listener, &at[..16])).unwrap();
    b.call(|cx| socket::listen(cx, &listener, 1)).unwrap();
    let begun = a.call(|cx| socket::Connect::default().step(cx, &from, &at[..16], false));
    assert!(matches!(begun, Outcome::Fail(Errno::EINPROGRESS)), "{begun:?}");
    let to = loop {
        assert!(Instant::now() < deadline, "no connection");
        match b.call(|cx| socket::Accept::default().step(cx, &listener, libc::SOCK_NONBLOCK, false)) {
            Ok((s, _)) => break s,
            Err(_) => go_on(&w),
        }
    };
    let (mut sent, mut got, mut shut) = (0u64, 0u64, false);
    let mut buf = vec![0u8; 256 << 10];
    loop {
        assert!(Instant::now() < deadline, "{got} of {total} bytes in time");
        let mut moved = false;
        if sent < total {
            let n = (total - sent).min(buf.len() as u64) as usize;
            for (i, x) in buf[..n].iter_mut().enumerate() {
                *x = byte(sent + i as u64);
            }
            let msg = SendMsg { flags: libc::MSG_NOSIGNAL, ..SendMsg::default() };
            match a.call(|cx| Send::default().step(cx, &from, &[IoIn::new(&buf[..n])], &msg, false)) {
                Outcome::Done(n) => {
                    sent += n as u64;
                    moved = true;
                }
                Outcome::Fail(Errno::EAGAIN | Errno::ENOTCONN) => {}
                other => panic!("send after {sent}: {other:?}"),
            }
        } else if !shut {
            a.call(|cx| socket::shutdown(cx, &from, libc::SHUT_WR)).unwrap();
            shut = true;
        }
        match b.call(|cx| Recv::default().step(cx, &to, &mut [IoOut::new(&mut buf)], &mut RecvMsg::default(), false)) {
            Outcome::Done(0) => break,
            Outcome::Done(n) => {
                let wrong = buf[..n].iter().enumerate().find(|(i, x)| **x != byte(got + *i as u64));
                assert!(wrong.is_none(), "byte {} is wrong", got + wrong.unwrap().0 as u64);
                got += n as u64;
                moved = true;
            }
            Outcome::Fail(Errno::EAGAIN) => {}
            other => panic!("recv after {got}: {other:?}"),
        }
        if !moved {
            go_on(&w);
        }
    }
    assert_eq!(got, total);
    let spoilt = w.hosts.iter().map(|h| csel_core::stats::read(&h.env.inst.stats.frames_impaired)).sum::<u64>();
    assert!(spoilt > 0, "the link was not bad at all");
    println!("{got} bytes, {spoilt} frames spoilt, {:.1} s of virtual time", (testing::now() - 1_000_000_000) as f64 / 1e9);
    a.call(|cx| from.release(cx));
    b.call(|cx| (to.release(cx), listener.release(cx)));
}

const PERCENT: u32 = 10_000;

#[test]
fn one_percent_of_each() {
    transfer(Impair { drop_ppm: PERCENT, dup_ppm: PERCENT, reorder_ppm: PERCENT, ..Impair::NONE }, 65535);
}

#[test]
fn five_percent_of_each() {
    transfer(Impair { drop_ppm: 5 * PERCENT, dup_ppm: 5 * PERCENT, reorder_ppm: 5 * PERCENT, ..Impair::NONE }, 65535);
}

#[test]
fn five_percent_lost_in_small_packets() {
    transfer(Impair { drop_ppm: 5 * PERCENT, ..Impair::NONE }, 1500);
}

#[test]
fn delayed_and_swapped() {
    transfer(Impair { reorder_ppm: 5 * PERCENT, delay_us: 300, ..Impair::NONE }, 9000);
}
