//! siglongjmp(3) out of a handler, and so out of the call it interrupted: nothing stays behind.
//!
//! setjmp(3) returns twice, which Rust does not know of: [`leaves`] calls it from a few lines of assembly, and only frames without anything to drop are
//! passed over.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread;

use crate::cancel::pthread_cancel;
use crate::cases;
use crate::epoll::{Ep, IN};
use crate::net::{bound_udp, fill, listener, pair, sleep, take, until, wait_in};
use crate::poll::pipe;
use crate::sys::{Fd, Net, sys};
use libc::{POLLIN, SIGALRM, SIGUSR1, SIGUSR2};

cases! {
    one: [],
    net: [
        recv_left, recv_left_many_times, accept_left, accept_left_gives_nothing_away, poll_left, poll_of_both_kinds_left, select_left, epoll_left,
        epoll_left_gives_nothing_away, send_left, connect_left, recvfrom_udp_left, left_from_alternate_stack, left_by_alarm, left_in_a_handler,
        left_by_longjmp, cancellation_after_a_jump, handler_forks, left_in_several_threads, close_with_linger_left,
    ],
}

std::arch::global_asm!(
    ".pushsection .text.csel_test_leaves,\"ax\",@progbits",
    ".globl csel_test_leaves",
    ".type csel_test_leaves,@function",
    // (jmp_buf, function, its argument): 0 if the function has returned, else what the jump brought.
    "csel_test_leaves:",
    "push rbx",
    "push rbp",
    "push r12",
    "mov rbx, rsi",
    "mov r12, rdx",
    "mov esi, 1",
    "call __sigsetjmp@PLT",
    "test eax, eax",
    "jnz 2f",
    "mov rdi, r12",
    "call rbx",
    "xor eax, eax",
    "2:",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".size csel_test_leaves, . - csel_test_leaves",
    ".popsection",
);

unsafe extern "C-unwind" {
    fn csel_test_leaves(env: *mut c_void, f: extern "C-unwind" fn(*mut c_void), arg: *mut c_void) -> i32;
    fn siglongjmp(env: *mut c_void, value: i32) -> !;
    fn longjmp(env: *mut c_void, value: i32) -> !;
    fn pthread_testcancel();
}

/// A jmp_buf with room to spare.
struct Env(UnsafeCell<[u64; 64]>);

impl Env {
    fn ptr(&self) -> *mut c_void {
        self.0.get().cast()
    }
}

thread_local! {
    static ENV: Env = const { Env(UnsafeCell::new([0; 64])) };
    static INNER: Env = const { Env(UnsafeCell::new([0; 64])) };
}

static HITS: AtomicI32 = AtomicI32::new(0);

extern "C-unwind" fn jump_away(_: i32) {
    HITS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the thread is inside `leaves`, and passes over calls of C only.
    unsafe { siglongjmp(ENV.with(Env::ptr), 7) }
}

extern "C-unwind" fn jump_plainly(_: i32) {
    // SAFETY: as above.
    unsafe { longjmp(ENV.with(Env::ptr), 8) }
}

extern "C-unwind" fn jump_inside(_: i32) {
    // SAFETY: as above, to the handler that was interrupted.
    unsafe { siglongjmp(INNER.with(Env::ptr), 9) }
}

fn handle(signal: i32, handler: extern "C-unwind" fn(i32), flags: i32) {
    // SAFETY: all-zero is a valid sigaction.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = handler as *const () as usize;
        act.sa_flags = flags;
        sys!(libc::sigaction(signal, &act, std::ptr::null_mut())).is(0);
    }
}

fn kill(tid: i32, signal: i32) {
    let _ = sys!(libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal));
}

fn me() -> i32 {
    sys!(libc::gettid()).ok() as i32
}

extern "C-unwind" fn call<F: Fn()>(f: *mut c_void) {
    // SAFETY: `leaves` passes a reference that outlives the call.
    unsafe { (*f.cast::<F>())() };
}

/// Runs `f`, which must own nothing, until it returns (0) or a handler jumps over it.
fn leaves<F: Fn()>(f: &F) -> i32 {
    // SAFETY: the buffer is the thread's; frames that are passed over own nothing.
    unsafe { csel_test_leaves(ENV.with(Env::ptr), call::<F>, std::ptr::from_ref(f).cast_mut().cast()) }
}

/// `blocking` is left by a jump; it is signalled until it is.
fn left(blocking: impl Fn()) {
    handle(SIGUSR1, jump_away, 0);
    left_on(SIGUSR1, 7, blocking);
}

