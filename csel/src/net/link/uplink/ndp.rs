//! Neighbour discovery's other half: routers, and addresses made from what they say.
//!
//! # Theory of operation
//! **Purpose.** RFC 4861 6.3 and RFC 4862: an IPv6 address, a default router, name servers (RFC 8106) and the MTU from router advertisements.
//! **How it works.** [`Client::tick`] asks for routers, three times, and forgets what has run out; [`Client::advert`] reads an advertisement. An address is
//! used as soon as it is made (RFC 4429, optimistic) while a question goes out whether somebody has it; if an answer comes within a second the address
//! goes. The identifier is the EUI-64 of our Ethernet address.
//! **Limits.** [`MINE`] addresses, one router (the latest that wants to be one), no DHCPv6, no redirects, no privacy addresses.
//! **Locks.** None. **Failure.** A message with a hop limit below 255 came from another link and is not read (the station sees to it).
//! **See also.** RFC 4861, RFC 4862, RFC 8106.
use super::DNS;
use super::wire::{Mac, eui64};
use crate::clock::{NEVER, Nanos, SEC};
use crate::instance::Prefix;
use crate::net::addr::Ip;

/// Addresses made from prefixes.
pub const MINE: usize = 4;
/// Questions for a router, and the time between two (RFC 4861 10); the second comes sooner, since an application waits.
const SOLICITS: u8 = 3;
const BETWEEN: Nanos = 4 * SEC;
/// How long somebody may object to an address.
const OBJECT: Nanos = SEC;

#[derive(Clone, Copy, Debug)]
struct Mine {
    ip: Ip,
    len: u8,
    /// Until when it may be used; 0: this place is free.
    until: Nanos,
    made_at: Nanos,
    /// Its question has been asked.
    asked: bool,
}

/// See the file's head.
pub struct Client {
    mac: Mac,
    mine: [Mine; MINE],
    /// The router and until when it is one.
    router: (Ip, Nanos),
    dns: [(Ip, Nanos); DNS],
    mtu: u32,
    solicits: u8,
    solicit_at: Nanos,
    /// An advertisement has come.
    heard: bool,
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Ask for routers.
    Solicit,
    /// Ask whether somebody has this address.
    Probe(Ip),
}

impl Client {
    /// A client that begins at `now`.
    pub fn new(mac: Mac, now: Nanos) -> Self {
        Self {
            mac,
            mine: [Mine { ip: Ip::ANY6, len: 0, until: 0, made_at: 0, asked: false }; MINE],
            router: (Ip::ANY6, 0),
            dns: [(Ip::ANY6, 0); DNS],
            mtu: 0,
            solicits: 0,
            solicit_at: now,
            heard: false,
        }
    }

    /// An address that is ours anyway (link-local): the question whether somebody else has it is asked.
    pub fn own(&mut self, ip: Ip, len: u8, now: Nanos) {
        self.add(ip, len, NEVER, now);
    }

    fn add(&mut self, ip: Ip, len: u8, until: Nanos, now: Nanos) -> bool {
        if let Some(m) = self.mine.iter_mut().find(|m| m.until != 0 && m.ip == ip) {
            (m.until, m.len) = (until, len);
            return false;
        }
        let Some(m) = self.mine.iter_mut().find(|m| m.until == 0) else { return false };
        *m = Mine { ip, len, until, made_at: now, asked: false };
        true
    }

