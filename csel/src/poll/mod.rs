//! Readiness: who waits for what. (Interface; helper `poll` writes the theory and the body.)
use crate::arena::{Id, Shared};
use crate::fd::Sock;
use crate::instance::Cx;

/// Who waits for one open description: hooks of threads (poll, select, a blocking call) and of epoll items.
#[repr(C)]
#[derive(Shared)]
pub struct WaitQueue {
    todo: u64,
}

impl WaitQueue {
    /// An empty queue (a recycled socket).
    pub fn reset(&self, _cx: &Cx<'_>) {}
    /// Events happened: wakes the hooks that want them. May be called under any protocol lock; the system calls come in [`Cx::flush`].
    pub fn wake(&self, _cx: &Cx<'_>, _events: u32) {}
}

/// The replica's tables: hooks, waiters, epoll sets and items.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    todo: u64,
}

/// Sleepers to wake when no lock is held any more.
#[derive(Default)]
pub struct Wakes {}

impl Wakes {
    /// SIGIO (or F_SETSIG's) to the socket's owner.
    pub fn signal(&self, _sock: &Sock) {}
    /// Wakes them. No lock is held.
    pub fn flush(&self, _cx: &Cx<'_>) {}
}

/// A descriptor of the calling process was closed. Linux drops epoll registrations only when the last descriptor of the open description
/// goes; they are keyed (description, fd): epoll(7) Q6.
pub fn forget_fd(_cx: &Cx<'_>, _fd: i32, _sock: Id<Sock>) {}

/// The last reference to `sock` is gone: its epoll registrations and (if it is an epoll set) its items go.
pub fn release(_cx: &Cx<'_>, _sock: &Sock, _id: Id<Sock>) {}
