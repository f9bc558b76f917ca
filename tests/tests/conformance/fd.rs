//! Descriptors of sockets: dup and its family, fcntl, fstat and other calls made for files, close_range, passing and reuse.

use std::mem;

use crate::cases;
use crate::net::{bound_udp, listener, pair, take, take_all, udp_pair, wait_in};
use crate::poll::{pipe, unixpair};
use crate::sys::{Fd, Net, sys};
use libc::{
    EBADF, EINVAL, F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_SETFD, F_SETFL, FD_CLOEXEC, O_APPEND, O_ASYNC, O_NONBLOCK, O_RDWR,
};

cases! {
    one: [dup_errors, dup2_errors, dup3_errors, fcntl_bad_fd, fstat_bad_fd, close_range_errors, std_streams_over_socket],
    net: [
        dup_shares, dup_shares_flags, dup_keeps_open, dup2_replaces_file, dup2_replaces_socket, dup2_same, dup2_closes_old_connection, dup3_cloexec,
        dupfd_minimum, dupfd_cloexec, dupfd_errors, getfd_setfd, getfl_setfl, setfl_ignores_access, setfl_nonblock_by_dup, setown, setsig,
        lease_and_locks, pipe_size, get_seals, unknown_fcntl, fstat_is_socket, fstat_inode_is_shared, fstat_differs, statx, fstatat_empty_path,
        proc_self_fd, isatty, ftruncate, fsync, fallocate, mmap, readdir, fchdir, fchmod_and_owner, flock, posix_fadvise, close_range_closes,
        close_range_cloexec, close_all_copies_ends, number_reused_by_file, number_reused_by_socket, passed_over_unix, passed_copy_outlives,
        close_twice, dup_of_listener, dup_of_udp, openat_on_socket, ioctl_on_dup, many_dups, closefrom,
    ],
}

fn dup(fd: &Fd) -> Fd {
    sys!(libc::dup(fd.raw())).fd()
}

fn fcntl(fd: &Fd, cmd: i32, arg: i32) -> crate::sys::R {
    sys!(libc::fcntl(fd.raw(), cmd, arg))
}

fn dup_errors() {
    sys!(libc::dup(-1)).fails(EBADF);
    sys!(libc::dup(777)).fails(EBADF);
}

fn dup2_errors() {
    let (c, _s) = pair(Net::V4);
    sys!(libc::dup2(777, 5)).fails(EBADF);
    sys!(libc::dup2(c.raw(), -1)).fails(EBADF);
    sys!(libc::dup2(c.raw(), 10_000_000)).fails(EBADF);
    sys!(libc::dup2(777, 777)).fails(EBADF);
}

fn dup3_errors() {
    let (c, _s) = pair(Net::V4);
    sys!(libc::dup3(c.raw(), c.raw(), 0)).fails(EINVAL);
    sys!(libc::dup3(c.raw(), 50, 1)).fails(EINVAL);
    sys!(libc::dup3(777, 50, 0)).fails(EBADF);
}

fn dup_shares(net: Net) {
    let (c, s) = pair(net);
    let d = dup(&c);
    c.write(b"one").is(3);
    d.write(b"two").is(3);
    assert_eq!(take_all(&s, 6), b"onetwo");
    s.write(b"abcd").is(4);
    assert_eq!(take_all(&c, 2), b"ab");
    assert_eq!(take_all(&d, 2), b"cd");
    assert_eq!(d.name(), c.name());
}

fn dup_shares_flags(net: Net) {
    let (c, _s) = pair(net);
    let d = dup(&c);
    c.nonblock(true);
    d.read(&mut [0; 1]).fails(libc::EAGAIN);
    assert_eq!(fcntl(&d, F_GETFL, 0).ok() as i32 & O_NONBLOCK, O_NONBLOCK);
}

fn setfl_nonblock_by_dup(net: Net) {
    let (c, _s) = pair(net);
    let d = dup(&c);
    d.nonblock(true);
    c.read(&mut [0; 1]).fails(libc::EAGAIN);
    d.nonblock(false);
    assert_eq!(fcntl(&c, F_GETFL, 0).ok() as i32 & O_NONBLOCK, 0);
}