fn left_on(signal: i32, value: i32, blocking: impl Fn()) {
    let (tid, inside) = (me(), AtomicI32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            until(|| inside.load(Ordering::SeqCst) != 0);
            sleep(20);
            kill(tid, signal);
        });
        let came = leaves(&|| {
            inside.store(1, Ordering::SeqCst);
            blocking();
        });
        assert_eq!(came, value, "the call returned");
    });
}

fn recv(s: &Fd) {
    recv_on(s.raw());
}

fn recv_on(fd: i32) {
    let mut room = [0u8; 8];
    // SAFETY: room for what is asked.
    unsafe { libc::recv(fd, room.as_mut_ptr().cast(), 8, 0) };
}

fn accept(l: &Fd) {
    // SAFETY: no address asked for.
    unsafe { libc::accept(l.raw(), std::ptr::null_mut(), std::ptr::null_mut()) };
}

fn talks(c: &Fd, s: &Fd) {
    c.write(b"hello").is(5);
    assert_eq!(take(s, 9), b"hello");
    s.write(b"there").is(5);
    assert_eq!(take(c, 9), b"there");
}

fn recv_left(net: Net) {
    let (c, s) = pair(net);
    left(|| recv(&s));
    talks(&c, &s);
}

fn recv_left_many_times(net: Net) {
    // More often than a process has places to wait at.
    let (c, s) = pair(net);
    handle(SIGALRM, jump_away, 0);
    for _ in 0..1500 {
        let soon =
            libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: libc::timeval { tv_sec: 0, tv_usec: 300 } };
        let came = leaves(&|| {
            // SAFETY: a valid time.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const soon, std::ptr::null_mut()) };
            recv(&s);
        });
        assert_eq!(came, 7);
    }
    assert_eq!(HITS.load(Ordering::SeqCst), 1500);
    talks(&c, &s);
    thread::scope(|scope| {
        let t = scope.spawn(|| take(&s, 9));
        sleep(30);
        c.write(b"late").is(4);
        assert_eq!(t.join().expect("reader"), b"late");
    });
}

fn accept_left(net: Net) {
    let (l, at) = listener(net);
    left(|| accept(&l));
    let c = net.tcp();
    c.connect(&at).is(0);
    let s = l.accept().fd();
    talks(&c, &s);
}

fn accept_left_gives_nothing_away(net: Net) {
    // One accept(2) is told of one connection: not the one that is gone.
    let (l, at) = listener(net);
    for _ in 0..3 {
        left(|| accept(&l));
    }
    thread::scope(|scope| {
        let t = scope.spawn(|| l.accept().fd());
        sleep(40);
        let c = net.tcp();
        c.connect(&at).is(0);
        let s = t.join().expect("acceptor");
        talks(&c, &s);
    });
}

