//! The station: a host on an Ethernet, as far as the link goes.
//!
//! # Theory of operation
//! **Purpose.** Everything between an IP packet of the instance and a frame on a real wire: whose Ethernet address, and what the wire itself wants
//! answered (ARP, neighbour discovery) or tells us (DHCP, router advertisements).
//! **How it works.** Pure: no descriptor, no clock, no arena. [`Station::outbound`] takes a packet, [`Station::inbound`] a frame and says whether it is for
//! the instance, [`Station::tick`] does what is due; frames leave by a [`Wire`]. What is known of the network is [`Station::net`], put together anew when
//! [`dhcp`], [`ndp`] or the options have something to say. The keeper drives it.
//! *Checksums.* Inside the host a checksum of zero stands for none. From a wire it does not: a frame whose zero is wrong is dropped here, so that what
//! reaches the instance is either right or has a checksum that says otherwise.
//! **Limits.** One Ethernet, no VLANs. An address given by `ip=` is not probed. **Locks.** None.
//! **Failure.** A neighbour that does not answer is reported to the instance by an ICMP error of its own making, as Linux's own host-unreachable is.
//! **See also.** RFC 826, RFC 4861, RFC 5227 and RFC 9131 (announcements).
use super::ndp::{self, link_address};
use super::neighbour::{Found, Neighbours};
use super::wire::{self, ALL_NODES, ALL_ROUTERS, ETHERNET, EVERYBODY, Frame, LINK_LOCAL, Mac, Wire, eui64, solicited};
use super::{Net, dhcp};
use crate::clock::{MS, NEVER, Nanos};
use crate::config::{Name, Uplink};
use crate::instance::Prefix;
use crate::net::addr::Ip;
use crate::net::dgram::{input, output};
use crate::net::iface::broadcast_of;
use crate::net::link::join::of;
use crate::net::{Packet, Via};
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Ipv4Address};

const ICMP6: u8 = libc::IPPROTO_ICMPV6 as u8;
/// After the first address has come, so long the other family is waited for. A router answers within half a second (RFC 4861 10); a DHCP server may
/// first look for three whether somebody has the address (dnsmasq does).
const GRACE6: Nanos = 600 * MS;
const GRACE4: Nanos = 3500 * MS;

/// The station.
pub struct Station {
    mac: Mac,
    mtu: u32,
    fixed: Uplink,
    /// What is known.
    pub net: Net,
    neighbours: Neighbours,
    dhcp: Option<dhcp::Client>,
    ndp: ndp::Client,
    /// When the first address beyond the link came; 0: not yet.
    first_at: Nanos,
    /// Due now: an address has come that must be announced.
    announce: bool,
}

impl Station {
    /// A station at the Ethernet address `mac` on a link of `mtu`, that begins at `now`.
    pub fn new(mac: Mac, mtu: u32, fixed: &Uplink, name: Name, seed: u32, now: Nanos) -> Self {
        let v4 = fixed.ip.iter().any(|c| c.addr.is_ipv4());
        let mut s = Self {
            mac,
            mtu,
            fixed: *fixed,
            net: Net::of_mtu(mtu),
            neighbours: Neighbours::new(),
            dhcp: (!v4).then(|| dhcp::Client::new(mac, name, seed, now)),
            ndp: ndp::Client::new(mac, now),
            first_at: 0,
            announce: false,
        };
        s.ndp.own(eui64(LINK_LOCAL, mac), 64, now);
        s.gather(now);
        s
    }

    /// Puts together what is known. Addresses: IPv4, IPv6, link-local.
    fn gather(&mut self, now: Nanos) {
        let f = &self.fixed;
        let mut net = Net::of_mtu(if f.mtu != 0 { f.mtu } else { self.mtu });
        let lease = self.dhcp.as_ref().and_then(dhcp::Client::lease);
        net.addrs.take(f.ip.iter().map(|c| Prefix { ip: of(c.addr), len: c.len }));
        if let Some(l) = lease {
            let _ = net.addrs.push(l.prefix);
            net.routers[0] = l.router;
            net.dns.take(l.dns.iter().copied());
        }
        net.addrs.take(self.ndp.addrs());
        net.routers[1] = self.ndp.router();
        net.dns.take(self.ndp.dns());
        for ip in f.gateways.iter().map(|g| of(*g)) {
            net.routers[usize::from(!ip.is_v4())] = ip;
        }
        if f.mtu == 0 {
            let said = [lease.map_or(0, |l| l.mtu), self.ndp.mtu()];
            net.mtu = said.into_iter().filter(|m| *m != 0).fold(self.mtu, u32::min);
        }
        if self.first_at == 0 && net.addrs.iter().any(|p| !p.ip.is_link_local6()) {
            self.first_at = now.max(1);
        }
        self.announce |= net.addrs.iter().any(|p| !self.is_ours(p.ip));
        self.net = net;
    }