fn dup_keeps_open(net: Net) {
    let (c, s) = pair(net);
    let d = dup(&c);
    c.close().is(0);
    crate::net::quiet(&s, libc::POLLIN);
    d.write(b"here").is(4);
    assert_eq!(take(&s, 9), b"here");
    d.close().is(0);
    assert_eq!(take(&s, 9), b"");
}

fn dup2_replaces_file(net: Net) {
    let (c, s) = pair(net);
    let f = sys!(libc::open(c"/dev/null".as_ptr(), O_RDWR)).fd();
    sys!(libc::dup2(c.raw(), f.raw())).is(f.raw() as isize);
    f.write(b"socket").is(6);
    assert_eq!(take(&s, 9), b"socket");
}

fn dup2_replaces_socket(net: Net) {
    let (c, _s) = pair(net);
    let (r, w) = pipe();
    // A file put over a socket's number is a file.
    sys!(libc::dup2(w.raw(), c.raw())).is(c.raw() as isize);
    c.write(b"pipe").is(4);
    let mut room = [0; 8];
    r.read(&mut room).is(4);
    c.send(b"x", 0).fails(libc::ENOTSOCK);
}

fn dup2_closes_old_connection(net: Net) {
    let (c, s) = pair(net);
    let (c2, s2) = pair(net);
    sys!(libc::dup2(c2.raw(), c.raw())).is(c.raw() as isize);
    assert_eq!(take(&s, 9), b"", "the connection that was there is closed");
    c.write(b"second").is(6);
    assert_eq!(take(&s2, 9), b"second");
}

fn dup2_same(net: Net) {
    let (c, s) = pair(net);
    sys!(libc::dup2(c.raw(), c.raw())).is(c.raw() as isize);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn dup3_cloexec(net: Net) {
    let (c, s) = pair(net);
    sys!(libc::dup3(c.raw(), 77, libc::O_CLOEXEC)).is(77);
    let d = Fd(77);
    fcntl(&d, F_GETFD, 0).is(FD_CLOEXEC as isize);
    fcntl(&c, F_GETFD, 0).is(0);
    d.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn dupfd_minimum(net: Net) {
    let (c, s) = pair(net);
    let d = fcntl(&c, F_DUPFD, 60).fd();
    assert_eq!(d.raw(), 60);
    let e = fcntl(&c, F_DUPFD, 60).fd();
    assert_eq!(e.raw(), 61);
    e.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn dupfd_cloexec(net: Net) {
    let (c, _s) = pair(net);
    let d = fcntl(&c, F_DUPFD_CLOEXEC, 0).fd();
    fcntl(&d, F_GETFD, 0).is(FD_CLOEXEC as isize);
}

fn dupfd_errors(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, F_DUPFD, -1).fails(EINVAL);
    fcntl(&c, F_DUPFD, 10_000_000).fails(EINVAL);
}

fn fcntl_bad_fd() {
    sys!(libc::fcntl(-1, F_GETFL)).fails(EBADF);
    sys!(libc::fcntl(777, F_GETFD)).fails(EBADF);
    sys!(libc::fcntl(777, F_SETFL, 0)).fails(EBADF);
}

fn getfd_setfd(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, F_GETFD, 0).is(0);
    fcntl(&c, F_SETFD, FD_CLOEXEC).is(0);
    fcntl(&c, F_GETFD, 0).is(1);
    fcntl(&c, F_SETFD, 0).is(0);
    fcntl(&c, F_GETFD, 0).is(0);
}

fn getfl_setfl(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, F_GETFL, 0).is(O_RDWR as isize);
    fcntl(&c, F_SETFL, O_NONBLOCK | O_APPEND).is(0);
    fcntl(&c, F_GETFL, 0).is((O_RDWR | O_NONBLOCK | O_APPEND) as isize);
    fcntl(&c, F_SETFL, 0).is(0);
    fcntl(&c, F_GETFL, 0).is(O_RDWR as isize);
}

fn setfl_ignores_access(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, F_SETFL, libc::O_RDONLY | libc::O_CREAT | O_ASYNC).is(0);
    fcntl(&c, F_GETFL, 0).is((O_RDWR | O_ASYNC) as isize);
}

