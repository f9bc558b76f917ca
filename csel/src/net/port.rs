//! Ports in use: bind(2)'s rules for TCP, UDP and ping sockets, and the lookup of datagram sockets by port.
//!
//! # Theory of operation
//! **Purpose.** Who may bind what, as Linux decides it (inet_csk_bind_conflict, udp_lib_lport_inuse), and which socket a datagram is for.
//! **How it works.** One [`Table`] for each [`Space`]: an array of 65536 chain heads, so a chain holds the sockets of exactly one port. An
//! [`Entry`] is one reservation. It belongs to a socket, or to nobody but a [`Ticket`]: a TCP connection that outlives its socket (an orphan,
//! TIME-WAIT) keeps its port that way. SO_REUSEADDR, SO_REUSEPORT and IPV6_V6ONLY are read from [`Sock::bits`] when they are asked for,
//! since an application may change them after bind(2); a ticket keeps what the socket had at the end.
//! Ports that connect(2) picks ([`ephemeral`]) are shared by connections whose 4-tuples differ; ports that bind(2) has taken
//! explicitly are never picked, which a count for each port tells without a walk.
//! **Limits.** [`ENTRIES`] reservations a space. All processes of an instance count as one user (SO_REUSEPORT's uid rule is always met);
//! ports below 1024 are for everybody, since the instance is the application's own machine.
//! **Locks.** One of rank TABLE for each space, held for the walk of one chain.
//! **Death.** The entries are what is true, chains, counts, `of` and the free list follow from them ([`Table::rebuild`], for whoever takes the
//! lock over from a dead thread, even only to count). An entry leaves by one way, [`Table::remove`], which does nothing to one that is free.
//! **Failure.** EADDRINUSE, EADDRNOTAVAIL (connect(2) finds no port), ENOBUFS.
//! **See also.** bind(2), socket(7) SO_REUSEPORT, ip(7) ip_local_port_range.
use super::addr::{Endpoint, Ip};
use super::option::bits;
use crate::arena::{Id, Shared};
use crate::errno::{Errno, Result};
use crate::fd::Sock;
use crate::instance::{Cx, Instance, SOCKS};
use crate::sync::{Guard, Lock, Me, rank};
use core::sync::atomic::Ordering::*;

/// First ephemeral port (net.ipv4.ip_local_port_range).
pub const FIRST: u16 = 32768;
/// Last ephemeral port.
pub const LAST: u16 = 60999;
/// Reservations there can be in one space: every socket's and every orphan's.
pub const ENTRIES: usize = 131_072;

/// Which port space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// TCP's.
    Tcp,
    /// UDP's.
    Udp,
    /// Identifiers of ping sockets.
    Ping,
    /// UDP-Lite's.
    Lite,
}

/// How a reservation came about and what it is used for.
const BOUND: u8 = 0;
/// connect(2) picked the port.
const PICKED: u8 = 1;
/// A listener.
const LISTENS: u8 = 2;

#[repr(C)]
#[derive(Clone, Copy, Shared)]
struct Entry {
    ip: Ip,
    remote: Endpoint,
    /// The socket; 0: an orphan's.
    sock: u32,
    next: u32,
    prev: u32,
    /// SO_BINDTODEVICE's interface, 0 for any.
    dev: u32,
    port: u16,
    state: u8,
    /// What [`Sock::bits`] was, for an orphan's.
    bits: u8,
    connected: bool,
    /// A repair has found whose it is.
    held: bool,
}

/// One port space.
#[repr(C)]
#[derive(Shared)]
struct Table {
    heads: [u32; 65536],
    /// Reservations that keep connect(2) from picking the port.
    explicit: [u32; 65536],
    /// Socket number -> entry.
    of: [u32; SOCKS + 1],
    free: u32,
    fresh: u32,
    random: u64,
    entries: [Entry; ENTRIES + 1],
}

/// The tables.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    spaces: [Lock<Table, { rank::TABLE }>; 4],
}

