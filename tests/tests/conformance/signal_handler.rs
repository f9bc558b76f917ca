//! What a handler may do to a call that it interrupts, and in which order handlers run.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use crate::cases;
use crate::net::{asleep, listener, pair, sleep, take, until};
use crate::signal_timer::{HITS, SEEN, count, handle, hits, install, keep_here, kill, me, meanwhile, note_value, recv};
use crate::sys::{Fd, Net, sys};
use libc::{EINTR, POLLIN, SA_RESTART, SIGALRM, SIGUSR1, SIGUSR2};

cases! {
    one: [],
    net: [
        sigqueue_value, realtime_in_order, mask_of_handler, nodefer_nests, resethand_once, alternate_stack_used, handler_on_another_stack_waits, handler_makes_a_connection, handler_polls, handler_in_a_handler, two_at_once, handler_closes_the_socket, handler_writes_what_is_read, first_handler_decides, pthread_kill_each_thread, signal_while_computing, action_is_shown, exec_resets_handlers, errno_survives_a_wait,
    ],
}

static FD: AtomicI32 = AtomicI32::new(-1);
static OTHER: AtomicI32 = AtomicI32::new(-1);

fn queue(signal: i32, value: usize) {
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(value) };
    sys!(libc::sigqueue(libc::getpid(), signal, value)).is(0);
}

fn sigqueue_value(net: Net) {
    let (_c, s) = pair(net);
    install(SIGUSR1, note_value, 0, &[]);
    let blocked = keep_here(SIGUSR1);
    let tid = me();
    thread::scope(|scope| {
        scope.spawn(|| {
            asleep(tid);
            queue(SIGUSR1, 4711);
        });
        drop(blocked);
        recv(&s).fails(EINTR);
    });
    assert_eq!(SEEN[0].load(Ordering::SeqCst), 4711);
}

fn realtime_in_order(net: Net) {
    let (c, s) = pair(net);
    let sig = libc::SIGRTMIN() + 5;
    install(sig, note_value, SA_RESTART, &[]);
    let blocked = keep_here(sig);
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(30);
            (1..=6).for_each(|i| queue(sig, i));
            until(|| hits() == 6);
            c.write(b"x").is(1);
        });
        drop(blocked);
        recv(&s).is(1);
    });
    let order: Vec<i32> = SEEN[..6].iter().map(|s| s.load(Ordering::SeqCst)).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6]);
}

/// Writes down the signal, and a byte for it on the connection; sends the other signal to its own thread in between.
extern "C" fn write_down(signal: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let note = |what: i32| {
        let n = HITS.fetch_add(1, Ordering::SeqCst) as usize;
        SEEN[n.min(7)].store(what, Ordering::SeqCst);
    };
    note(signal);
    if signal == SIGUSR1 {
        // SAFETY: calls that a handler may make.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), SIGUSR2);
            libc::write(FD.load(Ordering::SeqCst), b"!".as_ptr().cast(), 1);
        }
        note(0);
    }
}

fn nested(net: Net, mask: &[i32]) -> Vec<i32> {
    let (c, s) = pair(net);
    FD.store(c.raw(), Ordering::SeqCst);
    install(SIGUSR1, write_down, SA_RESTART, mask);
    install(SIGUSR2, write_down, SA_RESTART, &[]);
    let tid = me();
    meanwhile(|| assert_eq!(take(&s, 4), b"!"), || kill(tid, SIGUSR1));
    SEEN[..3].iter().map(|s| s.load(Ordering::SeqCst)).collect()
}

fn mask_of_handler(net: Net) {
    // Blocked by sa_mask: it comes when the first one is done.
    assert_eq!(nested(net, &[SIGUSR2]), [SIGUSR1, 0, SIGUSR2]);
}

fn handler_in_a_handler(net: Net) {
    assert_eq!(nested(net, &[]), [SIGUSR1, SIGUSR2, 0]);
}