    /// Has it the addresses it can get, or has it waited long enough for the second family?
    pub fn is_settled(&self, now: Nanos) -> bool {
        let has = |v4: bool| self.net.addrs.iter().any(|p| p.ip.is_v4() == v4 && !p.ip.is_link_local6());
        let grace = if has(true) { GRACE6 } else { GRACE4 };
        self.first_at != 0 && (has(true) && has(false) || now >= self.first_at + grace)
    }

    fn is_ours(&self, ip: Ip) -> bool {
        self.net.addrs.iter().any(|p| p.ip == ip)
    }

    /// Our address to speak from on the link of `to`.
    fn source(&self, to: Ip) -> Ip {
        let family = || self.net.addrs.iter().filter(|p| p.ip.is_v4() == to.is_v4());
        let on = family().find(|p| to.matches(p.ip, p.len)).or_else(|| family().next());
        on.map_or_else(|| if to.is_v4() { Ip::ANY4 } else { eui64(LINK_LOCAL, self.mac) }, |p| p.ip)
    }

    /// The Ethernet address of a packet to `dst` that is for everybody or a group; else the neighbour it goes by (none: no way).
    fn next_hop(&self, dst: Ip) -> (Option<Mac>, Option<Ip>) {
        if let Some(mac) = wire::group(dst) {
            return (Some(mac), None);
        }
        match self.net.addrs.iter().find(|p| dst.matches(p.ip, p.len)) {
            Some(p) if broadcast_of(p) == Some(dst) => (Some(EVERYBODY), None),
            Some(_) => (None, Some(dst)),
            None => (None, Some(self.net.routers[usize::from(!dst.is_v4())]).filter(|r| !r.is_unspecified())),
        }
    }

    /// A packet of the instance's.
    #[inline]
    pub fn outbound(&mut self, now: Nanos, ip: &[u8], wire: &mut impl Wire) {
        let (dst, kind) = match ip.first().map(|b| b >> 4) {
            Some(4) if ip.len() >= 20 => (Ip::v4([ip[16], ip[17], ip[18], ip[19]]), wire::IPV4),
            Some(6) if ip.len() >= 40 => {
                let mut a = [0; 16];
                a.copy_from_slice(&ip[24..40]);
                (Ip(a), wire::IPV6)
            }
            _ => return,
        };
        let via = match self.next_hop(dst) {
            (Some(mac), _) => return wire.send(&wire::header(mac, self.mac, kind), ip),
            (None, Some(via)) => via,
            (None, None) => return self.unreachable(ip, wire),
        };
        match self.neighbours.find(via, now) {
            Found::Known(mac) => wire.send(&wire::header(mac, self.mac, kind), ip),
            Found::Stale(mac) => {
                wire.send(&wire::header(mac, self.mac, kind), ip);
                self.ask(via, Some(mac), wire);
            }
            found @ (Found::Ask | Found::Wait) => {
                self.neighbours.hold(via, ip);
                if found == Found::Ask {
                    self.ask(via, None, wire);
                }
            }
        }
    }

    /// Asks for a neighbour's Ethernet address: everybody, or itself if it had one.
    fn ask(&self, ip: Ip, mac: Option<Mac>, wire: &mut impl Wire) {
        if ip.is_v4() {
            arp(ArpOperation::Request, (self.mac, self.source(ip)), ([0; 6], ip), mac.unwrap_or(EVERYBODY), wire);
        } else {
            let group = solicited(ip);
            let (dst, to) = match mac {
                Some(mac) => (ip, mac),
                None => (group, wire::group(group).unwrap_or(EVERYBODY)),
            };
            self.icmp6(self.source(ip), dst, to, &solicit(ip, Some(self.mac)), wire);
        }
    }

    /// An ICMPv6 message of the link: hop limit 255.
    fn icmp6(&self, src: Ip, dst: Ip, to: Mac, message: &Message, wire: &mut impl Wire) {
        let m = message.get();
        let f = Frame::ip(src, dst, ICMP6, 255, output::Sum::Pseudo(2), m.len(), |b| b.copy_from_slice(m));
        wire.send(&wire::header(to, self.mac, wire::IPV6), f.get());
    }

