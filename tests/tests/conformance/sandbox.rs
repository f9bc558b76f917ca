//! Members that confine themselves as sshd's pre-authentication child does: a seccomp filter that kills for any call it does not list, RLIMIT_NOFILE of 0,
//! chroot(2) to an empty directory, setuid(2). What they had open goes on working with read, write, poll, select, shutdown, close, futex and memory calls.
//!
//! A forbidden call ends the child by SIGSYS, so its exit status is the verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;

use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{listener, pair, pattern, sleep, udp_pair, wait, wait_in};
use crate::poll::pipe;
use crate::sys::{Fd, Net, sys};
use libc::{POLLHUP, POLLIN, POLLOUT, SHUT_WR};

cases! {
    one: [a_bad_filter_confines_nobody, a_filter_that_only_refuses],
    net: [
        echoes, is_fed, feeds, sees_the_end, ends_its_side, closes, dies, is_killed, would_block, peer_is_gone, polls_in_vain, polls_two_kinds, selects,
        selects_two_kinds, wakes_a_poller, wakes_an_epoll, writes_to_two_at_once, is_interrupted, no_descriptors_left, in_an_empty_root, as_sshd_does, datagrams,
        by_syscall, threads_of_one, two_confined, child_of_confined, inherits_a_listener,
    ],
}

/// Installs a filter: the calls of `allowed` pass, for any other the kernel does `otherwise`.
fn install(allowed: &[libc::c_long], otherwise: u32, by_syscall: bool) {
    let stmt = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut f = vec![stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for (i, nr) in allowed.iter().enumerate() {
        let jump = (allowed.len() - i) as u8;
        f.push(libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: jump, jf: 0, k: *nr as u32 });
    }
    f.push(stmt(libc::BPF_RET | libc::BPF_K, otherwise));
    f.push(stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let prog = libc::sock_fprog { len: f.len() as u16, filter: f.as_mut_ptr() };
    sys!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).is(0);
    if by_syscall {
        sys!(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC, &raw const prog)).is(0);
    } else {
        sys!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const prog, 0, 0)).is(0);
    }
}

