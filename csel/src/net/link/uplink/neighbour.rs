//! Neighbours: from an address on the link to its Ethernet address, and what waits for one.
//!
//! # Theory of operation
//! **Purpose.** The cache of ARP and neighbour discovery (RFC 826, RFC 4861 7.3), one for both families.
//! **How it works.** [`Neighbours::find`] says what to do with a packet: send it; send it and ask (the entry has not been confirmed for [`FRESH`]); or
//! hold it until the answer comes. Questions are repeated each second, [`TRIES`] times; then a held packet's sender is told that the host cannot be
//! reached, and an entry that was known is forgotten. Whatever ARP or neighbour discovery says of an address confirms its entry.
//! Held packets lie in a pool of [`CHUNK`]-byte chunks, a packet in neighbouring ones, so that a few large ones or many small ones fit.
//! **Limits.** [`NEIGHBOURS`] entries (the longest unused goes), [`HELD`] packets held, [`EACH`] for one neighbour. **Locks.** None: the keeper's own.
//! **Failure.** What does not fit is dropped, as Linux does with its queue of a neighbour.
use super::wire::Mac;
use crate::clock::{NEVER, Nanos, SEC};
use crate::net::addr::Ip;

/// Entries.
pub const NEIGHBOURS: usize = 128;
/// Packets held.
pub const HELD: usize = 64;
/// Packets held for one neighbour.
pub const EACH: usize = 16;
/// Bytes of a chunk of the pool.
pub const CHUNK: usize = 2048;
/// Chunks of the pool, one bit each.
const CHUNKS: usize = 128;
/// How long an entry is good without a question (base_reachable_time).
pub const FRESH: Nanos = 30 * SEC;
/// How often a question is asked.
pub const TRIES: u8 = 3;
/// How long an answer is waited for.
pub const WAIT: Nanos = SEC;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    ip: Ip,
    mac: Mac,
    used: bool,
    /// `mac` is true.
    known: bool,
    confirmed_at: Nanos,
    used_at: Nanos,
    /// Questions asked since it was confirmed, the last of them.
    tries: u8,
    asked_at: Nanos,
}

const NONE: Entry = Entry { ip: Ip::ANY6, mac: [0; 6], used: false, known: false, confirmed_at: 0, used_at: 0, tries: 0, asked_at: 0 };

#[derive(Clone, Copy, Debug)]
struct Held {
    ip: Ip,
    at: u8,
    /// 0: this place is free.
    chunks: u8,
    len: u32,
}

/// What to do with a packet for a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Send it there.
    Known(Mac),
    /// Send it there, and ask whether it is still there.
    Stale(Mac),
    /// Hold it, and ask.
    Ask,
    /// Hold it.
    Wait,
}

/// The cache.
pub struct Neighbours {
    entries: [Entry; NEIGHBOURS],
    /// The entry found last.
    last: usize,
    held: [Held; HELD],
    taken: u128,
    pool: [u8; CHUNK * CHUNKS],
}

impl Neighbours {
    /// Nobody is known.
    pub const fn new() -> Self {
        Self {
            entries: [NONE; NEIGHBOURS],
            last: 0,
            held: [Held { ip: Ip::ANY6, at: 0, chunks: 0, len: 0 }; HELD],
            taken: 0,
            pool: [0; CHUNK * CHUNKS],
        }
    }

    fn position(&self, ip: Ip) -> Option<usize> {
        let last = &self.entries[self.last];
        if last.used && last.ip == ip {
            return Some(self.last);
        }
        self.entries.iter().position(|e| e.used && e.ip == ip)
    }

    fn take(&mut self, ip: Ip, now: Nanos) -> usize {
        // A free place, else the one that was used longest ago; those that packets wait for come last.
        let oldest = |e: &Entry| (e.used, e.used && !e.known, e.used_at);
        let n = (0..NEIGHBOURS).min_by_key(|&n| oldest(&self.entries[n])).unwrap_or(0);
        let old = self.entries[n];
        if old.used {
            self.flush(old.ip, |_| {});
        }
        self.entries[n] = Entry { ip, used: true, used_at: now, ..NONE };
        n
    }

