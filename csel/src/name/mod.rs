//! name: who is who, answered from the instance and its segment.
//!
//! # Theory of operation
//! Purpose: getaddrinfo(3), getnameinfo(3), gethostbyname(3) and gethostbyaddr(3) as glibc answers them, but from what the
//! instance knows: its own `--add-host` list, `localhost`, its own name and host name, and the names of its peers on the
//! segment (`web` and `web.csel`), and then from DNS, if a server can be reached. The host's resolver and /etc/hosts are not asked: the
//! instance is another host.
//!
//! How it works: a [`Zone`] is put together by the front end for one question and holds borrowed facts only: the options,
//! the instance's names and addresses, and a [`World`] that can look up peers, interfaces and the text of /etc/services.
//! [`Zone::forward`] and [`Zone::reverse`] look in the sources in the order of this list; `getaddrinfo` adds glibc's rules
//! for services, socket types, flags and errors (each tried against glibc 2.36), `order` RFC 6724's order with glibc's tables.
//! Answers are arrays of fixed size; the front end makes `struct addrinfo` of them.
//!
//! Limits: [`ADDRS_MAX`] addresses for one name. With no DNS server that a route leads to, a name that is in none of the
//! sources is EAI_NONAME at once, and nothing is sent. Names are ASCII and compared without case; IDN flags are accepted and do nothing.
//! Locks: none of its own (the `World` may take the segment's). Failure: [`Eai`] values only, never errno.
//! See also: `config` (hosts), `net::link::segment` (peers), getaddrinfo(3), RFC 6724, RFC 6761 (localhost).
pub mod getaddrinfo;
pub mod getnameinfo;
pub mod hosts;
pub mod numeric;
pub mod order;
pub mod services;
#[cfg(test)]
mod tests;

use core::net::IpAddr;

use crate::config::{Cidr, Host, List, Name, Str};

pub use getaddrinfo::{Answer, Hints, getaddrinfo};
pub use getnameinfo::{NameInfo, getnameinfo};
pub use hosts::{HostEntry, gethostbyaddr, gethostbyname, write_hosts};

/// The most addresses one name may have in an answer.
pub const ADDRS_MAX: usize = 24;

/// The suffix under which every peer is found too.
pub const DOMAIN: &str = "csel";

/// The longest host name in an answer (NI_MAXHOST is 1025; ours are labels with a suffix).
pub type HostName = Str<255>;

/// Addresses found for a name.
pub type Addrs = List<IpAddr, ADDRS_MAX>;

/// Why there is no answer: the EAI_ values of <netdb.h>.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Eai {
    BadFlags = -1,
    NoName = -2,
    Again = -3,
    Fail = -4,
    /// EAI_NODATA: the name is there and has no such address.
    NoData = -5,
    Family = -6,
    SockType = -7,
    Service = -8,
    /// The address is of another family than asked for.
    AddrFamily = -9,
    Memory = -10,
    System = -11,
    Overflow = -12,
}

/// What the front end must be able to say.
pub trait World {
    /// Calls `each` with every address of the instance of this name on the segment (its name, or its host name).
    fn peer(&self, name: &str, each: &mut dyn FnMut(IpAddr));
    /// The name of the instance on the segment that has this address.
    fn peer_of(&self, addr: IpAddr) -> Option<Name>;
    /// Calls `each` with name and address of every instance on the segment.
    fn peers(&self, each: &mut dyn FnMut(&Name, IpAddr));
    /// The text of /etc/services; empty if there is none.
    fn services(&self) -> &[u8];
    /// Asks DNS for the addresses of a name that nobody here knows, of the families wanted: calls `each` with them and gives the canonical name.
    /// `Err(NoName)` is the answer of an instance that has no DNS server.
    fn dns(&self, name: &str, v4: bool, v6: bool, each: &mut dyn FnMut(IpAddr)) -> Result<HostName, Eai>;
    /// Asks DNS for the name of an address.
    fn dns_name(&self, addr: IpAddr) -> Option<HostName>;
    /// if_nametoindex(3) of the instance.
    fn if_index(&self, name: &[u8]) -> Option<u32>;
    /// if_indextoname(3) of the instance.
    fn if_name(&self, index: u32) -> Option<Str<15>>;
}

/// Everything one question is answered from.
pub struct Zone<'a, W: World> {
    /// `--add-host`.
    pub hosts: &'a [Host],
    /// The instance's name.
    pub name: &'a Name,
    /// The instance's host name (may be the same).
    pub hostname: &'a Name,
    /// The instance's addresses on the segment.
    pub addrs: &'a [Cidr],
    /// The rest.
    pub world: &'a W,
}