/// sshd's list, without what needs no socket.
fn allowed() -> Vec<libc::c_long> {
    let mut all = vec![
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_shutdown,
        libc::SYS_ppoll,
        libc::SYS_pselect6,
        libc::SYS_futex,
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    #[cfg(target_arch = "x86_64")]
    all.extend([libc::SYS_poll, libc::SYS_select]);
    all
}

fn confine() {
    install(&allowed(), libc::SECCOMP_RET_KILL_PROCESS, false);
}

/// Forks; the child runs `f` and exits with 0, or 1 if an assertion of it failed.
fn member(f: impl FnOnce()) -> i32 {
    let pid = sys!(libc::fork()).ok() as i32;
    if pid == 0 {
        let failed = catch_unwind(AssertUnwindSafe(f)).is_err();
        // SAFETY: ends the child without the parent's handlers.
        unsafe { libc::_exit(failed as i32) };
    }
    pid
}

#[track_caller]
fn fares_well(pid: i32) {
    let mut status = -1;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    assert_eq!(status, 0, "the member's status: {status:#x}");
}

/// A confined member with its end of a connection; the other end.
fn confined(net: Net, f: impl FnOnce(&Fd)) -> (Fd, i32) {
    let (c, s) = pair(net);
    let pid = member(|| {
        c.take_in_child();
        confine();
        f(&s);
    });
    drop(s);
    (c, pid)
}

trait InChild {
    fn take_in_child(&self);
}
impl InChild for Fd {
    /// Closes the parent's end in the child, whose copy would keep it open.
    fn take_in_child(&self) {
        sys!(libc::close(self.raw())).is(0);
    }
}

/// As much as one read(2) gives, `n` at most (the list has no recv(2)).
#[track_caller]
fn take(fd: &Fd, n: usize) -> Vec<u8> {
    let mut room = vec![0; n];
    let got = fd.read(&mut room).ok() as usize;
    room.truncate(got);
    room
}

/// `n` bytes.
#[track_caller]
fn take_all(fd: &Fd, n: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < n {
        let more = take(fd, n - all.len());
        assert!(!more.is_empty(), "the end after {} of {n} bytes", all.len());
        all.extend(more);
    }
    all
}

#[track_caller]
fn take_to_end(fd: &Fd) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let more = take(fd, 65536);
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

#[track_caller]
fn put_all(fd: &Fd, mut data: &[u8]) {
    while !data.is_empty() {
        data = &data[fd.write(data).ok() as usize..];
    }
}

fn echo(s: &Fd, rounds: usize) {
    for _ in 0..rounds {
        let got = take(s, 64);
        s.write(&got).is(got.len() as isize);
    }
}

fn ask(c: &Fd, rounds: usize) {
    for n in 0..rounds {
        let line = format!("round {n}");
        c.write(line.as_bytes()).is(line.len() as isize);
        assert_eq!(take_all(c, line.len()), line.as_bytes());
    }
}

fn echoes(net: Net) {
    let (c, pid) = confined(net, |s| echo(s, 200));
    ask(&c, 200);
    fares_well(pid);
}

fn is_fed(net: Net) {
    let (c, pid) = confined(net, |s| assert_eq!(take_all(s, 4 << 20), pattern(4 << 20)));
    put_all(&c, &pattern(4 << 20));
    fares_well(pid);
}

fn feeds(net: Net) {
    let (c, pid) = confined(net, |s| put_all(s, &pattern(4 << 20)));
    assert_eq!(take_to_end(&c), pattern(4 << 20));
    fares_well(pid);
}

fn sees_the_end(net: Net) {
    let (c, pid) = confined(net, |s| assert_eq!(take_to_end(s), b"the last words"));
    c.write(b"the last words").is(14);
    c.shutdown(SHUT_WR).is(0);
    fares_well(pid);
}

fn ends_its_side(net: Net) {
    let (c, pid) = confined(net, |s| {
        s.write(b"over").is(4);
        s.shutdown(SHUT_WR).is(0);
        assert_eq!(take(s, 9), b"and out");
    });
    assert_eq!(take_to_end(&c), b"over");
    c.write(b"and out").is(7);
    fares_well(pid);
}

fn closes(net: Net) {
    let (p, q) = pipe();
    let (c, s) = pair(net);
    let pid = member(|| {
        c.take_in_child();
        confine();
        sys!(libc::close(s.raw())).is(0);
        q.write(b"c").is(1);
        // It lives until the parent has seen the end of its connection.
        let mut end = [0; 1];
        sys!(libc::read(p.raw(), end.as_mut_ptr().cast(), 0)).is(0);
        sleep(500);
    });
    drop(s);
    assert_eq!(take_to_end(&c), b"");
    let mut status = -1;
    sys!(libc::waitpid(pid, &raw mut status, libc::WNOHANG)).is(0);
    fares_well(pid);
}

fn dies(net: Net) {
    let (c, pid) = confined(net, |s| {
        s.write(b"farewell").is(8);
    });
    assert_eq!(take_to_end(&c), b"farewell");
    fares_well(pid);
}

fn is_killed(net: Net) {
    let (c, pid) = confined(net, |s| {
        s.write(b"x").is(1);
        sys!(libc::getppid()).is(0);
    });
    assert_eq!(take_to_end(&c), b"x");
    let mut status = 0;
    sys!(libc::waitpid(pid, &raw mut status, 0)).is(pid as isize);
    assert_eq!(status & 0x7f, libc::SIGSYS, "getppid(2) is not on the list");
}

fn would_block(net: Net) {
    let (c, s) = pair(net);
    s.nonblock(true);
    let pid = member(|| {
        confine();
        s.read(&mut [0; 9]).fails(libc::EAGAIN);
        wait_in(&s);
        assert_eq!(take(&s, 9), b"now");
        s.read(&mut [0; 9]).fails(libc::EAGAIN);
    });
    sleep(50);
    c.write(b"now").is(3);
    fares_well(pid);
}

fn peer_is_gone(net: Net) {
    let (c, s) = pair(net);
    let pid = member(|| {
        c.take_in_child();
        // SAFETY: no handler.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        confine();
        assert_eq!(take_to_end(&s), b"");
        s.write(b"1").is(1);
        assert_ne!(wait(&s, POLLOUT | POLLHUP) & (POLLOUT | POLLHUP), 0);
        while s.write(b"2").get() == Ok(1) {
            sleep(5);
        }
        s.write(b"3").fails(libc::EPIPE);
    });
    drop((c, s));
    fares_well(pid);
}

fn polls_in_vain(net: Net) {
    let (c, pid) = confined(net, |s| {
        assert_eq!(s.poll(POLLIN, 0), 0);
        assert_eq!(s.poll(POLLIN, 60), 0);
        s.write(b"?").is(1);
        assert_eq!(s.poll(POLLIN, 20_000), POLLIN);
        assert_eq!(take(s, 9), b"!");
    });
    assert_eq!(take(&c, 1), b"?");
    c.write(b"!").is(1);
    fares_well(pid);
}

/// What is readable of two, waited for without end.
fn either(a: &Fd, b: &Fd) -> (bool, bool) {
    let mut p = [a, b].map(|f| libc::pollfd { fd: f.raw(), events: POLLIN, revents: 0 });
    assert!(sys!(libc::poll(p.as_mut_ptr(), 2, 20_000)).ok() > 0, "nothing came");
    (p[0].revents & POLLIN != 0, p[1].revents & POLLIN != 0)
}

fn polls_two_kinds(net: Net) {
    let (p, q) = pipe();
    let (c, pid) = confined(net, |s| {
        for _ in 0..20 {
            assert_eq!(either(s, &p), (true, false));
            assert_eq!(take(s, 1), b"s");
            s.write(b"a").is(1);
            assert_eq!(either(s, &p), (false, true));
            assert_eq!(take(&p, 1), b"p");
            s.write(b"b").is(1);
        }
    });
    for _ in 0..20 {
        c.write(b"s").is(1);
        assert_eq!(take(&c, 1), b"a");
        q.write(b"p").is(1);
        assert_eq!(take(&c, 1), b"b");
    }
    fares_well(pid);
}

/// select(2) for reading; which of the two is.
fn select(a: &Fd, b: &Fd) -> (bool, bool) {
    // SAFETY: all-zero is an empty set, and the descriptors are below FD_SETSIZE.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(a.raw(), &raw mut set);
        libc::FD_SET(b.raw(), &raw mut set);
        let mut tv = libc::timeval { tv_sec: 20, tv_usec: 0 };
        let n = a.raw().max(b.raw()) + 1;
        assert!(sys!(libc::select(n, &raw mut set, std::ptr::null_mut(), std::ptr::null_mut(), &raw mut tv)).ok() > 0, "nothing came");
        (libc::FD_ISSET(a.raw(), &raw const set), libc::FD_ISSET(b.raw(), &raw const set))
    }
}

