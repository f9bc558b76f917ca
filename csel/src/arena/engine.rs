//! The engine of one TCP connection: a smoltcp `Interface` and one socket over buffers of the arena.
//!
//! # Theory of operation
//! **Purpose.** smoltcp borrows its buffers and its socket set; in the arena both live for ever at fixed addresses, but only the holder of the
//! flow's lock may use them. [`Engine`] is the safe form of that: it owns the interface and the socket, and lends them for one call at a time.
//! **How it works.** The socket's rings are [`Buffers`] of the flow's number. smoltcp's clock runs [`HASTE`] times as fast as ours, so that
//! its least retransmission timeout of 1 s is Linux's 200 ms.
//! **Limits.** Never `Interface::poll`, which may not return (`reference/smoltcp.md` bug A): one packet in, one packet out for each call.
//! **Locks.** The flow's, held by the caller. **Failure.** None.
//! **See also.** [`crate::net::tcp`].
#![allow(unsafe_code)]

use super::{Shared, pages::Buffers};
use crate::clock::Nanos;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::Device;
use smoltcp::socket::tcp::{self, Socket, SocketBuffer};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint};

/// How much faster smoltcp's clock runs than ours.
pub const HASTE: u64 = 5;

// SAFETY: as `Interface` and `SocketStorage`: no process-private pointer; only stored in a `Place`.
unsafe impl Shared for Engine {}

/// One connection's engine.
pub struct Engine {
    iface: Interface,
    store: [SocketStorage<'static>; 1],
    /// How far its clock is ahead ([`Engine::hasten`]).
    ahead: Nanos,
}

fn instant(now: Nanos) -> Instant {
    Instant::from_micros((now / 1000 * HASTE) as i64)
}

/// The random seed that makes an interface draw `isn` as its socket's initial sequence number. smoltcp draws once for an IPv4 identification that
/// must not be 0, then for the sequence number; its generator (PCG over a linear congruence) can be run backwards.
fn seed_for(isn: u32) -> u64 {
    const M: u64 = 0xbb2e_fcec_3c39_611d;
    const A: u64 = 0x7590_ef39;
    let inverse = {
        let mut x = M;
        for _ in 0..6 {
            x = x.wrapping_mul(2u64.wrapping_sub(M.wrapping_mul(x)));
        }
        x
    };
    for low in 0..64u64 {
        // With the three top bits zero the output is bits 29 to 60 of the state.
        let second = u64::from(isn) << 29 | low;
        let first = second.wrapping_sub(A).wrapping_mul(inverse);
        let n = (first >> (29 - (first >> 61))) as u32;
        if (n ^ (n >> 16)) as u16 != 0 {
            return first.wrapping_sub(A).wrapping_mul(inverse);
        }
    }
    u64::from(isn)
}

/// An interface with one address.
fn interface(config: Config, dev: &mut impl Device, now: Nanos, local: IpAddress) -> Interface {
    let mut iface = Interface::new(config, dev, instant(now));
    iface.update_ip_addrs(|all| {
        let _ = all.push(IpCidr::new(local, if matches!(local, IpAddress::Ipv4(_)) { 32 } else { 128 }));
    });
    iface
}

impl Engine {
    /// The way has another MTU: smoltcp reads it once, when an interface is made, so the socket gets a new one.
    pub(crate) fn remake(&mut self, dev: &mut impl Device, now: Nanos, local: IpAddress) {
        self.iface = interface(Config::new(HardwareAddress::Ip), dev, now + self.ahead, local);
    }

    /// An idle engine for flow index `index` at `local`, with rings of `rx` and `tx` bytes, that starts at sequence number `isn`.
    pub(crate) fn new(
        dev: &mut impl Device,
        now: Nanos,
        local: IpAddress,
        isn: u32,
        buffers: &Buffers,
        index: usize,
        (rx, tx): (usize, usize),
    ) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed_for(isn);
        let iface = interface(config, dev, now, local);
        // SAFETY: buffers of an index belong to the flow of that number; `net::tcp::flow` calls this under that flow's lock, and the engine that
        // had them before is gone.
        let (rx, tx) = unsafe { (buffers.get(index, 0, rx), buffers.get(index, 1, tx)) };
        let mut socket = Socket::new(SocketBuffer::new(rx), SocketBuffer::new(tx));
        socket.set_congestion_control(tcp::CongestionControl::None);
        // Between instances a small segment costs less than the wait for an acknowledgement does; what TCP_NODELAY shows is ours.
        socket.set_nagle_enabled(false);
        let mut new = Self { iface, store: [SocketStorage::EMPTY], ahead: 0 };
        Self::set(&mut new.store).add(socket);
        new
    }

    fn set<'b>(store: &'b mut [SocketStorage<'static>; 1]) -> SocketSet<'b> {
        // SAFETY: the set lives shorter than the storage; nothing borrowed for less than 'static is ever put into it: sockets are only added by `new`.
        let store: &'b mut [SocketStorage<'b>] = unsafe { core::mem::transmute::<&'b mut [SocketStorage<'static>], _>(&mut store[..]) };
        SocketSet::new(store)
    }

    /// Lends the socket.
    #[inline]
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut Socket<'_>) -> R) -> R {
        f(Self::set(&mut self.store).get_mut::<Socket<'_>>(SocketHandle::default()))
    }
    /// Starts a connection. False if smoltcp finds the addresses unfit.
    pub(crate) fn connect(&mut self, local: IpEndpoint, remote: IpEndpoint) -> bool {
        let Self { iface, store, .. } = self;
        Self::set(store).get_mut::<Socket<'_>>(SocketHandle::default()).connect(iface.context(), remote, local).is_ok()
    }
    /// Takes the one packet the device has.
    #[inline]
    pub(crate) fn ingress(&mut self, now: Nanos, dev: &mut impl Device) {
        let _ = self.iface.poll_ingress_single(instant(now + self.ahead), dev, &mut Self::set(&mut self.store));
    }
    /// Emits at most one packet.
    #[inline]
    pub(crate) fn egress(&mut self, now: Nanos, dev: &mut impl Device) {
        let _ = self.iface.poll_egress(instant(now + self.ahead), dev, &mut Self::set(&mut self.store));
    }
    /// Sets its clock ahead, so that what it waits for comes sooner by so much.
    pub(crate) fn hasten(&mut self, by: Nanos) {
        self.ahead += by;
    }
    /// When it wants to be called again: 0 for at once.
    #[inline]
    pub(crate) fn poll_at(&mut self, now: Nanos) -> Option<Nanos> {
        let Self { iface, store, ahead } = self;
        let now = now + *ahead;
        let at = iface.poll_at(instant(now), &Self::set(store))?;
        let micros = at.total_micros().max(0) as u64;
        let at = micros.div_ceil(HASTE) * 1000;
        Some(if micros <= now / 1000 * HASTE { 0 } else { at.max(now + 1) - *ahead })
    }
}

/// Gives back the pages that a flow's rings have touched: `rx` and `tx` bytes from their starts, keeping the first `keep` bytes.
/// The rings must be empty or the flow gone; the caller holds its lock.
pub(crate) fn return_pages(buffers: &Buffers, index: usize, rx: usize, tx: usize, keep: usize) {
    // SAFETY: no live data: the rings are empty (an empty ring writes before it reads), and the lock of their flow is held.
    unsafe {
        buffers.release(index, 0, keep, rx);
        buffers.release(index, 1, keep, tx);
    }
}
