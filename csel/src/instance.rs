//! An instance: one application's replicas, and the context in which a call runs.
//!
//! # Theory of operation
//! **Purpose.** [`Instance`] is the root of the arena: every table of every replica is a field of it, so an instance is a value, never a global,
//! and several may live in one process. [`Env`] is one process's view of an instance; [`Cx`] is one call of one thread: who, when, where.
//! **How it works.** A front end keeps one [`Env`] for the process and makes a [`Cx`] for each call. Time is read at most once per call (`now`),
//! unless somebody waits. What a call must do after its last lock is let go of (wake sleepers, ring another port's bell, drain its own ring)
//! is collected in the [`Cx`] and done by [`Cx::flush`], which its drop calls.
//! **Limits.** The constants here. **Locks.** None of its own. **Failure.** Full tables are the errno Linux would give (ENFILE, ENOBUFS).
//! **See also.** [`crate::arena`], design sections 4 and 5.
use crate::arena::{Id, Once, Shared, Slab, pages::Buffers};
use crate::clock::{Clock, Nanos};
use crate::config::{Config, Name};
use crate::net::addr::Ip;
use crate::net::link::segment::Segment;
use crate::sync::Me;
use crate::{fd, net, poll};
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Open descriptions an instance can have at once (sockets and epoll sets).
pub const SOCKS: usize = 65536;
/// TCP connections an instance can have at once; each has a pair of buffers.
pub const FLOWS: usize = 65536;
/// Addresses an instance can have besides loopback.
pub const ADDRS: usize = 8;

/// "csel\0\0\0\1": an arena of this format.
pub const MAGIC: u64 = 0x0100_0000_6c65_7363;

/// What an arena says of itself before anything in it is trusted.
#[repr(C)]
#[derive(Shared)]
pub struct Header {
    /// [`MAGIC`], written last.
    pub magic: AtomicU64,
    /// [`layout`] of the library that made it.
    pub layout: AtomicU64,
    /// Bytes of the whole mapping.
    pub size: AtomicU64,
    /// The uid that made it.
    pub uid: AtomicU32,
    /// The keeper's pid (0: none yet) and a futex word to wake it.
    pub keeper: AtomicU32,
    /// Key of the keeper's door, where pumped sockets are asked for; 0: closed.
    pub door: AtomicU64,
    /// That a program cannot attach has been said.
    pub warned: AtomicU32,
}

