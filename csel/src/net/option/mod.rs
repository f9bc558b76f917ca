//! Socket options and ioctls. (Interface; helper `dgram` writes the body.)
use crate::arena::Shared;
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::instance::Cx;

/// Options that no hot path looks at; all of SOL_SOCKET, IPPROTO_IP and IPPROTO_IPV6 that a socket can have.
#[repr(C)]
#[derive(Shared, Clone, Copy, Debug)]
pub struct Options {
    /// SO_SNDBUF as getsockopt(2) shows it (doubled).
    pub sndbuf: u32,
    /// SO_RCVBUF as getsockopt(2) shows it (doubled).
    pub rcvbuf: u32,
    /// SO_LINGER: seconds, or -1 for off.
    pub linger: i32,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// SO_REUSEADDR.
    pub reuseaddr: bool,
    /// SO_REUSEPORT.
    pub reuseport: bool,
    /// IPV6_V6ONLY.
    pub v6only: bool,
    /// SO_BROADCAST.
    pub broadcast: bool,
    /// SO_RCVLOWAT.
    pub rcvlowat: u32,
    /// IP_TTL, 0 for the default 64.
    pub ttl: u8,
    /// IP_TOS.
    pub tos: u8,
}

impl Options {
    /// What a new socket has.
    pub fn fresh(_cx: &Cx<'_>) -> Self {
        Self {
            sndbuf: 16384,
            rcvbuf: 131_072,
            linger: -1,
            keepalive: false,
            reuseaddr: false,
            reuseport: false,
            v6only: false,
            broadcast: false,
            rcvlowat: 1,
            ttl: 0,
            tos: 0,
        }
    }
}

/// getsockopt(2): writes at most `out.len()` bytes of the value; the bytes written. All levels; TCP's own come from [`super::tcp::getsockopt`].
pub fn get(_cx: &Cx<'_>, _s: &Held, _level: i32, _name: i32, _out: &mut [u8]) -> Result<usize> {
    Err(Errno::ENOPROTOOPT)
}
/// setsockopt(2).
pub fn set(_cx: &Cx<'_>, _s: &Held, _level: i32, _name: i32, _value: &[u8]) -> Result<()> {
    Err(Errno::ENOPROTOOPT)
}
/// ioctl(2) on a virtual socket; `arg` is what the pointer shows (read and written). The front end knows the size by request
/// ([`ioctl_size`]). ENOTTY for what sockets do not know.
pub fn ioctl(_cx: &Cx<'_>, _s: &Held, _request: u64, _arg: &mut [u8]) -> Result<usize> {
    Err(Errno::ENOTTY)
}
/// Bytes behind the pointer of an ioctl(2) request on a socket; 0 if it is not one we know.
pub fn ioctl_size(_request: u64) -> usize {
    0
}