fn selects(net: Net) {
    let (c, d) = pair(net);
    let (e, f) = pair(net);
    let pid = member(|| {
        confine();
        assert_eq!(select(&d, &f), (false, true));
        take(&f, 1);
        d.write(b"1").is(1);
        assert_eq!(select(&d, &f), (true, false));
    });
    sleep(30);
    e.write(b"e").is(1);
    take(&c, 1);
    c.write(b"c").is(1);
    fares_well(pid);
}

fn selects_two_kinds(net: Net) {
    let (p, q) = pipe();
    let (c, pid) = confined(net, |s| {
        assert_eq!(select(s, &p), (true, false));
        take(s, 1);
        s.write(b"1").is(1);
        assert_eq!(select(s, &p), (false, true));
    });
    sleep(30);
    c.write(b"c").is(1);
    take(&c, 1);
    q.write(b"q").is(1);
    fares_well(pid);
}

fn wakes_a_poller(net: Net) {
    let (p, _q) = pipe();
    let (c, pid) = confined(net, |s| {
        for _ in 0..20 {
            assert_eq!(take(s, 1), b"g");
            // By now the parent sleeps in the kernel's poll, most of the time.
            sleep(5);
            s.write(b"w").is(1);
        }
    });
    for _ in 0..20 {
        c.write(b"g").is(1);
        assert_eq!(either(&c, &p), (true, false));
        assert_eq!(take(&c, 1), b"w");
    }
    fares_well(pid);
}

fn wakes_an_epoll(net: Net) {
    let (p, _q) = pipe();
    let (c, pid) = confined(net, |s| {
        for _ in 0..20 {
            assert_eq!(take(s, 1), b"g");
            sleep(5);
            s.write(b"w").is(1);
        }
    });
    let ep = Ep::new();
    ep.add(&c, IN);
    ep.add(&p, IN);
    for _ in 0..20 {
        c.write(b"g").is(1);
        assert_eq!(ep.wait(8, 20_000), [(c.raw() as u64, IN)]);
        assert_eq!(take(&c, 1), b"w");
    }
    fares_well(pid);
}

fn writes_to_two_at_once(net: Net) {
    let (a, b) = pair(net);
    let (c, d) = pair(net);
    let pid = member(|| {
        a.take_in_child();
        c.take_in_child();
        confine();
        for _ in 0..100 {
            put_all(&b, &[1; 5000]);
            put_all(&d, &[2; 5000]);
        }
    });
    drop((b, d));
    thread::scope(|s| {
        s.spawn(|| assert_eq!(take_to_end(&a), [1; 500_000]));
        s.spawn(|| assert_eq!(take_to_end(&c), [2; 500_000]));
    });
    fares_well(pid);
}

