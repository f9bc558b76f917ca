//! What a datagram socket has received and not yet given to the application: datagrams, and errors about datagrams.
//!
//! # Theory of operation
//! **Purpose.** One copy in (from the sender's buffers or the link's ring), one copy out (to the application's buffers).
//! **How it works.** [`Queue`] is a ring of [`Head`]s beside a ring of bytes; a datagram's bytes may wrap, so they are always a pair of slices.
//! An empty queue starts again at the beginning, so a socket that is read as fast as it is sent to touches one page of each ring.
//! SO_RCVBUF is charged as Linux charges an skb's truesize ([`charge`]), so a program that counts on how many small datagrams fit finds
//! about as many. [`Errors`] is the error queue of IP_RECVERR.
//! **Limits.** [`SLOTS`] datagrams, [`RING`] bytes, [`ERRORS`] errors with [`QUOTE`] bytes of the datagram each. **Locks.** The socket's.
//! **Failure.** What does not fit is dropped and counted, as Linux does.
//! **See also.** udp(7), ip(7) IP_RECVERR, socket(7) SO_RCVBUF.
use crate::arena::Shared;
use crate::errno::{Errno, Result};
use crate::gate::user::{IoIn, IoOut, gather, scatter};
use crate::net::addr::{Endpoint, Ip};

/// Bytes of datagrams a socket can hold, whatever SO_RCVBUF says: ten times the default.
pub const RING: usize = 2 << 20;
/// Datagrams a socket can hold.
pub const SLOTS: usize = 4096;
/// Errors a socket can hold.
pub const ERRORS: usize = 16;
/// Bytes of the datagram an error is about: as much as ICMP quotes (RFC 1812 4.3.2.3: up to 576 bytes, without the headers).
pub const QUOTE: usize = 548;

/// The bytes of a datagram that is being sent or delivered.
#[derive(Clone, Copy)]
pub enum Data<'a> {
    /// In one piece.
    Bytes(&'a [u8]),
    /// In one piece, but with these two bytes at `.1` (a checksum that was left out).
    Patched(&'a [u8], usize, [u8; 2]),
    /// In an application's pieces: from byte `.1` on, `.2` bytes.
    Pieces(&'a [IoIn<'a>], usize, usize),
    /// A header of ours, then an application's pieces.
    Headed(&'a [u8], &'a [IoIn<'a>], usize, usize),
}

impl Data<'_> {
    /// How many bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(b) | Self::Patched(b, ..) => b.len(),
            Self::Pieces(_, _, n) => *n,
            Self::Headed(h, _, _, n) => h.len() + n,
        }
    }
    /// Is there nothing?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies bytes from `from` on; `to` must not ask for more than there are. EFAULT: an application's pointer was bad.
    #[inline]
    pub fn copy(&self, from: usize, to: &mut [u8]) -> Result<()> {
        let whole = match self {
            Self::Bytes(b) => {
                to.copy_from_slice(&b[from..from + to.len()]);
                true
            }
            Self::Patched(b, at, patch) => {
                to.copy_from_slice(&b[from..from + to.len()]);
                for (i, byte) in patch.iter().enumerate() {
                    if let Some(there) = (at + i).checked_sub(from).and_then(|n| to.get_mut(n)) {
                        *there = *byte;
                    }
                }
                true
            }
            Self::Pieces(p, skip, _) => gather(p, skip + from, to) == to.len(),
            Self::Headed(h, p, skip, _) => {
                let head = h.len().saturating_sub(from).min(to.len());
                to[..head].copy_from_slice(&h[from.min(h.len())..][..head]);
                let rest = &mut to[head..];
                gather(p, skip + (from + head - h.len()), rest) == rest.len()
            }
        };
        if whole { Ok(()) } else { Err(Errno::EFAULT) }
    }
}

/// What a received datagram says besides its bytes.
#[repr(C)]
#[derive(Clone, Copy, Shared, Default, Debug)]
pub struct Head {
    /// Who sent it.
    pub src: Endpoint,
    /// To which address (and which port of ours).
    pub dst: Endpoint,
    /// When it came, in nanoseconds of CLOCK_REALTIME; 0 if nobody wanted to know.
    pub stamp: u64,
    /// Bytes.
    pub len: u32,
    /// Where in the ring they are: [`Queue::push`] fills it in.
    pub at: u32,
    /// The interface it came in on.
    pub ifindex: u32,
    /// Largest fragment, 0 if it came whole.
    pub fragment: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class.
    pub tos: u8,
}

/// What a datagram of `len` bytes costs of SO_RCVBUF: an sk_buff, its data and skb_shared_info, rounded up as kmalloc does.
pub fn charge(len: usize) -> u32 {
    let linear = (len + 64 + 320).next_power_of_two().max(512) + 256;
    (if len < 15_900 { linear } else { 768 + len.next_multiple_of(4096) }) as u32
}

/// Received datagrams.
#[repr(C)]
#[derive(Shared)]
pub struct Queue {
    first: u32,
    count: u32,
    /// Where the next byte goes.
    at: u32,
    /// Bytes in use.
    used: u32,
    /// Cost of what is here, as SO_RCVBUF counts.
    charged: u32,
    /// Most bytes of the ring ever used since it was last given back.
    high: u32,
    /// Dropped so far (SO_RXQ_OVFL).
    pub drops: u32,
    heads: [Head; SLOTS],
    ring: [u8; RING],
}

