//! getaddrinfo(3), as glibc 2.36 answers it.
//!
//! How it works: flags and family are checked, the service becomes a list of (socktype, protocol, port), the node a sorted list
//! of addresses; the answer is every address with every kind, addresses outermost. Each branch that is not obvious was tried
//! against glibc; the tests are those tries. Limits: [`super::ADDRS_MAX`] addresses, [`KINDS_MAX`] kinds. AI_IDN does nothing.
//! Locks: none. Failure: [`Eai`].
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{Addrs, Eai, HostName, World, Zone, numeric, order, services};
use crate::config::List;

/// The most (socktype, protocol) pairs one answer has: all of glibc's table.
pub const KINDS_MAX: usize = 8;

/// The hints; `None` for all of them means [`Hints::default`].
#[derive(Clone, Copy, Debug)]
pub struct Hints {
    /// ai_flags.
    pub flags: i32,
    /// ai_family.
    pub family: i32,
    /// ai_socktype.
    pub socktype: i32,
    /// ai_protocol.
    pub protocol: i32,
}

impl Default for Hints {
    /// What a null pointer means.
    fn default() -> Self {
        Self { flags: libc::AI_V4MAPPED | libc::AI_ADDRCONFIG, family: 0, socktype: 0, protocol: 0 }
    }
}

/// AI_IDN, AI_CANONIDN and the two flags glibc has withdrawn: accepted, without effect.
const IDN_FLAGS: i32 = 0x40 | 0x80 | 0x100 | 0x200;
const KNOWN_FLAGS: i32 = libc::AI_PASSIVE
    | libc::AI_CANONNAME
    | libc::AI_NUMERICHOST
    | libc::AI_ADDRCONFIG
    | libc::AI_V4MAPPED
    | libc::AI_NUMERICSERV
    | libc::AI_ALL
    | IDN_FLAGS;

/// A kind of socket in the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// ai_socktype.
    pub socktype: i32,
    /// ai_protocol.
    pub protocol: i32,
    /// The port, in host order.
    pub port: u16,
}

/// The answer: every address with every kind.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The addresses, best first.
    pub addrs: Addrs,
    /// The scope of a numeric IPv6 address.
    pub scope: u32,
    /// The kinds of socket.
    pub kinds: List<Kind, KINDS_MAX>,
    /// ai_canonname of the first entry; empty if not asked for.
    pub canon: HostName,
}

impl Answer {
    /// The entries in order: `struct addrinfo` by `struct addrinfo`.
    pub fn entries(&self) -> impl Iterator<Item = (Kind, SocketAddr)> + '_ {
        self.addrs.iter().flat_map(move |addr| {
            self.kinds.iter().map(move |kind| {
                let address = match addr {
                    IpAddr::V4(a) => SocketAddr::V4(SocketAddrV4::new(*a, kind.port)),
                    IpAddr::V6(a) => SocketAddr::V6(SocketAddrV6::new(*a, kind.port, 0, self.scope)),
                };
                (*kind, address)
            })
        })
    }
}

/// A row of glibc's `gaih_inet_typeproto`.
struct Type {
    socktype: i32,
    protocol: i32,
    name: &'static str,
    /// Any protocol goes, and no service does (raw).
    raw: bool,
    /// Part of the answer when neither socktype nor protocol is asked for.
    usual: bool,
}

const TYPES: &[Type] = &[
    Type { socktype: libc::SOCK_STREAM, protocol: libc::IPPROTO_TCP, name: "tcp", raw: false, usual: true },
    Type { socktype: libc::SOCK_DGRAM, protocol: libc::IPPROTO_UDP, name: "udp", raw: false, usual: true },
    Type { socktype: libc::SOCK_DCCP, protocol: libc::IPPROTO_DCCP, name: "dccp", raw: false, usual: false },
    Type { socktype: libc::SOCK_DGRAM, protocol: libc::IPPROTO_UDPLITE, name: "udplite", raw: false, usual: false },
    Type { socktype: libc::SOCK_STREAM, protocol: libc::IPPROTO_SCTP, name: "sctp", raw: false, usual: false },
    Type { socktype: libc::SOCK_SEQPACKET, protocol: libc::IPPROTO_SCTP, name: "sctp", raw: false, usual: false },
    Type { socktype: libc::SOCK_RAW, protocol: 0, name: "raw", raw: true, usual: true },
];

