//! An epoll set after fork(2): one open file description in two processes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cases;
use crate::epoll::{ET, EXCLUSIVE, Ep, IN, ONESHOT, OUT};
use crate::net::{bound_udp, eventually, listener, pair, sleep, take, until, wait_in};
use crate::poll::pipe;
use crate::sys::{Fd, Net, sys};
use libc::{EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, POLLIN};

cases! {
    one: [],
    net: [
        child_sees_the_set, child_adds_for_both, child_removes_for_both, child_changes_for_both, close_in_child_leaves_the_set, close_of_the_set_in_child,
        closed_here_open_there, edge_is_for_one, oneshot_is_for_one, level_is_for_both, child_waits_parent_writes, parent_waits_child_writes, both_wait_one_takes,
        exit_of_child_changes_nothing, killed_child_changes_nothing, kernel_descriptors_too, nested_after_fork, made_by_child_dies_with_it, grandchild,
        workers_with_own_sets, workers_share_a_set, exclusive_workers, udp_workers, fork_while_another_waits, same_number_another_socket,
    ],
}

/// A child that runs `f`; its status is the verdict.
struct Child(i32);

impl Child {
    fn of(f: impl FnOnce()) -> Self {
        let pid = sys!(libc::fork()).ok() as i32;
        if pid == 0 {
            let failed = catch_unwind(AssertUnwindSafe(f)).is_err();
            // SAFETY: ends the child without the parent's handlers.
            unsafe { libc::_exit(failed as i32) };
        }
        Self(pid)
    }
    #[track_caller]
    fn passes(self) {
        let mut status = -1;
        sys!(libc::waitpid(self.0, &raw mut status, 0)).is(self.0 as isize);
        assert_eq!(status, 0, "the child's status");
    }
}

/// One says to the other that it is its turn.
struct Turn(Fd, Fd);

impl Turn {
    fn new() -> Self {
        let (r, w) = pipe();
        Self(r, w)
    }
    fn give(&self) {
        self.1.write(b"!").is(1);
    }
    fn take(&self) {
        self.0.read(&mut [0]).is(1);
    }
}

fn watched(net: Net, events: u32) -> (Fd, Fd, Ep) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, events);
    (c, s, e)
}

fn child_sees_the_set(net: Net) {
    let (c, s, e) = watched(net, IN);
    c.write(b"x").is(1);
    wait_in(&s);
    Child::of(|| e.gives(&s, IN)).passes();
    e.gives(&s, IN);
}

fn child_adds_for_both(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    Child::of(|| e.add(&s, IN)).passes();
    c.write(b"x").is(1);
    e.gives(&s, IN);
    e.ctl(EPOLL_CTL_ADD, s.raw(), IN, 0).fails(libc::EEXIST);
}

fn child_removes_for_both(net: Net) {
    let (c, s, e) = watched(net, IN);
    Child::of(|| e.del(&s)).passes();
    c.write(b"x").is(1);
    wait_in(&s);
    e.quiet();
    e.ctl(EPOLL_CTL_DEL, s.raw(), 0, 0).fails(libc::ENOENT);
}

fn child_changes_for_both(net: Net) {
    let (_c, s, e) = watched(net, IN);
    Child::of(|| e.ctl(EPOLL_CTL_MOD, s.raw(), OUT, 99).is(0)).passes();
    assert_eq!(e.wait(4, 0), [(99, OUT)]);
}