/// The instance's addresses in the form a [`Zone`] takes. Its link-local one is no answer to a name: it needs a scope.
#[must_use]
pub fn own_addrs(facts: &crate::instance::Facts) -> List<Cidr, { crate::instance::ADDRS }> {
    let mut out = List::empty(Cidr::UNSPECIFIED);
    for prefix in facts.addrs().iter().filter(|p| !p.ip.is_link_local6()) {
        let _ = out.push(Cidr { addr: prefix.ip.wire().into(), len: prefix.len });
    }
    out
}

/// Adds an address that is not there yet.
fn add(out: &mut Addrs, addr: IpAddr) {
    if !out.as_slice().contains(&addr) {
        // More addresses than fit: the first ones stand.
        let _ = out.push(addr);
    }
}

impl<W: World> Zone<'_, W> {
    /// Finds every address of `name`, as a host's files would say it, and the name under which it is known (the canonical
    /// one). Nothing found is an empty list. A numeric text is not looked at here.
    pub fn forward(&self, name: &str, out: &mut Addrs) -> HostName {
        for host in self.hosts.iter().filter(|h| h.name.as_str().eq_ignore_ascii_case(name)) {
            add(out, host.addr);
        }
        if !out.is_empty() {
            let first = self.hosts.iter().find(|h| h.name.as_str().eq_ignore_ascii_case(name));
            return HostName::cut(first.map_or(name, |h| h.name.as_str()).as_bytes());
        }
        if let Some((v4, canon)) = hosts::local(name) {
            // RFC 6761: localhost is the loopback address, whatever else says otherwise.
            add(out, IpAddr::V6(core::net::Ipv6Addr::LOCALHOST));
            if v4 {
                add(out, IpAddr::V4(core::net::Ipv4Addr::LOCALHOST));
            }
            return HostName::cut(canon.as_bytes());
        }
        let short = hosts::without_domain(name);
        let own = |n: &Name| n.as_str().eq_ignore_ascii_case(name) || n.as_str().eq_ignore_ascii_case(short);
        if own(self.name) || own(self.hostname) {
            self.addrs.iter().for_each(|a| add(out, a.addr));
            if self.addrs.is_empty() {
                // An instance that is on no segment is still itself.
                add(out, IpAddr::V4(core::net::Ipv4Addr::LOCALHOST));
            }
            return HostName::cut(if own(self.hostname) { self.hostname } else { self.name }.as_bytes());
        }
        self.world.peer(name, &mut |addr| add(out, addr));
        if out.is_empty() && short.len() != name.len() {
            self.world.peer(short, &mut |addr| add(out, addr));
        }
        let mut canon = HostName::EMPTY;
        for b in if out.is_empty() { name } else { short }.bytes() {
            canon.push(&[b.to_ascii_lowercase()]);
        }
        // The peer's own spelling, if the segment can say it.
        if let Some(peer) = out.as_slice().first().and_then(|a| self.world.peer_of(*a)).filter(|p| p.as_str().eq_ignore_ascii_case(short)) {
            canon = HostName::cut(peer.as_bytes());
        }
        canon
    }

    /// The name of an address.
    #[must_use]
    pub fn reverse(&self, addr: IpAddr) -> Option<Name> {
        let addr = addr.to_canonical();
        if let Some(host) = self.hosts.iter().find(|h| h.addr == addr) {
            return Some(host.name);
        }
        if addr.is_loopback() && matches!(addr, IpAddr::V6(_) | IpAddr::V4(core::net::Ipv4Addr::LOCALHOST)) {
            return Some(Name(Str::literal("localhost")));
        }
        if self.addrs.iter().any(|a| a.addr == addr) {
            return Some(*self.hostname);
        }
        self.world.peer_of(addr)
    }

    /// The name of an address that nobody here knows, by DNS.
    pub(crate) fn reverse_or_dns(&self, addr: IpAddr) -> Option<HostName> {
        match self.reverse(addr) {
            Some(name) => Some(HostName::cut(name.as_bytes())),
            None => self.world.dns_name(addr.to_canonical()),
        }
    }

    /// The address of ours that would speak to `to`: RFC 6724 section 5, for one interface.
    #[must_use]
    pub fn source_for(&self, to: IpAddr) -> Option<IpAddr> {
        if to.is_loopback() || self.addrs.iter().any(|a| a.addr == to) {
            return Some(to);
        }
        let same = |a: &&Cidr| a.addr.is_ipv4() == to.is_ipv4();
        self.addrs.iter().filter(same).find(|a| a.contains(to)).or_else(|| self.addrs.iter().find(same)).map(|a| a.addr)
    }
}