/// The service: what kinds of socket, on which port.
fn kinds<W: World>(zone: &Zone<'_, W>, service: Option<&[u8]>, hints: &Hints) -> Result<List<Kind, KINDS_MAX>, Eai> {
    let mut out = List::empty(Kind { socktype: 0, protocol: 0, port: 0 });
    let mut add = |t: &Type, port| {
        let protocol = if t.raw { hints.protocol } else { t.protocol };
        out.push(Kind { socktype: t.socktype, protocol, port }).map_err(|_| Eai::Memory)
    };
    let fits =
        |t: &&Type| (hints.socktype == 0 || hints.socktype == t.socktype) && (hints.protocol == 0 || t.raw || hints.protocol == t.protocol);
    let asked = hints.socktype != 0 || hints.protocol != 0;
    let first = TYPES.iter().find(fits).ok_or(if hints.socktype != 0 { Eai::SockType } else { Eai::Service })?;
    let service = service.filter(|s| !s.is_empty());
    if service.is_some() && asked && first.raw {
        return Err(Eai::Service);
    }
    let port = match service.map(|s| (s, numeric::port(s))) {
        None => 0,
        Some((_, Some(port))) => port,
        Some((text, None)) => {
            let look = |t: &Type| services::port_of(zone.world.services(), text, t.name);
            if asked {
                add(first, look(first).ok_or(Eai::Service)?)?;
                return Ok(out);
            }
            for t in TYPES.iter().filter(|t| !t.raw) {
                if let Some(port) = look(t) {
                    add(t, port)?;
                }
            }
            return if out.is_empty() { Err(Eai::Service) } else { Ok(out) };
        }
    };
    if asked {
        add(first, port)?;
    } else {
        for t in TYPES.iter().filter(|t| t.usual) {
            add(t, port)?;
        }
    }
    Ok(out)
}

