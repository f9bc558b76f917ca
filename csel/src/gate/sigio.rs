//! SIGIO: what fcntl(2)'s F_SETOWN, F_SETSIG and O_ASYNC send.
//!
//! # Theory of operation
//! **Purpose.** A signal that tells which descriptor it is about and why (`si_fd`, `si_band`, `si_code`), as the kernel's own does.
//! **How it works.** rt_sigqueueinfo(2) takes a `siginfo` of ours. The kernel lets nobody claim its own codes (POLL_IN and so on) for another process
//! or thread; then the code is SI_SIGIO, which says "queued for SIGIO", and the front end's trampoline puts the right one back ([`code_of`]).
//! Without F_SETSIG it is a plain SIGIO; a process group, and an owner whose queue is full, get one too.
//! **Limits.** What sigwaitinfo(2) and signalfd(2) tell of the code may be SI_SIGIO. **Locks.** None. **Failure.** No signal, as for an owner that is gone.
//! **See also.** fcntl(2), rt_sigqueueinfo(2).
use crate::errno::Errno;
use crate::gate;

/// "Queued SIGIO".
pub const SI_SIGIO: i32 = -5;

/// One signal.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SigIo {
    /// Process, thread, or (negative) process group.
    pub owner: i32,
    /// It is a thread.
    pub thread: bool,
    /// 0: SIGIO, and nothing told.
    pub signal: i32,
    /// The descriptor.
    pub fd: i32,
    /// EPOLL* bits.
    pub events: u32,
}

/// The code that goes with an `si_band`.
pub fn code_of(band: i64) -> i32 {
    if band & i64::from(libc::EPOLLHUP) != 0 { 6 } else { code(band as u32) }
}

/// POLL_ERR, POLL_HUP, POLL_IN or POLL_OUT.
fn code(events: u32) -> i32 {
    match events as i32 {
        e if e & libc::EPOLLERR != 0 => 4,
        e if e & libc::EPOLLHUP != 0 => 6,
        e if e & libc::EPOLLIN != 0 => 1,
        _ => 2,
    }
}

/// What the kernel says with each code (band_table).
fn band(code: i32) -> i64 {
    let (i, o) = (libc::EPOLLIN | libc::EPOLLRDNORM, libc::EPOLLOUT | libc::EPOLLWRNORM | libc::EPOLLWRBAND);
    i64::from(match code {
        1 => i,
        2 => o,
        4 => libc::EPOLLERR,
        _ => libc::EPOLLHUP | libc::EPOLLERR,
    })
}

/// A `siginfo_t` as the kernel lays it out.
#[repr(C, align(8))]
struct Info {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    band: i64,
    fd: i32,
    rest: [i32; 25],
}

impl SigIo {
    /// Sends it. No lock is held.
    pub fn send(&self) {
        if gate::sandbox::is_confined() {
            return;
        }
        if self.signal == 0 || self.owner < 0 {
            return self.plainly(if self.signal == 0 { libc::SIGIO } else { self.signal });
        }
        let code = code(self.events);
        let mut info = Info { signo: self.signal, errno: 0, code, pad: 0, band: band(code), fd: self.fd, rest: [0; 25] };
        let r = match self.queue(&info) {
            Err(Errno::EPERM) => {
                info.code = SI_SIGIO;
                self.queue(&info)
            }
            r => r,
        };
        match r {
            Err(Errno::EAGAIN) => self.plainly(libc::SIGIO),
            Err(Errno::ESRCH) if self.thread => self.plainly(self.signal),
            _ => {}
        }
    }

    fn queue(&self, info: &Info) -> crate::errno::Result<usize> {
        let (to, sig, info) = (self.owner as usize, self.signal as usize, core::ptr::from_ref(info) as usize);
        // SAFETY: a whole siginfo.
        unsafe {
            if self.thread {
                gate::syscall(libc::SYS_rt_tgsigqueueinfo, [gate::getpid() as usize, to, sig, info, 0, 0])
            } else {
                gate::syscall(libc::SYS_rt_sigqueueinfo, [to, sig, info, 0, 0, 0])
            }
        }
    }

    fn plainly(&self, sig: i32) {
        let nr = if self.thread { libc::SYS_tkill } else { libc::SYS_kill };
        // SAFETY: plain numbers.
        let _ = unsafe { gate::syscall(nr, [self.owner as isize as usize, sig as usize, 0, 0, 0, 0]) };
    }
}
