//! Uplinks: an instance's way out of the host.
//!
//! # Theory of operation
//! **Purpose.** With `--uplink` an instance has a second interface, `eth1`, on a real Ethernet: a TAP device, or passt, which stands for the host's
//! own network and needs no privilege. `eth0` stays the segment: an address in its prefix is a peer, everything else goes out here.
//! **How it works.** The application's threads never touch the uplink's descriptor. A packet that [`super::route::hop`] sends out is written into
//! the ring [`State::out`] like any frame, but without Ethernet addresses; the keeper, who has the descriptor, drains it ([`next_out`]), asks the
//! [`station`] for the neighbour's Ethernet address and writes the frame. What comes in the keeper gives to the station, which keeps ARP, NDP and DHCP
//! to itself, and puts the rest into the ring [`State::inn`], drained with the port's ring and the loopback by whoever holds the receive token.
//! What the station has learnt (addresses, routers, name servers, MTU) lies in a [`Table`] that everybody reads under a sequence count; path
//! MTUs are in [`path`]. Each change of these moves [`State::epoch`], which is the generation of hops that lead out: a flow asks again.
//!
//! *No wake-up is lost*: a sender commits, then (at its settle) looks at the keeper's slot; the keeper arms its slot, then looks at the ring.
//! *A full ring blocks nobody*: a sender that finds no room sets [`State::waits`] and tries again; the keeper, after it has drained below half,
//! takes the word and lets those that wait try again ([`super::tx::room_again`] in its simplest form).
//! **Limits.** One uplink. Its frames are at most 65535 bytes of IP. Multicast goes out on it only if a socket names it (by interface or source
//! address); MLD and IGMP are not sent. No conflict detection for leased IPv4 addresses.
//! **Locks.** The rings' own. **Failure.** An uplink that cannot be had is said in [`State::trouble`]; the first process of the instance then refuses.
//! **See also.** passt(1), RFC 826, RFC 2131, RFC 4861, RFC 4862, RFC 1191, RFC 8201.
use super::impair::{self, Target};
use super::segment::{Addr, RING};
use super::tx::{Hop, Refused};
use crate::arena::{
    Shared,
    ring::{Peek, Ring, Slot},
};
use crate::config::{List, Path, Str, uplink::Kind};
use crate::errno::{Errno, Result};
use crate::gate;
use crate::instance::{ADDRS, Cx, Facts, Prefix};
use crate::net::addr::Ip;
use crate::stats::bump;
use crate::sync::{Lock, rank};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*, fence};

pub mod dhcp;
pub mod ndp;
pub mod neighbour;
pub mod path;
pub mod station;
#[cfg(test)]
mod tests;
pub mod wire;

/// Name servers that are remembered.
pub const DNS: usize = 4;
/// The addresses of an interface.
pub type Prefixes = List<Prefix, { ADDRS + 1 }>;

/// How far the uplink has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// None was asked for.
    Off,
    /// The keeper is at it.
    Asking,
    /// It has the addresses it could get.
    Up,
    /// It cannot be had: [`State::trouble`].
    Failed,
}

/// What is known of the network out there.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Net {
    /// Our addresses; the prefix is what is on the link.
    pub addrs: Prefixes,
    /// Default routers, IPv4 and IPv6; unspecified: none.
    pub routers: [Ip; 2],
    /// Name servers.
    pub dns: List<Ip, DNS>,
    /// The largest IP packet.
    pub mtu: u32,
}

impl Net {
    /// Nothing is known yet of a link of this MTU.
    pub const fn of_mtu(mtu: u32) -> Self {
        Self { addrs: List::empty(Prefix { ip: Ip::ANY6, len: 0 }), routers: [Ip::ANY4, Ip::ANY6], dns: List::empty(Ip::ANY6), mtu }
    }
}

/// [`Net`] as it lies in the arena: one writer (the keeper), any readers.
#[repr(C)]
#[derive(Shared)]
struct Table {
    /// Odd: being written.
    seq: AtomicU32,
    mtu: AtomicU32,
    addrs: [Addr; ADDRS],
    routers: [Addr; 2],
    dns: [Addr; DNS],
}

impl Table {
    fn write(&self, net: &Net) {
        let seq = self.seq.load(Relaxed) | 1;
        self.seq.store(seq, Relaxed);
        fence(Release);
        let put = |to: &[Addr], from: &mut dyn Iterator<Item = Prefix>| {
            for a in to {
                let p = from.next().unwrap_or_default();
                a.set(p.ip, p.len);
            }
        };
        let there = |ip: &Ip| Prefix { ip: *ip, len: u8::from(!ip.is_unspecified()) };
        self.mtu.store(net.mtu, Relaxed);
        put(&self.addrs, &mut net.addrs.iter().copied());
        put(&self.routers, &mut net.routers.iter().map(there));
        put(&self.dns, &mut net.dns.iter().map(there));
        self.seq.store(seq.wrapping_add(1), Release);
    }