/// getaddrinfo(3).
pub fn getaddrinfo<W: World>(
    zone: &Zone<'_, W>,
    node: Option<&[u8]>,
    service: Option<&[u8]>,
    hints: Option<&Hints>,
) -> Result<Answer, Eai> {
    // glibc: "*" is nothing.
    let node = node.filter(|n| *n != b"*");
    let service = service.filter(|s| *s != b"*");
    if node.is_none() && service.is_none() {
        return Err(Eai::NoName);
    }
    let mut hints = hints.copied().unwrap_or_default();
    let has = |flag: i32| hints.flags & flag != 0;
    if hints.flags & !KNOWN_FLAGS != 0 || (has(libc::AI_CANONNAME) && node.is_none()) {
        return Err(Eai::BadFlags);
    }
    if !matches!(hints.family, libc::AF_UNSPEC | libc::AF_INET | libc::AF_INET6) {
        return Err(Eai::Family);
    }
    if has(libc::AI_ADDRCONFIG) {
        // Loopback does not count; an instance with no address at all is asked as if it had both.
        let seen = (zone.addrs.iter().any(|a| a.addr.is_ipv4()), zone.addrs.iter().any(|a| a.addr.is_ipv6()));
        match (hints.family, seen) {
            (_, (true, true) | (false, false)) => {}
            (libc::AF_INET, (false, _)) | (libc::AF_INET6, (_, false)) => return Err(Eai::NoName),
            (libc::AF_UNSPEC, (v4, _)) if node.is_some() => hints.family = if v4 { libc::AF_INET } else { libc::AF_INET6 },
            _ => {}
        }
    }
    if let Some(text) = service.filter(|s| !s.is_empty())
        && has(libc::AI_NUMERICSERV)
        && numeric::service(text).is_none()
    {
        return Err(Eai::NoName);
    }
    let kinds = kinds(zone, service, &hints)?;
    let mut answer = Answer { addrs: List::empty(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), scope: 0, kinds, canon: HostName::EMPTY };
    match node {
        None => no_node(&hints, &mut answer.addrs),
        Some(text) if numeric_node(zone, text, &hints, &mut answer)? => {}
        Some(_) if has(libc::AI_NUMERICHOST) => return Err(Eai::NoName),
        Some(text) => {
            let name = core::str::from_utf8(text).ok().filter(|n| !n.is_empty()).ok_or(Eai::NoName)?;
            let mut all = answer.addrs;
            answer.canon = zone.forward(name, &mut all);
            if all.is_empty() {
                let v6 = hints.family != libc::AF_INET;
                let v4 = hints.family != libc::AF_INET6 || has(libc::AI_V4MAPPED);
                answer.canon = zone.world.dns(name, v4, v6, &mut |addr| super::add(&mut all, addr))?;
            }
            choose(&all, &hints, &mut answer.addrs);
        }
    }
    if answer.addrs.is_empty() {
        return Err(Eai::NoName);
    }
    if !has(libc::AI_CANONNAME) {
        answer.canon = HostName::EMPTY;
    }
    if node.is_some() {
        let n = answer.addrs.len();
        let mut sorted = [IpAddr::V4(Ipv4Addr::UNSPECIFIED); super::ADDRS_MAX];
        sorted[..n].copy_from_slice(answer.addrs.as_slice());
        order::sort(&mut sorted[..n], |to| zone.source_for(to.to_canonical()).map(|s| like(to, s)));
        answer.addrs = List::empty(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        for addr in &sorted[..n] {
            answer.addrs.push(*addr).map_err(|_| Eai::Memory)?;
        }
    }
    Ok(answer)
}

/// A source in the form of its destination: mapped if that is.
fn like(to: IpAddr, source: IpAddr) -> IpAddr {
    match (to, source) {
        (IpAddr::V6(_), IpAddr::V4(s)) => IpAddr::V6(s.to_ipv6_mapped()),
        _ => source,
    }
}

/// No node: the loopback addresses, IPv6 first, or with AI_PASSIVE the unspecified ones, where glibc's sort puts IPv4 first.
fn no_node(hints: &Hints, addrs: &mut Addrs) {
    let pair = if hints.flags & libc::AI_PASSIVE != 0 {
        [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
    } else {
        [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)]
    };
    for addr in pair.into_iter().filter(|a| hints.family == libc::AF_UNSPEC || a.is_ipv6() == (hints.family == libc::AF_INET6)) {
        let _ = addrs.push(addr);
    }
}

/// A node that is a number; false if it is not.
fn numeric_node<W: World>(zone: &Zone<'_, W>, text: &[u8], hints: &Hints, answer: &mut Answer) -> Result<bool, Eai> {
    let addr = if let Some(v4) = numeric::inet_aton(text) {
        match hints.family {
            libc::AF_INET6 if hints.flags & libc::AI_V4MAPPED != 0 => IpAddr::V6(v4.to_ipv6_mapped()),
            libc::AF_INET6 => return Err(Eai::AddrFamily),
            _ => IpAddr::V4(v4),
        }
    } else if text.contains(&b':') {
        if hints.family == libc::AF_INET && numeric::ipv6_of_v6_only(text) {
            // Whatever its scope is.
            return Err(Eai::AddrFamily);
        }
        let Some((v6, scope)) = numeric::ipv6(text, |name| zone.world.if_index(name)) else { return Ok(false) };
        answer.scope = scope;
        match (hints.family, v6.to_ipv4_mapped()) {
            (libc::AF_INET, Some(v4)) => IpAddr::V4(v4),
            (libc::AF_INET, None) => return Err(Eai::AddrFamily),
            _ => IpAddr::V6(v6),
        }
    } else {
        return Ok(false);
    };
    answer.canon = HostName::cut(text);
    answer.addrs.push(addr).map_err(|_| Eai::Memory)?;
    Ok(true)
}

/// The addresses of a name that the hints want; IPv4 ones mapped where AI_V4MAPPED says so.
fn choose(all: &Addrs, hints: &Hints, out: &mut Addrs) {
    let mut take = |want: fn(&IpAddr) -> bool, mapped: bool| {
        for addr in all.iter().filter(|a| want(a)) {
            let addr = match addr {
                IpAddr::V4(a) if mapped => IpAddr::V6(a.to_ipv6_mapped()),
                other => *other,
            };
            let _ = out.push(addr);
        }
    };
    match hints.family {
        libc::AF_INET => take(IpAddr::is_ipv4, false),
        libc::AF_INET6 => {
            take(IpAddr::is_ipv6, false);
            let flags = hints.flags;
            if flags & libc::AI_V4MAPPED != 0 && (flags & libc::AI_ALL != 0 || !all.iter().any(IpAddr::is_ipv6)) {
                take(IpAddr::is_ipv4, true);
            }
        }
        _ => {
            take(IpAddr::is_ipv6, false);
            take(IpAddr::is_ipv4, false);
        }
    }
}
