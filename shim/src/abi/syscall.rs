//! syscall(2), libc's door to every system call: what concerns a virtual descriptor goes to the hook of the same name.
//!
//! Calls written in assembly (Go, vsyscalls of a runtime's own) are not seen. io_uring is not there, so that runtimes fall back to epoll; clone and
//! its kin pass. The kernel's interface differs from libc's in a few places (ppoll's and pselect6's masks, no flags lost), which is done here.
use super::{copy, epoll, fd, io, msg, poll, process, socket};
use crate::enter::is_virtual;
use crate::init;
use crate::ret::fail;
use crate::table::interpose;
use csel_core::errno::Errno;
use libc::{c_int, c_long, c_uint};

/// The hook for system call `nr`; `None`: not one of ours.
///
/// # Safety
/// The arguments are the application's.
pub(crate) unsafe fn dispatch(nr: c_long, a: [usize; 6]) -> Option<c_long> {
    let fd = a[0] as c_int;
    let ours = is_virtual(fd);
    macro_rules! to {
        ($hook:expr) => {{
            #[allow(unused_unsafe)]
            // SAFETY: as the application passed it.
            let r = unsafe { $hook };
            Some(r as c_long)
        }};
    }
    match nr {
        libc::SYS_io_uring_setup if !init::inert() => Some(c_long::from(fail(Errno::ENOSYS))),
        libc::SYS_socket => to!(socket::socket(fd, a[1] as c_int, a[2] as c_int)),
        libc::SYS_socketpair => to!(socket::socketpair(fd, a[1] as c_int, a[2] as c_int, a[3] as *mut c_int)),
        libc::SYS_close => to!(fd::close(fd)),
        libc::SYS_close_range => to!(fd::close_range(a[0] as c_uint, a[1] as c_uint, a[2] as c_int)),
        libc::SYS_dup => to!(fd::dup(fd)),
        libc::SYS_dup3 => to!(fd::dup3(fd, a[1] as c_int, a[2] as c_int)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_dup2 => to!(fd::dup2(fd, a[1] as c_int)),
        libc::SYS_epoll_create1 => to!(epoll::epoll_create1(fd)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_create => to!(epoll::epoll_create(fd)),
        libc::SYS_epoll_ctl => to!(epoll::epoll_ctl(fd, a[1] as c_int, a[2] as c_int, a[3] as *mut _)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait => to!(epoll::epoll_wait(fd, a[1] as *mut _, a[2] as c_int, a[3] as c_int)),
        libc::SYS_epoll_pwait => to!(epoll::epoll_pwait(fd, a[1] as *mut _, a[2] as c_int, a[3] as c_int, a[4] as *const _)),
        libc::SYS_epoll_pwait2 => to!(epoll::epoll_pwait2(fd, a[1] as *mut _, a[2] as c_int, a[3] as *const _, a[4] as *const _)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => to!(poll::poll(a[0] as *mut _, a[1] as _, a[2] as c_int)),
        libc::SYS_ppoll => to!(poll::ppoll(a[0] as *mut _, a[1] as _, a[2] as *const _, a[3] as *const _)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select => to!(poll::select(fd, a[1] as *mut _, a[2] as *mut _, a[3] as *mut _, a[4] as *mut _)),
        libc::SYS_pselect6 => {
            // The sixth argument points to the mask's address and size.
            let mask = if a[5] == 0 { Ok(0) } else { crate::user::get(a[5] as *const usize) };
            match mask {
                Err(e) => Some(c_long::from(fail(e))),
                Ok(mask) => to!(poll::pselect(fd, a[1] as *mut _, a[2] as *mut _, a[3] as *mut _, a[4] as *const _, mask as *const _)),
            }
        }
        // With descriptors of the kernel's only, it may bring virtual ones.
        libc::SYS_recvmsg => to!(msg::recvmsg(fd, a[1] as *mut _, a[2] as c_int)),
        libc::SYS_recvmmsg => to!(msg::recvmmsg(fd, a[1] as *mut _, a[2] as c_uint, a[3] as c_int, a[4] as *mut _)),
        libc::SYS_execve if !init::inert() => to!(process::execve(a[0] as *const _, a[1] as *const _, a[2] as *const _)),
        libc::SYS_execveat if !init::inert() => {
            to!(process::execveat(fd, a[1] as *const _, a[2] as *const _, a[3] as *const _, a[4] as c_int))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork => Some(process::raw_fork(0)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork => Some(process::raw_fork(libc::CLONE_VFORK)),
        libc::SYS_clone if a[1] == 0 => Some(process::raw_clone(a)),
        libc::SYS_clone3 => process::stays(a[0] as *const u64, a[1]).then(|| process::raw_clone3(a[0] as *const u64, a[1])),
        libc::SYS_prctl => to!(process::prctl(fd, a[1], a[2], a[3], a[4])),
        // SECCOMP_SET_MODE_STRICT and SECCOMP_SET_MODE_FILTER.
        libc::SYS_seccomp if a[0] < 2 => {
            // SAFETY: as the application passed it.
            Some(process::confining(|| unsafe { real::syscall(nr, a[0], a[1], a[2], 0, 0, 0) }))
        }
        libc::SYS_exit_group => {
            crate::fork::leave();
            None
        }
        libc::SYS_splice if ours || is_virtual(a[2] as c_int) => {
            to!(copy::splice(fd, a[1] as *mut _, a[2] as c_int, a[3] as *mut _, a[4], a[5] as c_uint))
        }
        libc::SYS_sendfile if ours || is_virtual(a[1] as c_int) => to!(copy::sendfile(fd, a[1] as c_int, a[2] as *mut _, a[3])),
        // Told to go to an IP address, they are not the kernel's alone (`crate::home`).
        libc::SYS_connect => to!(socket::connect(fd, a[1] as *const _, a[2] as _)),
        libc::SYS_listen => to!(socket::listen(fd, a[1] as c_int)),
        libc::SYS_sendto => to!(io::sendto(fd, a[1] as *const _, a[2], a[3] as c_int, a[4] as *const _, a[5] as _)),
        libc::SYS_sendmsg => to!(msg::sendmsg(fd, a[1] as *const _, a[2] as c_int)),
        libc::SYS_sendmmsg => to!(msg::sendmmsg(fd, a[1] as *mut _, a[2] as c_uint, a[3] as c_int)),
        _ if !ours => None,
        libc::SYS_bind => to!(socket::bind(fd, a[1] as *const _, a[2] as _)),
        libc::SYS_accept => to!(socket::accept(fd, a[1] as *mut _, a[2] as *mut _)),
        libc::SYS_accept4 => to!(socket::accept4(fd, a[1] as *mut _, a[2] as *mut _, a[3] as c_int)),
        libc::SYS_shutdown => to!(socket::shutdown(fd, a[1] as c_int)),
        libc::SYS_getsockname => to!(socket::getsockname(fd, a[1] as *mut _, a[2] as *mut _)),
        libc::SYS_getpeername => to!(socket::getpeername(fd, a[1] as *mut _, a[2] as *mut _)),
        libc::SYS_getsockopt => to!(socket::getsockopt(fd, a[1] as c_int, a[2] as c_int, a[3] as *mut _, a[4] as *mut _)),
        libc::SYS_setsockopt => to!(socket::setsockopt(fd, a[1] as c_int, a[2] as c_int, a[3] as *const _, a[4] as _)),
        libc::SYS_recvfrom => to!(io::recvfrom(fd, a[1] as *mut _, a[2], a[3] as c_int, a[4] as *mut _, a[5] as *mut _)),
        libc::SYS_read => to!(io::read(fd, a[1] as *mut _, a[2])),
        libc::SYS_write => to!(io::write(fd, a[1] as *const _, a[2])),
        libc::SYS_readv => to!(io::readv(fd, a[1] as *const _, a[2] as c_int)),
        libc::SYS_writev => to!(io::writev(fd, a[1] as *const _, a[2] as c_int)),
        libc::SYS_pread64 => to!(io::pread64(fd, a[1] as *mut _, a[2], a[3] as _)),
        libc::SYS_pwrite64 => to!(io::pwrite64(fd, a[1] as *const _, a[2], a[3] as _)),
        libc::SYS_preadv => to!(io::preadv(fd, a[1] as *const _, a[2] as c_int, a[3] as _)),
        libc::SYS_pwritev => to!(io::pwritev(fd, a[1] as *const _, a[2] as c_int, a[3] as _)),
        libc::SYS_preadv2 => to!(io::preadv2(fd, a[1] as *const _, a[2] as c_int, a[3] as _, a[5] as c_int)),
        libc::SYS_pwritev2 => to!(io::pwritev2(fd, a[1] as *const _, a[2] as c_int, a[3] as _, a[5] as c_int)),
        libc::SYS_fcntl => to!(fd::fcntl(fd, a[1] as c_int, a[2])),
        libc::SYS_ioctl => to!(fd::ioctl(fd, a[1] as _, a[2] as *mut _)),
        _ => None,
    }
}

interpose! {
    family syscall;

    /// syscall(2).
    plain fn syscall(nr: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long = Partial
        "io_uring_setup: ENOSYS. System calls made without libc (Go, assembly) are not seen" {
        // SAFETY: as the application passed it.
        match unsafe { dispatch(nr, [a, b, c, d, e, f]) } {
            Some(r) => r,
            None => {
                // SAFETY: as the application passed it.
                unsafe { real::syscall(nr, a, b, c, d, e, f) }
            }
        }
    }
}
