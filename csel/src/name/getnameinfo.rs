//! getnameinfo(3), as glibc 2.36 answers it.
//!
//! How it works: the host is [`Zone::reverse`]'s answer or the number, the service the one of /etc/services or the number. The front
//! end checks the sockaddr's length and copies the strings out (EAI_OVERFLOW). Limits: AF_UNIX is the front end's.
//! Locks: none. Failure: [`Eai`].
use core::fmt::Write as _;
use core::net::{IpAddr, SocketAddr};

use super::{Eai, HostName, World, Zone, numeric, services};
use crate::config::Str;

/// Host and service as text.
#[derive(Clone, Copy, Debug)]
pub struct NameInfo {
    /// The host, or its address.
    pub host: HostName,
    /// The service, or its port.
    pub service: Str<63>,
}

/// NI_IDN and the withdrawn flags beside it: accepted, without effect.
const IDN_FLAGS: i32 = 0x20 | 0x40 | 0x80;
const KNOWN_FLAGS: i32 = libc::NI_NUMERICHOST | libc::NI_NUMERICSERV | libc::NI_NOFQDN | libc::NI_NAMEREQD | libc::NI_DGRAM | IDN_FLAGS;

/// getnameinfo(3). `want_host` and `want_service`: whether there is a buffer for it.
pub fn getnameinfo<W: World>(
    zone: &Zone<'_, W>,
    address: SocketAddr,
    want_host: bool,
    want_service: bool,
    flags: i32,
) -> Result<NameInfo, Eai> {
    if flags & !KNOWN_FLAGS != 0 {
        return Err(Eai::BadFlags);
    }
    if !want_host && !want_service && flags & libc::NI_NAMEREQD != 0 {
        return Err(Eai::NoName);
    }
    let mut out = NameInfo { host: HostName::EMPTY, service: Str::EMPTY };
    if want_host {
        let found = if flags & libc::NI_NUMERICHOST == 0 { lookup(zone, address.ip()) } else { None };
        match found {
            Some(name) => out.host = name,
            // Also with NI_NUMERICHOST, as glibc does.
            None if flags & libc::NI_NAMEREQD != 0 => return Err(Eai::NoName),
            None => numeric_host(zone, address, &mut out.host)?,
        }
    }
    if want_service {
        let protocol = if flags & libc::NI_DGRAM != 0 { "udp" } else { "tcp" };
        let named = (flags & libc::NI_NUMERICSERV == 0).then(|| services::name_of(zone.world.services(), address.port(), protocol));
        match named.flatten().and_then(|n| Str::new(n).ok()) {
            Some(name) => out.service = name,
            None => write!(out.service, "{}", address.port()).map_err(|_| Eai::Overflow)?,
        }
    }
    Ok(out)
}

fn lookup<W: World>(zone: &Zone<'_, W>, addr: IpAddr) -> Option<HostName> {
    // A mapped address is looked up as itself: glibc's files do not know it.
    if matches!(addr, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        return None;
    }
    zone.reverse_or_dns(addr)
}

fn numeric_host<W: World>(zone: &Zone<'_, W>, address: SocketAddr, host: &mut HostName) -> Result<(), Eai> {
    let text = |_| Eai::Overflow;
    match address {
        SocketAddr::V4(a) => write!(host, "{}", a.ip()).map_err(text),
        SocketAddr::V6(a) => {
            write!(host, "{}", a.ip()).map_err(text)?;
            match a.scope_id() {
                0 => Ok(()),
                index => match zone.world.if_name(index).filter(|_| numeric::link_local(*a.ip())) {
                    Some(name) => write!(host, "%{name}").map_err(text),
                    None => write!(host, "%{index}").map_err(text),
                },
            }
        }
    }
}
