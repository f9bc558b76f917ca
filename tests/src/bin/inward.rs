//! inward: functions of libc's that make system calls on sockets inside themselves, for tests/tests/inward.rs. Prints `done` at the end.
//!
//!   inward plain             backtrace_symbols_fd(3) to a datagram socket: what it wrote arrives
//!   inward res ADDRESS NAME  res_query(3) of an A record at a server: its bytes, and the address
//!   inward a NAME            getaddrinfo_a(3), waiting, and with a signal
//!   inward storm             the same in four threads, all signals blocked in two, with a timer's handler that makes calls and forks
//!   inward absent            where the kernel refuses Syscall User Dispatch: nothing breaks
use std::ffi::{CString, c_char, c_int, c_uchar, c_void};
use std::net::UdpSocket;
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

unsafe extern "C" {
    fn backtrace_symbols_fd(buffer: *const *mut c_void, size: c_int, fd: c_int);
    fn __res_init() -> c_int;
    fn __res_state() -> *mut u8;
    fn res_query(name: *const c_char, class: c_int, ty: c_int, answer: *mut c_uchar, len: c_int) -> c_int;
    fn getaddrinfo_a(mode: c_int, list: *mut *mut Gaicb, n: c_int, event: *mut libc::sigevent) -> c_int;
}

#[repr(C)]
struct Gaicb {
    name: *const c_char,
    service: *const c_char,
    request: *const libc::addrinfo,
    result: *mut libc::addrinfo,
    outcome: c_int,
    reserved: [c_int; 5],
}

/// A connected pair of datagram sockets of the instance's.
fn pair() -> (UdpSocket, UdpSocket) {
    let a = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let b = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    a.connect(b.local_addr().expect("bound")).expect("connected");
    b.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    (a, b)
}

/// One frame's line, as a datagram.
fn write_a_line(to: &UdpSocket) {
    let frame = [main as *mut c_void];
    // SAFETY: one address; an open descriptor.
    unsafe { backtrace_symbols_fd(frame.as_ptr(), 1, to.as_raw_fd()) };
}

fn plain() {
    let (a, b) = pair();
    write_a_line(&a);
    let mut line = [0; 512];
    let n = b.recv(&mut line).expect("a line");
    assert!(String::from_utf8_lossy(&line[..n]).contains("inward"), "{}", String::from_utf8_lossy(&line[..n]));
}

fn res(server: &str, name: &str) {
    let server: std::net::Ipv4Addr = server.parse().expect("an address");
    // SAFETY: struct __res_state as <resolv.h> has it: nscount at 16, nsaddr_list at 20.
    let n = unsafe {
        assert_eq!(__res_init(), 0);
        let state = __res_state();
        state.add(16).cast::<c_int>().write_unaligned(1);
        let at = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 53u16.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(server.octets()) },
            sin_zero: [0; 8],
        };
        state.add(20).cast::<libc::sockaddr_in>().write_unaligned(at);
        let name = CString::new(name).expect("a name");
        let mut answer = [0u8; 1024];
        let n = res_query(name.as_ptr(), 1, 1, answer.as_mut_ptr(), 1024);
        assert!(n > 12, "res_query: {n} {}", std::io::Error::last_os_error());
        answer[..n as usize].windows(4).find(|w| *w == [192, 0, 2, 7]).map(|_| n)
    };
    println!("{} bytes", n.expect("the address in the answer"));
}

static SIGNALLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_sig: c_int) {
    SIGNALLED.fetch_add(1, SeqCst);
}

