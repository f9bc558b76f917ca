//! Between the engine and the link: the device smoltcp sees, and the segments we make ourselves.
//!
//! # Theory of operation
//! **Purpose.** smoltcp writes each segment straight into the receiver's ring. A ring may be full: then the engine must not believe that it has sent,
//! so room is taken *before* it is asked for the segment ([`Port::transmit`]), for the length the meter foretells. If the foretelling is wrong (it is
//! not, in order), the right room is taken instead, and if that fails the segment is lost as on any wire.
//! **How it works.** On its way out a segment is seen by the meter and corrected: the window one unit narrower than smoltcp says (its rounding
//! can take back up to 15 bytes of what it announced, which costs a retransmission), TCP_MAXSEG in a SYN, the TOS byte, the IPv4 checksum.
//! TCP checksums are computed for what leaves the host; the rings inside it are memory. There the engine also minds congestion, so that nobody can
//! foretell its segments: only that the longest would find room is asked.
//! **Locks.** The flow's. **Failure.** [`Port::full`], [`Port::gone`] tell the flow to try again later.
use super::meter::{ACK, Meter, RST, SYN, Segment, options};
use crate::instance::Cx;
use crate::net::addr::{Ip, Tuple};
use crate::net::link::tx::{Frame, Hop, Refused, reserve};
use crate::net::link::uplink;
use crate::stats::bump;
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::TcpPacket;

/// What smoltcp sees of the world during one call.
pub(super) struct Port<'a, 'c> {
    pub(super) cx: &'a Cx<'c>,
    pub(super) hop: &'a Hop,
    pub(super) meter: &'a mut Meter,
    /// The packet to take in.
    pub(super) rx: Option<&'a [u8]>,
    /// Length of the next segment, IP header included.
    pub(super) guess: usize,
    pub(super) tos: u8,
    /// Swallow what is emitted (an acknowledgement nobody needs).
    pub(super) mute: bool,
    /// The ring was full; the port is not there any more.
    pub(super) full: bool,
    pub(super) gone: bool,
    /// Segments that left.
    pub(super) sent: u32,
    /// An answer was lost because the ring was full.
    pub(super) lost: bool,
}

/// Bytes of an IP header without options.
#[inline]
pub(super) fn ip_header(v4: bool) -> usize {
    if v4 { 20 } else { 40 }
}

impl<'a, 'c> Port<'a, 'c> {
    pub(super) fn new(cx: &'a Cx<'c>, hop: &'a Hop, meter: &'a mut Meter, tos: u8) -> Self {
        Self { cx, hop, meter, rx: None, guess: 0, tos, mute: false, full: false, gone: false, sent: 0, lost: false }
    }

    fn refused(&mut self, r: Refused) {
        match r {
            Refused::Full => self.full = true,
            Refused::Gone => self.gone = true,
        }
    }

    /// A segment is written: the last corrections.
    fn pass(&mut self, ip: &mut [u8]) {
        let v4 = ip[0] >> 4 == 4;
        let at = ip_header(v4);
        let Some(mut s) = ip.get(at..).and_then(Segment::parse) else { return };
        if s.has(SYN) {
            let clamp = self.meter.clamp;
            let header = s.header;
            let (mut found, mut scale) = (None, 255);
            options(&ip[at + 20..at + header], |kind, i, v| match (kind, v) {
                (2, [a, b]) => found = Some((at + 20 + i + 2, u16::from_be_bytes([*a, *b]))),
                (3, [n]) => scale = *n,
                _ => {}
            });
            self.meter.rcv_scale = scale;
            if let Some((i, mss)) = found {
                let mss = if clamp != 0 { mss.min(clamp) } else { mss };
                ip[i..i + 2].copy_from_slice(&mss.to_be_bytes());
                self.meter.our_mss = mss;
            }
        } else if !s.has(RST) && self.meter.scaled() > 0 && s.window > 0 {
            s.window -= 1;
            ip[at + 14..at + 16].copy_from_slice(&s.window.to_be_bytes());
        }
        mark(ip, v4, self.tos);
        sum_up(self.cx, self.hop, ip, at);
        let again = self.meter.sent(&s, self.cx.now());
        self.sent += 1;
        let stats = &self.cx.inst.stats;
        bump(&stats.tcp_out_segs);
        if again {
            bump(&stats.tcp_retrans_segs);
        }
        if s.has(RST) {
            bump(&stats.tcp_out_rsts);
        }
    }
}

/// Writes the TOS byte and the IPv4 header checksum.
#[inline]
fn mark(ip: &mut [u8], v4: bool, tos: u8) {
    if v4 {
        ip[1] = tos;
        ip[10..12].fill(0);
        let sum: u32 = ip[..20].chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    } else if tos != 0 {
        ip[0] = 0x60 | tos >> 4;
        ip[1] = ip[1] & 0x0f | tos << 4;
    }
}

/// The pseudo-header's addresses of an IP packet.
fn ends(ip: &[u8]) -> (smoltcp::wire::IpAddress, smoltcp::wire::IpAddress) {
    let at = |from: usize, len: usize| {
        let mut a = Ip::ANY4.0;
        a[16 - len..].copy_from_slice(&ip[from..from + len]);
        Ip(a).wire()
    };
    if ip[0] >> 4 == 4 { (at(12, 4), at(16, 4)) } else { (at(8, 16), at(24, 16)) }
}