extern "C" fn nothing(_: i32) {}

fn is_interrupted(net: Net) {
    let (c, pid) = confined_after(
        net,
        || {
            // SAFETY: all-zero is a valid sigaction without SA_RESTART.
            let mut act: libc::sigaction = unsafe { std::mem::zeroed() };
            act.sa_sigaction = nothing as *const () as usize;
            sys!(libc::sigaction(libc::SIGALRM, &raw const act, std::ptr::null_mut())).is(0);
            let every = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
            let timer = libc::itimerval { it_interval: every, it_value: every };
            sys!(libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut())).is(0);
        },
        |s| {
            s.read(&mut [0; 9]).fails(libc::EINTR);
            while s.write(b"x").get() != Ok(1) {}
        },
    );
    assert_eq!(take(&c, 1), b"x");
    fares_well(pid);
}

/// [`confined`], with something done before.
fn confined_after(net: Net, before: impl FnOnce(), f: impl FnOnce(&Fd)) -> (Fd, i32) {
    let (c, s) = pair(net);
    let pid = member(|| {
        c.take_in_child();
        before();
        confine();
        f(&s);
    });
    drop(s);
    (c, pid)
}

fn limit(resource: libc::__rlimit_resource_t, to: u64) {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    sys!(libc::setrlimit(resource, &raw const limit)).is(0);
}

fn no_descriptors_left(net: Net) {
    let (p, q) = pipe();
    let nothing_more = || {
        limit(libc::RLIMIT_NOFILE, 0);
        limit(libc::RLIMIT_FSIZE, 0);
    };
    let (c, pid) = confined_after(net, nothing_more, |s| {
        echo(s, 50);
        // poll(2) of anything is EINVAL under such a limit; select(2) asks for no descriptor.
        assert_eq!(select(s, &p), (false, true));
        s.write(b"1").is(1);
        take(&p, 1);
        assert_eq!(select(s, &p), (true, false));
        assert_eq!(take(s, 1), b"2");
    });
    ask(&c, 50);
    sleep(30);
    q.write(b"q").is(1);
    assert_eq!(take(&c, 1), b"1");
    c.write(b"2").is(1);
    fares_well(pid);
}

/// chroot(2) to an empty directory and another user, where we may.
fn nowhere_and_nobody() {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let dir = std::env::temp_dir().join(format!("csel-empty-{}", std::process::id()));
    std::fs::create_dir(&dir).expect("an empty directory");
    std::env::set_current_dir(&dir).expect("into it");
    std::fs::remove_dir(&dir).expect("away with its name");
    sys!(libc::chroot(c".".as_ptr())).is(0);
    sys!(libc::setgid(65534)).is(0);
    sys!(libc::setuid(65534)).is(0);
}

fn in_an_empty_root(net: Net) {
    let (p, _q) = pipe();
    let (c, s) = pair(net);
    let pid = member(|| {
        c.take_in_child();
        nowhere_and_nobody();
        echo(&s, 50);
        // Without a filter: a socket of one's own too.
        let (a, b) = pair(net);
        a.write(b"own").is(3);
        assert_eq!(take(&b, 9), b"own");
        for _ in 0..10 {
            take(&s, 1);
            sleep(2);
            s.write(b"w").is(1);
        }
    });
    drop(s);
    ask(&c, 50);
    for _ in 0..10 {
        c.write(b"g").is(1);
        assert_eq!(either(&c, &p), (true, false));
        take(&c, 1);
    }
    fares_well(pid);
}

fn as_sshd_does(net: Net) {
    let (mine, theirs) = crate::poll::unixpair();
    let before = || {
        nowhere_and_nobody();
        limit(libc::RLIMIT_FSIZE, 0);
        limit(libc::RLIMIT_NOFILE, 1);
        limit(libc::RLIMIT_NPROC, 0);
    };
    let (c, pid) = confined_after(net, before, |s| {
        for _ in 0..20 {
            assert_eq!(s.poll(POLLIN, 20_000), POLLIN);
            let line = take(s, 64);
            // The monitor is asked, then the client gets the answer.
            theirs.write(&line).is(line.len() as isize);
            assert_eq!(theirs.poll(POLLIN, 20_000), POLLIN);
            let answer = take(&theirs, 64);
            s.write(&answer).is(answer.len() as isize);
        }
    });
    let monitor = thread::spawn(move || echo(&mine, 20));
    ask(&c, 20);
    monitor.join().expect("the monitor");
    fares_well(pid);
}

