//! TCP. (Interface; helper `tcp` writes theory and body: flow, meter, demux, listeners, timers.)
use super::Packet;
use super::addr::Endpoint;
use crate::arena::Shared;
use crate::call::{RecvMsg, SendMsg};
use crate::errno::{Errno, Result};
use crate::fd::{Held, Sock};
use crate::gate::user::{IoIn, IoOut};
use crate::instance::Cx;

/// TCP's tables.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    todo: u64,
}

/// What is put off until no lock is held.
#[derive(Default)]
pub struct Owed {}

/// A fresh SOCK_STREAM socket: what needs setting up (publishes EPOLLOUT|EPOLLHUP as Linux does for an unconnected one).
pub fn open(_cx: &Cx<'_>, _s: &Held) -> Result<()> {
    Ok(())
}
/// bind(2).
pub fn bind(_cx: &Cx<'_>, _s: &Held, _at: &Endpoint) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// listen(2).
pub fn listen(_cx: &Cx<'_>, _s: &Held, _backlog: i32) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// accept(2): a connection from the queue with one reference, flags not yet set; EAGAIN: none yet. EINVAL: not listening.
pub fn accept(_cx: &Cx<'_>, _s: &Held) -> Result<(Held, Endpoint)> {
    Err(Errno::EOPNOTSUPP)
}
/// connect(2), first call: EINPROGRESS if it has begun, EALREADY/EISCONN/... as Linux.
pub fn connect(_cx: &Cx<'_>, _s: &Held, _to: &Endpoint) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// A blocking connect(2) after a wake-up: Ok when established, EINPROGRESS while it goes on, else why it failed.
pub fn connected(_cx: &Cx<'_>, _s: &Held) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// connect(2) with AF_UNSPEC: dissolves the association.
pub fn disconnect(_cx: &Cx<'_>, _s: &Held) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// Queues what fits of `data` from byte `skip` on; EAGAIN if nothing fits. EPIPE without signal: the caller raises it.
pub fn send(_cx: &Cx<'_>, _s: &Held, _data: &[IoIn<'_>], _skip: usize, _msg: &SendMsg<'_>) -> Result<usize> {
    Err(Errno::EOPNOTSUPP)
}
/// Takes what is there (MSG_PEEK leaves it) into `room` from byte `skip` on; Ok(0) at the end of the stream; EAGAIN if nothing is there.
pub fn recv(_cx: &Cx<'_>, _s: &Held, _room: &mut [IoOut<'_>], _skip: usize, _msg: &mut RecvMsg<'_>) -> Result<usize> {
    Err(Errno::EOPNOTSUPP)
}
/// shutdown(2), `how` checked.
pub fn shutdown(_cx: &Cx<'_>, _s: &Held, _how: i32) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// The last reference is gone: close(2)'s FIN, RST or listener teardown. The open description is freed by the caller; what goes on lives
/// as an orphan.
pub fn close(_cx: &Cx<'_>, _s: &'static Sock) {}
/// close(2) of the last descriptor with SO_LINGER on: is there still something unsent or unacknowledged? The front end waits for EPOLLHUP.
pub fn lingers(_cx: &Cx<'_>, _s: &Held) -> bool {
    false
}
/// Is there a connection without a socket that still has something to deliver (unsent or unacknowledged bytes, a FIN)? TIME-WAIT has not. The
/// keeper stays for it.
pub fn undelivered(_cx: &Cx<'_>) -> bool {
    false
}
/// getsockname(2).
pub fn local(_cx: &Cx<'_>, _s: &Held) -> Result<Endpoint> {
    Err(Errno::EOPNOTSUPP)
}
/// getpeername(2).
pub fn peer(_cx: &Cx<'_>, _s: &Held) -> Result<Endpoint> {
    Err(Errno::ENOTCONN)
}
/// FIONREAD, SIOCOUTQ, SIOCOUTQNSD, SIOCATMARK: (bytes to read, bytes unacknowledged, bytes unsent).
pub fn queued(_cx: &Cx<'_>, _s: &Held) -> Result<(usize, usize, usize)> {
    Err(Errno::EINVAL)
}
/// getsockopt(2) for IPPROTO_TCP: writes the value, the bytes written.
pub fn getsockopt(_cx: &Cx<'_>, _s: &Held, _name: i32, _out: &mut [u8]) -> Result<usize> {
    Err(Errno::ENOPROTOOPT)
}
/// setsockopt(2) for IPPROTO_TCP.
pub fn setsockopt(_cx: &Cx<'_>, _s: &Held, _name: i32, _value: &[u8]) -> Result<()> {
    Err(Errno::ENOPROTOOPT)
}
/// An option of SOL_SOCKET or IPPROTO_IP that TCP looks at has changed (keep-alive, buffers, linger...).
pub fn option_changed(_cx: &Cx<'_>, _s: &Held) {}
/// A TCP segment for one of our addresses.
pub fn input(_cx: &Cx<'_>, _p: &Packet<'_>) {}
/// An ICMP error about a segment we sent; `mtu` with "fragmentation needed"/"packet too big".
pub fn icmp_error(_cx: &Cx<'_>, _about: &super::addr::Tuple, _e: Errno, _hard: bool, _mtu: Option<u32>) {}
/// The flow, listener or orphan `n`'s timer is due.
pub fn tick(_cx: &Cx<'_>, _n: u32) {}
/// There is room again in a ring that was full: those that wait for room try again.
pub fn room(_cx: &Cx<'_>) {}
/// Does what is owed (see [`super::settle`]).
#[inline]
pub fn settle(_cx: &Cx<'_>) {}
