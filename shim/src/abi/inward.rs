//! Functions of libc's that make socket calls inside themselves: each runs in a scope ([`crate::inward`]).
//!
//! # Theory of operation
//! **Purpose.** What they do inside is done by the instance: the resolver's queries go over its sockets, an option is set on the virtual socket.
//! **How it works.** Every row calls the next definition in [`scope`]. **Limits.** Those of [`crate::inward`]. getaddrinfo_a(3) does the work of its
//! requests before it returns, in the calling thread. A program linked against a glibc before 2.34 calls the resolver by other names (`__res_query`). **Locks.** None. **Failure.** As the functions'. **See also.** resolver(3), rcmd(3), setsourcefilter(3).
use crate::inward::scope;
use crate::table::interpose;
use libc::{addrinfo, c_char, c_int, c_uchar, c_ushort, c_void, sockaddr, socklen_t};

macro_rules! inward {
    ($call:expr) => {
        // SAFETY: as the application passed it.
        scope(|| unsafe { $call })
    };
}

/// struct gaicb of <netdb.h>.
#[repr(C)]
#[derive(Debug)]
#[allow(unreachable_pub)]
pub struct Gaicb {
    name: *const c_char,
    service: *const c_char,
    request: *const addrinfo,
    result: *mut addrinfo,
    outcome: c_int,
    reserved: [c_int; 5],
}

interpose! {
    family inward;

    /// res_query(3).
    plain fn res_query(name: *const c_char, class: c_int, ty: c_int, answer: *mut c_uchar, len: c_int) -> c_int = Full "" {
        inward!(real::res_query(name, class, ty, answer, len))
    }
    /// res_search(3).
    plain fn res_search(name: *const c_char, class: c_int, ty: c_int, answer: *mut c_uchar, len: c_int) -> c_int = Full "" {
        inward!(real::res_search(name, class, ty, answer, len))
    }
    /// res_querydomain(3).
    plain fn res_querydomain(name: *const c_char, domain: *const c_char, class: c_int, ty: c_int, answer: *mut c_uchar, len: c_int) -> c_int = Full "" {
        inward!(real::res_querydomain(name, domain, class, ty, answer, len))
    }
    /// res_send(3).
    plain fn res_send(query: *const c_uchar, qlen: c_int, answer: *mut c_uchar, len: c_int) -> c_int = Full "" {
        inward!(real::res_send(query, qlen, answer, len))
    }
    /// res_nquery(3).
    plain fn res_nquery(state: *mut c_void, name: *const c_char, class: c_int, ty: c_int, answer: *mut c_uchar, len: c_int) -> c_int = Full "" {
        inward!(real::res_nquery(state, name, class, ty, answer, len))
    }
    /// res_nsearch(3).
    plain fn res_nsearch(state: *mut c_void, name: *const c_char, class: c_int, ty: c_int, answer: *mut c_uchar, len: c_int) -> c_int = Full "" {
        inward!(real::res_nsearch(state, name, class, ty, answer, len))
    }
    /// res_nquerydomain(3).
    plain fn res_nquerydomain(state: *mut c_void, name: *const c_char, domain: *const c_char, class: c_int, ty: c_int, answer: *mut c_uchar, len: c_int) -> c_int = Full "" {
        inward!(real::res_nquerydomain(state, name, domain, class, ty, answer, len))
    }
    /// res_nsend(3).
    plain fn res_nsend(state: *mut c_void, query: *const c_uchar, qlen: c_int, answer: *mut c_uchar, len: c_int) -> c_int = Full "" {
        inward!(real::res_nsend(state, query, qlen, answer, len))
    }
    /// getaddrinfo_a(3).
    plain fn getaddrinfo_a(mode: c_int, list: *mut *mut Gaicb, n: c_int, event: *mut libc::sigevent) -> c_int = Partial
        "the requests are done when it returns; SIGEV_THREAD: the function is called at once, in the calling thread" {
        const GAI_NOWAIT: c_int = 1;
        if crate::init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::getaddrinfo_a(mode, list, n, event) }
        } else if !(0..=GAI_NOWAIT).contains(&mode) {
            crate::ret::fail(csel_core::errno::Errno::EINVAL);
            libc::EAI_SYSTEM
        } else {
            for i in 0..n.max(0) as usize {
                // SAFETY: the man page's array of n pointers, null ones skipped.
                unsafe {
                    if let Some(r) = (*list.add(i)).as_mut() {
                        r.result = core::ptr::null_mut();
                        r.outcome = super::name::getaddrinfo(r.name, r.service, r.request, &raw mut r.result);
                    }
                }
            }
            // SAFETY: null or the application's structure.
            if let Some(e) = unsafe { event.as_ref() }.filter(|_| mode == GAI_NOWAIT) {
                tell(e);
            }
            0
        }
    }
    /// getsourcefilter(3).
    plain fn getsourcefilter(fd: c_int, interface: u32, group: *const sockaddr, grouplen: socklen_t, mode: *mut u32, n: *mut u32, list: *mut c_void) -> c_int = Full "" {
        inward!(real::getsourcefilter(fd, interface, group, grouplen, mode, n, list))
    }
    /// setsourcefilter(3).
    plain fn setsourcefilter(fd: c_int, interface: u32, group: *const sockaddr, grouplen: socklen_t, mode: u32, n: u32, list: *const c_void) -> c_int = Full "" {
        inward!(real::setsourcefilter(fd, interface, group, grouplen, mode, n, list))
    }
    /// getipv4sourcefilter(3).
    plain fn getipv4sourcefilter(fd: c_int, interface: u32, group: u32, mode: *mut u32, n: *mut u32, list: *mut c_void) -> c_int = Full "" {
        inward!(real::getipv4sourcefilter(fd, interface, group, mode, n, list))
    }
    /// setipv4sourcefilter(3).
    plain fn setipv4sourcefilter(fd: c_int, interface: u32, group: u32, mode: u32, n: u32, list: *const c_void) -> c_int = Full "" {
        inward!(real::setipv4sourcefilter(fd, interface, group, mode, n, list))
    }
    /// rcmd(3).
    plain fn rcmd(host: *mut *mut c_char, port: c_ushort, local: *const c_char, remote: *const c_char, command: *const c_char, fd2: *mut c_int) -> c_int = Partial
        "the host's name is libc's to resolve: an address, or a name DNS knows" {
        inward!(real::rcmd(host, port, local, remote, command, fd2))
    }
    /// rcmd_af(3).
    plain fn rcmd_af(host: *mut *mut c_char, port: c_ushort, local: *const c_char, remote: *const c_char, command: *const c_char, fd2: *mut c_int, af: u16) -> c_int = Partial
        "the host's name is libc's to resolve: an address, or a name DNS knows" {
        inward!(real::rcmd_af(host, port, local, remote, command, fd2, af))
    }
    /// rresvport(3).
    plain fn rresvport(port: *mut c_int) -> c_int = Full "" {
        inward!(real::rresvport(port))
    }
    /// rresvport_af(3).
    plain fn rresvport_af(port: *mut c_int, af: u16) -> c_int = Full "" {
        inward!(real::rresvport_af(port, af))
    }
    /// backtrace_symbols_fd(3): it writes with writev(2) of libc's own.
    plain fn backtrace_symbols_fd(buffer: *const *mut c_void, size: c_int, fd: c_int) = Full "" {
        if crate::enter::is_virtual(fd) {
            inward!(real::backtrace_symbols_fd(buffer, size, fd));
        } else {
            // SAFETY: as the application passed it.
            unsafe { real::backtrace_symbols_fd(buffer, size, fd) };
        }
    }
}