extern "C" fn again(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if HITS.fetch_add(1, Ordering::SeqCst) < 3 {
        // SAFETY: a call that a handler may make.
        unsafe { libc::raise(SIGUSR1) };
        SEEN[0].fetch_max(HITS.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

fn nodefer_nests(net: Net) {
    let (c, s) = pair(net);
    install(SIGUSR1, again, SA_RESTART | libc::SA_NODEFER, &[]);
    let tid = me();
    meanwhile(
        || recv(&s).is(1),
        || {
            kill(tid, SIGUSR1);
            until(|| hits() == 4);
            c.write(b"x").is(1);
        },
    );
    assert_eq!(SEEN[0].load(Ordering::SeqCst), 4);
}

fn resethand_once(net: Net) {
    let (_c, s) = pair(net);
    handle(SIGUSR1, libc::SA_RESETHAND);
    let tid = me();
    meanwhile(|| recv(&s).fails(EINTR), || kill(tid, SIGUSR1));
    assert_eq!(hits(), 1);
    // SAFETY: all-zero is a valid sigaction.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    sys!(libc::sigaction(SIGUSR1, std::ptr::null(), &raw mut old)).is(0);
    assert_eq!(old.sa_sigaction, libc::SIG_DFL);
}

extern "C" fn where_am_i(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let here = 0u8;
    // SAFETY: all-zero is a valid stack_t, which is then filled in.
    unsafe {
        let mut alt: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &raw mut alt);
        let on = (&raw const here).addr().wrapping_sub(alt.ss_sp.addr()) < alt.ss_size;
        SEEN[0].store(i32::from(on), Ordering::SeqCst);
        SEEN[1].store(alt.ss_flags & libc::SS_ONSTACK, Ordering::SeqCst);
        let mut room = 0u8;
        let fd = FD.load(Ordering::SeqCst);
        if fd >= 0 {
            // Waits here, on this stack.
            libc::recv(fd, (&raw mut room).cast(), 1, 0);
            SEEN[2].store(i32::from(room), Ordering::SeqCst);
        }
    }
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn on_alternate_stack(f: impl FnOnce()) {
    let mut room = vec![0u8; 128 << 10];
    let alt = libc::stack_t { ss_sp: room.as_mut_ptr().cast(), ss_flags: 0, ss_size: room.len() };
    sys!(libc::sigaltstack(&raw const alt, std::ptr::null_mut())).is(0);
    f();
    let off = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    sys!(libc::sigaltstack(&raw const off, std::ptr::null_mut())).is(0);
}

fn alternate_stack_used(net: Net) {
    let (_c, s) = pair(net);
    install(SIGUSR1, where_am_i, libc::SA_ONSTACK, &[]);
    let tid = me();
    on_alternate_stack(|| meanwhile(|| recv(&s).fails(EINTR), || kill(tid, SIGUSR1)));
    assert_eq!((SEEN[0].load(Ordering::SeqCst), SEEN[1].load(Ordering::SeqCst)), (1, libc::SS_ONSTACK));
}

fn handler_on_another_stack_waits(net: Net) {
    let (c, s) = pair(net);
    let (d, t) = pair(net);
    FD.store(t.raw(), Ordering::SeqCst);
    install(SIGUSR1, where_am_i, libc::SA_ONSTACK | SA_RESTART, &[]);
    let tid = me();
    on_alternate_stack(|| {
        meanwhile(
            || recv(&s).is(1),
            || {
                kill(tid, SIGUSR1);
                sleep(40);
                d.write(b"y").is(1);
                until(|| hits() == 1);
                c.write(b"x").is(1);
            },
        );
    });
    assert_eq!(SEEN[2].load(Ordering::SeqCst), i32::from(b'y'));
}

extern "C" fn connects(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: calls that a handler may make, on descriptors that are open.
    unsafe {
        let mut a: libc::sockaddr_storage = std::mem::zeroed();
        let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        let l = OTHER.load(Ordering::SeqCst);
        libc::getsockname(l, (&raw mut a).cast(), &raw mut len);
        let c = libc::socket(i32::from(a.ss_family), libc::SOCK_STREAM, 0);
        let r = libc::connect(c, (&raw const a).cast(), len);
        let s = libc::accept(l, std::ptr::null_mut(), std::ptr::null_mut());
        let n = libc::write(c, b"in a handler".as_ptr().cast(), 12);
        let mut room = [0u8; 16];
        let m = libc::read(s, room.as_mut_ptr().cast(), 16);
        SEEN[0].store(i32::from(r == 0 && n == 12 && m == 12), Ordering::SeqCst);
        libc::close(s);
        libc::close(c);
    }
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn handler_makes_a_connection(net: Net) {
    let (c, s) = pair(net);
    let (l, _) = listener(net);
    OTHER.store(l.raw(), Ordering::SeqCst);
    install(SIGUSR1, connects, SA_RESTART, &[]);
    let tid = me();
    for i in 1..=3 {
        meanwhile(
            || recv(&s).is(1),
            || {
                kill(tid, SIGUSR1);
                until(|| hits() == i);
                c.write(b"x").is(1);
            },
        );
        assert_eq!(SEEN[0].load(Ordering::SeqCst), 1);
    }
}

extern "C" fn polls(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let mut p = libc::pollfd { fd: FD.load(Ordering::SeqCst), events: POLLIN, revents: 0 };
    // SAFETY: one pollfd.
    let n = unsafe { libc::poll(&raw mut p, 1, 20) };
    SEEN[0].store(n, Ordering::SeqCst);
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn handler_polls(net: Net) {
    // The handler waits for the very socket that the call it interrupts waits for.
    let (c, s) = pair(net);
    FD.store(s.raw(), Ordering::SeqCst);
    install(SIGUSR1, polls, SA_RESTART, &[]);
    let tid = me();
    meanwhile(
        || recv(&s).is(1),
        || {
            kill(tid, SIGUSR1);
            until(|| hits() == 1);
            c.write(b"x").is(1);
        },
    );
    assert_eq!(SEEN[0].load(Ordering::SeqCst), 0);
}

fn two_at_once(net: Net) {
    let (c, s) = pair(net);
    handle(SIGUSR1, SA_RESTART);
    handle(SIGUSR2, SA_RESTART);
    let tid = me();
    meanwhile(
        || recv(&s).is(1),
        || {
            for _ in 0..20 {
                let before = hits();
                kill(tid, SIGUSR1);
                kill(tid, SIGUSR2);
                until(|| hits() >= before + 2);
            }
            c.write(b"x").is(1);
        },
    );
    assert_eq!(hits(), 40);
}

fn first_handler_decides(net: Net) {
    // A handler with SA_RESTART is interrupted by one without: the call is restarted, since the first decides.
    let (c, s) = pair(net);
    FD.store(c.raw(), Ordering::SeqCst);
    install(SIGUSR1, write_down, SA_RESTART, &[]);
    install(SIGUSR2, write_down, 0, &[]);
    let tid = me();
    meanwhile(|| assert_eq!(take(&s, 4), b"!"), || kill(tid, SIGUSR1));
    assert_eq!(hits(), 3);
}

extern "C" fn closes(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: a call that a handler may make.
    unsafe { libc::close(FD.load(Ordering::SeqCst)) };
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn handler_closes_the_socket(net: Net) {
    let (c, s) = pair(net);
    FD.store(s.take(), Ordering::SeqCst);
    let fd = FD.load(Ordering::SeqCst);
    install(SIGUSR1, closes, 0, &[]);
    let tid = me();
    meanwhile(|| sys!(libc::recv(fd, [0u8; 4].as_mut_ptr().cast(), 4, 0)).fails(EINTR), || kill(tid, SIGUSR1));
    sys!(libc::recv(fd, [0u8; 4].as_mut_ptr().cast(), 4, 0)).fails(libc::EBADF);
    assert_eq!(take(&c, 4), b"");
}

extern "C" fn writes(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: calls that a handler may make.
    unsafe { libc::write(FD.load(Ordering::SeqCst), b"h".as_ptr().cast(), 1) };
    HITS.fetch_add(1, Ordering::SeqCst);
}

fn handler_writes_what_is_read(net: Net) {
    // Without SA_RESTART, but what was waited for is there when the handler is done: the call has it.
    let (c, s) = pair(net);
    FD.store(c.raw(), Ordering::SeqCst);
    install(SIGUSR1, writes, SA_RESTART, &[]);
    let tid = me();
    for _ in 0..10 {
        meanwhile(|| recv(&s).is(1), || kill(tid, SIGUSR1));
    }
}

fn pthread_kill_each_thread(net: Net) {
    let pairs: Vec<(Fd, Fd)> = (0..4).map(|_| pair(net)).collect();
    handle(SIGUSR1, 0);
    thread::scope(|scope| {
        let readers: Vec<_> = pairs
            .iter()
            .map(|(_, s)| {
                let tid = std::sync::Arc::new(AtomicI32::new(0));
                let (mine, done) = (tid.clone(), std::sync::Arc::new(AtomicI32::new(0)));
                let told = done.clone();
                let t = scope.spawn(move || {
                    mine.store(me(), Ordering::SeqCst);
                    let r = recv(s);
                    told.store(1, Ordering::SeqCst);
                    r
                });
                (tid, done, t)
            })
            .collect();
        sleep(40);
        // Every second one is told, the others go on.
        for (i, (tid, done, t)) in readers.into_iter().enumerate() {
            if i % 2 == 0 {
                until(|| {
                    kill(tid.load(Ordering::SeqCst), SIGUSR1);
                    sleep(10);
                    done.load(Ordering::SeqCst) == 1
                });
                t.join().expect("reader").fails(EINTR);
            } else {
                assert_eq!(done.load(Ordering::SeqCst), 0);
                pairs[i].0.write(b"abc").is(3);
                t.join().expect("reader").is(3);
            }
        }
    });
}

fn signal_while_computing(net: Net) {
    // A handler that came before the call does not interrupt it.
    let (c, s) = pair(net);
    handle(SIGUSR1, 0);
    for _ in 0..50 {
        kill(me(), SIGUSR1);
        meanwhile_now(&c, &s);
    }
    assert_eq!(hits(), 50);
}

fn meanwhile_now(c: &Fd, s: &Fd) {
    c.write(b"x").is(1);
    recv(s).is(1);
}

fn action_is_shown(net: Net) {
    let _pair = pair(net);
    install(SIGUSR1, count, SA_RESTART | libc::SA_NODEFER | libc::SA_ONSTACK, &[SIGUSR2, SIGALRM]);
    // SAFETY: all-zero is a valid sigaction.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    sys!(libc::sigaction(SIGUSR1, std::ptr::null(), &raw mut old)).is(0);
    assert_eq!(old.sa_sigaction, count as *const () as usize);
    assert_eq!(old.sa_flags & !0x0400_0000, SA_RESTART | libc::SA_NODEFER | libc::SA_ONSTACK | libc::SA_SIGINFO);
    // SAFETY: a valid set.
    let has = |sig| unsafe { libc::sigismember(&raw const old.sa_mask, sig) };
    assert_eq!([SIGUSR2, SIGALRM, SIGUSR1].map(has), [1, 1, 0]);
}

fn exec_resets_handlers(net: Net) {
    let (_c, _s) = pair(net);
    handle(SIGUSR1, SA_RESTART);
    sys!(libc::signal(SIGUSR2, libc::SIG_IGN)).ok();
    // The shell shows what it was given: handled is default again, ignored stays ignored.
    let out =
        std::process::Command::new("/bin/sh").args(["-c", "grep SigIgn /proc/self/status; kill -USR2 $$; kill -USR1 $$; echo no"]).output();
    let out = out.expect("a shell");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&out.status), Some(SIGUSR1));
    assert!(!String::from_utf8_lossy(&out.stdout).contains("no\n"));
}

fn errno_survives_a_wait(net: Net) {
    // A call that succeeds leaves errno alone, though it has waited.
    let (c, s) = pair(net);
    let mut room = [0u8; 4];
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(30);
            c.write(b"x").is(1);
        });
        // SAFETY: errno is the thread's; room for what is asked.
        unsafe {
            *libc::__errno_location() = 77;
            assert_eq!(libc::recv(s.raw(), room.as_mut_ptr().cast(), 4, 0), 1);
            assert_eq!(*libc::__errno_location(), 77);
        }
    });
}
