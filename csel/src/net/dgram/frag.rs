//! Reassembly of fragments.
//!
//! # Theory of operation
//! **Purpose.** Only a whole packet has ports; so pieces wait here, before the demux.
//! **How it works.** A few buffers of the largest packet's size, found by source, destination, protocol and identification. A bit for each 8 bytes says
//! what is there. A piece that overlaps another partly spoils the packet (RFC 5722); one that repeats is ignored. The whole packet gets a plain header
//! in front and goes to [`super::input`] as if it had come that way.
//! **Limits.** [`BUFFERS`] packets at once; the oldest makes room. [`TIMEOUT`] each.
//! **Locks.** One (rank FRAG) for all of it, held while the whole packet is given on: it lies in the buffer. Nothing that is called then takes it again.
//! **Failure.** Counted and dropped. **See also.** RFC 791 3.2, RFC 8200 4.5, RFC 5722.
use super::output::{fold, sum};
use crate::arena::Shared;
use crate::clock::{NEVER, Nanos, SEC};
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::timer::{self, Owner};
use crate::stats::bump;
use crate::sync::{Lock, rank};
use core::sync::atomic::AtomicU32;

/// Packets that can be incomplete at once.
pub const BUFFERS: usize = 16;
/// How long a piece waits for the others (net.ipv4.ipfrag_time).
pub const TIMEOUT: Nanos = 30 * SEC;
const BLOCKS: usize = 65536 / 8;
/// Room before the payload for the longest IPv4 header.
const HEAD: usize = 64;

/// Incomplete packets, and the number of the next packet we send.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    /// See [`super::output`].
    pub ident: AtomicU32,
    pool: Lock<[Buffer; BUFFERS], { rank::FRAG }>,
}

#[repr(C)]
#[derive(Shared)]
struct Buffer {
    key: Key,
    /// 0: free.
    deadline: Nanos,
    /// Length of the payload, once the last piece is there; 0 before.
    total: u32,
    /// Blocks there.
    have: u32,
    head_len: u32,
    largest: u32,
    map: [u64; BLOCKS / 64],
    bytes: [u8; HEAD + 65536],
}

/// After a death inside: what was being put together is lost.
pub(super) fn repair(cx: &Cx<'_>) {
    if let Some(mut pool) = cx.inst.net.dgram.frags.pool.take_over(cx.me).filter(|p| p.inherited()) {
        for b in pool.iter_mut() {
            b.deadline = 0;
        }
    }
}

/// What pieces of one packet have in common.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Shared, Debug)]
pub struct Key {
    /// Source.
    pub src: Ip,
    /// Destination.
    pub dst: Ip,
    /// Identification.
    pub id: u32,
    /// The protocol (IPv4 only; 0 otherwise).
    pub proto: u32,
}

/// A piece.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Of which packet.
    pub key: Key,
    /// The IP header for the whole packet (of the first piece).
    pub head: &'a [u8],
    /// IPv6: the protocol behind the fragment header.
    pub next: u8,
    /// Where it belongs.
    pub offset: usize,
    /// More follows.
    pub more: bool,
    /// Its bytes.
    pub data: &'a [u8],
}

impl Buffer {
    fn bit(&self, block: usize) -> bool {
        self.map[block / 64] >> (block % 64) & 1 == 1
    }