    /// Calls `look` until nobody wrote meanwhile. A writer that died inside is succeeded by one that writes it again; till then the last look stands.
    fn read<R>(&self, look: impl Fn(&Self) -> R) -> R {
        for _ in 0..1000 {
            let before = self.seq.load(Acquire);
            let seen = look(self);
            fence(Acquire);
            if before & 1 == 0 && self.seq.load(Relaxed) == before {
                return seen;
            }
            core::hint::spin_loop();
        }
        look(self)
    }

    fn all(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.addrs.iter().filter_map(|a| a.get().map(|(ip, len)| Prefix { ip, len }))
    }

    fn net(&self) -> Net {
        let mut net = Net::of_mtu(self.mtu.load(Relaxed));
        net.addrs.take(self.all());
        for (to, from) in net.routers.iter_mut().zip(&self.routers) {
            *to = from.get().map_or(*to, |(ip, _)| ip);
        }
        net.dns.take(self.dns.iter().filter_map(Addr::get).map(|(ip, _)| ip));
        net
    }
}

/// A sentence for the user.
pub type Sentence = Str<400>;

#[repr(C)]
#[derive(Shared)]
struct Said {
    len: usize,
    text: [u8; 400],
}

/// The uplink's state in the arena.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    /// [`Phase`] as a number.
    phase: AtomicU32,
    /// Grows when the way out changes: generation of hops.
    epoch: AtomicU32,
    /// Somebody waits for room in `out`.
    waits: AtomicU32,
    /// Our Ethernet address, in the low six bytes.
    mac: AtomicU64,
    /// The reader's place in `inn`; the keeper's in `out`.
    pub(super) head: AtomicU64,
    out_head: AtomicU64,
    net: Table,
    paths: path::Cache,
    said: Lock<Said, { rank::LEAF }>,
    /// Where passt is.
    passt: Lock<Said, { rank::LEAF }>,
    /// Packets that go out.
    out: Ring<RING>,
    /// Packets that came in.
    pub(super) inn: Ring<RING>,
}

impl State {
    /// Called once, before the instance has any traffic. `passt`: the program's path, if it was found; `place`: what tells this host and its
    /// directory of segments from others.
    pub fn begin(&self, me: &crate::sync::Me, facts: &Facts, passt: &Path, place: &[u8]) {
        if facts.config.uplink.kind == Kind::None {
            return;
        }
        let mac = if facts.config.mac.is_unset() {
            // The same each time an instance of this name starts here: it gets the same address from DHCP, and no new lease each time.
            let own = [place, facts.config.net.as_bytes(), facts.name.as_bytes()];
            let mut h = 0xcbf2_9ce4_8422_2325u64 ^ u64::from(gate::file::geteuid());
            for b in own.iter().flat_map(|part| part.iter().chain(b"/")) {
                h = (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
            }
            let r = (h ^ h >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            // A local address (the second bit), of one host (not the first).
            [r[0] & 0xfc | 2, r[1], r[2], r[3], r[4], r[5]]
        } else {
            facts.config.mac.0
        };
        self.mac.store(u64::from_be_bytes([0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]), Relaxed);
        self.passt.lock(me).set(passt.as_bytes());
        self.net.write(&Net::of_mtu(1500));
        self.epoch.store(1, Relaxed);
        self.phase.store(1, Release);
    }
    /// Was one asked for?
    #[inline]
    pub fn is_on(&self) -> bool {
        self.phase.load(Relaxed) != 0
    }
    /// How far it has come.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Acquire) {
            0 => Phase::Off,
            1 => Phase::Asking,
            2 => Phase::Up,
            _ => Phase::Failed,
        }
    }
    /// Our Ethernet address.
    pub fn mac(&self) -> [u8; 6] {
        let b = self.mac.load(Relaxed).to_be_bytes();
        [b[2], b[3], b[4], b[5], b[6], b[7]]
    }
    /// Is there a packet that came in?
    #[inline]
    pub(super) fn pending(&self) -> bool {
        self.is_on() && self.inn.pending(self.head.load(Relaxed))
    }
    /// As [`Self::pending`], with packets still being written.
    #[inline]
    pub(super) fn holds(&self) -> bool {
        self.is_on() && self.inn.holds(self.head.load(Relaxed))
    }
    /// Where passt is; empty: not found.
    pub fn passt(&self, me: &crate::sync::Me) -> Sentence {
        self.passt.lock(me).get()
    }
    /// Why there is no uplink.
    pub fn trouble(&self, me: &crate::sync::Me) -> Sentence {
        self.said.lock(me).get()
    }
}

