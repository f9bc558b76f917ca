//! ioctl(2) on sockets.
//!
//! # Theory of operation
//! **Purpose.** Queue lengths, flags, owners, and netdevice(7)'s questions about interfaces.
//! **How it works.** [`size`] says how many bytes lie behind the pointer; [`ioctl`] works on those bytes. SIOCGIFCONF has a pointer inside: the front
//! end answers it from [`iface`].
//! **Limits.** Interfaces and routes cannot be changed: EPERM. **Locks.** None. **Failure.** ENOTTY for what sockets do not know; ENODEV.
//! **See also.** netdevice(7), tcp(7), udp(7).
use crate::call::Kind;
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::iface::{self, Iface};
use crate::net::{dgram, tcp};
use core::sync::atomic::Ordering::*;

const FIONREAD: u64 = 0x541b;
const SIOCOUTQ: u64 = 0x5411;
const FIONBIO: u64 = 0x5421;
const FIOASYNC: u64 = 0x5452;
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
const FIOGETOWN: u64 = 0x8903;
const SIOCGPGRP: u64 = 0x8904;
const SIOCATMARK: u64 = 0x8905;
const SIOCGSTAMP: u64 = 0x8906;
const SIOCGSTAMPNS: u64 = 0x8907;
const SIOCOUTQNSD: u64 = 0x894b;
/// Size of struct ifreq.
const IFREQ: usize = 40;

/// Bytes behind the pointer of a request; 0 if it is not one we know.
pub fn size(request: u64) -> usize {
    match request {
        FIONREAD | SIOCOUTQ | FIONBIO | FIOASYNC | FIOSETOWN | SIOCSPGRP | FIOGETOWN | SIOCGPGRP | SIOCATMARK | SIOCOUTQNSD => 4,
        SIOCGSTAMP | SIOCGSTAMPNS => 16,
        // SIOCGIFNAME to SIOCSIFTXQLEN, SIOCETHTOOL, SIOCGIFMAP; routes and ARP take larger structures of which nothing is read.
        0x8910..=0x894a | 0x8970 | 0x8971 if request != 0x8912 => IFREQ,
        0x890b | 0x890c | 0x8953..=0x8955 | 0x89f0..=0x89ff => IFREQ,
        _ => 0,
    }
}

fn put(arg: &mut [u8], v: i32) -> Result<usize> {
    arg.get_mut(..4).ok_or(Errno::EFAULT)?.copy_from_slice(&v.to_ne_bytes());
    Ok(4)
}

/// ioctl(2) on a virtual socket; `arg` is what the pointer shows; how many of its bytes are to be written back.
pub fn ioctl(cx: &Cx<'_>, s: &Held, request: u64, arg: &mut [u8]) -> Result<usize> {
    if arg.len() < size(request) {
        return Err(Errno::EFAULT);
    }
    let given = arg.get(..4).map_or(0, |b| i32::from_ne_bytes(b.try_into().unwrap_or_default()));
    let flag = |bit: i32| {
        if given != 0 {
            s.flags.fetch_or(bit as u32, AcqRel)
        } else {
            s.flags.fetch_and(!bit as u32, AcqRel)
        };
        Ok(0)
    };
    let socket = !matches!(s.kind(), Kind::Epoll | Kind::None);
    match request {
        FIONBIO => flag(libc::O_NONBLOCK),
        FIOASYNC if socket => flag(libc::O_ASYNC),
        _ if !socket => Err(Errno::ENOTTY),
        FIONREAD | SIOCOUTQ | SIOCATMARK | SIOCOUTQNSD => queue(cx, s, request, arg),
        FIOSETOWN | SIOCSPGRP => {
            s.owner.store(given as u32, Relaxed);
            Ok(0)
        }
        FIOGETOWN | SIOCGPGRP => put(arg, s.owner.load(Relaxed) as i32),
        SIOCGSTAMP | SIOCGSTAMPNS => stamp(cx, s, request == SIOCGSTAMPNS, arg),
        _ => interface(cx, request, arg),
    }
}

fn queue(cx: &Cx<'_>, s: &Held, request: u64, arg: &mut [u8]) -> Result<usize> {
    let tcp = s.kind() == Kind::Tcp;
    if !tcp && matches!(request, SIOCATMARK | SIOCOUTQNSD) {
        return Err(Errno::ENOTTY);
    }
    crate::net::progress(cx);
    let (input, unacked, unsent) = if tcp { tcp::queued(cx, s)? } else { dgram::queued(cx, s)? };
    match request {
        FIONREAD => put(arg, input as i32),
        SIOCOUTQ => put(arg, unacked as i32),
        SIOCOUTQNSD => put(arg, unsent as i32),
        // Urgent data is never told apart, so the mark is nowhere.
        _ => put(arg, 0),
    }
}