fn setown(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, libc::F_GETOWN, 0).is(0);
    let me = sys!(libc::getpid()).ok() as i32;
    fcntl(&c, libc::F_SETOWN, me).is(0);
    fcntl(&c, libc::F_GETOWN, 0).is(me as isize);
}

fn setsig(net: Net) {
    const F_SETSIG: i32 = 10;
    const F_GETSIG: i32 = 11;
    let (c, _s) = pair(net);
    fcntl(&c, F_GETSIG, 0).is(0);
    fcntl(&c, F_SETSIG, libc::SIGUSR1).is(0);
    fcntl(&c, F_GETSIG, 0).is(libc::SIGUSR1 as isize);
    fcntl(&c, F_SETSIG, 9999).fails(EINVAL);
}

fn lease_and_locks(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, libc::F_SETLEASE, libc::F_RDLCK).fails(EINVAL);
    fcntl(&c, libc::F_NOTIFY, 1).fails(libc::ENOTDIR);
}

fn pipe_size(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, libc::F_GETPIPE_SZ, 0).fails(EBADF);
    fcntl(&c, libc::F_SETPIPE_SZ, 4096).fails(EBADF);
}

fn get_seals(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, libc::F_GET_SEALS, 0).fails(EINVAL);
}

fn unknown_fcntl(net: Net) {
    let (c, _s) = pair(net);
    fcntl(&c, 9999, 0).fails(EINVAL);
}

fn stat(fd: &Fd) -> libc::stat {
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { mem::zeroed() };
    sys!(libc::fstat(fd.raw(), &raw mut st)).is(0);
    st
}

fn fstat_bad_fd() {
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { mem::zeroed() };
    sys!(libc::fstat(-1, &raw mut st)).fails(EBADF);
    sys!(libc::fstat(777, &raw mut st)).fails(EBADF);
}

fn fstat_is_socket(net: Net) {
    let (c, _s) = pair(net);
    let st = stat(&c);
    assert_eq!(st.st_mode, libc::S_IFSOCK | 0o777);
    assert_eq!((st.st_size, st.st_nlink), (0, 1));
    assert_eq!(st.st_uid, sys!(libc::geteuid()).ok() as u32);
}

fn fstat_inode_is_shared(net: Net) {
    let (c, _s) = pair(net);
    let d = dup(&c);
    assert_eq!((stat(&c).st_ino, stat(&c).st_dev), (stat(&d).st_ino, stat(&d).st_dev));
}

fn fstat_differs(net: Net) {
    let (c, s) = pair(net);
    assert_ne!(stat(&c).st_ino, stat(&s).st_ino);
}

fn statx(net: Net) {
    let (c, _s) = pair(net);
    // SAFETY: all-zero is a valid statx.
    let mut st: libc::statx = unsafe { mem::zeroed() };
    sys!(libc::statx(c.raw(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_TYPE, &raw mut st)).is(0);
    assert_eq!(u32::from(st.stx_mode) & libc::S_IFMT, libc::S_IFSOCK);
}

fn fstatat_empty_path(net: Net) {
    let (c, _s) = pair(net);
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { mem::zeroed() };
    sys!(libc::fstatat(c.raw(), c"".as_ptr(), &raw mut st, libc::AT_EMPTY_PATH)).is(0);
    assert_eq!(st.st_mode & libc::S_IFMT, libc::S_IFSOCK);
}

fn proc_self_fd(net: Net) {
    let (c, _s) = pair(net);
    let link = std::fs::read_link(format!("/proc/self/fd/{}", c.raw())).expect("a real descriptor");
    assert_eq!(link.to_string_lossy(), format!("socket:[{}]", stat(&c).st_ino));
}

fn isatty(net: Net) {
    let (c, _s) = pair(net);
    // isatty says no with 0 and errno.
    sys!(libc::isatty(c.raw())).is(0);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOTTY));
}

fn ftruncate(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::ftruncate(c.raw(), 0)).fails(EINVAL);
}

fn fsync(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::fsync(c.raw())).fails(EINVAL);
    sys!(libc::fdatasync(c.raw())).fails(EINVAL);
}

