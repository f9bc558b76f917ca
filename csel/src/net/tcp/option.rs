//! Options of IPPROTO_TCP: tcp(7), as do_tcp_setsockopt and do_tcp_getsockopt have them.
//!
//! What changes the connection does so here; what only has to be remembered is remembered. Options that need what we do not have (MD5, repair,
//! Fast Open on the wire, ULPs) answer as a kernel without it.
use super::flow::{self, Phase};
use super::{connect, info, tick};
use crate::arena::Shared;
use crate::clock::{Nanos, SEC};
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::instance::Cx;
use crate::net::option::Options;

/// TCP_SAVE_SYN and others that libc does not name.
const TCP_SAVE_SYN: i32 = 27;
const TCP_SAVED_SYN: i32 = 28;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_INQ: i32 = 36;

/// Congestion control algorithms that may be named; in the host none is in force.
const ALGORITHMS: [&[u8]; 2] = [b"cubic", b"reno"];

/// What a connection's options are. Plain data; an accepted socket gets the listener's.
#[repr(C)]
#[derive(Clone, Copy, Shared, Debug)]
pub(super) struct Opts {
    pub(super) nodelay: bool,
    pub(super) cork: bool,
    /// The last send said MSG_MORE.
    pub(super) more: bool,
    quickack: bool,
    /// SO_KEEPALIVE.
    pub(super) keepalive: bool,
    pub(super) tos: u8,
    ttl: u8,
    algorithm: u8,
    thin_linear: bool,
    thin_dupack: bool,
    fastopen_connect: bool,
    fastopen_no_cookie: bool,
    inq: bool,
    save_syn: u8,
    pub(super) keepcnt: u8,
    syncnt: u8,
    pub(super) maxseg: u16,
    pub(super) keepidle: u16,
    pub(super) keepintvl: u16,
    /// Seconds; 0 is the default, negative none.
    pub(super) linger2: i32,
    /// Seconds, as the steps of retransmission round them.
    pub(super) defer_accept: u32,
    window_clamp: u32,
    /// Milliseconds.
    pub(super) user_timeout: u32,
    pub(super) notsent_lowat: u32,
    fastopen: u32,
    pub(super) rcvlowat: u32,
}

impl Opts {
    /// A new socket's.
    pub(super) const FRESH: Self = Self {
        nodelay: false,
        cork: false,
        more: false,
        quickack: true,
        keepalive: false,
        tos: 0,
        ttl: 0,
        algorithm: 0,
        thin_linear: false,
        thin_dupack: false,
        fastopen_connect: false,
        fastopen_no_cookie: false,
        inq: false,
        save_syn: 0,
        keepcnt: 9,
        syncnt: 6,
        maxseg: 0,
        keepidle: 7200,
        keepintvl: 75,
        linger2: 0,
        defer_accept: 0,
        window_clamp: 0,
        user_timeout: 0,
        notsent_lowat: 0,
        fastopen: 0,
        rcvlowat: 1,
    };
    /// Is a part segment to be held back?
    #[inline]
    pub(super) fn corked(&self) -> bool {
        self.cork || self.more
    }
    pub(super) fn uncork(&mut self) {
        (self.cork, self.more) = (false, false);
    }
    /// TTL or hop limit.
    pub(super) fn hops(&self) -> u8 {
        if self.ttl == 0 { 64 } else { self.ttl }
    }
    /// How long a connect goes on: tcp_syn_retries and, since Linux 6.5, four more at the start.
    pub(super) fn connect_limit(&self) -> Nanos {
        SEC * (4 + (2u64 << self.syncnt.min(30)) - 1)
    }
    /// How long an orphan stays in FIN-WAIT-2.
    pub(super) fn fin2(&self) -> Nanos {
        match self.linger2 {
            0 => tick::FIN_TIMEOUT,
            n if n < 0 => 0,
            n => SEC * n as u64,
        }
    }
    /// Takes over what SOL_SOCKET and IPPROTO_IP say.
    pub(super) fn adopt(&mut self, o: &Options) {
        self.keepalive = o.keepalive;
        self.rcvlowat = o.rcvlowat;
        self.ttl = o.ttl;
        self.tos = o.tos;
    }
}