/// A reservation without a socket.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Shared)]
pub struct Ticket(pub(super) u32);

impl Ticket {
    /// No reservation.
    pub const NONE: Self = Self(0);
    /// Its number; 0: none.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// How many reservations there are, of sockets and of connections that have outlived theirs.
pub(crate) fn census(s: &State, me: &Me) -> [u64; 2] {
    let mut n = [0, 0];
    for space in &s.spaces {
        let mut t = space.lock(me);
        if t.inherited() {
            // Whoever comes next is not told that its owner died.
            t.rebuild();
        }
        for e in t.entries[..=t.fresh as usize].iter().filter(|e| e.port != 0) {
            n[usize::from(e.sock == 0)] += 1;
        }
    }
    n
}

#[inline]
fn table<'a>(cx: &'a Cx<'_>, space: Space) -> Guard<'a, Table, { rank::TABLE }> {
    let mut t = cx.inst.net.port.spaces[space as usize].lock(cx.me);
    if t.inherited() {
        t.rebuild();
    }
    t
}

/// After a death inside: tables whose lock was held are made anew.
pub(crate) fn unlock(cx: &Cx<'_>) {
    for space in &cx.inst.net.port.spaces {
        if let Some(mut t) = space.take_over(cx.me).filter(|t| t.inherited()) {
            t.rebuild();
        }
    }
}

/// After a death inside: a socket that is bound has its reservation, whatever became of the table.
pub(crate) fn restore(cx: &Cx<'_>, space: Space, sock: Id<Sock>, at: &Endpoint, listens: bool) {
    let bits = cx.inst.socks.get(sock).map_or(0, |s| s.bits.load(Relaxed));
    let mut t = table(cx, space);
    if at.port == 0 || t.of[sock.0 as usize] != 0 {
        return;
    }
    let state = if listens { LISTENS } else { BOUND };
    let _ = t.insert(Entry {
        ip: at.ip,
        remote: Endpoint::default(),
        sock: sock.0,
        next: 0,
        prev: 0,
        dev: 0,
        port: at.port,
        state,
        bits,
        connected: false,
        held: false,
    });
}

/// After a death inside: lets go of what nobody has any more. The instance is halted.
pub(crate) fn repair(cx: &Cx<'_>) {
    for (n, space) in cx.inst.net.port.spaces.iter().enumerate() {
        let Some(mut t) = space.take_over(cx.me) else { continue };
        if t.inherited() {
            t.rebuild();
        }
        if t.fresh == 0 {
            continue;
        }
        for e in 1..=t.fresh as usize {
            t.entries[e].held = false;
        }
        let mut all_seen = true;
        if n == Space::Tcp as usize {
            let t = &mut *t;
            all_seen = super::tcp::each_ticket(cx, |ticket| {
                if let Some(e) = t.entries.get_mut(ticket as usize) {
                    e.held = true;
                }
            });
        }
        for e in 1..=t.fresh {
            let entry = t.entries[e as usize];
            let kept = match entry.sock {
                _ if entry.port == 0 => true,
                0 => entry.held || !all_seen,
                s => cx.inst.socks.get(Id::new(s)).is_some() && t.of[s as usize] == e,
            };
            if !kept {
                t.remove(e);
            }
        }
    }
}

/// Do two local addresses have a packet in common? (inet_rcv_saddr_equal)
fn overlap(a: Ip, a6: bool, b: Ip, b6: bool) -> bool {
    let covers = |any: Ip, only6: bool, other: Ip| match () {
        () if any == Ip::ANY4 => other.is_v4(),
        () if any == Ip::ANY6 => !(only6 && other.is_v4()),
        () => false,
    };
    a == b || covers(a, a6, b) || covers(b, b6, a)
}

impl Table {
    /// Chains, counts and the free list anew from the entries: whoever had the lock died.
    #[cold]
    fn rebuild(&mut self) {
        self.heads.fill(0);
        self.explicit.fill(0);
        self.of.fill(0);
        self.free = 0;
        self.fresh = self.fresh.min(ENTRIES as u32);
        for n in (1..=self.fresh).rev() {
            let e = self.entries[n as usize];
            // Whole, and the only one of its socket.
            let whole = e.port != 0 && e.sock as usize <= SOCKS && (e.sock == 0 || self.of[e.sock as usize] == 0);
            if whole {
                self.place(n, e);
            } else {
                self.entries[n as usize] = Entry { next: self.free, sock: 0, port: 0, ..e };
                self.free = n;
            }
        }
    }