    /// Tells the instance that its packet cannot be sent: icmp(7)'s host unreachable, icmpv6's address unreachable.
    fn unreachable(&self, ip: &[u8], wire: &mut impl Wire) {
        complain(ip, wire);
    }

    /// A frame from the wire. True: it is for the instance.
    #[inline]
    pub fn inbound(&mut self, now: Nanos, frame: &[u8], wire: &mut impl Wire) -> bool {
        let Some((header, rest)) = frame.split_first_chunk::<ETHERNET>() else { return false };
        if header[..6] != self.mac && header[0] & 1 == 0 || header[6..12] == self.mac {
            return false;
        }
        match u16::from_be_bytes([header[12], header[13]]) {
            wire::IPV4 => self.ipv4(now, rest),
            wire::IPV6 => self.ipv6(now, rest, wire),
            wire::ARP => {
                self.arp(now, rest, wire);
                false
            }
            _ => false,
        }
    }

    fn ipv4(&mut self, now: Nanos, ip: &[u8]) -> bool {
        let head = usize::from(ip.first().copied().unwrap_or(0) & 15) * 4;
        // Inside the host a header without a checksum is taken; from a wire it is not.
        if ip.len() < 20 || head < 20 || head > ip.len() || output::fold(output::sum(0, &ip[..head])) != 0 {
            return false;
        }
        let Some(p) = input::parse(ip, Via::Uplink).filter(summed) else { return false };
        let u = p.payload;
        if let Some(dhcp) = self.dhcp.as_mut()
            && p.proto == libc::IPPROTO_UDP as u8
            && u.len() > 8
            && u[2..4] == dhcp::CLIENT.to_be_bytes()
            && u[..2] == dhcp::SERVER.to_be_bytes()
        {
            let len = usize::from(u16::from_be_bytes([u[4], u[5]]));
            let whole = u[6..8] == [0, 0] || output::fold(output::sum(output::pseudo(p.src, p.dst, p.proto, u.len()), u)) == 0;
            if whole && (9..=u.len()).contains(&len) && dhcp.input(&u[8..len], now) {
                self.gather(now);
            }
            return false;
        }
        true
    }

    fn ipv6(&mut self, now: Nanos, ip: &[u8], wire: &mut impl Wire) -> bool {
        let Some(p) = input::parse(ip, Via::Uplink).filter(summed) else { return false };
        let m = p.payload;
        if p.proto != ICMP6 || m.len() < 8 || !(133..=137).contains(&m[0]) {
            return true;
        }
        // RFC 4861: what came over a router is no neighbour's.
        let sound = p.ttl == 255 && m[1] == 0 && output::fold(output::sum(output::pseudo(p.src, p.dst, ICMP6, m.len()), m)) == 0;
        if sound {
            self.discovery(now, &p, wire);
        }
        false
    }

    fn discovery(&mut self, now: Nanos, p: &Packet<'_>, wire: &mut impl Wire) {
        let m = p.payload;
        let target = |m: &[u8]| {
            let mut a = [0; 16];
            a.copy_from_slice(&m[8..24]);
            Ip(a)
        };
        match m[0] {
            135 if m.len() >= 24 => {
                let target = target(m);
                if p.src == Ip::ANY6 {
                    if self.ndp.objected(target, now) {
                        self.gather(now);
                    }
                } else if let Some(mac) = link_address(&m[24..], 1) {
                    self.learn(p.src, mac, true, now, wire);
                }
                if self.is_ours(target) {
                    let (dst, asked) = if p.src == Ip::ANY6 { (ALL_NODES, false) } else { (p.src, true) };
                    let answer = advert(target, self.mac, asked);
                    match wire::group(dst) {
                        Some(to) => self.icmp6(target, dst, to, &answer, wire),
                        None => self.send_icmp6(now, target, dst, &answer, wire),
                    }
                }
            }
            136 if m.len() >= 24 => {
                let target = target(m);
                if self.ndp.objected(target, now) {
                    self.gather(now);
                } else if let Some(mac) = link_address(&m[24..], 2) {
                    self.learn(target, mac, false, now, wire);
                }
            }
            134 if m.len() >= 16 => {
                if let Some(mac) = link_address(&m[16..], 1) {
                    self.learn(p.src, mac, true, now, wire);
                }
                if self.ndp.advert(p.src, m, now) {
                    self.gather(now);
                }
            }
            _ => {}
        }
    }

