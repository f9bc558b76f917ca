//! The meter: what a connection's segments say as they pass, since smoltcp keeps its numbers to itself.
//!
//! Every segment in or out goes by here (`reference/smoltcp.md` section 8): sequence numbers, windows, retransmissions, round-trip samples, times.
//! It fills TCP_INFO and SIOCOUTQ, tells retransmissions from progress, and says how long the next segment will be. Numbers are 32-bit sequence
//! numbers; comparisons are modulo 2^32.
use crate::arena::Shared;
use crate::clock::Nanos;

/// Is `a` before `b`?
#[inline]
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// See the file's head.
#[repr(C)]
#[derive(Clone, Copy, Default, Shared, Debug)]
pub(super) struct Meter {
    /// Our initial sequence number, and the peer's.
    pub(super) iss: u32,
    pub(super) irs: u32,
    /// First byte not acknowledged; one past the last ever sent.
    pub(super) snd_una: u32,
    pub(super) snd_nxt: u32,
    /// Bytes the peer takes from `snd_una` on.
    pub(super) snd_wnd: u32,
    /// Next byte expected, last acknowledgement sent, the edge of the window last announced.
    pub(super) rcv_nxt: u32,
    pub(super) rcv_acked: u32,
    pub(super) rcv_edge: u32,
    /// The end of the furthest data seen: past `rcv_nxt` while there is a hole.
    pub(super) rcv_max: u32,
    /// Window scale options seen; 255: none.
    pub(super) snd_scale: u8,
    pub(super) rcv_scale: u8,
    /// The SYN said so (SACK permitted).
    pub(super) sack: bool,
    /// The FIN has been sent; it has been acknowledged.
    pub(super) fin_sent: bool,
    pub(super) fin_acked: bool,
    /// Both SYNs have passed.
    pub(super) synced: bool,
    /// The largest segment the peer takes, as its SYN said (0: said nothing), and what ours said.
    pub(super) peer_mss: u16,
    pub(super) our_mss: u16,
    /// What the way carries since its MTU changed; 0: it has not.
    pub(super) path_mss: u16,
    /// TCP_MAXSEG: clamps both; 0 for none.
    pub(super) clamp: u16,
    /// Retransmitted segments in all, and since the last progress.
    pub(super) retrans: u32,
    pub(super) retrans_now: u32,
    pub(super) dup_acks: u32,
    pub(super) segs_in: u32,
    pub(super) segs_out: u32,
    pub(super) data_segs_in: u32,
    pub(super) data_segs_out: u32,
    pub(super) bytes_acked: u64,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_retrans: u64,
    /// Smoothed round trip and its variance in microseconds, the least.
    pub(super) rtt_us: u32,
    pub(super) rttvar_us: u32,
    pub(super) min_rtt_us: u32,
    /// The sample under way: which acknowledgement ends it, and when it began (0: none).
    timed_seq: u32,
    timed_at: Nanos,
    /// When the last of each was: data sent, data received, acknowledgement received; anything heard.
    pub(super) data_sent_at: Nanos,
    pub(super) data_heard_at: Nanos,
    pub(super) heard_at: Nanos,
    /// When what is unacknowledged became so, or last made progress; 0: nothing is.
    pub(super) waiting_since: Nanos,
}

/// A segment's numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Segment {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
    /// Length of the TCP header, and of the data after it.
    pub(super) header: usize,
    pub(super) len: usize,
}

pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

impl Segment {
    /// Reads a TCP header; None if it is too short or says it is longer than it is.
    #[inline]
    pub(super) fn parse(tcp: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = tcp.get(..20)?.try_into().ok()?;
        let header = usize::from(fixed[12] >> 4) * 4;
        if header < 20 || header > tcp.len() {
            return None;
        }
        let word = |i: usize| u32::from_be_bytes([fixed[i], fixed[i + 1], fixed[i + 2], fixed[i + 3]]);
        Some(Self {
            seq: word(4),
            ack: word(8),
            flags: fixed[13],
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            header,
            len: tcp.len() - header,
        })
    }
    #[inline]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
    /// How much of the sequence space it takes.
    #[inline]
    pub(super) fn space(&self) -> u32 {
        self.len as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }
}

/// Walks the options of a SYN: MSS, window scale, SACK permitted.
pub(super) fn options(mut o: &[u8], mut each: impl FnMut(u8, usize, &[u8])) {
    let whole = o.len();
    while let [kind, rest @ ..] = o {
        match kind {
            0 => return,
            1 => o = rest,
            _ => {
                let Some(&len) = rest.first() else { return };
                let len = usize::from(len);
                if len < 2 || len > o.len() {
                    return;
                }
                each(*kind, whole - o.len(), &o[2..len]);
                o = &o[len..];
            }
        }
    }
}

impl Meter {
    /// A connection that starts.
    pub(super) fn fresh(clamp: u16, now: Nanos) -> Self {
        Self { snd_scale: 255, rcv_scale: 255, clamp, heard_at: now, min_rtt_us: u32::MAX, ..Self::default() }
    }

    /// Bytes of data in flight.
    #[inline]
    pub(super) fn in_flight(&self) -> usize {
        let n = self.snd_nxt.wrapping_sub(self.snd_una);
        let fin = u32::from(self.fin_sent && !self.fin_acked);
        let syn = u32::from(!self.synced && self.snd_una == self.iss && n > 0);
        n.saturating_sub(fin + syn) as usize
    }

    /// Does the window we announce carry a scale?
    #[inline]
    pub(super) fn scaled(&self) -> u8 {
        if self.snd_scale == 255 || self.rcv_scale == 255 { 0 } else { self.rcv_scale }
    }