fn asynchronous(name: &str) {
    let name = CString::new(name).expect("a name");
    let mut request =
        Gaicb { name: name.as_ptr(), service: ptr::null(), request: ptr::null(), result: ptr::null_mut(), outcome: 9, reserved: [0; 5] };
    let mut list = [&raw mut request];
    // SAFETY: a list of one; a handler that counts; a sigevent of zeros with what is needed.
    unsafe {
        assert_eq!(getaddrinfo_a(0, list.as_mut_ptr(), 1, ptr::null_mut()), 0);
        assert_eq!((request.outcome, request.result.is_null()), (0, false));
        libc::freeaddrinfo(request.result);
        libc::signal(libc::SIGUSR1, count as *const () as usize);
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGUSR1;
        assert_eq!(getaddrinfo_a(1, list.as_mut_ptr(), 1, &raw mut event), 0);
    }
    for _ in 0..1000 {
        if SIGNALLED.load(SeqCst) > 0 {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(SIGNALLED.load(SeqCst), 1);
}

static HANDLED: AtomicU32 = AtomicU32::new(0);
static TO: AtomicUsize = AtomicUsize::new(0);

/// Makes calls of the kernel's and of the replica's, and now and then a child.
extern "C" fn handler(_sig: c_int) {
    let n = HANDLED.fetch_add(1, SeqCst);
    // SAFETY: async-signal-safe calls; errno is put back.
    unsafe {
        let saved = *libc::__errno_location();
        libc::getppid();
        libc::send(TO.load(SeqCst) as c_int, b"h".as_ptr().cast(), 1, libc::MSG_DONTWAIT);
        if n.is_multiple_of(64) {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(if libc::getppid() > 0 { 0 } else { 1 });
            }
            let mut status = 1;
            while libc::waitpid(child, &raw mut status, 0) == -1 && *libc::__errno_location() == libc::EINTR {}
            assert_eq!(status, 0);
        }
        *libc::__errno_location() = saved;
    }
}

fn storm() {
    let (side, _other) = pair();
    TO.store(side.as_raw_fd() as usize, SeqCst);
    // SAFETY: a handler whose mask is everything, SIGSYS too; a timer.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = handler as *const () as usize;
        act.sa_flags = libc::SA_RESTART;
        libc::sigfillset(&raw mut act.sa_mask);
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const act, ptr::null_mut()), 0);
        let every = libc::timeval { tv_sec: 0, tv_usec: 1000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        assert_eq!(libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()), 0);
    }
    let threads: Vec<_> = (0..4)
        .map(|n| {
            thread::spawn(move || {
                if n % 2 == 1 {
                    // SAFETY: a full set.
                    unsafe {
                        let mut all: libc::sigset_t = std::mem::zeroed();
                        libc::sigfillset(&raw mut all);
                        assert_eq!(libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut()), 0);
                    }
                }
                let (a, b) = pair();
                for i in 0..300 {
                    write_a_line(&a);
                    let mut line = [0; 512];
                    let got = loop {
                        match b.recv(&mut line) {
                            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                            r => break r,
                        }
                    };
                    assert!(got.is_ok_and(|n| n > 0), "thread {n}, line {i}");
                }
                if n % 2 == 1 {
                    // SAFETY: reads the mask: it is as it was set.
                    unsafe {
                        let mut now: libc::sigset_t = std::mem::zeroed();
                        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &raw mut now), 0);
                        assert_eq!(libc::sigismember(&raw const now, libc::SIGSYS), 1);
                    }
                }
            })
        })
        .collect();
    for t in threads {
        t.join().expect("a thread");
    }
    // SAFETY: the timer is stopped.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &std::mem::zeroed(), ptr::null_mut()) };
    println!("handled {}", HANDLED.load(SeqCst));
}

fn absent() {
    let (a, _b) = pair();
    // prctl(PR_SET_SYSCALL_USER_DISPATCH) answers EINVAL, as before Linux 5.11.
    let filter = [
        libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: 0x15, jt: 0, jf: 3, k: libc::SYS_prctl as u32 },
        libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 16 },
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: 59 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | libc::EINVAL as u32 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 },
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: a valid filter.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
    // It is libc's own write, to a descriptor that is nothing to the kernel: lost, and said so in the counter.
    write_a_line(&a);
    a.send(b"still here").expect("the socket works");
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["plain"] => plain(),
        ["res", server, name] => res(server, name),
        ["a", name] => asynchronous(name),
        ["storm"] => storm(),
        ["absent"] => absent(),
        _ => panic!("usage: see the head of tests/src/bin/inward.rs"),
    }
    println!("done");
}