fn fallocate(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::fallocate(c.raw(), 0, 0, 10)).fails(libc::ENODEV);
    assert_eq!(sys!(libc::posix_fallocate(c.raw(), 0, 10)).ok() as i32, libc::ENODEV);
}

fn mmap(net: Net) {
    // (A stream of Linux's can be mapped, for TCP_ZEROCOPY_RECEIVE.)
    let u = net.udp();
    sys!(libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, u.raw(), 0)).fails(libc::ENODEV);
}

fn readdir(net: Net) {
    let (c, _s) = pair(net);
    let mut room = [0u8; 256];
    sys!(libc::syscall(libc::SYS_getdents64, c.raw(), room.as_mut_ptr(), 256)).fails(libc::ENOTDIR);
}

fn fchdir(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::fchdir(c.raw())).fails(libc::ENOTDIR);
}

fn openat_on_socket(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::openat(c.raw(), c"x".as_ptr(), O_RDWR)).fails(libc::ENOTDIR);
}

fn fchmod_and_owner(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::fchmod(c.raw(), 0o600)).is(0);
    assert_eq!(stat(&c).st_mode & 0o777, 0o600);
}

fn flock(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::flock(c.raw(), libc::LOCK_EX | libc::LOCK_NB)).is(0);
    sys!(libc::flock(c.raw(), libc::LOCK_UN)).is(0);
}

fn posix_fadvise(net: Net) {
    let (c, _s) = pair(net);
    // fadvise on a socket is accepted and does nothing; on a pipe it is ESPIPE.
    assert_eq!(sys!(libc::posix_fadvise(c.raw(), 0, 0, 0)).ok(), 0);
}

fn ioctl_on_dup(net: Net) {
    let (c, s) = pair(net);
    let d = dup(&s);
    c.write(b"abc").is(3);
    wait_in(&s);
    assert_eq!(d.ioctl_int(libc::FIONREAD), 3);
}

fn close_range(first: u32, last: u32, flags: i32) -> crate::sys::R {
    sys!(libc::syscall(libc::SYS_close_range, first, last, flags))
}

unsafe extern "C" {
    #[link_name = "close_range"]
    fn libc_close_range(first: u32, last: u32, flags: i32) -> i32;
    #[link_name = "closefrom"]
    fn libc_closefrom(low: i32);
}

fn close_range_errors() {
    close_range(20, 10, 0).fails(EINVAL);
    close_range(20, 30, 0x100).fails(EINVAL);
    sys!(libc_close_range(20, 10, 0)).fails(EINVAL);
}

fn close_range_closes(net: Net) {
    let (c, s) = pair(net);
    let d = fcntl(&c, F_DUPFD, 100).fd();
    let number = d.take() as u32;
    c.close().is(0);
    sys!(libc_close_range(number, number + 10, 0)).is(0);
    assert_eq!(take(&s, 9), b"");
    sys!(libc::fcntl(number as i32, F_GETFD)).fails(EBADF);
    // And sockets still can be made.
    let (x, y) = pair(net);
    x.write(b"x").is(1);
    assert_eq!(take(&y, 9), b"x");
}

fn close_range_cloexec(net: Net) {
    let (c, s) = pair(net);
    let number = c.raw() as u32;
    sys!(libc_close_range(number, number, 4)).is(0);
    fcntl(&c, F_GETFD, 0).is(FD_CLOEXEC as isize);
    c.write(b"x").is(1);
    assert_eq!(take(&s, 9), b"x");
}

fn closefrom(net: Net) {
    let (c, s) = pair(net);
    let high = fcntl(&c, F_DUPFD, 200).fd();
    c.close().is(0);
    sys!({
        libc_closefrom(200);
        0
    })
    .is(0);
    sys!(libc::fcntl(high.take(), F_GETFD)).fails(EBADF);
    assert_eq!(take(&s, 9), b"");
    let (x, y) = pair(net);
    x.write(b"x").is(1);
    assert_eq!(take(&y, 9), b"x");
}

fn close_all_copies_ends(net: Net) {
    let (c, s) = pair(net);
    let copies: Vec<Fd> = (0..5).map(|_| dup(&c)).collect();
    c.close().is(0);
    for d in copies {
        crate::net::quiet(&s, 0);
        d.close().is(0);
    }
    assert_eq!(take(&s, 9), b"");
}