/// A number that changes when the layout of the arena does.
pub const fn layout() -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let parts = [
        size_of::<Instance>(),
        size_of::<fd::Sock>(),
        size_of::<net::State>(),
        size_of::<poll::State>(),
        size_of::<Facts>(),
        size_of::<smoltcp::iface::SocketStorage<'static>>(),
    ];
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let mut i = 0;
    while i < parts.len() {
        h = (h ^ parts[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    i = 0;
    while i < version.len() {
        h = (h ^ version[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    h
}

/// An address of the instance with its prefix length.
#[repr(C)]
#[derive(Clone, Copy, Default, Shared, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// The address.
    pub ip: Ip,
    /// Prefix length in the family's own bits.
    pub len: u8,
}

/// What is fixed when an instance is made.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The options it was made with.
    pub config: Config,
    /// Its name on the segment (config's, or the program's made unique).
    pub name: Name,
    /// Its addresses; the first [`Facts::addr_count`] count.
    pub addrs: [Prefix; ADDRS],
    /// How many addresses.
    pub addr_count: usize,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its port on the segment.
    pub port: u16,
    /// Which of all joins to the segment made it: tells it from one that came to the same port later.
    pub joined: u64,
    /// MTU of `eth0`.
    pub mtu: u32,
}

impl Facts {
    /// The instance's addresses, without loopback.
    pub fn addrs(&self) -> &[Prefix] {
        &self.addrs[..self.addr_count.min(ADDRS)]
    }
    /// Is this one of our own addresses (loopback nets included)?
    #[inline]
    pub fn is_local(&self, ip: Ip) -> bool {
        ip.is_loopback() || self.addrs().iter().any(|p| p.ip == ip)
    }
}

/// The root of the arena. All-zero is an instance with nothing in it.
#[repr(C)]
#[derive(Shared)]
pub struct Instance {
    /// What this is.
    pub header: Header,
    /// What is fixed.
    pub facts: Once<Facts>,
    /// Who is inside the core.
    pub desks: crate::desk::Desks,
    /// Socket buffers: where they lie.
    pub buffers: Buffers,
    /// Counters.
    pub stats: crate::stats::Stats,
    /// Open descriptions.
    pub socks: Slab<fd::Sock, SOCKS>,
    /// Processes and their descriptor tables.
    pub procs: fd::Procs,
    /// Readiness.
    pub poll: poll::State,
    /// The network replica.
    pub net: net::State,
}

impl Instance {
    /// Bytes of address space an arena takes: the tables and the buffers.
    pub const SPAN: usize = size_of::<Self>().next_multiple_of(2 << 20) + Buffers::span(FLOWS);
    /// Where the buffers start.
    pub const BUFFERS_AT: usize = size_of::<Self>().next_multiple_of(2 << 20);
}

/// One process's view of an instance. Process-local: never in the arena.
#[derive(Clone, Copy)]
pub struct Env {
    /// The instance.
    pub inst: &'static Instance,
    /// The segment its port is on, as mapped in this process.
    pub seg: &'static Segment,
    /// The clock.
    pub clock: Clock,
    /// This process's number in [`Instance::procs`].
    pub proc: u32,
}

impl Env {
    /// The descriptor of the process's socket that rings bells; -1: none.
    pub fn clapper(&self) -> i32 {
        self.inst.procs.table.get(Id::new(self.proc)).map_or(-1, |p| p.clapper.load(Relaxed) as i32 - 1)
    }
}

/// One call of one thread.
pub struct Cx<'a> {
    /// The instance.
    pub inst: &'static Instance,
    /// The segment.
    pub seg: &'static Segment,
    /// The thread.
    pub me: &'a Me,
    /// The process's number.
    pub proc: u32,
    clock: Clock,
    now: Cell<Nanos>,
    /// Sleepers to wake once no lock is held.
    pub wakes: poll::Wakes,
    /// Ports whose bells to ring once no lock is held.
    pub kicks: net::link::tx::Kicks,
    _inside: crate::desk::Inside<'a>,
}

impl<'a> Cx<'a> {
    /// A call by `me` in `env`.
    #[inline]
    pub fn new(env: &Env, me: &'a Me) -> Self {
        let inside = crate::desk::Inside::new(&env.inst.desks, me);
        let heir = inside.heir;
        let cx = Self {
            _inside: inside,
            inst: env.inst,
            seg: env.seg,
            me,
            proc: env.proc,
            clock: env.clock,
            now: Cell::new(0),
            wakes: poll::Wakes::default(),
            kicks: net::link::tx::Kicks::default(),
        };
        if heir {
            crate::repair::go_on(&cx);
        }
        cx
    }
    /// The time, read once per call.
    #[inline]
    pub fn now(&self) -> Nanos {
        let now = self.now.get();
        if now != 0 {
            return now;
        }
        self.fresh_now()
    }
    /// The time, read again (after a wait).
    pub fn fresh_now(&self) -> Nanos {
        let now = (self.clock)().max(1);
        self.now.set(now);
        now
    }
    /// What is fixed of the instance.
    #[inline]
    pub fn facts(&self) -> &'static Facts {
        self.inst.facts.get()
    }
    /// Is this one of our own addresses (loopback nets and the uplink's included)?
    #[inline]
    pub fn is_local(&self, ip: Ip) -> bool {
        self.facts().is_local(ip) || net::link::uplink::owns(self, ip)
    }
    /// The options.
    #[inline]
    pub fn config(&self) -> &'static Config {
        &self.inst.facts.get().config
    }
    /// Does what had to wait until no lock was held: own frames, bells, wake-ups. Ends when nothing is left to do.
    #[inline]
    pub fn flush(&self) {
        debug_assert!(!self.me.holds_any());
        net::settle(self);
    }
}

impl Drop for Cx<'_> {
    #[inline]
    fn drop(&mut self) {
        self.flush();
    }
}