impl Queue {
    /// Empties it and gives the memory back if much was touched.
    pub fn reset(&mut self) {
        self.first = 0;
        self.count = 0;
        self.at = 0;
        self.used = 0;
        self.charged = 0;
        self.drops = 0;
        if self.high > 16384 {
            crate::arena::pages::give_back(&mut self.ring);
        }
        self.high = 0;
    }
    /// Is there nothing?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// How much of SO_RCVBUF is used.
    pub fn charged(&self) -> u32 {
        self.charged
    }
    /// Puts a datagram at the end; false if it does not fit into `limit` (SO_RCVBUF). EFAULT: its bytes cannot be read.
    #[inline]
    pub fn push(&mut self, head: &Head, data: &Data<'_>, limit: u32) -> Result<bool> {
        let len = data.len();
        let cost = charge(len);
        let room = len.next_multiple_of(8);
        // __udp_enqueue_schedule_skb: what is there may fill the buffer; one more may overflow it.
        if self.charged > limit || self.count as usize == SLOTS || self.used as usize + room > RING {
            self.drops = self.drops.wrapping_add(1);
            return Ok(false);
        }
        if self.count == 0 {
            self.first = 0;
            self.at = 0;
            self.used = 0;
        }
        let at = self.at as usize;
        let whole = len.min(RING - at);
        data.copy(0, &mut self.ring[at..at + whole])?;
        if whole < len {
            data.copy(whole, &mut self.ring[..len - whole])?;
        }
        let slot = (self.first + self.count) as usize % SLOTS;
        self.heads[slot] = Head { len: len as u32, at: self.at, ..*head };
        self.at = ((at + room) % RING) as u32;
        self.used += room as u32;
        self.high = self.high.max((at + room).min(RING) as u32);
        self.charged += cost;
        self.count += 1;
        Ok(true)
    }
    /// The next datagram.
    #[inline]
    pub fn front(&self) -> Option<&Head> {
        if self.count == 0 { None } else { Some(&self.heads[self.first as usize % SLOTS]) }
    }
    /// The datagram `n` places behind the next.
    pub fn nth(&self, n: u32) -> Option<&Head> {
        if n >= self.count { None } else { Some(&self.heads[(self.first + n) as usize % SLOTS]) }
    }
    /// Copies a queued datagram's bytes from `skip` on into the rooms; how many fitted.
    #[inline]
    pub fn read(&self, head: &Head, skip: usize, room: &mut [IoOut<'_>]) -> usize {
        let (at, len) = (head.at as usize, (head.len as usize).min(RING));
        let whole = len.min(RING.saturating_sub(at));
        let (a, b) = (&self.ring[at.min(RING)..][..whole], &self.ring[..len - whole]);
        let a_skip = skip.min(a.len());
        let n = scatter(room, 0, &a[a_skip..]);
        if n < a.len() - a_skip || b.is_empty() {
            return n;
        }
        n + scatter(room, n, &b[(skip - a_skip).min(b.len())..])
    }
    /// Takes the next datagram away.
    #[inline]
    pub fn pop(&mut self) {
        if self.count == 0 {
            return;
        }
        let head = &self.heads[self.first as usize % SLOTS];
        self.used = self.used.saturating_sub(head.len.next_multiple_of(8));
        self.charged = self.charged.saturating_sub(charge(head.len as usize));
        self.first = (self.first + 1) % SLOTS as u32;
        self.count -= 1;
    }
}

/// An error about a datagram we sent (ip(7), struct sock_extended_err).
#[repr(C)]
#[derive(Clone, Copy, Shared)]
pub struct Report {
    /// Where the datagram was for.
    pub to: Endpoint,
    /// Who says so; [`Ip::ANY6`] for ourselves.
    pub offender: Ip,
    /// ee_errno.
    pub errno: u16,
    /// ee_origin: SO_EE_ORIGIN_*.
    pub origin: u8,
    /// ee_type.
    pub kind: u8,
    /// ee_code.
    pub code: u8,
    /// ee_info: the MTU.
    pub info: u32,
    /// Bytes of the datagram kept.
    pub len: u16,
    /// The start of the datagram.
    pub data: [u8; QUOTE],
}

/// The error queue.
#[repr(C)]
#[derive(Shared)]
pub struct Errors {
    first: u32,
    count: u32,
    slots: [Report; ERRORS],
}

impl Errors {
    /// Empties it.
    pub fn reset(&mut self) {
        self.count = 0;
    }
    /// Is there none?
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// Adds one with the bytes it is about; false if there is no room.
    pub fn push(&mut self, report: &Report, data: &[u8]) -> bool {
        if self.count as usize == ERRORS {
            return false;
        }
        let slot = &mut self.slots[(self.first + self.count) as usize % ERRORS];
        *slot = *report;
        let n = data.len().min(QUOTE);
        slot.len = n as u16;
        slot.data[..n].copy_from_slice(&data[..n]);
        self.count += 1;
        true
    }
    /// The oldest.
    pub fn front(&self) -> Option<&Report> {
        if self.count == 0 { None } else { Some(&self.slots[self.first as usize % ERRORS]) }
    }
    /// Takes the oldest away.
    pub fn pop(&mut self) {
        if self.count > 0 {
            self.first = (self.first + 1) % ERRORS as u32;
            self.count -= 1;
        }
    }
}
