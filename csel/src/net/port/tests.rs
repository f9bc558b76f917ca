//! Reservations stay whose they are, whatever the dead have left.
use super::*;
use crate::testing::World;

const A: Id<Sock> = Id::new(101);
const B: Id<Sock> = Id::new(102);
const C: Id<Sock> = Id::new(103);

fn at(port: u16) -> Endpoint {
    Endpoint::new(Ip::ANY4, port)
}

fn port_of(cx: &Cx<'_>, sock: Id<Sock>) -> Option<u16> {
    table(cx, Space::Tcp).entry_of(sock).map(|e| e.port)
}

#[test]
fn what_a_repair_lets_go_of_is_nobodys() {
    let w = World::new(1);
    w.hosts[0].call(|cx| {
        // There is no such socket: its holder was killed in close(2), before it let go of the port.
        assert_eq!(bind(cx, Space::Tcp, A, &at(5001)), Ok(5001));
        repair(cx);
        // A listener gets the entry; then the dead one's number is another socket's, which binds and closes.
        assert_eq!(bind(cx, Space::Tcp, B, &at(5002)), Ok(5002));
        assert_eq!(bind(cx, Space::Tcp, A, &at(5003)), Ok(5003));
        release(cx, Space::Tcp, A);
        assert_eq!((port_of(cx, A), port_of(cx, B)), (None, Some(5002)));
        assert_eq!(bind(cx, Space::Tcp, C, &at(5002)), Err(Errno::EADDRINUSE));
    });
}

#[test]
fn nothing_is_freed_twice() {
    let w = World::new(1);
    w.hosts[0].call(|cx| {
        assert_eq!(bind(cx, Space::Tcp, A, &at(5001)), Ok(5001));
        let ticket = orphan(cx, Space::Tcp, A);
        redeem(cx, Space::Tcp, ticket);
        redeem(cx, Space::Tcp, ticket);
        for (sock, port) in [(A, 5001), (B, 5002), (C, 5003)] {
            assert_eq!(bind(cx, Space::Tcp, sock, &at(port)), Ok(port));
        }
        // Not a socket's either, that has the entry meanwhile.
        redeem(cx, Space::Tcp, ticket);
        assert_eq!([A, B, C].map(|s| port_of(cx, s)), [Some(5001), Some(5002), Some(5003)]);
        assert_eq!(census(&cx.inst.net.port, cx.me), [3, 0]);
    });
}

#[test]
fn who_only_counts_mends_what_it_takes_over() {
    let w = World::new(1);
    w.hosts[0].call(|cx| {
        assert_eq!(bind(cx, Space::Tcp, A, &at(5001)), Ok(5001));
        let state = &cx.inst.net.port;
        std::thread::scope(|s| {
            s.spawn(|| {
                // Dies while it has the entry out of its chain, and the free list leads to it.
                let me = Me::ask();
                let mut t = state.spaces[Space::Tcp as usize].lock(&me);
                (t.heads[5001], t.free) = (0, 1);
                core::mem::forget(t);
            });
        });
        assert_eq!(census(state, cx.me), [1, 0]);
        assert_eq!(bind(cx, Space::Tcp, B, &at(5001)), Err(Errno::EADDRINUSE));
        assert_eq!(bind(cx, Space::Tcp, B, &at(5002)), Ok(5002));
        assert_eq!([A, B].map(|s| port_of(cx, s)), [Some(5001), Some(5002)]);
    });
}