/// The seconds that TCP_DEFER_ACCEPT comes to: whole steps of a doubling timeout (secs_to_retrans, retrans_to_secs).
fn steps(seconds: i32) -> u32 {
    if seconds <= 0 {
        return 0;
    }
    let (mut period, mut timeout, mut n) = (1u32, 1u32, 1);
    while seconds as u32 > period && n < 255 {
        n += 1;
        timeout = (timeout * 2).min(120);
        period += timeout;
    }
    period
}

/// setsockopt(2).
pub(super) fn set(cx: &Cx<'_>, s: &Held, name: i32, value: &[u8]) -> Result<()> {
    match name {
        libc::TCP_CONGESTION => {
            if value.is_empty() {
                return Err(Errno::EINVAL);
            }
            let text = value.split(|b| *b == 0).next().unwrap_or_default();
            let n = ALGORITHMS.iter().position(|a| *a == &text[..text.len().min(15)]).ok_or(Errno::ENOENT)?;
            flow::must(cx, s)?.2.opts.algorithm = n as u8;
            return Ok(());
        }
        libc::TCP_ULP => return Err(if value.is_empty() { Errno::EINVAL } else { Errno::ENOENT }),
        _ => {}
    }
    let Some(&[a, b, c, d]) = value.get(..4) else { return Err(Errno::EINVAL) };
    let v = i32::from_ne_bytes([a, b, c, d]);
    let check = |ok: bool| if ok { Ok(()) } else { Err(Errno::EINVAL) };
    let (n, _, mut i) = flow::must(cx, s)?;
    let closed = matches!(i.phase, Phase::Fresh | Phase::Done);
    let (open, phase) = (i.phase == Phase::Open, i.phase);
    let o = &mut i.opts;
    let mut push = false;
    match name {
        libc::TCP_NODELAY => {
            o.nodelay = v != 0;
            push = v != 0;
        }
        libc::TCP_MAXSEG => {
            check(v == 0 || (88..=32767).contains(&v))?;
            o.maxseg = v as u16;
        }
        libc::TCP_CORK => {
            o.cork = v != 0;
            push = v == 0;
        }
        libc::TCP_KEEPIDLE => {
            check((1..=32767).contains(&v))?;
            o.keepidle = v as u16;
        }
        libc::TCP_KEEPINTVL => {
            check((1..=32767).contains(&v))?;
            o.keepintvl = v as u16;
        }
        libc::TCP_KEEPCNT => {
            check((1..=127).contains(&v))?;
            o.keepcnt = v as u8;
        }
        libc::TCP_SYNCNT => {
            check((1..=127).contains(&v))?;
            o.syncnt = v as u8;
        }
        libc::TCP_LINGER2 => o.linger2 = if v < 0 { -1 } else { v.min(120) },
        libc::TCP_DEFER_ACCEPT => o.defer_accept = steps(v),
        libc::TCP_WINDOW_CLAMP => {
            check(v != 0 || closed)?;
            o.window_clamp = if v == 0 { 0 } else { (v as u32).max(1152) };
        }
        libc::TCP_QUICKACK => o.quickack = v & 1 != 0,
        libc::TCP_USER_TIMEOUT => {
            check(v >= 0)?;
            o.user_timeout = v as u32;
        }
        libc::TCP_NOTSENT_LOWAT => o.notsent_lowat = v as u32,
        libc::TCP_FASTOPEN => {
            check(v >= 0 && (closed || phase == Phase::Listening))?;
            o.fastopen = v as u32;
        }
        libc::TCP_FASTOPEN_CONNECT => {
            check((0..=1).contains(&v) && closed)?;
            o.fastopen_connect = v != 0;
        }
        TCP_FASTOPEN_NO_COOKIE => {
            check((0..=1).contains(&v) && (closed || phase == Phase::Listening))?;
            o.fastopen_no_cookie = v != 0;
        }
        libc::TCP_THIN_LINEAR_TIMEOUTS => {
            check((0..=1).contains(&v))?;
            o.thin_linear = v != 0;
        }
        libc::TCP_THIN_DUPACK => {
            check((0..=1).contains(&v))?;
            o.thin_dupack = v != 0;
        }
        TCP_SAVE_SYN => {
            check((0..=2).contains(&v))?;
            o.save_syn = v as u8;
        }
        TCP_INQ => {
            check((0..=1).contains(&v))?;
            o.inq = v != 0;
        }
        libc::TCP_REPAIR | libc::TCP_REPAIR_OPTIONS | libc::TCP_REPAIR_QUEUE | libc::TCP_QUEUE_SEQ => return Err(Errno::EPERM),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    if push {
        i.opts.more = false;
    }
    if open {
        flow::drive(cx, n, &mut i, push);
    }
    Ok(())
}

/// getsockopt(2).
pub(super) fn get(cx: &Cx<'_>, s: &Held, name: i32, out: &mut [u8]) -> Result<usize> {
    if name == libc::TCP_INFO {
        crate::net::progress(cx);
    }
    let (_, _, mut i) = flow::must(cx, s)?;
    let mut put = |bytes: &[u8]| {
        let n = bytes.len().min(out.len());
        out[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    };
    let o = i.opts;
    let v = match name {
        libc::TCP_INFO => {
            let info = info::tcp_info(cx, &mut i, s.body.load(core::sync::atomic::Ordering::Relaxed));
            return put(&info);
        }
        libc::TCP_CONGESTION => {
            let mut text = [0; 16];
            let a = ALGORITHMS[usize::from(o.algorithm) % ALGORITHMS.len()];
            text[..a.len()].copy_from_slice(a);
            return put(&text);
        }
        libc::TCP_ULP | TCP_SAVED_SYN => return Ok(0),
        libc::TCP_NODELAY => i32::from(o.nodelay),
        libc::TCP_MAXSEG if o.maxseg != 0 && !i.live() => i32::from(o.maxseg),
        libc::TCP_MAXSEG if i.meter.synced => i.meter.mss() as i32,
        libc::TCP_MAXSEG => 536,
        libc::TCP_CORK => i32::from(o.cork),
        libc::TCP_KEEPIDLE => i32::from(o.keepidle),
        libc::TCP_KEEPINTVL => i32::from(o.keepintvl),
        libc::TCP_KEEPCNT => i32::from(o.keepcnt),
        libc::TCP_SYNCNT => i32::from(o.syncnt),
        libc::TCP_LINGER2 => match o.linger2 {
            0 => 60,
            n => n,
        },
        libc::TCP_DEFER_ACCEPT => o.defer_accept as i32,
        libc::TCP_WINDOW_CLAMP if o.window_clamp == 0 && i.live() => i.rx_size as i32,
        libc::TCP_WINDOW_CLAMP => o.window_clamp as i32,
        libc::TCP_QUICKACK => i32::from(o.quickack),
        libc::TCP_USER_TIMEOUT => o.user_timeout as i32,
        libc::TCP_NOTSENT_LOWAT => o.notsent_lowat as i32,
        libc::TCP_FASTOPEN => o.fastopen as i32,
        libc::TCP_FASTOPEN_CONNECT => i32::from(o.fastopen_connect),
        TCP_FASTOPEN_NO_COOKIE => i32::from(o.fastopen_no_cookie),
        libc::TCP_THIN_LINEAR_TIMEOUTS => i32::from(o.thin_linear),
        libc::TCP_THIN_DUPACK => i32::from(o.thin_dupack),
        TCP_SAVE_SYN => i32::from(o.save_syn),
        TCP_INQ => i32::from(o.inq),
        libc::TCP_TIMESTAMP => (cx.now() / 1_000_000) as i32,
        libc::TCP_REPAIR => 0,
        _ => return Err(Errno::ENOPROTOOPT),
    };
    put(&v.to_ne_bytes())
}

/// An option of another level that TCP looks at has changed.
pub(super) fn changed(cx: &Cx<'_>, s: &Held) {
    let Some((n, _, mut i)) = flow::of(cx, s) else { return };
    connect::adopt(cx, s, &mut i);
    let hops = i.opts.hops();
    if let Some(e) = i.engine.get_mut() {
        e.with(|socket| socket.set_hop_limit(Some(hops)));
    }
    if i.phase == Phase::Open {
        flow::drive(cx, n, &mut i, false);
        flow::publish(cx, &mut i, 0);
    }
}
