//! SOL_SOCKET.
//!
//! # Theory of operation
//! **Purpose.** socket(7)'s options as sk_getsockopt() and sk_setsockopt() of Linux 6.18 treat them.
//! **How it works.** Options that are only on or off are rows of [`FLAGS`]; the others are arms of [`get`] and [`set`].
//! **Limits.** BPF filters, SO_ZEROCOPY and SO_TXTIME are refused: nobody would run them. SO_MARK, SO_PRIORITY, SO_BUSY_POLL are kept and mean
//! nothing. The instance is the application's own machine, so nothing needs a capability. **Locks.** The open description's options.
//! **Failure.** As socket(7). **See also.** socket(7), `tests/tests/conformance/`.
use super::{MEM_MAX, Options, bits, bytes, flag, int};
use crate::call::Kind;
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::instance::Cx;
use crate::net::{dgram, iface, tcp};
use core::sync::atomic::Ordering::*;

/// Least SO_RCVBUF (SOCK_MIN_RCVBUF).
const MIN_RCVBUF: u32 = 2304;
/// Least SO_SNDBUF (SOCK_MIN_SNDBUF).
const MIN_SNDBUF: u32 = 4608;
/// Options libc has no names for.
mod so {
    pub(super) const PASSCRED: i32 = 16;
    pub(super) const PEERCRED: i32 = 17;
    pub(super) const SECURITY: core::ops::RangeInclusive<i32> = 22..=24;
    pub(super) const GET_FILTER: i32 = 26;
    pub(super) const PEERNAME: i32 = 28;
    pub(super) const PASSSEC: i32 = 34;
    pub(super) const BPF_EXTENSIONS: i32 = 48;
    pub(super) const MEMINFO: i32 = 55;
    pub(super) const INCOMING_NAPI_ID: i32 = 56;
    pub(super) const COOKIE: i32 = 57;
    pub(super) const PEERGROUPS: i32 = 59;
    pub(super) const TXTIME: i32 = 61;
    pub(super) const BINDTOIFINDEX: i32 = 62;
    pub(super) const TIMESTAMP_NEW: i32 = 63;
    pub(super) const TIMESTAMPNS_NEW: i32 = 64;
    pub(super) const TIMESTAMPING_NEW: i32 = 65;
    pub(super) const RCVTIMEO_NEW: i32 = 66;
    pub(super) const SNDTIMEO_NEW: i32 = 67;
    pub(super) const NETNS_COOKIE: i32 = 71;
    pub(super) const BUF_LOCK: i32 = 72;
    pub(super) const RESERVE_MEM: i32 = 73;
    pub(super) const TXREHASH: i32 = 74;
    pub(super) const PASSPIDFD: i32 = 76;
    pub(super) const PEERPIDFD: i32 = 77;
    pub(super) const PASSRIGHTS: i32 = 83;
}

/// Options that are on or off.
const FLAGS: &[(i32, u64)] = &[
    (libc::SO_DEBUG, flag::DEBUG),
    (libc::SO_DONTROUTE, flag::DONTROUTE),
    (libc::SO_NO_CHECK, flag::NO_CHECK),
    (libc::SO_RXQ_OVFL, flag::RXQ_OVFL),
    (libc::SO_WIFI_STATUS, flag::WIFI_STATUS),
    (libc::SO_SELECT_ERR_QUEUE, flag::SELECT_ERR_QUEUE),
    (libc::SO_LOCK_FILTER, flag::LOCK_FILTER),
    (libc::SO_NOFCS, flag::NOFCS),
    (libc::SO_PREFER_BUSY_POLL, flag::PREFER_BUSY_POLL),
    (75, flag::RCVMARK),
    (82, flag::RCVPRIORITY),
];

