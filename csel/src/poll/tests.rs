//! Sets around sets: what is news to the outer one.
use super::epoll::{self, Event};
use super::ev;
use crate::fd::Held;
use crate::testing::{Host, World};
use libc::{EPOLL_CTL_ADD, EPOLL_CTL_MOD};

const ET: u32 = libc::EPOLLET as u32;

/// An outer set with an edge-triggered inner one with a socket that is writable.
struct Nested<'a> {
    h: &'a Host,
    outer: Held,
    inner: Held,
    sock: Held,
}

impl<'a> Nested<'a> {
    fn new(h: &'a Host, events: u32) -> Self {
        let set = || h.call(epoll::create).expect("a set");
        let n = Self { h, outer: set(), inner: set(), sock: h.socket(libc::AF_INET, libc::SOCK_DGRAM, 0) };
        n.ctl(&n.inner, EPOLL_CTL_ADD, &n.sock, 5, events);
        n.ctl(&n.outer, EPOLL_CTL_ADD, &n.inner, 4, ev::IN | ET);
        n
    }
    fn ctl(&self, set: &Held, op: i32, target: &Held, fd: i32, events: u32) {
        let event = Event { events, data: fd as u64, nested: false };
        self.h.call(|cx| epoll::ctl(cx, set, op, target, fd, event)).expect("epoll_ctl");
    }
    fn wait(&self, set: &Held) -> Vec<(u64, u32)> {
        let mut out = [Event::default(); 4];
        let n = self.h.call(|cx| epoll::wait(cx, set, &mut out));
        out[..n].iter().map(|e| (e.data, e.events)).collect()
    }
    fn end(self) {
        self.h.call(|cx| [self.outer, self.inner, self.sock].into_iter().for_each(|s| s.release(cx)));
    }
}

#[test]
fn changing_what_is_listed_already_is_no_news_outside() {
    let w = World::new(1);
    let n = Nested::new(&w.hosts[0], ev::OUT);
    assert_eq!(n.wait(&n.outer), [(4, ev::IN)]);
    // Level-triggered: it stays on the inner list (ep_modify() wakes nobody for it).
    assert_eq!(n.wait(&n.inner), [(5, ev::OUT)]);
    n.ctl(&n.inner, EPOLL_CTL_MOD, &n.sock, 5, ev::OUT | ET);
    assert_eq!(n.wait(&n.outer), []);
    // Off the list now; a change then is news.
    assert_eq!(n.wait(&n.inner), [(5, ev::OUT)]);
    n.ctl(&n.inner, EPOLL_CTL_MOD, &n.sock, 5, ev::OUT);
    assert_eq!(n.wait(&n.outer), [(4, ev::IN)]);
    n.end();
}