/// What leaves the host has a checksum, and what goes by a link that spoils frames on purpose; else zero stands for "none", as in UDP: memory does not flip bits.
#[inline]
fn sum_up(cx: &Cx<'_>, hop: &Hop, ip: &mut [u8], at: usize) {
    if hop.leaves() || cx.config().impair.corrupt_ppm != 0 {
        let (src, dst) = ends(ip);
        TcpPacket::new_unchecked(&mut ip[at..]).fill_checksum(&src, &dst);
    }
}

/// Is the segment as it was sent, as far as it says?
#[inline]
pub(super) fn is_whole(src: Ip, dst: Ip, tcp: &[u8]) -> bool {
    tcp[16..18] == [0, 0] || TcpPacket::new_unchecked(tcp).verify_checksum(&src.wire(), &dst.wire())
}

/// What smoltcp knows of a link of `mtu`.
pub(super) fn capabilities(mtu: u32) -> DeviceCapabilities {
    let mut caps = DeviceCapabilities::default();
    caps.medium = Medium::Ip;
    caps.max_transmission_unit = (mtu as usize).clamp(552, 65535);
    caps.max_burst_size = None;
    caps.checksum = ChecksumCapabilities::ignored();
    caps.checksum.ipv4 = Checksum::None;
    caps
}

/// The packet given to the engine.
pub(super) struct Rx<'a>(&'a [u8]);
impl RxToken for Rx<'_> {
    #[inline]
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for one segment.
pub(super) struct Tx<'b, 'a, 'c> {
    port: &'b mut Port<'a, 'c>,
    frame: Option<Frame<'c>>,
}
impl TxToken for Tx<'_, '_, '_> {
    #[inline]
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let Self { port, frame } = self;
        if port.mute {
            return spill(port, len, f);
        }
        let frame = match frame {
            Some(frame) if port.guess == len => Ok(frame),
            _ => reserve(port.cx, port.hop, len),
        };
        match frame {
            Ok(mut frame) => {
                let r = f(frame.ip());
                port.pass(frame.ip());
                frame.commit(port.cx);
                r
            }
            Err(refused) => {
                port.refused(refused);
                port.lost = true;
                spill(port, len, f)
            }
        }
    }
}

/// Lets the engine write a segment that goes nowhere.
#[cold]
fn spill<R>(port: &mut Port<'_, '_>, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut small = [0; 256];
    if let Some(room) = small.get_mut(..len) {
        return f(room);
    }
    let mut scratch = port.cx.inst.net.tcp.scratch.lock(port.cx.me);
    f(&mut scratch[..len])
}

impl<'a, 'c> Device for Port<'a, 'c> {
    type RxToken<'b>
        = Rx<'a>
    where
        Self: 'b;
    type TxToken<'b>
        = Tx<'b, 'a, 'c>
    where
        Self: 'b;

    #[inline]
    fn receive(&mut self, _: Instant) -> Option<(Rx<'a>, Tx<'_, 'a, 'c>)> {
        let rx = Rx(self.rx.take()?);
        Some((rx, Tx { port: self, frame: None }))
    }
    #[inline]
    fn transmit(&mut self, _: Instant) -> Option<Tx<'_, 'a, 'c>> {
        if self.mute {
            return Some(Tx { port: self, frame: None });
        }
        if self.hop.leaves() {
            self.full = !uplink::has_room(self.cx, self.hop.mtu as usize);
            return if self.full { None } else { Some(Tx { port: self, frame: None }) };
        }
        match reserve(self.cx, self.hop, self.guess) {
            Ok(frame) => Some(Tx { port: self, frame: Some(frame) }),
            Err(refused) => {
                self.refused(refused);
                None
            }
        }
    }
    fn capabilities(&self) -> DeviceCapabilities {
        capabilities(self.hop.mtu)
    }
}

/// A segment without data of our own making: a reset, a challenge, a keep-alive probe. False if it could not be sent.
pub(super) fn emit(cx: &Cx<'_>, hop: &Hop, t: &Tuple, s: &Segment, ttl: u8, tos: u8) -> bool {
    let v4 = t.local.ip.is_v4();
    let at = ip_header(v4);
    let Ok(mut frame) = reserve(cx, hop, at + 20) else { return false };
    let ip = frame.ip();
    ip.fill(0);
    write_ip(ip, t.local.ip, t.remote.ip, ttl);
    let tcp = &mut ip[at..];
    tcp[0..2].copy_from_slice(&t.local.port.to_be_bytes());
    tcp[2..4].copy_from_slice(&t.remote.port.to_be_bytes());
    tcp[4..8].copy_from_slice(&s.seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&(if s.has(ACK) { s.ack } else { 0 }).to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = s.flags;
    tcp[14..16].copy_from_slice(&s.window.to_be_bytes());
    mark(ip, v4, tos);
    sum_up(cx, hop, ip, at);
    frame.commit(cx);
    bump(&cx.inst.stats.tcp_out_segs);
    if s.has(RST) {
        bump(&cx.inst.stats.tcp_out_rsts);
    }
    true
}

/// An IP header (all else zero) for a TCP segment that fills `ip`.
fn write_ip(ip: &mut [u8], src: Ip, dst: Ip, ttl: u8) {
    let len = ip.len();
    match (src.as_v4(), dst.as_v4()) {
        (Some(src), Some(dst)) => {
            ip[0] = 0x45;
            ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            ip[6] = 0x40;
            ip[8] = ttl;
            ip[9] = 6;
            ip[12..16].copy_from_slice(&src);
            ip[16..20].copy_from_slice(&dst);
        }
        _ => {
            ip[0] = 0x60;
            ip[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            ip[6] = 6;
            ip[7] = ttl;
            ip[8..24].copy_from_slice(&src.0);
            ip[24..40].copy_from_slice(&dst.0);
        }
    }
}