impl Said {
    fn set(&mut self, text: &[u8]) {
        self.len = text.len().min(self.text.len());
        self.text[..self.len].copy_from_slice(&text[..self.len]);
    }
    fn get(&self) -> Sentence {
        Sentence::cut(&self.text[..self.len.min(self.text.len())])
    }
}

fn state<'a>(cx: &Cx<'a>) -> &'static State {
    &cx.inst.net.link.uplink
}

/// Is one of the uplink's addresses this one?
#[inline]
pub fn owns(cx: &Cx<'_>, ip: Ip) -> bool {
    let s = state(cx);
    s.is_on() && s.net.read(|t| t.all().any(|p| p.ip == ip))
}

/// The uplink's addresses.
pub fn addrs(cx: &Cx<'_>) -> Prefixes {
    let s = state(cx);
    if s.is_on() { s.net.read(|t| t.net().addrs) } else { List::empty(Prefix::default()) }
}

/// All that is known of the network out there.
pub fn net(cx: &Cx<'_>) -> Net {
    state(cx).net.read(Table::net)
}

/// Default routers, IPv4 and IPv6; unspecified: none.
pub fn routers(cx: &Cx<'_>) -> [Ip; 2] {
    if state(cx).is_on() { net(cx).routers } else { [Ip::ANY4, Ip::ANY6] }
}

/// The way out to `dst`: it is on the link, or there is a router. ENETUNREACH.
pub fn hop(cx: &Cx<'_>, dst: Ip) -> Result<Hop> {
    let s = state(cx);
    if !s.is_on() {
        return Err(Errno::ENETUNREACH);
    }
    let epoch = s.epoch.load(Acquire);
    let (reachable, mtu) = s.net.read(|t| {
        let router = &t.routers[usize::from(!dst.is_v4())];
        let linkish = dst.is_multicast() || dst == Ip::BROADCAST || t.all().any(|p| dst.matches(p.ip, p.len));
        let family = t.all().any(|p| p.ip.is_v4() == dst.is_v4());
        (family && (linkish || router.get().is_some() && !dst.is_link_local6()), t.mtu.load(Relaxed))
    });
    if !reachable {
        return Err(Errno::ENETUNREACH);
    }
    let mtu = s.paths.get(dst, cx.now()).map_or(mtu, |path| path.min(mtu));
    Ok(Hop { port: Hop::UP, loopback: false, generation: epoch, mtu: mtu.clamp(68, 65535) })
}

/// Does a hop that leads out still lead where it led?
#[inline]
pub fn is_current(cx: &Cx<'_>, hop: &Hop) -> bool {
    hop.generation == state(cx).epoch.load(Acquire)
}

/// A router says that packets to `dst` may be `mtu` long at most. What it says below what each link must carry is not believed
/// (min_pmtu; RFC 8200 5), nor what is no news.
pub fn narrowed(cx: &Cx<'_>, dst: Ip, mtu: u32) {
    let s = state(cx);
    if !s.is_on() {
        return;
    }
    let Ok(hop) = super::route::hop(cx, Ip::ANY6, dst) else { return };
    if !hop.leaves() {
        return;
    }
    let mtu = mtu.max(if dst.is_v4() { path::LEAST4 } else { path::LEAST6 });
    if mtu < hop.mtu {
        s.paths.put(dst, mtu, cx.now());
        s.epoch.fetch_add(1, AcqRel);
    }
}

/// Room for a packet that goes out: `len` bytes with the Ethernet header.
#[inline]
pub(super) fn reserve(cx: &Cx<'_>, hop: &Hop, len: usize) -> core::result::Result<Slot<'static>, Refused> {
    let s = state(cx);
    if !is_current(cx, hop) {
        return Err(Refused::Gone);
    }
    match s.out.reserve(cx.me.tid, len, 0) {
        Some(slot) => Ok(slot),
        None => again(cx, s, len),
    }
}

/// There is no room: asks to be told when there is, and tries once more.
#[cold]
fn again(cx: &Cx<'_>, s: &'static State, len: usize) -> core::result::Result<Slot<'static>, Refused> {
    s.waits.store(1, SeqCst);
    fence(SeqCst);
    cx.kicks.note_out();
    s.out.reserve(cx.me.tid, len, 0).ok_or_else(|| {
        bump(&cx.inst.stats.frames_ring_full);
        Refused::Full
    })
}