    /// Puts a piece in. `None`: the packet is spoilt. Otherwise: is it whole?
    fn put(&mut self, p: &Piece<'_>) -> Option<bool> {
        let end = p.offset + p.data.len();
        if end > 65535 || p.more && !p.data.len().is_multiple_of(8) || p.data.is_empty() {
            return None;
        }
        if !p.more {
            if self.total != 0 && self.total as usize != end {
                return None;
            }
            self.total = end as u32;
        }
        if self.total != 0 && end > self.total as usize {
            return None;
        }
        let blocks = p.offset / 8..end.div_ceil(8);
        let there = blocks.clone().filter(|b| self.bit(*b)).count();
        if there == blocks.len() {
            return Some(false);
        }
        if there > 0 {
            return None;
        }
        self.have += blocks.len() as u32;
        for b in blocks {
            self.map[b / 64] |= 1 << (b % 64);
        }
        self.bytes[HEAD + p.offset..HEAD + end].copy_from_slice(p.data);
        if p.offset == 0 {
            let n = p.head.len().min(HEAD);
            self.head_len = n as u32;
            self.bytes[HEAD - n..HEAD].copy_from_slice(&p.head[..n]);
            if p.key.proto == 0 {
                self.bytes[HEAD - n + 6] = p.next;
            }
        }
        self.largest = self.largest.max((p.head.len() + p.data.len()) as u32);
        Some(self.total != 0 && self.head_len != 0 && self.have as usize == (self.total as usize).div_ceil(8))
    }

    /// The whole packet, with a header that says so.
    fn whole(&mut self) -> Option<&[u8]> {
        let (head, total) = (self.head_len as usize, self.total as usize);
        let b = &mut self.bytes[HEAD - head..HEAD + total];
        if b[0] >> 4 == 4 {
            if head + total > 65535 {
                return None;
            }
            b[2..4].copy_from_slice(&((head + total) as u16).to_be_bytes());
            b[6] &= 0x40;
            b[7] = 0;
            b[10..12].fill(0);
            let c = fold(sum(0, &b[..head]));
            b[10..12].copy_from_slice(&c.to_be_bytes());
        } else {
            b[4..6].copy_from_slice(&(total as u16).to_be_bytes());
        }
        Some(b)
    }
}

/// A piece came; `give` gets the whole packet if it was the last one, and the size of the largest piece.
pub fn add(cx: &Cx<'_>, p: &Piece<'_>, give: impl FnOnce(&[u8], u16)) {
    bump(&cx.inst.stats.ip_reasm_reqds);
    let mut pool = cx.inst.net.dgram.frags.pool.lock(cx.me);
    let now = cx.now();
    expire(cx, &mut pool, now);
    let found = pool.iter().position(|b| b.deadline != 0 && b.key == p.key);
    let i = match found.or_else(|| pool.iter().position(|b| b.deadline == 0)) {
        Some(i) => i,
        None => {
            bump(&cx.inst.stats.ip_reasm_fails);
            (0..BUFFERS).min_by_key(|i| pool[*i].deadline).unwrap_or(0)
        }
    };
    let b = &mut pool[i];
    if found.is_none() {
        b.key = p.key;
        b.deadline = now + TIMEOUT;
        b.total = 0;
        b.have = 0;
        b.head_len = 0;
        b.largest = 0;
        b.map.fill(0);
    }
    match b.put(p) {
        None => {
            bump(&cx.inst.stats.ip_reasm_fails);
            b.deadline = 0;
        }
        Some(false) => {}
        Some(true) => {
            b.deadline = 0;
            let largest = b.largest as u16;
            if let Some(ip) = b.whole() {
                bump(&cx.inst.stats.ip_reasm_oks);
                give(ip, largest);
            }
        }
    }
    let next = pool.iter().map(|b| b.deadline).filter(|d| *d != 0).min().unwrap_or(NEVER);
    drop(pool);
    timer::arm(cx, Owner::Dgram, next);
}

fn expire(cx: &Cx<'_>, pool: &mut [Buffer; BUFFERS], now: Nanos) {
    for b in pool.iter_mut().filter(|b| b.deadline != 0 && b.deadline <= now) {
        b.deadline = 0;
        bump(&cx.inst.stats.ip_reasm_fails);
    }
}

/// A timeout is due.
pub fn tick(cx: &Cx<'_>) {
    let mut pool = cx.inst.net.dgram.frags.pool.lock(cx.me);
    expire(cx, &mut pool, cx.now());
    let next = pool.iter().map(|b| b.deadline).filter(|d| *d != 0).min().unwrap_or(NEVER);
    drop(pool);
    timer::arm(cx, Owner::Dgram, next);
}
