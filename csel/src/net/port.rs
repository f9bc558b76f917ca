//! Ports in use: bind(2)'s rules for TCP and UDP. (Interface; helper `dgram` writes the body.)
use super::addr::Endpoint;
use crate::arena::{Id, Shared};
use crate::errno::{Errno, Result};
use crate::fd::Sock;
use crate::instance::Cx;

/// Which port space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// TCP's.
    Tcp,
    /// UDP's.
    Udp,
    /// Identifiers of ping sockets.
    Ping,
}

/// The tables.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    todo: u64,
}

/// Reserves `at` (port 0: an ephemeral one) for a socket, by Linux's rules for SO_REUSEADDR, SO_REUSEPORT and IPV6_V6ONLY, which it reads from
/// the socket; the port. EADDRINUSE. The address has been checked.
pub fn bind(_cx: &Cx<'_>, _space: Space, _sock: Id<Sock>, _at: &Endpoint) -> Result<u16> {
    Err(Errno::EADDRINUSE)
}
/// Picks an ephemeral port for a connection from `local` to `remote` such that the 4-tuple is free (`taken` says); several connections may share it.
pub fn ephemeral(
    _cx: &Cx<'_>,
    _space: Space,
    _sock: Id<Sock>,
    _local: &Endpoint,
    _remote: &Endpoint,
    _taken: &dyn Fn(u16) -> bool,
) -> Result<u16> {
    Err(Errno::EADDRNOTAVAIL)
}
/// Lets a reservation go.
pub fn release(_cx: &Cx<'_>, _space: Space, _sock: Id<Sock>) {}
/// TCP: may `sock`, bound already, listen now? EADDRINUSE if another listens on it without SO_REUSEPORT on both.
pub fn may_listen(_cx: &Cx<'_>, _sock: Id<Sock>) -> Result<()> {
    Ok(())
}
