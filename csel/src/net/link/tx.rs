//! Sending: from an IP packet to the receiver's ring. (Interface; helper `link`.)
use crate::errno::{Errno, Result};
use crate::instance::Cx;
use crate::net::addr::Ip;

/// Where a packet to some destination goes next. Plain data; may be kept in the arena (a flow's hop cache); [`Hop::port`] may die: then
/// [`reserve`] says so.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// The receiving port (our own for loopback and own addresses), or [`Hop::FLOOD`] for broadcast and multicast.
    pub port: u16,
    /// The generation of that port, so that a successor's address is noticed.
    pub generation: u32,
    /// Over our own loopback (127/8, ::1 or an address of our own): trusted.
    pub loopback: bool,
    /// The largest IP packet.
    pub mtu: u32,
}

impl Hop {
    /// Every port of the segment (and our own, for multicast loop).
    pub const FLOOD: u16 = u16::MAX;
}

/// The next hop to `dst`. ENETUNREACH: no route; EHOSTUNREACH: nobody on the segment has that address.
pub fn hop(_cx: &Cx<'_>, _src: Ip, _dst: Ip) -> Result<Hop> {
    Err(Errno::ENETUNREACH)
}

/// Why a frame could not be reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The ring is full; the sender's port is noted and rung once there is room (see [`crate::net::tcp::room`]).
    Full,
    /// Nobody is there any more.
    Gone,
}

/// A frame being written in the receiver's ring. Dropping it without [`Frame::commit`] discards it.
pub struct Frame<'a> {
    _room: &'a mut [u8],
}

/// Room for an IP packet of `len` bytes in the hop's ring.
pub fn reserve<'a>(_cx: &Cx<'a>, _hop: &Hop, _len: usize) -> core::result::Result<Frame<'a>, Refused> {
    Err(Refused::Gone)
}

impl Frame<'_> {
    /// Where the IP packet goes: exactly the length asked for.
    pub fn ip(&mut self) -> &mut [u8] {
        self._room
    }
    /// The packet is whole: makes it visible and notes the port's bell in `cx.kicks`.
    pub fn commit(self, _cx: &Cx<'_>) {}
}

/// Ports whose bells are to be rung by [`super::settle`].
#[derive(Default)]
pub struct Kicks {}
