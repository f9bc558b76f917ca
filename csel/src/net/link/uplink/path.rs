//! Path MTUs: what routers said of the way to an address.
//!
//! # Theory of operation
//! **Purpose.** RFC 1191 and RFC 8201: a packet too large for some link on its way is not cut there; its sender is told, and remembers.
//! **How it works.** A small table in the arena by the address's hash; an entry holds for [`AGE`], then the full MTU is tried again. Read under a sequence
//! count, written by whoever gets it.
//! **Limits.** [`PATHS`] addresses; a newer one takes the place of an older one. **Locks.** None.
//! **Failure.** A forged message can make packets small, not smaller than [`LEAST4`] and [`LEAST6`]; TCP asks for a sequence number in flight first.
//! **See also.** ip(7) (IP_MTU, min_pmtu), [`super::narrowed`].
use super::super::segment::halves;
use crate::arena::Shared;
use crate::clock::{Nanos, SEC};
use crate::net::addr::Ip;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};

/// Addresses remembered.
pub const PATHS: usize = 64;
/// How long an entry holds (mtu_expires).
pub const AGE: Nanos = 600 * SEC;
/// The least path MTU that is believed, as Linux has it (min_pmtu).
pub const LEAST4: u32 = 552;
/// The least MTU of an IPv6 link.
pub const LEAST6: u32 = 1280;

/// The table.
#[repr(C)]
#[derive(Shared)]
pub struct Cache {
    entries: [Entry; PATHS],
}

#[repr(C)]
#[derive(Shared)]
struct Entry {
    /// Odd: being written.
    seq: AtomicU32,
    mtu: AtomicU32,
    high: AtomicU64,
    low: AtomicU64,
    /// 0: empty.
    until: AtomicU64,
}

impl Cache {
    fn entry(&self, ip: Ip) -> &Entry {
        let (high, low) = halves(ip);
        &self.entries[((high ^ low).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % PATHS]
    }

    /// The MTU of the path to `ip`, if a router said one.
    pub fn get(&self, ip: Ip, now: Nanos) -> Option<u32> {
        let e = self.entry(ip);
        let until = e.until.load(Relaxed);
        if until == 0 {
            return None;
        }
        let seq = e.seq.load(Acquire);
        let found = (e.high.load(Relaxed), e.low.load(Relaxed)) == halves(ip) && now < until;
        let mtu = e.mtu.load(Relaxed);
        fence(Acquire);
        (found && seq & 1 == 0 && e.seq.load(Relaxed) == seq).then_some(mtu)
    }

    /// Remembers it.
    pub fn put(&self, ip: Ip, mtu: u32, now: Nanos) {
        let e = self.entry(ip);
        let seq = e.seq.load(Relaxed);
        // As in the route cache: an entry whose writer died is lost, and nothing else.
        if seq & 1 == 1 || e.seq.compare_exchange(seq, seq.wrapping_add(1), Acquire, Relaxed).is_err() {
            return;
        }
        fence(Release);
        let (high, low) = halves(ip);
        e.high.store(high, Relaxed);
        e.low.store(low, Relaxed);
        e.mtu.store(mtu, Relaxed);
        e.until.store(now + AGE, Relaxed);
        e.seq.store(seq.wrapping_add(2), Release);
    }
}
