//! DHCP: an IPv4 address from whoever gives them out on the link.
//!
//! # Theory of operation
//! **Purpose.** The client of RFC 2131: discover, request, renew, rebind, expire.
//! **How it works.** A state machine without a clock of its own: [`Client::tick`] does what is due and says when to come again, [`Client::input`] takes an
//! answer. Both say with an [`Act`] what to send; the station puts it into a datagram. Formats are `smoltcp::wire`'s.
//! Retransmission begins at one second and doubles to 16 (RFC 2131 4.1 has 4 to 64: an application is waiting).
//! **Limits.** The first offer is taken. No INFORM, no DECLINE: the address is not probed before it is used (a server does that).
//! **Locks.** None. **Failure.** Answers to other questions, for other clients or without sense are ignored. A lease that runs out is given up.
//! **See also.** RFC 2131, RFC 2132; option 26 (interface MTU).
use super::DNS;
use super::wire::Mac;
use crate::clock::{MS, NEVER, Nanos, SEC};
use crate::config::{List, Name};
use crate::instance::Prefix;
use crate::net::addr::Ip;
use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, Ipv4Address};

/// The client's port.
pub const CLIENT: u16 = 68;
/// The server's port.
pub const SERVER: u16 = 67;

/// First retransmission, and the longest time between two.
const FIRST: Nanos = SEC;
const LONGEST: Nanos = 16 * SEC;
/// Requests without an answer before it begins anew.
const REQUESTS: u8 = 4;
/// A lease without a sensible time counts as one of an hour.
const HOUR: u32 = 3600;

/// What a server gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lease {
    /// The address, with the length of its network.
    pub prefix: Prefix,
    /// The default router; unspecified: none.
    pub router: Ip,
    /// Name servers.
    pub dns: List<Ip, DNS>,
    /// The MTU, 0 if it does not say.
    pub mtu: u32,
    server: Ip,
    bound_at: Nanos,
    renew_at: Nanos,
    rebind_at: Nanos,
    ends_at: Nanos,
}

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Act {
    kind: DhcpMessageType,
    /// Ours; unspecified before there is a lease.
    pub src: Ip,
    /// The server, or everybody.
    pub dst: Ip,
    secs: u16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Looking for a server.
    Selecting,
    /// A server has offered this.
    Requesting(Lease),
    Bound(Lease),
    /// Asking its server, then any server, to prolong it.
    Renewing(Lease),
    Rebinding(Lease),
}

/// The client.
pub struct Client {
    mac: Mac,
    name: Name,
    xid: u32,
    state: State,
    began_at: Nanos,
    /// When something is due, and how long to wait after that.
    due: Nanos,
    wait: Nanos,
    sent: u8,
}

impl Client {
    /// A client that begins at `now`; `seed` makes its transactions.
    pub fn new(mac: Mac, name: Name, seed: u32, now: Nanos) -> Self {
        Self { mac, name, xid: seed | 1, state: State::Selecting, began_at: now, due: now, wait: FIRST, sent: 0 }
    }

