//! The hosts list: `localhost`, gethostbyname(3), gethostbyaddr(3), and the file that says the same as text.
//!
//! How it works: everything comes from [`Zone::forward`] and [`Zone::reverse`], so that /etc/hosts, getaddrinfo and these
//! agree. Limits: no aliases in a hostent. Locks: none. Failure: `None` is HOST_NOT_FOUND, an entry without addresses NO_DATA.
use core::fmt;
use core::net::IpAddr;

use super::{Addrs, DOMAIN, HostName, World, Zone, numeric};
use crate::config::{List, Str};

/// What `struct hostent` is made of.
#[derive(Clone, Copy, Debug)]
pub struct HostEntry {
    /// h_name.
    pub name: HostName,
    /// h_addr_list; all of one family; empty is NO_DATA.
    pub addrs: Addrs,
}

/// A name that is always the loopback address: whether of IPv4 too, and the canonical name.
#[must_use]
pub fn local(name: &str) -> Option<(bool, &'static str)> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is = |n: &str| name.eq_ignore_ascii_case(n);
    if is("localhost") || is("localhost.localdomain") {
        Some((true, "localhost"))
    } else if is("ip6-localhost") || is("ip6-loopback") {
        Some((false, "localhost"))
    } else {
        None
    }
}

/// `web.csel` and `web.csel.` are `web`.
#[must_use]
pub fn without_domain(name: &str) -> &str {
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.len().checked_sub(DOMAIN.len() + 1).and_then(|at| name.split_at_checked(at)) {
        Some((short, tail)) if !short.is_empty() && tail.as_bytes()[0] == b'.' && tail[1..].eq_ignore_ascii_case(DOMAIN) => short,
        _ => name,
    }
}

/// gethostbyname2(3): `v6` says which family.
pub fn gethostbyname<W: World>(zone: &Zone<'_, W>, name: &[u8], v6: bool) -> Option<HostEntry> {
    let mut addrs = List::empty(IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED));
    let numeric = if v6 {
        core::str::from_utf8(name).ok().and_then(|t| t.parse().ok()).map(IpAddr::V6)
    } else {
        numeric::inet_aton(name).map(IpAddr::V4)
    };
    if let Some(addr) = numeric {
        addrs.push(addr).ok()?;
        return Some(HostEntry { name: Str::new(name).ok()?, addrs });
    }
    let mut all = addrs;
    let text = core::str::from_utf8(name).ok().filter(|n| !n.is_empty())?;
    let mut canon = zone.forward(text, &mut all);
    if all.is_empty() {
        match zone.world.dns(text, !v6, v6, &mut |addr| super::add(&mut all, addr)) {
            Ok(found) => canon = found,
            Err(super::Eai::NoData) => {}
            Err(_) => return None,
        }
    }
    for addr in all.iter().filter(|a| a.is_ipv6() == v6) {
        addrs.push(*addr).ok()?;
    }
    Some(HostEntry { name: canon, addrs })
}

/// gethostbyaddr(3).
pub fn gethostbyaddr<W: World>(zone: &Zone<'_, W>, addr: IpAddr) -> Option<HostEntry> {
    let mut addrs = List::empty(addr);
    addrs.push(addr).ok()?;
    Some(HostEntry { name: zone.reverse_or_dns(addr)?, addrs })
}

/// The instance's /etc/hosts.
pub fn write_hosts<W: World>(zone: &Zone<'_, W>, f: &mut dyn fmt::Write) -> fmt::Result {
    f.write_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")?;
    for host in zone.hosts {
        writeln!(f, "{}\t{}", host.addr, host.name)?;
    }
    for own in zone.addrs {
        write!(f, "{}\t{}", own.addr, zone.hostname)?;
        if zone.name != zone.hostname {
            write!(f, " {}", zone.name)?;
        }
        writeln!(f, " {}.{DOMAIN}", zone.name)?;
    }
    let mut result = Ok(());
    zone.world.peers(&mut |name, addr| {
        if result.is_ok() && !zone.addrs.iter().any(|own| own.addr == addr) {
            result = writeln!(f, "{addr}\t{name} {name}.{DOMAIN}");
        }
    });
    result
}