fn number_reused_by_file(net: Net) {
    let (c, _s) = pair(net);
    // The listener's number is free again, and lower.
    let _hole = sys!(libc::dup(0)).fd();
    let number = c.raw();
    c.close().is(0);
    let f = sys!(libc::open(c"/proc/self/comm".as_ptr(), libc::O_RDONLY)).fd();
    assert_eq!(f.raw(), number);
    assert!(f.read(&mut [0; 64]).ok() > 0);
    f.send(b"x", 0).fails(libc::ENOTSOCK);
    assert_eq!(stat(&f).st_mode & libc::S_IFMT, libc::S_IFREG);
}

fn number_reused_by_socket(net: Net) {
    let (c, s) = pair(net);
    // The listener's number is free again, and lower.
    let _hole = sys!(libc::dup(0)).fd();
    let number = c.raw();
    c.close().is(0);
    let u = net.udp();
    assert_eq!(u.raw(), number);
    assert_eq!(u.opt(libc::SOL_SOCKET, libc::SO_TYPE), libc::SOCK_DGRAM);
    assert_eq!(take(&s, 9), b"");
}

fn close_twice(net: Net) {
    let number = net.tcp().take();
    sys!(libc::close(number)).is(0);
    sys!(libc::close(number)).fails(EBADF);
    sys!(libc::close(-1)).fails(EBADF);
}

/// Sends `fd` over a unix socket and receives it as another.
fn pass(fd: &Fd) -> Fd {
    let (a, b) = unixpair();
    crate::msg::sendmsg(&a, &[b"x"], None, &[(libc::SOL_SOCKET, libc::SCM_RIGHTS, crate::msg::int(fd.raw()))], 0).is(1);
    let got = crate::msg::recvmsg(&b, &[4], 0, 64);
    got.result.is(1);
    Fd(crate::msg::as_int(got.control(libc::SOL_SOCKET, libc::SCM_RIGHTS)))
}

fn passed_over_unix(net: Net) {
    let (c, s) = pair(net);
    let d = pass(&c);
    assert_ne!(d.raw(), c.raw());
    assert_eq!(stat(&d).st_ino, stat(&c).st_ino);
    d.write(b"passed").is(6);
    assert_eq!(take(&s, 9), b"passed");
    assert_eq!(d.peer(), s.name());
}

fn passed_copy_outlives(net: Net) {
    let (c, s) = pair(net);
    let d = pass(&c);
    c.close().is(0);
    d.write(b"alive").is(5);
    assert_eq!(take(&s, 9), b"alive");
    d.close().is(0);
    assert_eq!(take(&s, 9), b"");
}

fn dup_of_listener(net: Net) {
    let (l, at) = listener(net);
    let m = dup(&l);
    l.close().is(0);
    let c = net.tcp();
    c.connect(&at).is(0);
    let _s = m.accept().fd();
}

fn dup_of_udp(net: Net) {
    let (a, b) = udp_pair(net);
    let d = dup(&b);
    b.close().is(0);
    a.write(b"x").is(1);
    assert_eq!(take(&d, 9), b"x");
    let (_u, at) = bound_udp(net);
    d.connect(&at).is(0);
}

fn many_dups(net: Net) {
    let (c, s) = pair(net);
    let all: Vec<Fd> = (0..150).map(|_| dup(&c)).collect();
    for d in &all {
        d.write(b"x").is(1);
    }
    drop(all);
    assert_eq!(take_all(&s, 150).len(), 150);
    crate::net::quiet(&s, libc::POLLIN);
    c.close().is(0);
    assert_eq!(take(&s, 9), b"");
}

fn std_streams_over_socket() {
    // What inetd does.
    let (c, s) = pair(Net::V4);
    let keep = sys!(libc::dup(1)).fd();
    sys!(libc::dup2(s.raw(), 1)).is(1);
    sys!(libc::write(1, b"inetd".as_ptr().cast(), 5)).is(5);
    sys!(libc::dup2(keep.raw(), 1)).is(1);
    assert_eq!(take(&c, 9), b"inetd");
}
