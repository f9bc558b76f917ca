//! Datagram, ping and raw sockets, ICMP, fragments. (Interface; helper `dgram` writes theory and body.)
use super::addr::Endpoint;
use crate::arena::Shared;
use crate::call::{RecvMsg, SendMsg};
use crate::errno::{Errno, Result};
use crate::fd::{Held, Sock};
use crate::gate::user::{IoIn, IoOut};
use crate::instance::Cx;

pub mod input;

/// The tables.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    todo: u64,
}

/// A fresh socket (UDP, ping, raw by `s.kind()`): allocates its body and publishes EPOLLOUT.
pub fn open(_cx: &Cx<'_>, _s: &Held) -> Result<()> {
    Ok(())
}
/// bind(2).
pub fn bind(_cx: &Cx<'_>, _s: &Held, _at: &Endpoint) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// connect(2); `None` dissolves the association (AF_UNSPEC).
pub fn connect(_cx: &Cx<'_>, _s: &Held, _to: Option<&Endpoint>) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// sendmsg(2): all or nothing; the bytes. EAGAIN if it would block.
pub fn send(_cx: &Cx<'_>, _s: &Held, _data: &[IoIn<'_>], _msg: &SendMsg<'_>) -> Result<usize> {
    Err(Errno::EOPNOTSUPP)
}
/// recvmsg(2): one datagram; the bytes (the whole length with MSG_TRUNC); fills `msg` with the source, flags, control data.
pub fn recv(_cx: &Cx<'_>, _s: &Held, _room: &mut [IoOut<'_>], _msg: &mut RecvMsg<'_>) -> Result<usize> {
    Err(Errno::EOPNOTSUPP)
}
/// shutdown(2).
pub fn shutdown(_cx: &Cx<'_>, _s: &Held, _how: i32) -> Result<()> {
    Err(Errno::EOPNOTSUPP)
}
/// The last reference is gone.
pub fn close(_cx: &Cx<'_>, _s: &'static Sock) {}
/// getsockname(2).
pub fn local(_cx: &Cx<'_>, _s: &Held) -> Result<Endpoint> {
    Err(Errno::EOPNOTSUPP)
}
/// getpeername(2).
pub fn peer(_cx: &Cx<'_>, _s: &Held) -> Result<Endpoint> {
    Err(Errno::ENOTCONN)
}
/// FIONREAD (size of the next datagram), SIOCOUTQ.
pub fn queued(_cx: &Cx<'_>, _s: &Held) -> Result<(usize, usize, usize)> {
    Err(Errno::EINVAL)
}
pub use input::input;
/// Reassembly timeouts are due.
pub fn tick(_cx: &Cx<'_>) {}