/// A frame that the bad link ([`super::impair`]) lets through; a full ring loses it.
pub(super) fn pass(cx: &Cx<'_>, inward: bool, frame: &[u8]) {
    if inward {
        return keeping::put(cx, frame);
    }
    if let Some(mut slot) = state(cx).out.reserve(cx.me.tid, frame.len(), 0) {
        slot.bytes().copy_from_slice(frame);
        slot.commit();
        cx.kicks.note_out();
    }
}

/// Would a packet of this length (IP) find room? If not, the caller is told when there is.
pub fn has_room(cx: &Cx<'_>, len: usize) -> bool {
    let s = state(cx);
    let whole = len + super::rx::ETHERNET;
    s.out.has_room(whole) || {
        s.waits.store(1, SeqCst);
        fence(SeqCst);
        cx.kicks.note_out();
        s.out.has_room(whole)
    }
}

/// The keeper's part: what it does with the arena's side of the uplink. The station and the descriptor are the provider's.
pub mod keeping {
    use super::*;

    /// A keeper begins: where the last one left.
    pub fn begin(cx: &Cx<'_>) {
        let s = state(cx);
        s.out_head.store(s.out.resume(), Relaxed);
    }
    /// Has anything to go out been committed?
    pub fn pending(inst: &crate::instance::Instance) -> bool {
        let s = &inst.net.link.uplink;
        s.is_on() && s.out.pending(s.out_head.load(Relaxed))
    }
    /// Gives the next packet that goes out (from its IP header on) to `send`; false if there is none. `send` says whether it took it.
    pub fn next_out(cx: &Cx<'_>, send: impl FnOnce(&[u8]) -> bool) -> bool {
        let s = state(cx);
        match s.out.peek(&s.out_head) {
            Peek::Empty => false,
            Peek::Bad => true,
            Peek::Busy { tid, span, more } => {
                // Whoever writes it may be dead.
                let dead = more && !gate::thread_exists(tid);
                if dead {
                    s.out.advance(&s.out_head, span);
                }
                dead
            }
            Peek::Frame { frame, span, .. } => {
                let taken = send(frame.get(super::super::rx::ETHERNET..).unwrap_or_default());
                if taken {
                    s.out.advance(&s.out_head, span);
                }
                taken
            }
        }
    }
    /// After a round of [`next_out`]: whoever waited for room tries again, if there is.
    pub fn drained(cx: &Cx<'_>) {
        let s = state(cx);
        if s.out.used() > RING as u64 / 2 {
            return;
        }
        fence(SeqCst);
        if s.waits.load(Relaxed) != 0 && s.waits.swap(0, AcqRel) != 0 {
            crate::net::tcp::room(cx);
        }
    }
    /// Would a frame of `len` bytes that came in find room?
    pub fn has_room(cx: &Cx<'_>, len: usize) -> bool {
        state(cx).inn.has_room(len)
    }
    /// A frame that came in, for the instance. The caller then makes progress itself: nobody is rung for it.
    pub fn deliver(cx: &Cx<'_>, frame: &[u8]) {
        if super::super::extras(cx) & super::super::IMPAIRED == 0 {
            return put(cx, frame);
        }
        let Some(mut slot) = state(cx).inn.reserve(cx.me.tid, frame.len(), 0) else { return };
        slot.bytes().copy_from_slice(frame);
        // The frame in the ring is discarded; a copy goes on, or several, or none.
        impair::pass(cx, Target { port: Hop::UP, lo: true, echo: false, life: 0 }, slot.bytes());
    }
    pub(super) fn put(cx: &Cx<'_>, frame: &[u8]) {
        match state(cx).inn.reserve(cx.me.tid, frame.len(), 0) {
            Some(mut slot) => {
                slot.bytes().copy_from_slice(frame);
                slot.commit();
            }
            None => bump(&cx.inst.stats.frames_ring_full),
        }
    }
    /// What is known of the network has changed.
    pub fn learnt(cx: &Cx<'_>, net: &Net) {
        let s = state(cx);
        if super::net(cx) != *net {
            s.net.write(net);
            s.epoch.fetch_add(1, AcqRel);
        }
    }
    /// It has the addresses it could get.
    pub fn is_up(cx: &Cx<'_>) {
        state(cx).phase.store(2, Release);
    }
    /// It cannot be had.
    pub fn failed(cx: &Cx<'_>, why: &Sentence) {
        state(cx).said.lock(cx.me).set(why.as_bytes());
        state(cx).phase.store(3, Release);
    }
}