    /// What it has.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(l) | State::Renewing(l) | State::Rebinding(l) => Some(l),
            _ => None,
        }
    }

    /// When [`Self::tick`] is due.
    pub fn next(&self) -> Nanos {
        self.due
    }

    fn begin(&mut self, now: Nanos) {
        self.xid = self.xid.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.state, self.began_at, self.due, self.wait, self.sent) = (State::Selecting, now, now, FIRST, 0);
    }

    fn act(&self, kind: DhcpMessageType, src: Ip, dst: Ip, now: Nanos) -> Act {
        let secs = (now.saturating_sub(self.began_at) / SEC).min(65535) as u16;
        Act { kind, src, dst, secs }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Nanos) -> Option<Act> {
        if now < self.due {
            return None;
        }
        match self.state {
            State::Requesting(_) if self.sent >= REQUESTS => self.begin(now),
            State::Bound(l) => {
                self.xid = self.xid.wrapping_add(1);
                self.state = State::Renewing(l);
                self.began_at = now;
            }
            State::Renewing(l) if now >= l.rebind_at => self.state = State::Rebinding(l),
            State::Rebinding(l) if now >= l.ends_at => self.begin(now),
            _ => {}
        }
        self.sent = self.sent.saturating_add(1);
        let wait = self.wait;
        self.wait = (self.wait * 2).min(LONGEST);
        let (kind, src, dst) = match self.state {
            State::Selecting => (DhcpMessageType::Discover, Ip::ANY4, Ip::BROADCAST),
            State::Requesting(_) => (DhcpMessageType::Request, Ip::ANY4, Ip::BROADCAST),
            // RFC 2131 4.4.5: half of what is left, a minute at least.
            State::Renewing(l) => {
                self.due = (now + (l.rebind_at.saturating_sub(now) / 2).max(60 * SEC)).min(l.rebind_at).max(now + MS);
                return Some(self.act(DhcpMessageType::Request, l.prefix.ip, l.server, now));
            }
            State::Rebinding(l) => {
                self.due = (now + (l.ends_at.saturating_sub(now) / 2).max(60 * SEC)).min(l.ends_at).max(now + MS);
                return Some(self.act(DhcpMessageType::Request, l.prefix.ip, Ip::BROADCAST, now));
            }
            State::Bound(_) => return None,
        };
        self.due = now + wait;
        Some(self.act(kind, src, dst, now))
    }

    /// Writes the message of an act; its length.
    pub fn write(&self, act: &Act, into: &mut [u8]) -> usize {
        let none = Ipv4Address::UNSPECIFIED;
        let v4 = |ip: Ip| Ipv4Address::from(ip.as_v4().unwrap_or([0; 4]));
        let selecting = matches!(self.state, State::Requesting(_));
        let (requested, server) = match &self.state {
            State::Requesting(l) if selecting => (Some(v4(l.prefix.ip)), Some(v4(l.server))),
            _ => (None, None),
        };
        // Option 12: the host's name.
        let name = [DhcpOption { kind: 12, data: self.name.as_bytes() }];
        let repr = DhcpRepr {
            message_type: act.kind,
            transaction_id: self.xid,
            secs: act.secs,
            client_hardware_address: EthernetAddress(self.mac),
            client_ip: v4(act.src),
            your_ip: none,
            server_ip: none,
            router: None,
            subnet_mask: None,
            relay_agent_ip: none,
            broadcast: false,
            requested_ip: requested,
            client_identifier: Some(EthernetAddress(self.mac)),
            server_identifier: server,
            // Mask, router, name servers, MTU, lease, T1, T2.
            parameter_request_list: Some(&[1, 3, 6, 26, 51, 58, 59]),
            dns_servers: None,
            max_size: Some(1500),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: if self.name.is_empty() { &[] } else { &name },
        };
        let len = repr.buffer_len();
        match into.get_mut(..len).map(DhcpPacket::new_unchecked).map(|mut p| repr.emit(&mut p)) {
            Some(Ok(())) => len,
            _ => 0,
        }
    }

    /// A server's message (what follows the UDP header). True if the lease changed.
    pub fn input(&mut self, message: &[u8], now: Nanos) -> bool {
        let Some(answer) = Answer::parse(message).filter(|a| a.xid == self.xid && a.mac == self.mac) else { return false };
        match (self.state, answer.kind) {
            (State::Selecting, DhcpMessageType::Offer) => {
                if let Some(l) = answer.lease(Ip::ANY4, now) {
                    (self.state, self.due, self.wait, self.sent) = (State::Requesting(l), now, FIRST, 0);
                }
                false
            }
            (State::Requesting(l) | State::Renewing(l) | State::Rebinding(l), DhcpMessageType::Ack) => {
                let Some(new) = answer.lease(l.server, now).filter(|n| n.prefix.ip == l.prefix.ip) else { return false };
                let before = self.lease().map(|l| (l.prefix, l.router, l.dns, l.mtu));
                (self.state, self.due, self.wait, self.sent) = (State::Bound(new), new.renew_at, FIRST, 0);
                before != Some((new.prefix, new.router, new.dns, new.mtu))
            }
            (State::Requesting(_) | State::Renewing(_) | State::Rebinding(_), DhcpMessageType::Nak) => {
                let had = self.lease().is_some();
                self.begin(now);
                had
            }
            _ => false,
        }
    }

    /// Has the lease run out by `now`? ([`Self::tick`] then begins anew.)
    pub fn is_over(&self, now: Nanos) -> bool {
        self.lease().is_some_and(|l| now >= l.ends_at)
    }
}