    /// The addresses, the link-local one last.
    pub fn addrs(&self) -> impl Iterator<Item = Prefix> + '_ {
        let of = |link: bool| self.mine.iter().filter(move |m| m.until != 0 && m.ip.is_link_local6() == link);
        of(false).chain(of(true)).map(|m| Prefix { ip: m.ip, len: m.len })
    }
    /// The router; unspecified: none.
    pub fn router(&self) -> Ip {
        if self.router.1 == 0 { Ip::ANY6 } else { self.router.0 }
    }
    /// The name servers.
    pub fn dns(&self) -> impl Iterator<Item = Ip> + '_ {
        self.dns.iter().filter(|d| d.1 != 0).map(|d| d.0)
    }
    /// The link's MTU as the router says; 0: it does not.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }
    /// Has a router said anything?
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// Does what is due: at most one thing a call. True with it if something of ours ran out.
    pub fn tick(&mut self, now: Nanos) -> (Option<Act>, bool) {
        let mut changed = false;
        for m in self.mine.iter_mut().filter(|m| m.until != 0 && now >= m.until) {
            m.until = 0;
            changed = true;
        }
        for (_, until) in self.dns.iter_mut().filter(|d| d.1 != 0 && now >= d.1) {
            *until = 0;
            changed = true;
        }
        if self.router.1 != 0 && now >= self.router.1 {
            self.router.1 = 0;
            changed = true;
        }
        if let Some(m) = self.mine.iter_mut().find(|m| m.until != 0 && !m.asked) {
            m.asked = true;
            return (Some(Act::Probe(m.ip)), changed);
        }
        if !self.heard && self.solicits < SOLICITS && now >= self.solicit_at {
            self.solicits += 1;
            self.solicit_at = now + if self.solicits == 1 { SEC } else { BETWEEN };
            return (Some(Act::Solicit), changed);
        }
        (None, changed)
    }

    /// When [`Self::tick`] is due.
    pub fn next(&self) -> Nanos {
        let ends = self.mine.iter().map(|m| (m.until, m.asked)).chain(self.dns.iter().map(|d| (d.1, true)));
        let ends = ends.chain([(self.router.1, true)]).filter(|e| e.0 != 0);
        let ends = ends.map(|(until, asked)| if asked { until } else { 0 }).min().unwrap_or(NEVER);
        if self.heard || self.solicits >= SOLICITS { ends } else { ends.min(self.solicit_at) }
    }

    /// Somebody has this address (its advertisement, or its own question). True if it was ours and had not stood the test yet: it goes.
    pub fn objected(&mut self, ip: Ip, now: Nanos) -> bool {
        match self.mine.iter_mut().find(|m| m.until != 0 && m.ip == ip && now < m.made_at + OBJECT) {
            Some(m) => {
                m.until = 0;
                true
            }
            None => false,
        }
    }

    /// A router advertisement from `src` (the ICMPv6 message). True if it changes anything.
    pub fn advert(&mut self, src: Ip, m: &[u8], now: Nanos) -> bool {
        let Some(fixed) = m.first_chunk::<16>() else { return false };
        if !src.is_link_local6() {
            return false;
        }
        let before = (self.router(), self.mtu, self.mine.map(|m| (m.ip, m.len, m.until != 0)), self.dns.map(|d| (d.0, d.1 != 0)));
        self.heard = true;
        let lifetime = u64::from(u16::from_be_bytes([fixed[6], fixed[7]]));
        if lifetime != 0 {
            self.router = (src, now + lifetime * SEC);
        } else if self.router.0 == src {
            self.router.1 = 0;
        }
        options(&m[16..], |kind, o| match (kind, o) {
            (3, _) if o.len() == 32 => self.prefix(o, now),
            (5, _) if o.len() == 8 => {
                let mtu = word(o, 4);
                if (1280..=65535).contains(&mtu) {
                    self.mtu = mtu;
                }
            }
            (25, _) if o.len() >= 24 => {
                let until = lasting(word(o, 4), now);
                for server in o[8..].chunks_exact(16) {
                    self.name_server(server, until);
                }
            }
            _ => {}
        });
        before != (self.router(), self.mtu, self.mine.map(|m| (m.ip, m.len, m.until != 0)), self.dns.map(|d| (d.0, d.1 != 0)))
    }

    /// RFC 4862 5.5.3.
    fn prefix(&mut self, o: &[u8], now: Nanos) {
        let (len, on_link, autonomous) = (o[2], o[3] & 0x80 != 0, o[3] & 0x40 != 0);
        let (valid, preferred) = (word(o, 4), word(o, 8));
        let prefix = address(&o[16..32]);
        if !autonomous || len != 64 || preferred > valid || prefix.is_link_local6() || prefix.is_multicast() {
            return;
        }
        let ip = eui64(prefix, self.mac);
        if valid == 0 {
            if let Some(m) = self.mine.iter_mut().find(|m| m.until != 0 && m.ip == ip) {
                // Not below two hours from a message that nobody vouches for.
                m.until = m.until.min(now + 7200 * SEC);
            }
            return;
        }
        self.add(ip, if on_link { 64 } else { 128 }, lasting(valid, now), now);
    }

    fn name_server(&mut self, server: &[u8], until: Nanos) {
        let ip = address(server);
        let place = self.dns.iter().position(|d| d.1 != 0 && d.0 == ip).or_else(|| self.dns.iter().position(|d| d.1 == 0));
        if let Some(d) = place.map(|n| &mut self.dns[n]) {
            *d = (ip, until);
        }
    }
}

/// Until when something lasts that lasts `secs` seconds; 0 for not at all.
fn lasting(secs: u32, now: Nanos) -> Nanos {
    match secs {
        0 => 0,
        u32::MAX => NEVER,
        s => now + u64::from(s) * SEC,
    }
}

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn address(b: &[u8]) -> Ip {
    let mut a = [0; 16];
    a.copy_from_slice(&b[..16]);
    Ip(a)
}

/// Walks a message's options: type, and the whole option.
pub fn options(mut o: &[u8], mut each: impl FnMut(u8, &[u8])) {
    while let [kind, units, ..] = o {
        let len = usize::from(*units) * 8;
        if len == 0 || len > o.len() {
            return;
        }
        each(*kind, &o[..len]);
        o = &o[len..];
    }
}

/// The Ethernet address an option of this type holds: 1 the sender's, 2 the target's.
pub fn link_address(o: &[u8], wanted: u8) -> Option<Mac> {
    let mut found = None;
    options(o, |kind, o| {
        if kind == wanted && o.len() == 8 {
            found = o[2..8].try_into().ok();
        }
    });
    found
}
