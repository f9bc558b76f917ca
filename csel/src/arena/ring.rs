//! A ring of frames with many writers, in any processes, and one reader.
//!
//! # Theory of operation
//! **Purpose.** The receive ring of a port of a segment, and an instance's own loopback: whoever sends writes its frame once, into memory the
//! receiver reads it from.
//! **How it works.** Positions are byte counts that only grow; `(position + base) & (N - 1)` is the place in the ring. A record is a 16-byte
//! header, two bytes of padding and the frame (so that what follows an Ethernet header is aligned), rounded up to a cache line; it never wraps: a
//! `PAD` record fills the end. To reserve, a writer takes the short lock, writes the record's header (`RESERVED`, length, its tid) *and then*
//! moves `tail`; then it lets go, writes the frame, and commits by one release store of the state. So at every moment each record before `tail`
//! has a whole header. The reader keeps its own `head` outside the ring and publishes a copy for the writers.
//! When the ring is empty and far from its start, the writer moves `base` so that it starts over: small traffic stays in the cache. That is
//! safe because all records between `head` and `tail` have one base: it changes only while there are none.
//! **Limits.** A frame is at most a quarter of the ring. **Locks.** The writers' lock: a tid in a word; held for some ten instructions.
//! **Failure.** A writer killed inside the lock has changed nothing that counts (`tail` moves last): the next writer takes the lock over. A
//! writer killed between reserve and commit leaves a `RESERVED` record: the reader asks whether the tid lives and skips it. Every word is
//! hostile: it is read once, checked, and whatever makes no sense makes the reader give up what is in the ring ([`Peek::Bad`]), no more. A
//! writer waits for the lock 20 ms at most, then says "full". The frame itself is handed out as a slice of shared memory: a peer that changes it
//! meanwhile can make the parser give up, as any frame can.
#![allow(unsafe_code)]

use super::{Shared, map, pages::PAGE};
use crate::gate;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// Bytes before the frame in a record.
const HEAD: usize = 18;
/// Records start at multiples of this.
const LINE: usize = 64;
/// An empty ring starts over when it has come this far.
const WARM: u64 = 256 << 10;

const RESERVED: u32 = 0x5e5e_0001;
const COMMITTED: u32 = 0x5e5e_0002;
const ABANDONED: u32 = 0x5e5e_0003;
const PAD: u32 = 0x5e5e_0004;

/// How long a writer waits for the lock, in nanoseconds.
const PATIENCE: u64 = 20_000_000;
/// A thread id has 22 bits (PID_MAX_LIMIT).
const TID: u32 = (1 << 22) - 1;

/// What a writer puts in the lock: its tid, and ten bits that garbage has wrong.
#[inline]
const fn sealed(tid: u32) -> u32 {
    tid & TID | tid.wrapping_mul(0x9e37_79b1) >> 22 << 22
}

/// What the writers share.
#[repr(C, align(64))]
#[derive(Shared)]
struct Writers {
    lock: AtomicU32,
    tail: AtomicU64,
    base: AtomicU64,
}

/// What the reader tells the writers.
#[repr(C, align(64))]
#[derive(Shared)]
struct Reader {
    head: AtomicU64,
}

#[repr(C, align(64))]
struct Bytes<const N: usize>(UnsafeCell<[u8; N]>);
// SAFETY: bytes; who may touch which is the ring's protocol.
unsafe impl<const N: usize> Sync for Bytes<N> {}
// SAFETY: plain bytes.
unsafe impl<const N: usize> Shared for Bytes<N> {}

/// The ring; `N` is a power of two. All zeros are an empty one.
#[repr(C)]
#[derive(Shared)]
pub struct Ring<const N: usize> {
    writers: Writers,
    reader: Reader,
    data: Bytes<N>,
}

/// A record's header.
#[repr(C)]
struct Header {
    state: AtomicU32,
    len: AtomicU32,
    tid: AtomicU32,
    tag: AtomicU32,
}

/// A record being written. Dropping it without [`Slot::commit`] discards it.
pub struct Slot<'a> {
    header: &'a Header,
    room: &'a mut [u8],
}

/// What the reader finds.
pub enum Peek<'a> {
    /// Nothing.
    Empty,
    /// A frame; give `span` to [`Ring::advance`] when done with it.
    Frame {
        /// Its bytes.
        frame: &'a [u8],
        /// The writer's tag.
        tag: u32,
        /// Bytes of the record.
        span: u64,
    },
    /// The next record is still being written by this thread.
    Busy {
        /// The writer.
        tid: u32,
        /// Bytes of the record.
        span: u64,
        /// Are there more behind it?
        more: bool,
    },
    /// The ring made no sense; what was in it is gone.
    Bad,
}

