//! The network replica: an application's own TCP/IP.
//!
//! # Theory of operation
//! **Purpose.** What the kernel does between socket calls and the wire, run to completion by the thread that calls.
//! **How it works.** A call locks the one object it is about ([`tcp`] flow or listener, [`dgram`] socket), changes it, and emits packets straight
//! into the receiving port's ring ([`link::tx`]); for loopback and our own addresses that port is our own. Whoever waits drains the
//! port's ring ([`link::rx`]) and feeds [`input`]: IP checks, reassembly ([`frag`]), then [`tcp`], [`dgram`], [`icmp`]. Nothing that needs a
//! system call or another lock happens under a lock: it is noted in the [`Cx`] and done in [`settle`]. [`progress`] is what a call does before
//! it says "would block": drain what has arrived, run the timers that are due.
//! **Limits.** See the constants of each module. **Locks.** [`crate::sync::rank`].
//! **Failure.** Errors are errno values of the call they belong to; packets that make no sense are counted and dropped.
//! **See also.** design section 6, `reference/smoltcp.md`.
use crate::arena::Shared;
use crate::instance::Cx;

pub mod addr;
pub mod dgram;
pub mod iface;
pub mod link;
pub mod netlink;
pub mod option;
pub mod port;
pub mod tcp;
pub mod timer;
pub mod wait;

/// All tables of the replica.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    /// Links: the receive token, taps, what blocks on full rings.
    pub link: link::State,
    /// Ports in use.
    pub port: port::State,
    /// TCP: connections, listeners, demux.
    pub tcp: tcp::State,
    /// Datagram and raw sockets, reassembly.
    pub dgram: dgram::State,
    /// Timers.
    pub timer: timer::State,
    /// Who waits on the port, who leads, who spins.
    pub wait: wait::State,
}

/// A received IP packet, checked as far as lengths and version go.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    /// Source address.
    pub src: addr::Ip,
    /// Destination address.
    pub dst: addr::Ip,
    /// IPPROTO_* of the payload (after IPv6 extension headers).
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
    /// The whole packet from the IP header on (total length as the header says).
    pub ip: &'a [u8],
    /// What follows the IP header and its options or extension headers.
    pub payload: &'a [u8],
    /// How it came.
    pub via: Via,
}

/// The link a packet came by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// Our own loopback: trusted.
    Lo,
    /// The segment.
    Segment,
    /// The uplink.
    Uplink,
}

/// Does what was put off while locks were held, until nothing is left: frames in our own ring, bells, wake-ups.
#[inline]
pub fn settle(cx: &Cx<'_>) {
    link::settle(cx);
    cx.wakes.flush(cx);
    wait::settle(cx);
}

/// Drains the port's ring if there is anything in it and runs due timers. Cheap when there is nothing to do. True if anything was done.
#[inline]
pub fn progress(cx: &Cx<'_>) -> bool {
    let drained = link::rx::drain(cx);
    let ticked = timer::run_due(cx);
    drained | ticked
}
