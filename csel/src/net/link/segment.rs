//! The segment: a virtual Ethernet between instances, in a shared-memory file.
//!
//! # Theory of operation
//! **Purpose.** Instances of one user find each other (names, addresses) and hand each other frames, without a daemon and without a system call on
//! the way.
//! **How it works.** The file is a [`Segment`]: a header and [`PORTS`] ports. A [`Port`] is one instance's plug: who it is (written by
//! [`super::join`] under the file's join lock), its receive [`Ring`], who of it sleeps and whom of those a sender must
//! wake ([`Seat`]), and which ports wait for room in its ring. Nothing points into the file, so every process maps it where it likes.
//! `Port::life` is odd while the port is taken and grows with every change: whoever remembers a port remembers its life too ([`super::tx::Hop`]).
//! `Segment::changes` grows whenever any port changes: caches of addresses compare it.
//!
//! **No wake-up is lost.** A sender commits a frame (release), later, at its settle, passes a SeqCst fence and looks at the seat's leader
//! ([`crate::net::wait::ring`]). A thread that wants to sleep makes itself the leader, passes a SeqCst fence, looks at the ring again, and only
//! then sleeps. In the one order of the two fences either the sender sees the leader, or the sleeper sees the frame.
//! **A full ring blocks nobody.** A sender that finds no room sets its bit in the receiver's `room_waiters`, does `fence(SeqCst)`, and tries once
//! more. A receiver, at the end of each drain, publishes its head, does `fence(SeqCst)` and, if at most half of the ring is in use, takes the bits
//! and rings each of these ports with `room` set. Either the receiver sees the bit, or the sender's second try sees the room: if the
//! receiver looked before the bit was set, more than half of the ring was free by then, and half a ring takes any frame. A receiver that stops
//! draining with more than half in use has more to drain, and comes back. So drains never wait, and what a sender could not send (a lone ACK
//! too) is sent when the bell says so.
//! **Limits.** [`PORTS`] ports, [`PORT_ADDRS`] addresses each, rings of [`RING`] bytes.
//! **Locks.** Joining holds a lock on the file; the rings have their own. **Failure.** The file is hostile: every index is bounded, every length
//! checked, texts are cut; a bad peer can send bad frames, and nothing else.
//! **See also.** futex(2), fcntl_locking(2) (OFD locks), [`crate::arena::ring`].
use crate::arena::{Shared, ring::Ring};
use crate::config::{Name, Str};
use crate::net::addr::Ip;
use crate::net::wait::Seat;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// Ports of a segment.
pub const PORTS: usize = 256;
/// Bytes of a port's ring.
pub const RING: usize = 4 << 20;
/// Addresses of a port: what an instance can have, and the link-local one.
pub const PORT_ADDRS: usize = crate::instance::ADDRS + 1;
/// "cselseg" and the format's number.
pub const MAGIC: u64 = 0x0167_6573_6c65_7363;

/// What a file says of itself before anything in it is trusted.
#[repr(C, align(4096))]
#[derive(Shared)]
pub struct Header {
    /// [`MAGIC`], written last.
    pub magic: AtomicU64,
    /// [`layout`] of the library that made it.
    pub layout: AtomicU64,
    /// Grows with every join and leave.
    pub changes: AtomicU32,
    /// Joins so far: newer holders of an address win.
    pub joins: AtomicU64,
    /// Ports that may be taken: the others' pages need not be looked at.
    pub taken: [AtomicU64; PORTS / 64],
}

/// The mapped file. All zeros are a segment with nobody on it.
#[repr(C)]
#[derive(Shared)]
pub struct Segment {
    /// What this is.
    pub header: Header,
    /// The ports.
    pub ports: [Port; PORTS],
}

/// One instance's plug.
#[repr(C, align(4096))]
#[derive(Shared)]
pub struct Port {
    /// Odd: taken. Grows with every change.
    pub life: AtomicU32,
    /// A process of the instance: the one that joined, later the keeper.
    pub pid: AtomicU32,
    /// Largest IP packet it takes.
    pub mtu: AtomicU32,
    /// The user that joined.
    pub uid: AtomicU32,
    /// Number of its join.
    pub joined: AtomicU64,
    /// Its Ethernet address, in the low six bytes.
    pub mac: AtomicU64,
    /// Its addresses.
    pub addrs: [Addr; PORT_ADDRS],
    name: [AtomicU64; 8],
    hostname: [AtomicU64; 8],
    /// Who sleeps, and whom of them a sender must ring.
    pub seat: Seat,
    /// There is room again in some ring that was full: [`crate::net::tcp::room`] is due.
    pub room: AtomicU32,
    /// Ports that wait for room in this port's ring.
    pub room_waiters: [AtomicU64; PORTS / 64],
    /// Frames for it.
    pub ring: Ring<RING>,
}

/// An address of a port; a length of 0 is none.
#[repr(C)]
#[derive(Shared)]
pub struct Addr {
    high: AtomicU64,
    low: AtomicU64,
    len: AtomicU32,
}

