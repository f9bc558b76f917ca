//! Socket buffers: page-aligned stretches of the arena, one pair for each socket number.
//!
//! Buffer `i` of socket `n` always lies at the same place, so there is nothing to allocate and nothing to leak; a page costs memory only once
//! it was touched, and [`Buffers::release`] gives the pages back when the socket ends.
#![allow(unsafe_code)]

use super::{Shared, map};
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// Room for one direction of one socket, in bytes (virtual). The largest SO_RCVBUF/SO_SNDBUF that takes effect.
pub const ROOM: usize = 1 << 20;
/// The system's page.
pub const PAGE: usize = 4096;

/// Where the buffers lie: set once when the arena is made.
#[repr(C)]
#[derive(Shared)]
pub struct Buffers {
    base: AtomicUsize,
    count: AtomicUsize,
}

impl Buffers {
    /// Bytes of address space for `sockets` sockets.
    pub const fn span(sockets: usize) -> usize {
        sockets * 2 * ROOM
    }

    /// The buffers lie at `base`.
    ///
    /// # Safety
    /// `base` must be a page-aligned shared mapping of [`Self::span`]`(count)` bytes that stays for ever.
    pub unsafe fn place(&self, base: usize, count: usize) {
        self.base.store(base, Relaxed);
        self.count.store(count, Release);
    }

    /// Buffer `which` (0 receive, 1 send) of socket index `socket` (from 0), `len` bytes of it.
    ///
    /// # Safety
    /// Only the owner of that socket (its lock held, one borrow at a time: the engine's) may use the slice.
    pub unsafe fn get(&self, socket: usize, which: usize, len: usize) -> &'static mut [u8] {
        assert!(socket < self.count.load(Acquire) && which < 2 && len <= ROOM);
        let at = self.base.load(Relaxed) + (socket * 2 + which) * ROOM;
        // SAFETY: inside the mapping by the assertion; exclusiveness is the caller's word.
        unsafe { core::slice::from_raw_parts_mut(at as *mut u8, len) }
    }

    /// Gives the pages of buffer `which` of socket `socket` back, from byte `from` on (rounded up to a page) to byte `to`.
    ///
    /// # Safety
    /// Those bytes must not hold live data.
    pub unsafe fn release(&self, socket: usize, which: usize, from: usize, to: usize) {
        let from = from.next_multiple_of(PAGE);
        let to = to.next_multiple_of(PAGE);
        if socket < self.count.load(Acquire) && which < 2 && from < to && to <= ROOM {
            let at = self.base.load(Relaxed) + (socket * 2 + which) * ROOM;
            // SAFETY: inside the mapping; the caller says nothing lives there.
            unsafe { map::release(at + from, to - from) }
        }
    }
}

/// Gives the whole pages inside `bytes` back to the system. Afterwards they read as zeros (or as before, where the system refuses): plain
/// bytes either way, so this is safe whoever looks next.
pub fn give_back(bytes: &mut [u8]) {
    let start = bytes.as_ptr() as usize;
    let from = start.next_multiple_of(PAGE);
    let to = (start + bytes.len()) / PAGE * PAGE;
    if from < to {
        // SAFETY: page aligned, inside an exclusive borrow of plain bytes, of which every value is valid.
        unsafe { map::release(from, to - from) }
    }
}