fn close_in_child_leaves_the_set(net: Net) {
    let (c, s, e) = watched(net, IN);
    Child::of(|| {
        sys!(libc::close(s.raw())).is(0);
    })
    .passes();
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn close_of_the_set_in_child(net: Net) {
    let (c, s, e) = watched(net, IN);
    Child::of(|| {
        sys!(libc::close(e.0.raw())).is(0);
        sys!(libc::epoll_ctl(e.0.raw(), EPOLL_CTL_DEL, s.raw(), std::ptr::null_mut())).fails(libc::EBADF);
    })
    .passes();
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn closed_here_open_there(net: Net) {
    // The registration lives as long as the open description (epoll(7), Q6).
    let (c, s, e) = watched(net, IN);
    let done = Turn::new();
    let child = Child::of(|| done.take());
    let number = s.raw() as u64;
    s.close().is(0);
    c.write(b"x").is(1);
    assert_eq!(e.wait(4, crate::net::LIMIT), [(number, IN)]);
    done.give();
    child.passes();
    // The last one has gone.
    assert!(eventually(|| e.wait(4, 0).is_empty()));
}

fn edge_is_for_one(net: Net) {
    let (c, s, e) = watched(net, IN | ET);
    c.write(b"x").is(1);
    wait_in(&s);
    Child::of(|| e.gives(&s, IN)).passes();
    e.quiet();
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn oneshot_is_for_one(net: Net) {
    let (c, s, e) = watched(net, IN | ONESHOT);
    c.write(b"x").is(1);
    wait_in(&s);
    Child::of(|| e.gives(&s, IN)).passes();
    e.quiet();
    e.modify(&s, IN | ONESHOT);
    e.gives(&s, IN);
}

fn level_is_for_both(net: Net) {
    let (c, s, e) = watched(net, IN);
    c.write(b"x").is(1);
    wait_in(&s);
    for _ in 0..3 {
        e.gives(&s, IN);
        Child::of(|| e.gives(&s, IN)).passes();
    }
    Child::of(|| assert_eq!(take(&s, 4), b"x")).passes();
    e.quiet();
}

fn child_waits_parent_writes(net: Net) {
    let (c, s, e) = watched(net, IN);
    let child = Child::of(|| {
        e.gives(&s, IN);
        assert_eq!(take(&s, 4), b"x");
    });
    sleep(40);
    c.write(b"x").is(1);
    child.passes();
    e.quiet();
}

fn parent_waits_child_writes(net: Net) {
    let (c, s, e) = watched(net, IN);
    let child = Child::of(|| {
        sleep(40);
        c.write(b"x").is(1);
    });
    e.gives(&s, IN);
    assert_eq!(take(&s, 4), b"x");
    child.passes();
}

fn both_wait_one_takes(net: Net) {
    // Each of 40 bytes is taken by one of the two.
    let (c, s, e) = watched(net, IN);
    s.nonblock(true);
    let (r, w) = pipe();
    let taking = || {
        let mut n = 0u8;
        let mut room = [0u8; 1];
        loop {
            if e.wait(4, 500).is_empty() {
                return n;
            }
            while let Ok(1) = s.recv(&mut room, 0).get() {
                if room[0] == b'.' {
                    return n;
                }
                n += 1;
            }
        }
    };
    let child = Child::of(|| {
        w.write(&[taking()]).is(1);
    });
    for _ in 0..40 {
        c.write(b"x").is(1);
        sleep(1);
    }
    let mine = taking();
    let mut theirs = [0u8];
    r.read(&mut theirs).is(1);
    child.passes();
    assert_eq!(mine + theirs[0], 40);
}

fn exit_of_child_changes_nothing(net: Net) {
    let (c, s, e) = watched(net, IN);
    Child::of(|| ()).passes();
    sleep(20);
    e.quiet();
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn killed_child_changes_nothing(net: Net) {
    let (c, s, e) = watched(net, IN);
    let child = Child::of(|| {
        e.wait(4, crate::net::LIMIT);
    });
    sleep(40);
    sys!(libc::kill(child.0, libc::SIGKILL)).is(0);
    sys!(libc::waitpid(child.0, std::ptr::null_mut(), 0)).ok();
    c.write(b"x").is(1);
    e.gives(&s, IN);
    assert_eq!(take(&s, 4), b"x");
    e.quiet();
}

fn kernel_descriptors_too(net: Net) {
    let (c, s, e) = watched(net, IN);
    let (r, w) = pipe();
    e.add(&r, IN);
    let child = Child::of(|| {
        e.gives(&r, IN);
        r.read(&mut [0; 4]).is(1);
        e.gives(&s, IN);
    });
    sleep(30);
    w.write(b"x").is(1);
    until(|| r.poll(POLLIN, 0) == 0);
    c.write(b"x").is(1);
    child.passes();
    e.gives(&s, IN);
}

fn nested_after_fork(net: Net) {
    let (c, s, inner) = watched(net, IN);
    let outer = Ep::new();
    outer.add(&inner.0, IN);
    let child = Child::of(|| {
        outer.gives(&inner.0, IN);
        inner.gives(&s, IN);
    });
    sleep(30);
    c.write(b"x").is(1);
    child.passes();
    outer.gives(&inner.0, IN);
}

fn made_by_child_dies_with_it(net: Net) {
    let (c, s) = pair(net);
    for _ in 0..5 {
        Child::of(|| {
            let e = Ep::new();
            e.add(&s, IN);
            e.quiet();
            std::mem::forget(e);
        })
        .passes();
    }
    let e = Ep::new();
    e.add(&s, IN);
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn grandchild(net: Net) {
    let (c, s, e) = watched(net, IN);
    let child = Child::of(|| {
        let grandchild = Child::of(|| e.gives(&s, IN));
        grandchild.passes();
        e.gives(&s, IN);
    });
    sleep(30);
    c.write(b"x").is(1);
    child.passes();
}

/// Children that serve one connection after another as `accepting` gives them, until one says "end".
fn workers(n: usize, accepting: impl Fn() -> Fd) -> Vec<Child> {
    let one = |accepting: &dyn Fn() -> Fd| loop {
        let s = accepting();
        s.nonblock(false);
        let got = take(&s, 16);
        if got == b"end" {
            return;
        }
        s.write(&got).is(got.len() as isize);
    };
    (0..n).map(|_| Child::of(|| one(&accepting))).collect()
}

/// Every connection is served, whoever does it; then each worker is told to end.
fn served(net: Net, at: &crate::sys::Addr, workers: Vec<Child>) {
    for i in 0..30u8 {
        let c = net.tcp();
        c.connect(at).is(0);
        c.write(&[i; 3]).is(3);
        assert_eq!(take(&c, 9), [i; 3]);
    }
    for _ in 0..workers.len() {
        let c = net.tcp();
        c.connect(at).is(0);
        c.write(b"end").is(3);
        assert_eq!(take(&c, 9), b"");
    }
    workers.into_iter().for_each(Child::passes);
}

fn accept_by(l: &Fd, e: &Ep) -> Fd {
    loop {
        e.wait(1, crate::net::LIMIT);
        // Another may have been faster.
        if let Ok(fd) = l.accept().get() {
            return Fd(fd as i32);
        }
    }
}

fn workers_with_own_sets(net: Net) {
    let (l, at) = listener(net);
    l.nonblock(true);
    let each = workers(3, || {
        let e = Ep::new();
        e.add(&l, IN);
        accept_by(&l, &e)
    });
    served(net, &at, each);
}

fn workers_share_a_set(net: Net) {
    let (l, at) = listener(net);
    l.nonblock(true);
    let e = Ep::new();
    e.add(&l, IN);
    served(net, &at, workers(3, || accept_by(&l, &e)));
}

fn exclusive_workers(net: Net) {
    let (l, at) = listener(net);
    l.nonblock(true);
    let each = workers(3, || {
        let e = Ep::new();
        e.add(&l, IN | EXCLUSIVE);
        accept_by(&l, &e)
    });
    served(net, &at, each);
}

fn udp_workers(net: Net) {
    let (u, at) = bound_udp(net);
    u.nonblock(true);
    let e = Ep::new();
    e.add(&u, IN);
    let (r, w) = pipe();
    let children: Vec<Child> = (0..3)
        .map(|_| {
            Child::of(|| {
                let mut room = [0u8; 4];
                loop {
                    e.wait(1, crate::net::LIMIT);
                    match u.recv(&mut room, 0).get() {
                        Ok(3) => break,
                        Ok(_) => drop(w.write(&room[..1]).ok()),
                        Err(_) => {}
                    }
                }
            })
        })
        .collect();
    let c = net.udp();
    c.connect(&at).is(0);
    for i in 0..30u8 {
        c.write(&[i]).is(1);
    }
    let mut got = [0u8; 30];
    let mut n = 0;
    while n < 30 {
        n += r.read(&mut got[n..]).ok() as usize;
    }
    got.sort_unstable();
    assert!(got.iter().enumerate().all(|(i, &g)| i == g as usize), "{got:?}");
    for _ in &children {
        c.write(b"end").is(3);
    }
    children.into_iter().for_each(Child::passes);
}

fn fork_while_another_waits(net: Net) {
    // A thread of the parent's is inside epoll_wait: the child has its set, not its wait.
    let (c, s, e) = watched(net, IN);
    std::thread::scope(|scope| {
        let t = scope.spawn(|| e.gives(&s, IN));
        sleep(40);
        Child::of(|| {
            e.quiet();
            assert_eq!(s.poll(POLLIN, 0), 0);
        })
        .passes();
        c.write(b"x").is(1);
        t.join().expect("waiter");
    });
}

fn same_number_another_socket(net: Net) {
    // The child puts another socket on the number: to the set it is another interest.
    let (c, s, e) = watched(net, IN);
    let (d, t) = pair(net);
    Child::of(|| {
        sys!(libc::dup2(t.raw(), s.raw())).is(s.raw() as isize);
        e.ctl(EPOLL_CTL_ADD, s.raw(), IN, 77).is(0);
        d.write(b"x").is(1);
        assert_eq!(e.wait(4, crate::net::LIMIT), [(77, IN)]);
    })
    .passes();
    assert_eq!(take(&t, 4), b"x");
    e.quiet();
    c.write(b"x").is(1);
    e.gives(&s, IN);
}