/// What a message says, as far as we look.
struct Answer {
    kind: DhcpMessageType,
    xid: u32,
    mac: Mac,
    ip: Ip,
    len: u8,
    router: Ip,
    dns: List<Ip, DNS>,
    mtu: u32,
    server: Ip,
    lease: u32,
    t1: u32,
    t2: u32,
}

impl Answer {
    fn parse(message: &[u8]) -> Option<Self> {
        let p = DhcpPacket::new_checked(message).ok()?;
        // A reply, of Ethernet, with the magic number.
        if message[0] != 2 || message[1] != 1 || message[2] != 6 || message[236..240] != [0x63, 0x82, 0x53, 0x63] {
            return None;
        }
        let mut a = Self {
            kind: DhcpMessageType::Unknown(0),
            xid: p.transaction_id(),
            mac: p.client_hardware_address().0,
            ip: Ip::v4(p.your_ip().octets()),
            len: 0,
            router: Ip::ANY4,
            dns: List::empty(Ip::ANY6),
            mtu: 0,
            server: Ip::ANY4,
            lease: 0,
            t1: 0,
            t2: 0,
        };
        let v4 = |d: &[u8]| Some(Ip::v4([*d.first()?, *d.get(1)?, *d.get(2)?, *d.get(3)?]));
        let number = |d: &[u8]| d.first_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b));
        for o in p.options() {
            match (o.kind, o.data) {
                (53, [kind]) => a.kind = DhcpMessageType::from(*kind),
                (1, [..]) if o.data.len() == 4 => a.len = number(o.data).leading_ones() as u8,
                (3, d) => a.router = v4(d).unwrap_or(a.router),
                (6, d) => a.dns.take(d.chunks_exact(4).filter_map(v4)),
                (26, [h, l]) => a.mtu = u32::from(u16::from_be_bytes([*h, *l])),
                (51, d) => a.lease = number(d),
                (54, d) => a.server = v4(d).unwrap_or(a.server),
                (58, d) => a.t1 = number(d),
                (59, d) => a.t2 = number(d),
                _ => {}
            }
        }
        Some(a)
    }

    /// As a lease that begins now; `server` if the answer does not name one.
    fn lease(&self, server: Ip, now: Nanos) -> Option<Lease> {
        let [a, ..] = self.ip.as_v4()?;
        if self.ip.is_unspecified() || self.ip.is_multicast() || self.ip.is_loopback() || a >= 240 {
            return None;
        }
        // Without a mask: the class's.
        let class = match a {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        };
        let len = if self.len == 0 { class } else { self.len.min(32) };
        let lease = if self.lease == 0 { HOUR } else { self.lease.max(10) };
        let part = |said: u32, eighths: u64, most: u64| match u64::from(said) {
            t if t > 0 && t < most => t,
            _ => u64::from(lease) * eighths / 8,
        };
        let t2 = part(self.t2, 7, u64::from(lease));
        let t1 = part(self.t1, 4, t2);
        let forever = lease == u32::MAX;
        let at = |s: u64| if forever { NEVER } else { now + s * SEC };
        Some(Lease {
            prefix: Prefix { ip: self.ip, len },
            router: if self.router.is_multicast() || self.router.is_loopback() { Ip::ANY4 } else { self.router },
            dns: self.dns,
            mtu: if self.mtu >= 576 { self.mtu } else { 0 },
            server: if self.server.is_unspecified() { server } else { self.server },
            bound_at: now,
            renew_at: at(t1),
            rebind_at: at(t2),
            ends_at: at(u64::from(lease)),
        })
    }
}