/// SIOCGSTAMP: when the last datagram came; ENOENT if that is not known (then it is from now on).
fn stamp(cx: &Cx<'_>, s: &Held, nanos: bool, arg: &mut [u8]) -> Result<usize> {
    if s.kind() == Kind::Tcp {
        return Err(Errno::ENOENT);
    }
    let at = {
        let mut b = dgram::lock(cx, s)?;
        // Like sock_enable_timestamp: stamps are taken once somebody has asked.
        b.stamps = true;
        b.last_stamp
    };
    if at == 0 {
        return Err(Errno::ENOENT);
    }
    let part = at % 1_000_000_000;
    arg[..8].copy_from_slice(&(at / 1_000_000_000).to_ne_bytes());
    arg[8..16].copy_from_slice(&(if nanos { part } else { part / 1000 }).to_ne_bytes());
    Ok(16)
}

/// A sockaddr_in in a struct ifreq.
fn sockaddr(to: &mut [u8], ip: Ip) {
    to[..16].fill(0);
    to[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    to[4..8].copy_from_slice(&ip.0[12..]);
}

fn v4_of(cx: &Cx<'_>, i: &Iface) -> Result<crate::instance::Prefix> {
    i.addrs(cx).iter().find(|p| p.ip.is_v4()).copied().ok_or(Errno::EADDRNOTAVAIL)
}

/// SIOCGIF*: the name is in the first 16 bytes, the answer goes behind it.
fn interface(cx: &Cx<'_>, request: u64, arg: &mut [u8]) -> Result<usize> {
    if size(request) == 0 {
        return Err(Errno::ENOTTY);
    }
    let int = |arg: &[u8]| i32::from_ne_bytes(arg[16..20].try_into().unwrap_or_default());
    if request == 0x8910 {
        // SIOCGIFNAME: the index is given.
        let i = iface::by_index(cx, int(arg) as u32).ok_or(Errno::ENODEV)?;
        arg[..16].fill(0);
        arg[..i.name.len()].copy_from_slice(i.name.as_bytes());
        return Ok(IFREQ);
    }
    match request {
        // Routes, ARP entries, and everything that would change an interface.
        0x890b | 0x890c | 0x8953..=0x8955 => return Err(Errno::EPERM),
        0x8946 | 0x89f0..=0x89ff => return Err(Errno::EOPNOTSUPP),
        _ => {}
    }
    // An alias ("eth0:1") is the interface itself.
    let name = &arg[..16];
    let end = name.iter().position(|b| *b == 0 || *b == b':').unwrap_or(15);
    let i = iface::by_name(cx, &name[..end]).ok_or(Errno::ENODEV)?;
    let tail = &mut arg[16..];
    match request {
        0x8913 => tail[..2].copy_from_slice(&(i.flags as u16).to_ne_bytes()),
        0x8915 => sockaddr(tail, v4_of(cx, &i)?.ip),
        0x8917 => sockaddr(tail, v4_of(cx, &i)?.ip),
        0x8919 => {
            let p = v4_of(cx, &i)?;
            // lo has no broadcast address set: 0.0.0.0.
            let at = if i.index == iface::LO { None } else { iface::broadcast_of(&p) };
            sockaddr(tail, at.unwrap_or(Ip::ANY4));
        }
        0x891b => {
            let len = v4_of(cx, &i)?.len;
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            sockaddr(tail, Ip::v4(mask.to_be_bytes()));
        }
        0x891d => tail[..4].fill(0),
        0x8921 => tail[..4].copy_from_slice(&i.mtu.to_ne_bytes()),
        0x8927 => {
            tail[..16].fill(0);
            tail[..2].copy_from_slice(&i.hardware.to_ne_bytes());
            tail[2..8].copy_from_slice(&i.mac);
        }
        0x8933 => tail[..4].copy_from_slice(&i.index.to_ne_bytes()),
        0x8942 => tail[..4].copy_from_slice(&1000i32.to_ne_bytes()),
        0x8970 => tail[..24].fill(0),
        _ => return Err(Errno::EPERM),
    }
    Ok(IFREQ)
}
