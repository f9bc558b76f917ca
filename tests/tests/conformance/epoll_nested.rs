//! A set in a set, with descriptors of both kinds inside: whose the edge is and whose the level.

use crate::cases;
use crate::epoll::{ET, Ep, IN, OUT};
use crate::net::{pair, take, wait_in};
use crate::poll::{eventfd, kick, pipe};
use crate::sys::{Fd, Net};
use libc::{EPOLL_CTL_ADD, EPOLL_CTL_MOD, POLLIN};

cases! {
    one: [],
    net: [
        edge_of_socket_level_of_pipe, edge_of_pipe_level_of_socket, edge_of_added_pipe, edge_of_changed_pipe, edges_without_levels, level_shows_in_poll, watch_ends_with_del,
        three_deep, level_triggered_both, many_nested, change_of_listed_is_silent,
    ],
}

/// An outer set with an inner one, edge-triggered.
fn nested() -> (Ep, Ep) {
    let (outer, inner) = (Ep::new(), Ep::new());
    outer.add(&inner.0, IN | ET);
    (outer, inner)
}

fn edge_of_socket_level_of_pipe(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let (outer, inner) = nested();
    inner.add(&s, IN | ET);
    inner.add(&r, IN | ET);
    w.write(b"x").is(1);
    outer.gives(&inner.0, IN);
    outer.quiet();
    c.write(b"x").is(1);
    wait_in(&s);
    assert_eq!(take(&s, 4), b"x");
    outer.gives(&inner.0, IN);
    outer.quiet();
    inner.gives(&r, IN);
}

fn edge_of_pipe_level_of_socket(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let (outer, inner) = nested();
    inner.add(&s, IN);
    inner.add(&r, IN | ET);
    c.write(b"x").is(1);
    wait_in(&s);
    outer.gives(&inner.0, IN);
    outer.quiet();
    for _ in 0..3 {
        w.write(b"x").is(1);
        r.read(&mut [0; 4]).is(1);
        outer.gives(&inner.0, IN);
        outer.quiet();
    }
    inner.gives(&s, IN);
}

fn edge_of_added_pipe(net: Net) {
    let (c, s) = pair(net);
    let (outer, inner) = nested();
    inner.add(&s, IN);
    c.write(b"x").is(1);
    wait_in(&s);
    outer.gives(&inner.0, IN);
    inner.gives(&s, IN);
    outer.quiet();
    // Ready when it is added: an edge. It is reported once, and the socket is the level.
    let (r, w) = pipe();
    w.write(b"x").is(1);
    inner.add(&r, IN | ET);
    let mut got = inner.wait(8, 0);
    got.sort_unstable();
    let mut want = [&s, &r].map(|fd| (fd.raw() as u64, IN));
    want.sort_unstable();
    assert_eq!(got, want);
    outer.gives(&inner.0, IN);
    outer.quiet();
}

fn edge_of_changed_pipe(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let (outer, inner) = nested();
    inner.add(&r, 0);
    inner.add(&s, IN);
    c.write(b"x").is(1);
    wait_in(&s);
    outer.gives(&inner.0, IN);
    outer.quiet();
    w.write(b"x").is(1);
    outer.quiet();
    inner.modify(&r, IN | ET);
    assert_eq!(inner.wait(8, 0).len(), 2);
    outer.gives(&inner.0, IN);
}

fn edges_without_levels(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let (outer, inner) = nested();
    inner.add(&s, IN);
    inner.add(&r, IN);
    c.write(b"x").is(1);
    wait_in(&s);
    assert_eq!(take(&s, 4), b"x");
    w.write(b"x").is(1);
    r.read(&mut [0; 4]).is(1);
    outer.quiet();
    assert_eq!(outer.0.poll(POLLIN, 0), 0);
}

fn level_shows_in_poll(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let (outer, inner) = nested();
    inner.add(&s, IN | ET);
    inner.add(&r, IN);
    w.write(b"x").is(1);
    outer.gives(&inner.0, IN);
    assert_eq!(outer.0.poll(POLLIN, 0), 0);
    c.write(b"x").is(1);
    wait_in(&s);
    assert_eq!(take(&s, 4), b"x");
    assert_eq!(outer.0.poll(POLLIN, 0), POLLIN);
    outer.gives(&inner.0, IN);
}

fn watch_ends_with_del(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let (outer, inner) = nested();
    inner.add(&s, IN);
    inner.add(&r, IN | ET);
    c.write(b"x").is(1);
    wait_in(&s);
    for _ in 0..40 {
        outer.gives(&inner.0, IN);
        outer.del(&inner.0);
        w.write(b"x").is(1);
        r.read(&mut [0; 4]).is(1);
        assert_eq!(outer.wait(4, 0), []);
        outer.add(&inner.0, IN | ET);
    }
    outer.gives(&inner.0, IN);
    outer.quiet();
}

fn three_deep(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let (top, middle, low) = (Ep::new(), Ep::new(), Ep::new());
    top.add(&middle.0, IN | ET);
    middle.add(&low.0, IN);
    low.add(&s, IN);
    low.add(&r, IN | ET);
    c.write(b"x").is(1);
    wait_in(&s);
    top.gives(&middle.0, IN);
    top.quiet();
    w.write(b"x").is(1);
    r.read(&mut [0; 4]).is(1);
    top.gives(&middle.0, IN);
    top.quiet();
    // Two more levels, which is as deep as it goes.
    let (above, summit) = (Ep::new(), Ep::new());
    above.add(&top.0, IN);
    summit.add(&above.0, IN | ET);
    Ep::new().ctl(EPOLL_CTL_ADD, summit.0.raw(), IN, 0).fails(libc::ELOOP);
}

fn level_triggered_both(net: Net) {
    let (c, s) = pair(net);
    let ev = eventfd();
    let (outer, inner) = (Ep::new(), Ep::new());
    outer.add(&inner.0, IN);
    inner.add(&s, IN);
    inner.add(&ev, IN);
    c.write(b"x").is(1);
    wait_in(&s);
    kick(&ev);
    // One event, as often as it is asked for, though both halves have it.
    for _ in 0..3 {
        outer.gives(&inner.0, IN);
    }
    assert_eq!(take(&s, 4), b"x");
    outer.gives(&inner.0, IN);
    ev.read(&mut [0; 8]).is(8);
    outer.quiet();
}

fn many_nested(net: Net) {
    // More than there are watches for: what is ready is told all the same.
    let (c, s) = pair(net);
    let outer = Ep::new();
    let sets: Vec<Ep> = (0..40).map(|_| Ep::new()).collect();
    for e in &sets {
        e.add(&s, IN);
        outer.add(&e.0, IN | ET);
    }
    c.write(b"x").is(1);
    wait_in(&s);
    let mut got: Vec<u64> = outer.wait(64, 0).into_iter().map(|(data, _)| data).collect();
    got.sort_unstable();
    let mut want: Vec<u64> = sets.iter().map(|e| e.0.raw() as u64).collect();
    want.sort_unstable();
    assert_eq!(got, want);
}

fn change_of_listed_is_silent(net: Net) {
    let (_c, s) = pair(net);
    let (outer, inner) = nested();
    let change = |fd: &Fd, events| inner.ctl(EPOLL_CTL_MOD, fd.raw(), events, 7).is(0);
    inner.add(&s, OUT);
    outer.gives(&inner.0, IN);
    inner.gives(&s, OUT);
    change(&s, OUT | ET);
    outer.quiet();
    assert_eq!(inner.wait(4, 0), [(7, OUT)]);
    change(&s, OUT);
    outer.gives(&inner.0, IN);
}