    /// An ICMPv6 message to a neighbour whose address may have to be asked for.
    fn send_icmp6(&mut self, now: Nanos, src: Ip, dst: Ip, message: &Message, wire: &mut impl Wire) {
        let m = message.get();
        let f = Frame::ip(src, dst, ICMP6, 255, output::Sum::Pseudo(2), m.len(), |b| b.copy_from_slice(m));
        self.outbound(now, f.get(), wire);
    }

    /// A neighbour has said where it is: what waited for it goes.
    fn learn(&mut self, ip: Ip, mac: Mac, new: bool, now: Nanos, wire: &mut impl Wire) {
        if self.neighbours.learn(ip, mac, new, now) {
            let kind = if ip.is_v4() { wire::IPV4 } else { wire::IPV6 };
            let header = wire::header(mac, self.mac, kind);
            self.neighbours.flush(ip, |packet| wire.send(&header, packet));
        }
    }

    fn arp(&mut self, now: Nanos, packet: &[u8], wire: &mut impl Wire) {
        let repr = ArpPacket::new_checked(packet).and_then(|p| ArpRepr::parse(&p));
        let Ok(ArpRepr::EthernetIpv4 {
            operation, source_hardware_addr: mac, source_protocol_addr: from, target_protocol_addr: to, ..
        }) = repr
        else {
            return;
        };
        let (mac, from, to) = (mac.0, Ip::v4(from.octets()), Ip::v4(to.octets()));
        let asked = operation == ArpOperation::Request && self.is_ours(to) && !to.is_unspecified();
        self.learn(from, mac, asked && self.net.addrs.iter().any(|p| from.matches(p.ip, p.len)), now, wire);
        if asked && from != to {
            arp(ArpOperation::Reply, (self.mac, to), (mac, from), mac, wire);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Nanos, wire: &mut impl Wire) {
        let mut changed = self.dhcp.as_ref().is_some_and(|d| d.is_over(now));
        // Each of these is asked until it has nothing more to do, and no more often than makes sense.
        for _ in 0..8 {
            let Some(act) = self.dhcp.as_mut().and_then(|d| d.tick(now)) else { break };
            self.send_dhcp(now, &act, wire);
        }
        for _ in 0..8 {
            let (act, ran_out) = self.ndp.tick(now);
            changed |= ran_out;
            match act {
                None => break,
                Some(ndp::Act::Solicit) => {
                    let to = wire::group(ALL_ROUTERS).unwrap_or(EVERYBODY);
                    let mut m = Message::new(133, 8);
                    m.option(1, self.mac);
                    self.icmp6(eui64(LINK_LOCAL, self.mac), ALL_ROUTERS, to, &m, wire);
                }
                Some(ndp::Act::Probe(ip)) => {
                    let group = solicited(ip);
                    self.icmp6(Ip::ANY6, group, wire::group(group).unwrap_or(EVERYBODY), &solicit(ip, None), wire);
                }
            }
        }
        if changed {
            self.gather(now);
        }
        if core::mem::take(&mut self.announce) {
            // RFC 5227 3: whoever remembers another of this address hears of us. RFC 9131: routers know us before somebody asks for us
            // (passt learns so which address to send to).
            for ip in self.net.addrs.iter().map(|p| p.ip) {
                if ip.is_v4() {
                    arp(ArpOperation::Request, (self.mac, ip), ([0; 6], ip), EVERYBODY, wire);
                } else if !ip.is_link_local6() {
                    let mut m = advert(ip, self.mac, false);
                    m.bytes[4] = 0;
                    self.icmp6(ip, ALL_ROUTERS, wire::group(ALL_ROUTERS).unwrap_or(EVERYBODY), &m, wire);
                }
            }
        }
        if self.neighbours.next() <= now {
            let mut asked = [(Ip::ANY6, None); 16];
            let mut n = 0;
            let ask = |ip, mac| {
                if n < asked.len() {
                    asked[n] = (ip, mac);
                    n += 1;
                }
            };
            self.neighbours.tick(now, ask, |packet| complain(packet, wire));
            for &(ip, mac) in &asked[..n] {
                self.ask(ip, mac, wire);
            }
        }
    }

    fn send_dhcp(&mut self, now: Nanos, act: &dhcp::Act, wire: &mut impl Wire) {
        let Some(client) = &self.dhcp else { return };
        let mut message = [0; 576];
        let n = client.write(act, &mut message);
        if n == 0 {
            return;
        }
        let f = Frame::udp((act.src, dhcp::CLIENT), (act.dst, dhcp::SERVER), n, |b| b.copy_from_slice(&message[..n]));
        if act.dst == Ip::BROADCAST {
            wire.send(&wire::header(EVERYBODY, self.mac, wire::IPV4), f.get());
        } else {
            self.outbound(now, f.get(), wire);
        }
    }

    /// When [`Self::tick`] is due.
    pub fn next(&self) -> Nanos {
        let dhcp = self.dhcp.as_ref().map_or(NEVER, dhcp::Client::next);
        if self.announce { 0 } else { dhcp.min(self.ndp.next()).min(self.neighbours.next()) }
    }
}

/// From a wire: is a checksum of zero one that its protocol allows (UDP over IPv4), or right?
fn summed(p: &Packet<'_>) -> bool {
    let at = match i32::from(p.proto) {
        libc::IPPROTO_TCP => 16,
        libc::IPPROTO_UDP if p.src.is_v4() => return true,
        libc::IPPROTO_UDP => 6,
        _ => return true,
    };
    // A fragment has its checksum with the first of them; what is put together is checked by who takes it.
    let fragment = p.src.is_v4() && (p.ip[6] & 0x3f != 0 || p.ip[7] != 0);
    fragment
        || p.payload.get(at..at + 2) != Some(&[0, 0])
        || output::fold(output::sum(output::pseudo(p.src, p.dst, p.proto, p.payload.len()), p.payload)) == 0
}

/// An ICMP error to the sender of a packet that cannot be sent: it is the instance itself.
fn complain(ip: &[u8], wire: &mut impl Wire) {
    let Some(p) = input::parse(ip, Via::Uplink) else { return };
    let v4 = p.src.is_v4();
    let error =
        if v4 { p.proto == 1 && !matches!(p.payload.first(), Some(0 | 8)) } else { p.proto == ICMP6 && p.payload.first() < Some(&128) };
    if error || p.src.is_unspecified() {
        return;
    }
    let quote = &p.ip[..p.ip.len().min(540)];
    let (proto, how, kind) = if v4 { (1, output::Sum::Plain(2), [3, 1]) } else { (ICMP6, output::Sum::Pseudo(2), [1, 3]) };
    let f = Frame::ip(p.src, p.src, proto, 64, how, 8 + quote.len(), |b| {
        b[..2].copy_from_slice(&kind);
        b[8..].copy_from_slice(quote);
    });
    wire.deliver(f.get());
}

/// Sends an ARP message: who says it, to whom.
fn arp(operation: ArpOperation, from: (Mac, Ip), to: (Mac, Ip), mac: Mac, wire: &mut impl Wire) {
    let v4 = |ip: Ip| Ipv4Address::from(ip.as_v4().unwrap_or([0; 4]));
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(from.0),
        source_protocol_addr: v4(from.1),
        target_hardware_addr: EthernetAddress(to.0),
        target_protocol_addr: v4(to.1),
    };
    let mut f = Frame::zeros(repr.buffer_len());
    repr.emit(&mut ArpPacket::new_unchecked(f.get_mut()));
    wire.send(&wire::header(mac, from.0, wire::ARP), f.get());
}

/// A message of neighbour discovery: at most its fixed part, a target and one option.
struct Message {
    bytes: [u8; 32],
    len: usize,
}

impl Message {
    fn new(kind: u8, len: usize) -> Self {
        let mut bytes = [0; 32];
        bytes[0] = kind;
        Self { bytes, len }
    }
    fn target(mut self, ip: Ip) -> Self {
        self.bytes[8..24].copy_from_slice(&ip.0);
        self
    }
    fn option(&mut self, kind: u8, mac: Mac) {
        let at = self.len;
        self.bytes[at] = kind;
        self.bytes[at + 1] = 1;
        self.bytes[at + 2..at + 8].copy_from_slice(&mac);
        self.len += 8;
    }
    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A neighbour solicitation.
fn solicit(ip: Ip, mac: Option<Mac>) -> Message {
    let mut m = Message::new(135, 24).target(ip);
    if let Some(mac) = mac {
        m.option(1, mac);
    }
    m
}

/// A neighbour advertisement: override, and solicited if it was asked for.
fn advert(ip: Ip, mac: Mac, asked: bool) -> Message {
    let mut m = Message::new(136, 24).target(ip);
    m.bytes[4] = if asked { 0x60 } else { 0x20 };
    m.option(2, mac);
    m
}
