//! epoll_create(2), epoll_ctl(2), epoll_wait(2): what is refused, and with which error.

use crate::cases;
use crate::epoll::*;
use crate::net::*;
use crate::sys::*;
use libc::{EINVAL, EPOLL_CTL_ADD, EPOLL_CTL_DEL};

cases! {
    one: [
        create_flags, create_bad, ctl_bad_epfd, ctl_bad_fd, ctl_not_epoll, ctl_self, ctl_regular_file, ctl_bad_op, ctl_null_event, wait_bad,
        wait_not_epoll, wait_timeout, wait_null_events,
    ],
    net: [],
}

fn create_flags() {
    let e = sys!(libc::epoll_create1(0)).fd();
    sys!(libc::fcntl(e.raw(), libc::F_GETFD)).is(0);
    let e = sys!(libc::epoll_create1(libc::EPOLL_CLOEXEC)).fd();
    sys!(libc::fcntl(e.raw(), libc::F_GETFD)).is(libc::FD_CLOEXEC as isize);
    let _e = sys!(libc::epoll_create(1)).fd();
}

fn create_bad() {
    sys!(libc::epoll_create1(1)).fails(EINVAL);
    sys!(libc::epoll_create(0)).fails(EINVAL);
    sys!(libc::epoll_create(-1)).fails(EINVAL);
}

fn ctl_bad_epfd() {
    let (c, _s) = pair(Net::V4);
    let mut e = libc::epoll_event { events: IN, u64: 0 };
    sys!(libc::epoll_ctl(-1, EPOLL_CTL_ADD, c.raw(), &raw mut e)).fails(libc::EBADF);
    sys!(libc::epoll_ctl(777, EPOLL_CTL_ADD, c.raw(), &raw mut e)).fails(libc::EBADF);
}

fn ctl_bad_fd() {
    let e = Ep::new();
    e.ctl(EPOLL_CTL_ADD, -1, IN, 0).fails(libc::EBADF);
    e.ctl(EPOLL_CTL_ADD, 777, IN, 0).fails(libc::EBADF);
    e.ctl(EPOLL_CTL_DEL, 777, IN, 0).fails(libc::EBADF);
}

fn ctl_not_epoll() {
    let (c, s) = pair(Net::V4);
    let mut e = libc::epoll_event { events: IN, u64: 0 };
    sys!(libc::epoll_ctl(s.raw(), EPOLL_CTL_ADD, c.raw(), &raw mut e)).fails(EINVAL);
}

fn ctl_self() {
    let e = Ep::new();
    e.ctl(EPOLL_CTL_ADD, e.0.raw(), IN, 0).fails(EINVAL);
}

fn ctl_regular_file() {
    let f = sys!(libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY)).fd();
    Ep::new().ctl(EPOLL_CTL_ADD, f.raw(), IN, 0).fails(libc::EPERM);
}

fn ctl_bad_op() {
    let (c, _s) = pair(Net::V4);
    Ep::new().ctl(99, c.raw(), IN, 0).fails(EINVAL);
}

fn ctl_null_event() {
    let (c, _s) = pair(Net::V4);
    let e = Ep::new();
    sys!(libc::epoll_ctl(e.0.raw(), EPOLL_CTL_ADD, c.raw(), std::ptr::null_mut())).fails(libc::EFAULT);
}

fn wait_bad() {
    let e = Ep::new();
    let mut one = [libc::epoll_event { events: 0, u64: 0 }];
    sys!(libc::epoll_wait(e.0.raw(), one.as_mut_ptr(), 0, 0)).fails(EINVAL);
    sys!(libc::epoll_wait(e.0.raw(), one.as_mut_ptr(), -1, 0)).fails(EINVAL);
    sys!(libc::epoll_wait(-1, one.as_mut_ptr(), 1, 0)).fails(libc::EBADF);
    sys!(libc::epoll_wait(777, one.as_mut_ptr(), 1, 0)).fails(libc::EBADF);
}

fn wait_not_epoll() {
    let (c, _s) = pair(Net::V4);
    let mut one = [libc::epoll_event { events: 0, u64: 0 }];
    sys!(libc::epoll_wait(c.raw(), one.as_mut_ptr(), 1, 0)).fails(EINVAL);
}

fn wait_timeout() {
    let (c, _s) = pair(Net::V4);
    let e = Ep::new();
    e.add(&c, IN);
    let start = std::time::Instant::now();
    assert_eq!(e.wait(4, 40), []);
    assert!(start.elapsed().as_millis() >= 39);
}

fn wait_null_events() {
    let (c, _s) = pair(Net::V4);
    let e = Ep::new();
    e.add(&c, OUT);
    sys!(libc::epoll_wait(e.0.raw(), std::ptr::null_mut(), 1, 0)).fails(libc::EFAULT);
}