    /// Where is this neighbour?
    #[inline]
    pub fn find(&mut self, ip: Ip, now: Nanos) -> Found {
        let n = match self.position(ip) {
            Some(n) => n,
            None => self.take(ip, now),
        };
        self.last = n;
        let e = &mut self.entries[n];
        e.used_at = now;
        let due = e.tries == 0 || now >= e.asked_at + WAIT;
        let ask = |e: &mut Entry| {
            if due && e.tries < TRIES {
                e.tries += 1;
                e.asked_at = now;
            }
            due
        };
        match e.known {
            true if now < e.confirmed_at + FRESH => Found::Known(e.mac),
            true => {
                if ask(e) {
                    Found::Stale(e.mac)
                } else {
                    Found::Known(e.mac)
                }
            }
            false if e.tries == 0 => {
                ask(e);
                Found::Ask
            }
            false => Found::Wait,
        }
    }

    /// Holds a packet until the neighbour is found. False if there is no room for it.
    pub fn hold(&mut self, ip: Ip, packet: &[u8]) -> bool {
        let chunks = packet.len().div_ceil(CHUNK).max(1);
        let mine = self.held.iter().filter(|h| h.chunks != 0 && h.ip == ip).count();
        let Some(place) = self.held.iter().position(|h| h.chunks == 0).filter(|_| mine < EACH) else { return false };
        if chunks > CHUNKS / 2 {
            return false;
        }
        let run = (1u128 << chunks) - 1;
        let Some(at) = (0..=CHUNKS - chunks).find(|&at| self.taken & run << at == 0) else { return false };
        self.taken |= run << at;
        self.pool[at * CHUNK..at * CHUNK + packet.len()].copy_from_slice(packet);
        self.held[place] = Held { ip, at: at as u8, chunks: chunks as u8, len: packet.len() as u32 };
        true
    }

    /// Gives what was held for a neighbour to `each`, in order, and holds it no more.
    pub fn flush(&mut self, ip: Ip, mut each: impl FnMut(&[u8])) {
        for h in &mut self.held {
            if h.chunks != 0 && h.ip == ip {
                let at = usize::from(h.at);
                each(&self.pool[at * CHUNK..at * CHUNK + h.len as usize]);
                self.taken &= !(((1u128 << h.chunks) - 1) << at);
                h.chunks = 0;
            }
        }
    }

    /// A neighbour has said where it is. `new`: remember it even if nobody asked. True if it was being waited for.
    pub fn learn(&mut self, ip: Ip, mac: Mac, new: bool, now: Nanos) -> bool {
        if ip.is_unspecified() || ip.is_multicast() || mac[0] & 1 != 0 || mac == [0; 6] {
            return false;
        }
        let n = match self.position(ip) {
            Some(n) => n,
            None if new => self.take(ip, now),
            None => return false,
        };
        let e = &mut self.entries[n];
        let waited = !e.known;
        *e = Entry { mac, known: true, confirmed_at: now, tries: 0, ..*e };
        waited
    }

    /// Asks again what was not answered, and gives up: `ask` with what is known of the neighbour, `lost` with each packet that cannot be sent.
    pub fn tick(&mut self, now: Nanos, mut ask: impl FnMut(Ip, Option<Mac>), mut lost: impl FnMut(&[u8])) {
        for n in 0..NEIGHBOURS {
            let e = &mut self.entries[n];
            if !e.used || e.tries == 0 || now < e.asked_at + WAIT {
                continue;
            }
            if e.tries < TRIES {
                e.tries += 1;
                e.asked_at = now;
                ask(e.ip, e.known.then_some(e.mac));
            } else {
                let ip = e.ip;
                e.used = false;
                self.flush(ip, &mut lost);
            }
        }
    }

    /// When [`Self::tick`] is due.
    pub fn next(&self) -> Nanos {
        self.entries.iter().filter(|e| e.used && e.tries > 0).map(|e| e.asked_at + WAIT).min().unwrap_or(NEVER)
    }
}

impl Default for Neighbours {
    fn default() -> Self {
        Self::new()
    }
}