impl<const N: usize> Ring<N> {
    const MASK: u64 = {
        assert!(N.is_power_of_two() && N >= 4096);
        N as u64 - 1
    };
    /// The largest frame.
    pub const MOST: usize = N / 4 - LINE;

    fn header(&self, offset: usize) -> &Header {
        debug_assert!(offset.is_multiple_of(LINE) && offset < N);
        // SAFETY: offset is a multiple of LINE below N, so the header lies inside and is aligned; its fields are atomics.
        unsafe { &*self.data.0.get().cast::<u8>().add(offset & Self::MASK as usize & !(LINE - 1)).cast::<Header>() }
    }

    #[inline]
    fn offset(pos: u64, base: u64) -> usize {
        (pos.wrapping_add(base) & Self::MASK) as usize & !(LINE - 1)
    }

    #[inline]
    const fn span(len: usize) -> usize {
        (HEAD + len).next_multiple_of(LINE)
    }

    /// Room for a frame of `len` bytes, for the writer `tid`; `tag` travels with it. `None`: full.
    #[inline]
    pub fn reserve(&self, tid: u32, len: usize, tag: u32) -> Option<Slot<'_>> {
        if len > Self::MOST || !self.lock(tid) {
            return None;
        }
        let place = self.place(tid, len, tag);
        self.writers.lock.store(0, Release);
        let offset = place?;
        // SAFETY: the record was just reserved for us: no other writer touches it before the reader has freed it, and the reader looks at it only
        // after the commit. offset + span <= N by `place`.
        let room = unsafe { core::slice::from_raw_parts_mut(self.data.0.get().cast::<u8>().add(offset + HEAD), len) };
        Some(Slot { header: self.header(offset), room })
    }

    /// Under the lock: where the record goes; its header is written and `tail` moved.
    #[inline]
    fn place(&self, tid: u32, len: usize, tag: u32) -> Option<usize> {
        let span = Self::span(len);
        let w = &self.writers;
        let (tail, head) = (w.tail.load(Relaxed), self.reader.head.load(Acquire));
        let used = tail.wrapping_sub(head);
        if used > N as u64 {
            return None;
        }
        let mut base = w.base.load(Relaxed);
        if used == 0 && tail.wrapping_add(base) & Self::MASK >= WARM {
            base = tail.wrapping_neg();
            w.base.store(base, Relaxed);
        }
        let mut offset = Self::offset(tail, base);
        let pad = if N - offset < span { N - offset } else { 0 };
        if used as usize + pad + span > N {
            return None;
        }
        if pad != 0 {
            let h = self.header(offset);
            h.len.store(pad as u32, Relaxed);
            h.state.store(PAD, Relaxed);
            offset = 0;
        }
        let h = self.header(offset);
        h.len.store(len as u32, Relaxed);
        h.tid.store(tid, Relaxed);
        h.tag.store(tag, Relaxed);
        h.state.store(RESERVED, Relaxed);
        w.tail.store(tail.wrapping_add((pad + span) as u64), Release);
        Some(offset)
    }

    #[inline]
    fn lock(&self, tid: u32) -> bool {
        let mine = sealed(tid);
        self.writers.lock.compare_exchange(0, mine, Acquire, Relaxed).is_ok() || self.lock_slow(mine)
    }

    #[cold]
    fn lock_slow(&self, mine: u32) -> bool {
        let word = &self.writers.lock;
        for _ in 0..300 {
            if word.load(Relaxed) == 0 && word.compare_exchange(0, mine, Acquire, Relaxed).is_ok() {
                return true;
            }
            core::hint::spin_loop();
        }
        let give_up = gate::clock_gettime(libc::CLOCK_MONOTONIC) + PATIENCE;
        loop {
            let owner = word.load(Relaxed);
            let tid = owner & TID;
            let free = owner == 0 || owner == mine || owner != sealed(tid) || !gate::thread_exists(tid);
            if free && word.compare_exchange(owner, mine, Acquire, Relaxed).is_ok() {
                return true;
            }
            if gate::clock_gettime(libc::CLOCK_MONOTONIC) > give_up {
                return false;
            }
            gate::sched_yield();
        }
    }

    /// Would a frame of `len` bytes fit now? (Twice its record, since the end may have to be padded.)
    #[inline]
    pub fn has_room(&self, len: usize) -> bool {
        self.used() as usize + 2 * Self::span(len) <= N
    }

    /// Bytes in use, as the writers see it.
    #[inline]
    pub fn used(&self) -> u64 {
        self.writers.tail.load(Acquire).wrapping_sub(self.reader.head.load(Acquire))
    }

    /// Where the next record will begin.
    #[inline]
    pub fn tail(&self) -> u64 {
        self.writers.tail.load(Acquire)
    }

    /// Is there a record for the reader at `head` that is not being written?
    #[inline]
    pub fn pending(&self, head: u64) -> bool {
        let tail = self.writers.tail.load(Acquire);
        tail != head && self.header(Self::offset(head, self.writers.base.load(Relaxed))).state.load(Acquire) != RESERVED
    }

    /// Has the reader at `head` anything to do: any record, even one being written, or a published head that is not what it said?
    #[inline]
    pub fn holds(&self, head: u64) -> bool {
        self.writers.tail.load(Acquire) != head || self.reader.head.load(Relaxed) != head
    }

    /// What is at the reader's `head`; pads and abandoned records are skipped. Only the one reader may call this.
    #[inline]
    pub fn peek(&self, head: &AtomicU64) -> Peek<'_> {
        loop {
            let pos = head.load(Relaxed);
            let tail = self.writers.tail.load(Acquire);
            let there = tail.wrapping_sub(pos);
            if there == 0 {
                if self.reader.head.load(Relaxed) != pos {
                    self.reader.head.store(pos, Release);
                }
                return Peek::Empty;
            }
            let offset = Self::offset(pos, self.writers.base.load(Relaxed));
            let h = self.header(offset);
            let (state, len) = (h.state.load(Acquire), h.len.load(Relaxed) as usize);
            let span = if state == PAD { len } else { Self::span(len.min(N)) };
            let fits = there <= N as u64 && there.is_multiple_of(LINE as u64) && pos.is_multiple_of(LINE as u64);
            let fits = fits && span <= N - offset && span as u64 <= there && span != 0 && span.is_multiple_of(LINE);
            if !fits {
                self.forget(head, tail);
                return Peek::Bad;
            }
            let span = span as u64;
            match state {
                COMMITTED => {
                    // SAFETY: inside the ring by the checks above; committed, so that no honest writer touches it before we advance.
                    let frame = unsafe { core::slice::from_raw_parts(self.data.0.get().cast::<u8>().add(offset + HEAD), len) };
                    return Peek::Frame { frame, tag: h.tag.load(Relaxed), span };
                }
                RESERVED => return Peek::Busy { tid: h.tid.load(Relaxed), span, more: there > span },
                PAD | ABANDONED => self.advance(head, span),
                _ => {
                    self.forget(head, tail);
                    return Peek::Bad;
                }
            }
        }
    }

    /// The reader is done with a record.
    #[inline]
    pub fn advance(&self, head: &AtomicU64, span: u64) {
        let to = head.load(Relaxed).wrapping_add(span);
        // Release: who sees that the reader has passed a frame sees what the frame has done.
        head.store(to, Release);
        self.reader.head.store(to, Release);
    }

    /// Drops everything: a fresh start at `tail`, made a multiple of a line.
    fn forget(&self, head: &AtomicU64, tail: u64) {
        let to = tail & !(LINE as u64 - 1);
        if to != tail {
            self.writers.tail.store(to, Relaxed);
        }
        head.store(to, Relaxed);
        self.reader.head.store(to, Release);
    }

    /// Empties a ring that has no reader (any more) and gives its memory back to the system. If a writer that lives is just writing into it, nothing
    /// happens: false.
    pub fn clear(&self, tid: u32) -> bool {
        if !self.lock(tid) {
            return false;
        }
        let head = AtomicU64::new(self.resume());
        let idle = loop {
            match self.peek(&head) {
                Peek::Empty => break true,
                Peek::Busy { tid, .. } if gate::thread_exists(tid) => break false,
                Peek::Frame { span, .. } | Peek::Busy { span, .. } => self.advance(&head, span),
                Peek::Bad => {}
            }
        };
        if idle {
            let at = self.data.0.get() as usize;
            let (from, to) = (at.next_multiple_of(PAGE), (at + N) & !(PAGE - 1));
            if from < to {
                // SAFETY: pages of our own mapping that hold nothing but this ring's records; there are none, and we have the lock, so none comes.
                unsafe { map::release(from, to - from) };
            }
        }
        self.writers.lock.store(0, Release);
        idle
    }

    /// The position a new reader takes over at: what the last one left.
    pub fn resume(&self) -> u64 {
        let (head, tail) = (self.reader.head.load(Acquire), self.writers.tail.load(Acquire));
        if tail.wrapping_sub(head) <= N as u64 && head.is_multiple_of(LINE as u64) { head } else { tail & !(LINE as u64 - 1) }
    }
}

impl Slot<'_> {
    /// The frame's bytes.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        self.room
    }
    /// The frame is whole. A record that the reader gave up meanwhile stays given up.
    #[inline]
    pub fn commit(self) {
        self.header.state.store(COMMITTED, Release);
        core::mem::forget(self);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.header.state.store(ABANDONED, Release);
    }
}

#[cfg(test)]
mod tests;