/// sigevent(7).
fn tell(e: &libc::sigevent) {
    match e.sigev_notify {
        libc::SIGEV_SIGNAL => {
            let me = csel_core::gate::getpid();
            // SAFETY: a siginfo of zeros with what sigqueue(3) fills in.
            unsafe {
                let mut info: libc::siginfo_t = core::mem::zeroed();
                info.si_signo = e.sigev_signo;
                info.si_code = SI_ASYNCNL;
                // After si_pid and si_uid: the value.
                (&raw mut info).cast::<u8>().add(24).cast::<libc::sigval>().write(e.sigev_value);
                let a = [me as usize, e.sigev_signo as usize, &raw const info as usize, 0, 0, 0];
                let _ = csel_core::gate::syscall(libc::SYS_rt_sigqueueinfo, a);
            }
        }
        libc::SIGEV_THREAD => {
            // SAFETY: in a struct sigevent the function follows what the three other members take.
            let f =
                unsafe { core::ptr::from_ref(e).cast::<u8>().add(16).cast::<Option<unsafe extern "C-unwind" fn(libc::sigval)>>().read() };
            if let Some(f) = f {
                // SAFETY: the application's function.
                unsafe { f(e.sigev_value) };
            }
        }
        _ => {}
    }
}

/// si_code of getaddrinfo_a(3)'s signal.
const SI_ASYNCNL: c_int = -60;