impl Addr {
    /// The address and its prefix length.
    pub fn get(&self) -> Option<(Ip, u8)> {
        let len = self.len.load(Acquire);
        if len == 0 {
            return None;
        }
        let mut ip = [0; 16];
        ip[..8].copy_from_slice(&self.high.load(Relaxed).to_be_bytes());
        ip[8..].copy_from_slice(&self.low.load(Relaxed).to_be_bytes());
        Some((Ip(ip), len.min(128) as u8))
    }
    /// Sets or (with a length of 0) clears it.
    pub fn set(&self, ip: Ip, len: u8) {
        let (high, low) = halves(ip);
        self.len.store(0, Release);
        self.high.store(high, Relaxed);
        self.low.store(low, Relaxed);
        self.len.store(u32::from(len), Release);
    }
}

/// An address as two numbers.
#[inline]
pub fn halves(ip: Ip) -> (u64, u64) {
    let n = u128::from_be_bytes(ip.0);
    ((n >> 64) as u64, n as u64)
}

impl Segment {
    /// Port `n`, if there is such a one.
    #[inline]
    pub fn port(&self, n: u16) -> Option<&Port> {
        self.ports.get(usize::from(n))
    }
    /// The ports that are taken, in order.
    pub fn taken(&self) -> impl Iterator<Item = (u16, &Port)> {
        let mut words = self.header.taken.iter().map(|w| w.load(Acquire));
        let mut left = words.next().unwrap_or(0);
        let mut base = 0;
        core::iter::from_fn(move || {
            while left == 0 {
                left = words.next()?;
                base += 64;
            }
            let n = base + left.trailing_zeros() as u16;
            left &= left - 1;
            self.port(n).map(|p| (n, p))
        })
        .filter(|(_, p)| p.is_taken())
    }
    /// Says that port `n` may be taken, or is not.
    pub(super) fn mark(&self, n: usize, taken: bool) {
        let word = &self.header.taken[n / 64];
        if taken {
            word.fetch_or(1 << (n % 64), AcqRel);
        } else {
            word.fetch_and(!(1 << (n % 64)), AcqRel);
        }
    }
    /// The newest port that has this address.
    pub fn holder(&self, ip: Ip) -> Option<(u16, &Port)> {
        self.taken().filter(|(_, p)| p.addrs().any(|(a, _)| a == ip)).max_by_key(|(_, p)| p.joined.load(Relaxed))
    }
    /// The newest port of this name (names compare without case, as host names do).
    pub fn named(&self, name: &str) -> Option<(u16, &Port)> {
        self.taken().filter(|(_, p)| p.name().as_str().eq_ignore_ascii_case(name)).max_by_key(|(_, p)| p.joined.load(Relaxed))
    }
    /// The newest port of this name or host name.
    pub fn host(&self, name: &str) -> Option<(u16, &Port)> {
        let by_host = |p: &Port| p.hostname().as_str().eq_ignore_ascii_case(name);
        self.named(name).or_else(|| self.taken().filter(|(_, p)| by_host(p)).max_by_key(|(_, p)| p.joined.load(Relaxed)))
    }
}

impl Port {
    /// Is it taken?
    #[inline]
    pub fn is_taken(&self) -> bool {
        self.life.load(Acquire) & 1 == 1
    }
    /// Its addresses, the link-local one included.
    pub fn addrs(&self) -> impl Iterator<Item = (Ip, u8)> {
        self.addrs.iter().filter_map(Addr::get)
    }
    /// The instance's name.
    pub fn name(&self) -> Name {
        Name(load_text(&self.name))
    }
    /// What its gethostname says.
    pub fn hostname(&self) -> Name {
        Name(load_text(&self.hostname))
    }
    /// Sets both.
    pub(super) fn set_names(&self, name: &Name, hostname: &Name) {
        store_text(&self.name, name.as_bytes());
        store_text(&self.hostname, hostname.as_bytes());
    }
    /// Its Ethernet address.
    #[inline]
    pub fn mac(&self) -> [u8; 6] {
        let b = self.mac.load(Relaxed).to_be_bytes();
        [b[2], b[3], b[4], b[5], b[6], b[7]]
    }
}

fn store_text(to: &[AtomicU64; 8], text: &[u8]) {
    let mut b = [0; 64];
    let n = text.len().min(63);
    b[..n].copy_from_slice(&text[..n]);
    for (word, c) in to.iter().zip(b.as_chunks::<8>().0) {
        word.store(u64::from_ne_bytes(*c), Relaxed);
    }
}

/// A text somebody else may have written: up to the first zero byte; printable ASCII, or it is no name at all.
fn load_text(from: &[AtomicU64; 8]) -> Str<63> {
    let mut b = [0; 64];
    for (word, c) in from.iter().zip(b.as_chunks_mut::<8>().0) {
        *c = word.load(Relaxed).to_ne_bytes();
    }
    let n = b.iter().position(|&c| c == 0).unwrap_or(63).min(63);
    if b[..n].iter().all(u8::is_ascii_graphic) { Str::cut(&b[..n]) } else { Str::EMPTY }
}

/// A number that changes when the file's layout does.
pub const fn layout() -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let parts = [size_of::<Segment>(), size_of::<Port>(), size_of::<Seat>(), RING, PORT_ADDRS, 2];
    let mut i = 0;
    while i < parts.len() {
        h = (h ^ parts[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    h
}