fn flag_of(name: i32) -> Option<u64> {
    FLAGS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

fn timeval(nanos: u64) -> [u8; 16] {
    // 1 ns stands for "at once" (a negative time was given).
    let us = if nanos <= 1 { 0 } else { nanos.div_ceil(1000) };
    let mut b = [0; 16];
    b[..8].copy_from_slice(&(us / 1_000_000).to_ne_bytes());
    b[8..].copy_from_slice(&(us % 1_000_000).to_ne_bytes());
    b
}

/// sock_set_timeout.
fn nanos(value: &[u8]) -> Result<u64> {
    if value.len() < 16 {
        return Err(Errno::EINVAL);
    }
    let word = |at: usize| i64::from_ne_bytes(value[at..at + 8].try_into().unwrap_or_default());
    let (sec, us) = (word(0), word(8));
    if !(0..1_000_000).contains(&us) {
        return Err(Errno(libc::EDOM as u16));
    }
    if sec < 0 {
        return Ok(1);
    }
    Ok((sec as u64).saturating_mul(1_000_000_000).saturating_add(us as u64 * 1000))
}

/// getsockopt(2) of SOL_SOCKET.
pub(super) fn get(cx: &Cx<'_>, s: &Held, name: i32, out: &mut [u8]) -> Result<usize> {
    let o = *s.options.lock(cx.me);
    if let Some(f) = flag_of(name) {
        return int(out, i32::from(o.has(f)));
    }
    let unnamed = |o: &Options, kind: u8| o.timestamp == kind;
    let value = match name {
        libc::SO_TYPE => i32::from(s.kind_type.load(Relaxed)),
        libc::SO_PROTOCOL => i32::from(s.protocol.load(Relaxed)),
        libc::SO_DOMAIN => i32::from(s.family.load(Relaxed)),
        libc::SO_ACCEPTCONN => i32::from(s.kind() == Kind::Tcp && super::listens(cx, s)),
        libc::SO_ERROR => {
            let e = s.take_error().map_or(0, |e| i32::from(e.0));
            if e != 0 {
                match s.kind() {
                    Kind::Tcp => tcp::option_changed(cx, s),
                    _ => dgram::republish(cx, s),
                }
            }
            e
        }
        libc::SO_SNDBUF => o.sndbuf as i32,
        libc::SO_RCVBUF => o.rcvbuf as i32,
        libc::SO_KEEPALIVE => i32::from(o.keepalive),
        libc::SO_REUSEADDR => i32::from(s.bits.load(Relaxed) & bits::REUSEADDR != 0),
        libc::SO_REUSEPORT => i32::from(s.bits.load(Relaxed) & bits::REUSEPORT != 0),
        libc::SO_BROADCAST => i32::from(o.broadcast),
        libc::SO_OOBINLINE => i32::from(o.oobinline),
        libc::SO_RCVLOWAT => o.rcvlowat as i32,
        libc::SO_SNDLOWAT => 1,
        libc::SO_PRIORITY => o.priority as i32,
        libc::SO_MARK => o.mark as i32,
        libc::SO_BUSY_POLL => o.busy_poll as i32,
        libc::SO_INCOMING_CPU => o.incoming_cpu,
        libc::SO_PEEK_OFF if matches!(s.kind(), Kind::Tcp | Kind::Udp) => o.peek_off,
        libc::SO_TIMESTAMP => i32::from(unnamed(&o, 1)),
        libc::SO_TIMESTAMPNS => i32::from(unnamed(&o, 2)),
        so::TIMESTAMP_NEW => i32::from(unnamed(&o, 5)),
        so::TIMESTAMPNS_NEW => i32::from(unnamed(&o, 6)),
        so::BINDTOIFINDEX => o.device as i32,
        so::BUF_LOCK => i32::from(o.buf_lock),
        so::TXREHASH if s.kind() == Kind::Tcp => 1,
        so::BPF_EXTENSIONS => 64,
        // SO_BSDCOMPAT (14) has meant nothing for long.
        14 | so::INCOMING_NAPI_ID | so::RESERVE_MEM | libc::SO_ZEROCOPY => 0,
        so::PASSCRED | so::PASSSEC | so::PASSPIDFD | so::PASSRIGHTS | libc::SO_PEEK_OFF | so::TXREHASH => return Err(Errno::EOPNOTSUPP),
        so::PEERGROUPS | so::PEERPIDFD => return Err(Errno(libc::ENODATA as u16)),
        _ => return wide(cx, s, &o, name, out),
    };
    int(out, value)
}

/// Options whose value is not an int.
fn wide(cx: &Cx<'_>, s: &Held, o: &Options, name: i32, out: &mut [u8]) -> Result<usize> {
    match name {
        libc::SO_LINGER => {
            let mut b = [0; 8];
            b[..4].copy_from_slice(&i32::from(o.linger >= 0).to_ne_bytes());
            b[4..].copy_from_slice(&(if o.linger >= 0 { o.linger } else { o.linger_time }).to_ne_bytes());
            bytes(out, &b)
        }
        libc::SO_RCVTIMEO | so::RCVTIMEO_NEW => bytes(out, &timeval(s.rcvtimeo.load(Relaxed))),
        libc::SO_SNDTIMEO | so::SNDTIMEO_NEW => bytes(out, &timeval(s.sndtimeo.load(Relaxed))),
        libc::SO_TIMESTAMPING | so::TIMESTAMPING_NEW => {
            let mut b = [0; 8];
            b[..4].copy_from_slice(&o.timestamping.to_ne_bytes());
            bytes(out, &b)
        }
        so::PEERCRED => {
            let mut b = [0xff; 12];
            b[..4].fill(0);
            bytes(out, &b)
        }
        libc::SO_BINDTODEVICE => match iface::by_index(cx, o.device) {
            None => Ok(0),
            Some(_) if out.len() < libc::IFNAMSIZ => Err(Errno::EINVAL),
            Some(i) => {
                let n = i.name.len();
                out[..n].copy_from_slice(i.name.as_bytes());
                out[n] = 0;
                Ok(n + 1)
            }
        },
        so::GET_FILTER => Ok(0),
        so::PEERNAME => {
            let (sa, n) = crate::call::socket::getpeername(cx, s)?;
            if out.len() > n {
                return Err(Errno::EINVAL);
            }
            bytes(out, &sa[..n])
        }
        libc::SO_MAX_PACING_RATE => {
            if out.len() >= 8 {
                bytes(out, &o.pacing.to_ne_bytes())
            } else {
                bytes(out, &(o.pacing.min(u64::from(u32::MAX)) as u32).to_ne_bytes())
            }
        }
        so::TXTIME => bytes(out, &[0; 8]),
        so::COOKIE => {
            if out.len() < 8 {
                return Err(Errno::EINVAL);
            }
            let cookie = u64::from(cx.inst.socks.life(s.id())) << 32 | u64::from(s.id().0);
            bytes(&mut out[..8], &cookie.to_ne_bytes())
        }
        so::NETNS_COOKIE => {
            if out.len() != 8 {
                return Err(Errno::EINVAL);
            }
            bytes(out, &cx.inst.header.layout.load(Relaxed).to_ne_bytes())
        }
        so::MEMINFO => {
            let (queued, drops) = match dgram::lock(cx, s) {
                Ok(b) if s.kind() != Kind::Tcp => (b.queue.charged(), b.queue.drops),
                _ => (0, 0),
            };
            let words = [queued, o.rcvbuf, 0, o.sndbuf, 0, 0, 0, 0, drops];
            let mut b = [0; 36];
            for (i, w) in words.iter().enumerate() {
                b[i * 4..][..4].copy_from_slice(&w.to_ne_bytes());
            }
            bytes(out, &b)
        }
        n if so::SECURITY.contains(&n) => Err(Errno::ENOPROTOOPT),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn device(cx: &Cx<'_>, index: i32) -> Result<u32> {
    match index {
        0 => Ok(0),
        n if n < 0 => Err(Errno::EINVAL),
        n => iface::by_index(cx, n as u32).map(|i| i.index).ok_or(Errno::ENODEV),
    }
}

/// setsockopt(2) of SOL_SOCKET.
pub(super) fn set(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8]) -> Result<()> {
    if name == libc::SO_BINDTODEVICE {
        let name = &value[..value.len().min(libc::IFNAMSIZ - 1)];
        let none = name.first().is_none_or(|b| *b == 0);
        let index = if none { 0 } else { iface::by_name(cx, name).ok_or(Errno::ENODEV)?.index };
        s.options.lock(cx.me).device = index;
        return Ok(());
    }
    let Some(v) = value.get(..4).map(|b| i32::from_ne_bytes(b.try_into().unwrap_or_default())) else { return Err(Errno::EINVAL) };
    let on = v != 0;
    let bit = |b: u8| if on { s.bits.fetch_or(b, Relaxed) } else { s.bits.fetch_and(!b, Relaxed) };
    match name {
        libc::SO_RCVTIMEO | so::RCVTIMEO_NEW => {
            s.rcvtimeo.store(nanos(value)?, Relaxed);
            return Ok(());
        }
        libc::SO_SNDTIMEO | so::SNDTIMEO_NEW => {
            s.sndtimeo.store(nanos(value)?, Relaxed);
            return Ok(());
        }
        libc::SO_REUSEADDR => {
            bit(bits::REUSEADDR);
        }
        libc::SO_REUSEPORT => {
            bit(bits::REUSEPORT);
        }
        _ => {}
    }
    let mut o = s.options.lock(cx.me);
    if let Some(f) = flag_of(name) {
        if name == libc::SO_LOCK_FILTER && o.has(f) && !on {
            return Err(Errno::EPERM);
        }
        return o.set_flag(f, on);
    }
    match name {
        libc::SO_REUSEADDR => o.reuseaddr = on,
        libc::SO_REUSEPORT => o.reuseport = on,
        libc::SO_KEEPALIVE => o.keepalive = on,
        libc::SO_BROADCAST => o.broadcast = on,
        libc::SO_OOBINLINE => o.oobinline = on,
        libc::SO_SNDBUF => {
            o.sndbuf = (v as u32).min(MEM_MAX).saturating_mul(2).max(MIN_SNDBUF);
            o.buf_lock |= 1;
        }
        libc::SO_RCVBUF => {
            o.rcvbuf = (v as u32).min(MEM_MAX).saturating_mul(2).max(MIN_RCVBUF);
            o.buf_lock |= 2;
        }
        libc::SO_SNDBUFFORCE => {
            o.sndbuf = (v.clamp(0, i32::MAX / 2) as u32 * 2).max(MIN_SNDBUF);
            o.buf_lock |= 1;
        }
        libc::SO_RCVBUFFORCE => {
            o.rcvbuf = (v.clamp(0, i32::MAX / 2) as u32 * 2).max(MIN_RCVBUF);
            o.buf_lock |= 2;
        }
        libc::SO_LINGER => {
            if value.len() < 8 {
                return Err(Errno::EINVAL);
            }
            let time = i32::from_ne_bytes(value[4..8].try_into().unwrap_or_default());
            // A negative time is a very long one (it is taken as unsigned).
            let time = if time < 0 { i32::MAX } else { time };
            if on {
                o.linger = time;
                o.linger_time = time;
            } else {
                o.linger = -1;
            }
        }
        libc::SO_RCVLOWAT => {
            o.rcvlowat = match v {
                0 => 1,
                n if n < 0 => i32::MAX as u32,
                n => n as u32,
            }
        }
        libc::SO_PRIORITY => o.priority = v as u32,
        libc::SO_MARK => o.mark = v as u32,
        libc::SO_BUSY_POLL if v < 0 => return Err(Errno::EINVAL),
        libc::SO_BUSY_POLL => o.busy_poll = v as u32,
        libc::SO_BUSY_POLL_BUDGET if !(0..=0xffff).contains(&v) => return Err(Errno::EINVAL),
        libc::SO_BUSY_POLL_BUDGET => o.busy_budget = v as u32,
        libc::SO_INCOMING_CPU => o.incoming_cpu = v,
        libc::SO_PEEK_OFF if !matches!(s.kind(), Kind::Tcp | Kind::Udp) => return Err(Errno::EOPNOTSUPP),
        libc::SO_PEEK_OFF => o.peek_off = v.max(-1),
        libc::SO_TIMESTAMP => o.timestamp = if on { 1 } else { 0 },
        libc::SO_TIMESTAMPNS => o.timestamp = if on { 2 } else { 0 },
        so::TIMESTAMP_NEW => o.timestamp = if on { 5 } else { 0 },
        so::TIMESTAMPNS_NEW => o.timestamp = if on { 6 } else { 0 },
        libc::SO_TIMESTAMPING | so::TIMESTAMPING_NEW => {
            if !(0..1 << 19).contains(&v) {
                return Err(Errno::EINVAL);
            }
            o.timestamping = v as u32;
        }
        libc::SO_MAX_PACING_RATE => {
            o.pacing = match value.get(..8) {
                Some(b) => u64::from_ne_bytes(b.try_into().unwrap_or_default()),
                None if v == -1 => u64::MAX,
                None => u64::from(v as u32),
            }
        }
        so::BINDTOIFINDEX => o.device = device(cx, v)?,
        so::BUF_LOCK if v & !3 != 0 => return Err(Errno::EINVAL),
        so::BUF_LOCK => o.buf_lock = v as u8,
        libc::SO_ZEROCOPY => {
            // Off is what it is; completions would never come.
            return match v {
                0 => Ok(()),
                1 => Err(Errno::EOPNOTSUPP),
                _ => Err(Errno::EINVAL),
            };
        }
        libc::SO_DETACH_FILTER => return Err(Errno::ENOENT),
        so::RESERVE_MEM if v < 0 => return Err(Errno::EINVAL),
        so::RESERVE_MEM | 14 => {}
        so::TXREHASH if s.kind() != Kind::Tcp => return Err(Errno::EOPNOTSUPP),
        so::TXREHASH if !(-1..=1).contains(&v) => return Err(Errno::EINVAL),
        so::TXREHASH => {}
        so::PASSCRED | so::PASSSEC | so::PASSPIDFD | so::PASSRIGHTS => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}