    fn next_random(&mut self) -> u64 {
        if self.random == 0 {
            self.random = crate::gate::random() | 1;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn alloc(&mut self) -> Result<u32> {
        if self.free != 0 {
            let n = self.free;
            self.free = self.entries[n as usize].next;
            return Ok(n);
        }
        if self.fresh as usize >= ENTRIES {
            return Err(Errno::ENOBUFS);
        }
        self.fresh += 1;
        Ok(self.fresh)
    }

    fn insert(&mut self, e: Entry) -> Result<u32> {
        let n = self.alloc()?;
        self.place(n, e);
        Ok(n)
    }

    /// Puts entry `n` into its chain.
    fn place(&mut self, n: u32, e: Entry) {
        let port = usize::from(e.port);
        let first = self.heads[port];
        self.entries[n as usize] = Entry { next: first, prev: 0, ..e };
        if first != 0 {
            self.entries[first as usize].prev = n;
        }
        self.heads[port] = n;
        if e.state != PICKED {
            self.explicit[port] += 1;
        }
        if e.sock != 0 {
            self.of[e.sock as usize] = n;
        }
    }

    /// Takes entry `n` out and frees it. Whatever way it goes, its socket's number, which another socket may get, leads to it no more; and one
    /// that is free already stays as it is: freed twice it would be given out twice, and the free list would lead into the chains.
    fn remove(&mut self, n: u32) {
        let e = self.entries[n as usize];
        if e.port == 0 {
            return;
        }
        if self.of[e.sock as usize] == n {
            self.of[e.sock as usize] = 0;
        }
        let port = usize::from(e.port);
        if e.prev == 0 {
            self.heads[port] = e.next;
        } else {
            self.entries[e.prev as usize].next = e.next;
        }
        if e.next != 0 {
            self.entries[e.next as usize].prev = e.prev;
        }
        if e.state != PICKED {
            self.explicit[port] = self.explicit[port].saturating_sub(1);
        }
        self.entries[n as usize] = Entry { next: self.free, sock: 0, port: 0, ..e };
        self.free = n;
    }

    fn entry_of(&mut self, sock: Id<Sock>) -> Option<&mut Entry> {
        match self.of[sock.0 as usize] {
            0 => None,
            n => Some(&mut self.entries[n as usize]),
        }
    }

    /// The reservations of a port, the last made first. Bounded, whatever a process that died inside has left.
    fn chain(&self, port: u16) -> impl Iterator<Item = &Entry> {
        let mut at = self.heads[usize::from(port)];
        let mut left = ENTRIES;
        core::iter::from_fn(move || {
            if at == 0 || left == 0 {
                return None;
            }
            left -= 1;
            let e = &self.entries[at as usize];
            at = e.next;
            Some(e)
        })
    }
}

/// A socket's SO_REUSE* and IPV6_V6ONLY as the rules see them.
fn bits_of(inst: &'static Instance, e: &Entry) -> u8 {
    inst.socks.get(Id::new(e.sock)).map_or(e.bits, |s| s.bits.load(Relaxed))
}

/// A socket that wants a port.
struct Asker {
    sock: u32,
    ip: Ip,
    bits: u8,
    dev: u32,
}

/// May `a` not have the port of chain entry `e`? `strict`: for a port we choose ourselves, sharing is no excuse.
fn conflict(inst: &'static Instance, space: Space, a: &Asker, e: &Entry, strict: bool) -> bool {
    if e.sock == a.sock && e.sock != 0 || a.dev != 0 && e.dev != 0 && a.dev != e.dev {
        return false;
    }
    let theirs = bits_of(inst, e);
    if !overlap(a.ip, a.bits & bits::V6ONLY != 0, e.ip, theirs & bits::V6ONLY != 0) {
        return false;
    }
    if strict {
        return true;
    }
    let both = a.bits & theirs;
    let reuse = both & bits::REUSEADDR != 0 && !(space == Space::Tcp && e.state == LISTENS);
    !(reuse || both & bits::REUSEPORT != 0)
}

fn asker(cx: &Cx<'_>, sock: Id<Sock>, ip: Ip) -> Asker {
    let s = cx.inst.socks.get(sock);
    let bits = s.map_or(0, |s| s.bits.load(Relaxed));
    let dev = s.map_or(0, |s| s.options.lock(cx.me).device);
    Asker { sock: sock.0, ip, bits, dev }
}

/// Reserves `at` (port 0: an ephemeral one) for a socket, by Linux's rules for SO_REUSEADDR, SO_REUSEPORT and IPV6_V6ONLY, which it reads from
/// the socket; the port. EADDRINUSE. The address has been checked.
pub fn bind(cx: &Cx<'_>, space: Space, sock: Id<Sock>, at: &Endpoint) -> Result<u16> {
    let a = asker(cx, sock, at.ip);
    let mut t = table(cx, space);
    let fits = |t: &Table, port: u16, strict| !t.chain(port).any(|e| conflict(cx.inst, space, &a, e, strict));
    let port = if at.port != 0 {
        if !fits(&t, at.port, false) {
            return Err(Errno::EADDRINUSE);
        }
        at.port
    } else {
        let span = u32::from(LAST - FIRST) + 1;
        let start = (t.next_random() % u64::from(span)) as u32;
        (0..span).map(|i| FIRST + ((start + i) % span) as u16).find(|p| fits(&t, *p, true)).ok_or(Errno::EADDRINUSE)?
    };
    drop_entry(&mut t, sock);
    t.insert(Entry {
        ip: at.ip,
        remote: Endpoint::default(),
        sock: sock.0,
        next: 0,
        prev: 0,
        dev: a.dev,
        port,
        state: BOUND,
        bits: a.bits,
        connected: false,
        held: false,
    })?;
    Ok(port)
}

/// Picks an ephemeral port for a connection from `local` to `remote` such that the 4-tuple is free (`taken` says); several connections may share it.
/// `taken` is called without a lock of ours; two threads may be told the same port, so the connection table has the last word (then ask again).
pub fn ephemeral(
    cx: &Cx<'_>,
    space: Space,
    sock: Id<Sock>,
    local: &Endpoint,
    remote: &Endpoint,
    taken: &dyn Fn(u16) -> bool,
) -> Result<u16> {
    let a = asker(cx, sock, local.ip);
    let span = u32::from(LAST - FIRST) + 1;
    let start = (table(cx, space).next_random() % u64::from(span)) as u32;
    for i in 0..span {
        let port = FIRST + ((start + i) % span) as u16;
        // A port of bind(2)'s is never shared; one that only connect(2) uses is, if the tuple is free.
        let explicit = table(cx, space).explicit[usize::from(port)] != 0;
        if explicit || taken(port) {
            continue;
        }
        let mut t = table(cx, space);
        if t.explicit[usize::from(port)] != 0 {
            continue;
        }
        drop_entry(&mut t, sock);
        t.insert(Entry {
            ip: local.ip,
            remote: *remote,
            sock: sock.0,
            next: 0,
            prev: 0,
            dev: a.dev,
            port,
            state: PICKED,
            bits: a.bits,
            connected: true,
            held: false,
        })?;
        return Ok(port);
    }
    Err(Errno::EADDRNOTAVAIL)
}

fn drop_entry(t: &mut Table, sock: Id<Sock>) {
    let n = t.of[sock.0 as usize];
    if n != 0 {
        t.remove(n);
    }
}

/// Lets a socket's reservation go, if it has one.
pub fn release(cx: &Cx<'_>, space: Space, sock: Id<Sock>) {
    drop_entry(&mut table(cx, space), sock);
}

/// TCP: may `sock`, bound already, listen now? EADDRINUSE if another listens on it without SO_REUSEPORT on both. From then on it counts as
/// a listener, until [`unlisten`] or [`release`].
pub fn may_listen(cx: &Cx<'_>, sock: Id<Sock>) -> Result<()> {
    let mut t = table(cx, Space::Tcp);
    let Some(e) = t.entry_of(sock).copied() else { return Ok(()) };
    let a = Asker { sock: sock.0, ip: e.ip, bits: bits_of(cx.inst, &e), dev: e.dev };
    if t.chain(e.port).any(|other| conflict(cx.inst, Space::Tcp, &a, other, false)) {
        return Err(Errno::EADDRINUSE);
    }
    if let Some(e) = t.entry_of(sock) {
        e.state = LISTENS;
    }
    Ok(())
}

/// TCP: does this socket listen?
pub fn is_listening(cx: &Cx<'_>, sock: Id<Sock>) -> bool {
    table(cx, Space::Tcp).entry_of(sock).is_some_and(|e| e.state == LISTENS)
}

/// TCP: the socket listens no more (shutdown(2)) but keeps its port.
pub fn unlisten(cx: &Cx<'_>, sock: Id<Sock>) {
    if let Some(e) = table(cx, Space::Tcp).entry_of(sock).filter(|e| e.state == LISTENS) {
        e.state = BOUND;
    }
}

/// TCP: an accepted connection `child` holds its listener's port too, so that it stays taken when the listener goes.
pub fn share(cx: &Cx<'_>, child: Id<Sock>, local: &Endpoint, remote: &Endpoint) -> Result<()> {
    let bits = cx.inst.socks.get(child).map_or(0, |s| s.bits.load(Relaxed));
    let mut t = table(cx, Space::Tcp);
    drop_entry(&mut t, child);
    t.insert(Entry {
        ip: local.ip,
        remote: *remote,
        sock: child.0,
        next: 0,
        prev: 0,
        dev: 0,
        port: local.port,
        state: BOUND,
        bits,
        connected: true,
        held: false,
    })?;
    Ok(())
}

/// The socket ends but its connection does not: its reservation lives on until [`redeem`]. [`Ticket::NONE`] if it had none.
pub fn orphan(cx: &Cx<'_>, space: Space, sock: Id<Sock>) -> Ticket {
    let bits = cx.inst.socks.get(sock).map_or(0, |s| s.bits.load(Relaxed));
    let mut t = table(cx, space);
    let n = core::mem::take(&mut t.of[sock.0 as usize]);
    if n != 0 {
        let e = &mut t.entries[n as usize];
        e.sock = 0;
        e.bits = bits;
    }
    Ticket(n)
}

/// Gives an orphan's reservation up. Each ticket once.
pub fn redeem(cx: &Cx<'_>, space: Space, ticket: Ticket) {
    if ticket != Ticket::NONE && ticket.0 as usize <= ENTRIES {
        let mut t = table(cx, space);
        if t.entries[ticket.0 as usize].sock == 0 {
            t.remove(ticket.0);
        }
    }
}

/// Datagram sockets: the local address has been chosen, or the remote one was set or dissolved (connect(2)).
pub fn associate(cx: &Cx<'_>, space: Space, sock: Id<Sock>, local: Ip, remote: Option<&Endpoint>) {
    if let Some(e) = table(cx, space).entry_of(sock) {
        e.ip = local;
        e.connected = remote.is_some();
        e.remote = remote.copied().unwrap_or_default();
    }
}

/// SO_BINDTODEVICE after bind(2).
pub fn set_device(cx: &Cx<'_>, space: Space, sock: Id<Sock>, dev: u32) {
    if let Some(e) = table(cx, space).entry_of(sock) {
        e.dev = dev;
    }
}

/// Is a packet for `dst` from `src` (ports in host order) one for this reservation? Its score (compute_score), the higher the better.
fn score(inst: &'static Instance, e: &Entry, dst: &Endpoint, src: &Endpoint, dev: u32) -> Option<u32> {
    if e.sock == 0 || e.dev != 0 && e.dev != dev {
        return None;
    }
    let mut score = u32::from(e.dev != 0) << 2;
    if e.ip == dst.ip {
        score |= 1 << 4;
    } else if e.ip == Ip::ANY4 {
        if !dst.ip.is_v4() {
            return None;
        }
        score |= 2;
    } else if e.ip == Ip::ANY6 {
        if dst.ip.is_v4() && bits_of(inst, e) & bits::V6ONLY != 0 {
            return None;
        }
        score |= 1;
    } else {
        return None;
    }
    if e.connected {
        // Connected to port 0 means that any port will do (connect(2) allows it for datagrams).
        if e.remote.ip != src.ip || e.remote.port != 0 && e.remote.port != src.port {
            return None;
        }
        score |= 1 << 3;
    }
    Some(score)
}

/// The socket a unicast datagram is for: the most specific; of equals with SO_REUSEPORT one by the tuple's hash, else the last bound.
#[inline]
pub fn find(cx: &Cx<'_>, space: Space, dst: &Endpoint, src: &Endpoint, dev: u32) -> Option<Id<Sock>> {
    let t = table(cx, space);
    let first = t.heads[usize::from(dst.port)];
    if first == 0 {
        return None;
    }
    let only = &t.entries[first as usize];
    if only.next == 0 {
        return score(cx.inst, only, dst, src, dev).map(|_| Id::new(only.sock));
    }
    let (mut best, mut best_score, mut group) = (None, 0, 0u32);
    for e in t.chain(dst.port) {
        let Some(n) = score(cx.inst, e, dst, src, dev) else { continue };
        let reuseport = bits_of(cx.inst, e) & bits::REUSEPORT != 0;
        if best.is_none() || n > best_score {
            (best, best_score, group) = (Some(e.sock), n, u32::from(reuseport));
        } else if n == best_score && reuseport && group > 0 {
            group += 1;
        }
    }
    if group > 1 {
        let mut pick = hash(dst, src) % group;
        for e in t.chain(dst.port) {
            if score(cx.inst, e, dst, src, dev) == Some(best_score) && bits_of(cx.inst, e) & bits::REUSEPORT != 0 {
                if pick == 0 {
                    return Some(Id::new(e.sock));
                }
                pick -= 1;
            }
        }
    }
    best.map(Id::new)
}

fn hash(a: &Endpoint, b: &Endpoint) -> u32 {
    let mut h = 0x811c_9dc5u32 ^ u32::from(a.port) << 16 ^ u32::from(b.port);
    for byte in a.ip.0.iter().chain(&b.ip.0) {
        h = (h ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    // The last byte's product leaves the low bits weak.
    h ^ h >> 15
}

/// All sockets a multicast or broadcast datagram may be for, `skip` already seen; how many were written to `into`.
pub fn find_all(cx: &Cx<'_>, space: Space, dst: &Endpoint, src: &Endpoint, dev: u32, skip: usize, into: &mut [Id<Sock>]) -> usize {
    let t = table(cx, space);
    let mut n = 0;
    for e in t.chain(dst.port).filter(|e| score(cx.inst, e, dst, src, dev).is_some()).skip(skip) {
        if n == into.len() {
            break;
        }
        into[n] = Id::new(e.sock);
        n += 1;
    }
    n
}

#[cfg(test)]
mod tests;