fn poll_left(net: Net) {
    let (c, s) = pair(net);
    left(|| {
        let mut p = libc::pollfd { fd: s.raw(), events: POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        unsafe { libc::poll(&raw mut p, 1, -1) };
    });
    assert_eq!(s.poll(POLLIN, 0), 0);
    talks(&c, &s);
}

fn poll_of_both_kinds_left(net: Net) {
    let (c, s) = pair(net);
    let (r, w) = pipe();
    let both = || [&s, &r].map(|fd| libc::pollfd { fd: fd.raw(), events: POLLIN, revents: 0 });
    for _ in 0..5 {
        left(|| {
            let mut p = both();
            // SAFETY: two pollfds.
            unsafe { libc::poll(p.as_mut_ptr(), 2, -1) };
        });
    }
    w.write(b"x").is(1);
    let mut p = both();
    sys!(libc::poll(p.as_mut_ptr(), 2, -1)).is(1);
    assert_eq!((p[0].revents, p[1].revents), (0, POLLIN));
    talks(&c, &s);
}

fn select_left(net: Net) {
    let (c, s) = pair(net);
    left(|| {
        // SAFETY: all-zero is the empty set; the number is below FD_SETSIZE.
        unsafe {
            let mut set: libc::fd_set = std::mem::zeroed();
            libc::FD_SET(s.raw(), &raw mut set);
            libc::select(100, &raw mut set, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        }
    });
    talks(&c, &s);
}

fn wait_on(e: &Ep) {
    let mut one = [libc::epoll_event { events: 0, u64: 0 }; 2];
    // SAFETY: room for two.
    unsafe { libc::epoll_wait(e.0.raw(), one.as_mut_ptr(), 2, -1) };
}

fn epoll_left(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    left(|| wait_on(&e));
    c.write(b"x").is(1);
    e.gives(&s, IN);
}

fn epoll_left_gives_nothing_away(net: Net) {
    let (c, s) = pair(net);
    let e = Ep::new();
    e.add(&s, IN);
    for _ in 0..3 {
        left(|| wait_on(&e));
    }
    thread::scope(|scope| {
        let t = scope.spawn(|| e.gives(&s, IN));
        sleep(40);
        c.write(b"x").is(1);
        t.join().expect("waiter");
    });
}

fn send_left(net: Net) {
    let (c, s) = pair(net);
    let n = fill(&c);
    c.nonblock(false);
    left(|| {
        let data = [0u8; 16];
        // SAFETY: readable for its length.
        unsafe { libc::send(c.raw(), data.as_ptr().cast(), 16, 0) };
    });
    c.shutdown(libc::SHUT_WR).is(0);
    assert_eq!(crate::net::take_to_end(&s).len(), n);
}

fn connect_left(net: Net) {
    // A listener that will not answer: its queue is full.
    let l = net.tcp();
    l.bind(&net.lo()).is(0);
    l.listen(0).is(0);
    let first = net.tcp();
    first.connect(&l.name()).is(0);
    wait_in(&l);
    let (c, at) = (net.tcp(), l.name());
    left(|| {
        // SAFETY: a valid address.
        unsafe { libc::connect(c.raw(), at.ptr(), at.len) };
    });
    c.nonblock(true).connect(&at).fails(libc::EALREADY);
    let _a = l.accept().fd();
    crate::net::wait_out(&c);
    assert_eq!(c.error(), 0);
}

fn recvfrom_udp_left(net: Net) {
    let (u, at) = bound_udp(net);
    for _ in 0..3 {
        left(|| recv(&u));
    }
    thread::scope(|scope| {
        let t = scope.spawn(|| take(&u, 9));
        sleep(40);
        net.udp().sendto(b"one", 0, &at).is(3);
        assert_eq!(t.join().expect("reader"), b"one");
    });
}

fn left_from_alternate_stack(net: Net) {
    let (c, s) = pair(net);
    let mut room = vec![0u8; 64 << 10];
    let alt = libc::stack_t { ss_sp: room.as_mut_ptr().cast(), ss_flags: 0, ss_size: room.len() };
    sys!(libc::sigaltstack(&raw const alt, std::ptr::null_mut())).is(0);
    handle(SIGUSR1, jump_away, libc::SA_ONSTACK);
    for _ in 0..3 {
        left_on(SIGUSR1, 7, || recv(&s));
    }
    talks(&c, &s);
    let off = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    sys!(libc::sigaltstack(&raw const off, std::ptr::null_mut())).is(0);
}

fn left_by_alarm(net: Net) {
    // The oldest way to bound a call.
    let (c, s) = pair(net);
    handle(SIGALRM, jump_away, libc::SA_RESTART);
    let came = leaves(&|| {
        let soon = libc::itimerval {
            it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
            it_value: libc::timeval { tv_sec: 0, tv_usec: 50_000 },
        };
        // SAFETY: a valid time.
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const soon, std::ptr::null_mut()) };
        recv(&s);
    });
    assert_eq!(came, 7);
    talks(&c, &s);
}

static SECOND: AtomicI32 = AtomicI32::new(-1);

/// Waits in the handler, and is left there.
extern "C-unwind" fn waits_too(_: i32) {
    extern "C-unwind" fn waits(_: *mut c_void) {
        HITS.fetch_add(1, Ordering::SeqCst);
        recv_on(SECOND.load(Ordering::SeqCst));
    }
    // SAFETY: as in `leaves`.
    let came = unsafe { csel_test_leaves(INNER.with(Env::ptr), waits, std::ptr::null_mut()) };
    HITS.fetch_add(came, Ordering::SeqCst);
}

fn left_in_a_handler(net: Net) {
    // The jump ends inside the handler: the call that the handler interrupted goes on.
    let (c, s) = pair(net);
    let (_d, t) = pair(net);
    SECOND.store(t.take(), Ordering::SeqCst);
    handle(SIGUSR1, waits_too, libc::SA_RESTART);
    handle(SIGUSR2, jump_inside, 0);
    let tid = me();
    thread::scope(|scope| {
        scope.spawn(|| {
            sleep(40);
            kill(tid, SIGUSR1);
            until(|| HITS.load(Ordering::SeqCst) == 1);
            sleep(40);
            kill(tid, SIGUSR2);
            until(|| HITS.load(Ordering::SeqCst) == 10);
            sleep(20);
            c.write(b"outer").is(5);
        });
        assert_eq!(take(&s, 9), b"outer");
    });
    talks(&c, &s);
}

fn left_by_longjmp(net: Net) {
    // sigsetjmp(3) has saved the mask, so longjmp(3) brings it back too.
    let (c, s) = pair(net);
    handle(SIGUSR1, jump_plainly, 0);
    for _ in 0..3 {
        left_on(SIGUSR1, 8, || recv(&s));
    }
    talks(&c, &s);
}

