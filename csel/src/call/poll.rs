//! poll(2), ppoll(2), select(2), pselect(2): the virtual half of a set of descriptors.
//!
//! The front end keeps the whole array; [`scan`] fills in what virtual descriptors have to say and leaves the kernel's to the front end, which asks
//! ppoll(2) for them in the same breath. [`begin`] hooks the calling thread on to all virtual ones.
use crate::fd::Proc;
use crate::instance::Cx;
use crate::net::wait::{How, Waiting};
use crate::poll::{self, model};
use libc::pollfd;

/// What a scan found.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Scan {
    /// Virtual descriptors with something to report.
    pub ready: usize,
    /// Virtual descriptors.
    pub ours: usize,
    /// The kernel's descriptors (or nobody's).
    pub kernels: usize,
}

/// Fills in `revents` of the virtual descriptors; all others get 0.
pub fn scan(cx: &Cx<'_>, proc: &Proc, fds: &mut [pollfd]) -> Scan {
    let mut s = Scan::default();
    for p in fds {
        if p.fd < 0 {
            p.revents = 0;
            continue;
        }
        match proc.get(cx.inst, p.fd) {
            Some(held) => {
                s.ours += 1;
                p.revents = model::revents(poll::now(cx, &held), p.events);
                s.ready += usize::from(p.revents != 0);
                held.release(cx);
            }
            None => {
                p.revents = 0;
                s.kernels += 1;
            }
        }
    }
    s
}

/// Must the kernel be asked about this descriptor? If it is not ours, and if it is an epoll descriptor with something in the kernel's half.
pub fn asks_kernel(cx: &Cx<'_>, proc: &Proc, fd: i32) -> bool {
    match proc.get(cx.inst, fd) {
        Some(held) => {
            let asks = super::epoll::has_kernel(cx, &held);
            held.release(cx);
            asks
        }
        None => true,
    }
}

/// Hooks the calling thread on to all virtual descriptors.
pub fn begin(cx: &Cx<'_>, proc: &Proc, fds: &[pollfd], bell: u64) -> Waiting {
    let on = fds.iter().filter(|p| p.fd >= 0).filter_map(|p| {
        let held = proc.get(cx.inst, p.fd)?;
        let id = held.id();
        held.release(cx);
        Some((id, u32::from(p.events as u16)))
    });
    Waiting::begin_iter(cx, on, How { exclusive: false, bell })
}