    /// A segment of ours leaves. True if it is one sent before.
    #[inline]
    pub(super) fn sent(&mut self, s: &Segment, now: Nanos) -> bool {
        self.segs_out = self.segs_out.wrapping_add(1);
        let end = s.seq.wrapping_add(s.space());
        let mut again = false;
        if s.has(SYN) && self.snd_nxt == self.snd_una && !self.synced && self.segs_out == 1 {
            self.iss = s.seq;
            self.snd_una = s.seq;
            self.snd_nxt = s.seq;
        }
        if s.space() > 0 && !s.has(RST) {
            again = before(s.seq, self.snd_nxt);
            if again {
                self.retrans = self.retrans.wrapping_add(1);
                self.retrans_now = self.retrans_now.saturating_add(1);
                self.bytes_retrans += s.len as u64;
                // Karn: what was sent twice is not timed.
                self.timed_at = 0;
            } else if self.timed_at == 0 {
                (self.timed_seq, self.timed_at) = (end, now);
            }
            if self.waiting_since == 0 {
                self.waiting_since = now;
            }
            if before(self.snd_nxt, end) {
                self.snd_nxt = end;
            }
            if s.has(FIN) {
                self.fin_sent = true;
            }
        }
        if s.len > 0 {
            self.data_segs_out = self.data_segs_out.wrapping_add(1);
            self.bytes_sent += s.len as u64;
            self.data_sent_at = now;
        }
        if s.has(ACK) && !s.has(RST) {
            self.rcv_acked = s.ack;
            let scale = if s.has(SYN) { 0 } else { self.scaled() };
            self.rcv_edge = s.ack.wrapping_add(u32::from(s.window) << scale);
        }
        again
    }

    /// A segment of the peer's has been taken by the engine: `fresh` bytes of it were new and in order (a FIN counts), and it acknowledged `acked`
    /// of ours (SYN and FIN count), as the engine's queues and state tell.
    #[inline]
    pub(super) fn heard(&mut self, s: &Segment, fresh: u32, acked: u32, fin_acked: bool, now: Nanos) {
        self.segs_in = self.segs_in.wrapping_add(1);
        self.heard_at = now;
        if s.len > 0 {
            self.data_segs_in = self.data_segs_in.wrapping_add(1);
            self.data_heard_at = now;
            let end = s.seq.wrapping_add(s.len as u32);
            if before(self.rcv_max, end) {
                self.rcv_max = end;
            }
        }
        self.bytes_received += u64::from(fresh);
        self.rcv_nxt = self.rcv_nxt.wrapping_add(fresh);
        if acked > 0 {
            self.bytes_acked += u64::from(acked);
            self.snd_una = self.snd_una.wrapping_add(acked);
            if before(self.snd_nxt, self.snd_una) {
                self.snd_nxt = self.snd_una;
            }
            (self.retrans_now, self.dup_acks) = (0, 0);
            self.fin_acked |= fin_acked;
            self.waiting_since = if self.snd_una == self.snd_nxt { 0 } else { now };
            if self.timed_at != 0 && !before(self.snd_una, self.timed_seq) {
                self.sample(now.saturating_sub(self.timed_at));
            }
        } else if s.len == 0 && s.ack == self.snd_una && self.snd_nxt != self.snd_una {
            self.dup_acks = self.dup_acks.saturating_add(1);
        }
        if s.has(ACK) && !s.has(RST) {
            let scale = if s.has(SYN) || self.rcv_scale == 255 || self.snd_scale == 255 { 0 } else { self.snd_scale };
            self.snd_wnd = u32::from(s.window) << scale;
        }
    }

    fn sample(&mut self, took: Nanos) {
        self.timed_at = 0;
        let us = (took / 1000).clamp(1, 60_000_000) as u32;
        self.min_rtt_us = self.min_rtt_us.min(us);
        if self.rtt_us == 0 {
            self.rtt_us = us;
            self.rttvar_us = us / 2;
        } else {
            let off = self.rtt_us.abs_diff(us);
            self.rttvar_us = ((u64::from(self.rttvar_us) * 3 + u64::from(off)) / 4) as u32;
            self.rtt_us = ((u64::from(self.rtt_us) * 7 + u64::from(us)) / 8).max(1) as u32;
        }
    }

    /// The peer's SYN: its sequence number and its options.
    pub(super) fn peer_syn(&mut self, s: &Segment, tcp: &[u8]) {
        self.irs = s.seq;
        self.rcv_nxt = s.seq.wrapping_add(1);
        self.rcv_acked = s.seq;
        self.rcv_edge = self.rcv_nxt;
        self.rcv_max = self.rcv_nxt;
        self.snd_wnd = u32::from(s.window);
        self.snd_scale = 255;
        options(&tcp[20..s.header], |kind, _, v| match (kind, v) {
            (2, [a, b]) => self.peer_mss = u16::from_be_bytes([*a, *b]),
            (3, [n]) => self.snd_scale = (*n).min(14),
            (4, []) => self.sack = true,
            _ => {}
        });
    }

    /// Most data a segment of ours carries.
    pub(super) fn mss(&self) -> usize {
        let peer = if self.peer_mss == 0 { 536 } else { usize::from(self.peer_mss).max(48) };
        let own = if self.our_mss == 0 { usize::MAX } else { usize::from(self.our_mss) };
        let path = if self.path_mss == 0 { usize::MAX } else { usize::from(self.path_mss) };
        peer.min(own).min(path)
    }
}