static STAGE: AtomicI32 = AtomicI32::new(0);

extern "C-unwind" fn computes(fd: *mut c_void) -> *mut c_void {
    let fd = fd.addr() as i32;
    STAGE.store(sys!(libc::gettid()).ok() as i32, Ordering::SeqCst);
    let came = leaves(&|| recv_on(fd));
    STAGE.store(-came, Ordering::SeqCst);
    // No cancellation point here. (glibc before 2.41 ends the thread here all the same: its own calls leave it asynchronous when they are jumped over.)
    while STAGE.load(Ordering::SeqCst) != 1 {
        std::hint::spin_loop();
    }
    HITS.store(100, Ordering::SeqCst);
    // SAFETY: a plain call, which does not return.
    unsafe { pthread_testcancel() };
    HITS.store(101, Ordering::SeqCst);
    std::ptr::null_mut()
}

fn cancellation_after_a_jump(net: Net) {
    let (c, s) = pair(net);
    handle(SIGUSR1, jump_away, 0);
    let mut thread = 0;
    type Start = extern "C" fn(*mut c_void) -> *mut c_void;
    // SAFETY: the two function types differ in what unwinding does only.
    let f = unsafe { std::mem::transmute::<extern "C-unwind" fn(*mut c_void) -> *mut c_void, Start>(computes) };
    let fd = std::ptr::without_provenance_mut(s.raw() as usize);
    sys!(libc::pthread_create(&raw mut thread, std::ptr::null(), f, fd)).is(0);
    until(|| STAGE.load(Ordering::SeqCst) > 0);
    sleep(40);
    until(|| {
        kill(STAGE.load(Ordering::SeqCst), SIGUSR1);
        sleep(10);
        STAGE.load(Ordering::SeqCst) == -7
    });
    sys!(pthread_cancel(thread)).is(0);
    sleep(40);
    STAGE.store(1, Ordering::SeqCst);
    let mut result = std::ptr::null_mut();
    sys!(libc::pthread_join(thread, &raw mut result)).is(0);
    assert_eq!(result.addr(), usize::MAX, "cancelled");
    assert_ne!(HITS.load(Ordering::SeqCst), 101, "after the cancellation point");
    talks(&c, &s);
}

static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C-unwind" fn forks(_: i32) {
    // SAFETY: the child goes on with calls only.
    CHILD.store(unsafe { libc::fork() }, Ordering::SeqCst);
}

fn handler_forks(net: Net) {
    // Both processes return from the handler into the same call, each a wait of its own.
    let (c, s) = pair(net);
    handle(SIGUSR1, forks, libc::SA_RESTART);
    let tid = me();
    let killed = AtomicUsize::new(0);
    let got = thread::scope(|scope| {
        scope.spawn(|| {
            sleep(40);
            killed.store(1, Ordering::SeqCst);
            kill(tid, SIGUSR1);
            until(|| CHILD.load(Ordering::SeqCst) > 0);
            sleep(30);
            c.write(b"1").is(1);
            sleep(30);
            c.write(b"2").is(1);
        });
        let got = take(&s, 1);
        if CHILD.load(Ordering::SeqCst) == 0 {
            // The child has one of the two.
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(got[0] - b'0')) };
        }
        got
    });
    let mut status = 0;
    sys!(libc::waitpid(CHILD.load(Ordering::SeqCst), &raw mut status, 0)).ok();
    assert!(libc::WIFEXITED(status), "{status:#x}");
    assert_eq!(i32::from(got[0] - b'0') + libc::WEXITSTATUS(status), 3);
    talks(&c, &s);
}

fn left_in_several_threads(net: Net) {
    let pairs: Vec<(Fd, Fd)> = (0..4).map(|_| pair(net)).collect();
    handle(SIGUSR1, jump_away, 0);
    thread::scope(|scope| {
        for (_, s) in &pairs {
            scope.spawn(|| {
                for _ in 0..5 {
                    left_on(SIGUSR1, 7, || recv(s));
                }
            });
        }
    });
    pairs.iter().for_each(|(c, s)| talks(c, s));
}

fn close_with_linger_left(net: Net) {
    let (c, s) = pair(net);
    fill(&c);
    c.nonblock(false);
    c.set(libc::SOL_SOCKET, libc::SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 20 }).is(0);
    let fd = c.take();
    left(|| {
        // SAFETY: our descriptor.
        unsafe { libc::close(fd) };
    });
    crate::net::take_to_end(&s);
    let (c, s) = pair(net);
    talks(&c, &s);
}