fn datagrams(net: Net) {
    let (a, b) = udp_pair(net);
    let pid = member(|| {
        confine();
        for _ in 0..50 {
            let got = take(&b, 100);
            b.write(&got).is(got.len() as isize);
        }
    });
    for n in 0..50u8 {
        a.write(&vec![n; n as usize + 1]).is(isize::from(n) + 1);
        assert_eq!(take(&a, 100), vec![n; n as usize + 1]);
    }
    fares_well(pid);
}

fn by_syscall(net: Net) {
    let (c, s) = pair(net);
    let pid = member(|| {
        install(&allowed(), libc::SECCOMP_RET_KILL_PROCESS, true);
        echo(&s, 50);
    });
    ask(&c, 50);
    fares_well(pid);
}

fn threads_of_one(net: Net) {
    let (a, b) = pair(net);
    let (c, d) = pair(net);
    let pid = member(|| {
        let ready = Barrier::new(3);
        thread::scope(|s| {
            for end in [&b, &d] {
                let ready = &ready;
                s.spawn(move || {
                    ready.wait();
                    ready.wait();
                    echo(end, 100);
                    // A thread's end needs calls that sshd's list has not: all end at once instead.
                    ready.wait();
                    loop {
                        sleep(1000);
                    }
                });
            }
            // TSYNC: the other threads too, once they have begun.
            ready.wait();
            install(&allowed(), libc::SECCOMP_RET_KILL_PROCESS, true);
            ready.wait();
            ready.wait();
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) };
        });
    });
    drop((b, d));
    thread::scope(|s| {
        s.spawn(|| ask(&a, 100));
        s.spawn(|| ask(&c, 100));
    });
    fares_well(pid);
}

fn two_confined(net: Net) {
    let (a, b) = pair(net);
    let one = member(|| {
        confine();
        ask(&a, 200);
    });
    let other = member(|| {
        confine();
        echo(&b, 200);
    });
    fares_well(one);
    fares_well(other);
}

/// The filter may let fork(2) through: the child is confined too.
fn child_of_confined(net: Net) {
    let (c, s) = pair(net);
    let pid = member(|| {
        let mut list = allowed();
        list.extend([libc::SYS_clone, libc::SYS_wait4, libc::SYS_set_robust_list]);
        #[cfg(target_arch = "x86_64")]
        list.push(libc::SYS_fork);
        install(&list, libc::SECCOMP_RET_KILL_PROCESS, false);
        fares_well(member(|| echo(&s, 50)));
        echo(&s, 50);
    });
    ask(&c, 100);
    fares_well(pid);
}

fn inherits_a_listener(net: Net) {
    let (l, at) = listener(net);
    let (c, s) = pair(net);
    let pid = member(|| {
        confine();
        // It cannot accept, but sees that it could.
        assert_eq!(l.poll(POLLIN, 20_000), POLLIN);
        s.write(b"come").is(4);
        take(&s, 1);
    });
    let d = net.tcp();
    d.connect(&at).is(0);
    assert_eq!(take(&c, 9), b"come");
    let e = l.accept().fd();
    ask_and_answer(&d, &e);
    c.write(b".").is(1);
    fares_well(pid);
    ask_and_answer(&d, &e);
}

fn ask_and_answer(d: &Fd, e: &Fd) {
    d.write(b"to").is(2);
    assert_eq!(take(e, 9), b"to");
    e.write(b"fro").is(3);
    assert_eq!(take(d, 9), b"fro");
}

fn a_bad_filter_confines_nobody() {
    sys!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).is(0);
    let none = libc::sock_fprog { len: 0, filter: std::ptr::null_mut() };
    sys!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const none, 0, 0)).fails(libc::EINVAL);
    let (a, b) = pair(Net::V4);
    ask_and_answer(&a, &b);
    sys!(libc::prctl(libc::PR_GET_SECCOMP)).is(0);
}

/// A filter that refuses socket(2) with an errno, as a container's: what is there goes on, new ones are refused.
fn a_filter_that_only_refuses() {
    let (a, b) = pair(Net::V4);
    let pid = member(|| {
        let stmt = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let mut f = [
            stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
            libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k: libc::SYS_socket as u32 },
            stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EACCES as u32),
            stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
        ];
        let prog = libc::sock_fprog { len: 4, filter: f.as_mut_ptr() };
        sys!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).is(0);
        sys!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const prog, 0, 0)).is(0);
        sys!(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)).fails(libc::EACCES);
        echo(&b, 20);
        let again = sys!(libc::dup(b.raw())).fd();
        echo(&again, 20);
    });
    ask(&a, 40);
    fares_well(pid);
}
