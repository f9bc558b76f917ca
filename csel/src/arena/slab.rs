//! Typed slabs: fixed tables of equal items with a free list.
//!
//! Items are never constructed or dropped: a fresh item is all zeros or what its last user left, and whoever allocates it sets what it needs
//! through the item's own locks and atomics. So a thread that still holds a stale reference may look, never corrupt.
#![allow(unsafe_code)]

use super::Shared;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// An item's number in its slab; 0 is none.
#[repr(transparent)]
pub struct Id<T>(pub u32, PhantomData<fn() -> T>);

impl<T> Id<T> {
    /// No item.
    pub const NONE: Self = Self(0, PhantomData);
    /// Item `n` (1-based; 0 is none).
    pub const fn new(n: u32) -> Self {
        Self(n, PhantomData)
    }
    /// Is there none?
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
    /// Is there one?
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }
    /// Index from 0. Only for ids that are some.
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }
}
impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, o: &Self) -> bool {
        self.0 == o.0
    }
}
impl<T> Eq for Id<T> {}
impl<T> core::fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "#{}", self.0)
    }
}
// SAFETY: a number.
unsafe impl<T> Shared for Id<T> {}

#[repr(C, align(64))]
struct Entry<T> {
    /// Bit 0: in use. The rest counts allocations, so that a stale id can be told.
    life: AtomicU32,
    next: AtomicU32,
    item: T,
}
// SAFETY: as its fields.
unsafe impl<T: Shared> Shared for Entry<T> {}

/// A table of `N` items.
#[repr(C)]
pub struct Slab<T, const N: usize> {
    /// Low half: first free id; high half: a tag against ABA.
    free: AtomicU64,
    /// How many ids were ever given out: fresh items come from here, so that unused pages stay untouched.
    fresh: AtomicU32,
    used: AtomicU32,
    items: [Entry<T>; N],
}
// SAFETY: as its fields.
unsafe impl<T: Shared, const N: usize> Shared for Slab<T, N> {}

impl<T: Shared + Sync, const N: usize> Slab<T, N> {
    /// How many items there can be.
    pub const CAPACITY: usize = N;

    /// Takes a free item. Its content is whatever its last user left (zeros at first).
    pub fn alloc(&self) -> Option<(Id<T>, &T)> {
        let id = loop {
            let head = self.free.load(Acquire);
            let first = head as u32;
            if first == 0 {
                let n = self.fresh.fetch_add(1, Relaxed);
                if n as usize >= N {
                    self.fresh.fetch_sub(1, Relaxed);
                    // Somebody may have freed one meanwhile.
                    if self.free.load(Acquire) as u32 == 0 {
                        return None;
                    }
                    continue;
                }
                break n + 1;
            }
            let next = self.items[first as usize - 1].next.load(Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(next);
            if self.free.compare_exchange_weak(head, new, AcqRel, Relaxed).is_ok() {
                break first;
            }
        };
        let e = &self.items[id as usize - 1];
        e.life.fetch_add(1, AcqRel);
        self.used.fetch_add(1, Relaxed);
        Some((Id::new(id), &e.item))
    }

    /// Gives an item back. False if it was not in use (then nothing happens).
    pub fn free(&self, id: Id<T>) -> bool {
        let Some(e) = self.entry(id) else { return false };
        let life = e.life.load(Acquire);
        if life & 1 == 0 || e.life.compare_exchange(life, life.wrapping_add(1), AcqRel, Relaxed).is_err() {
            return false;
        }
        self.used.fetch_sub(1, Relaxed);
        loop {
            let head = self.free.load(Acquire);
            e.next.store(head as u32, Relaxed);
            let new = (head >> 32).wrapping_add(1) << 32 | u64::from(id.0);
            if self.free.compare_exchange_weak(head, new, AcqRel, Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// The free list and the count anew from the items: what a thread that died in [`Self::alloc`] or [`Self::free`] had taken off is free again.
    /// Nobody else may be at it.
    pub fn repair(&self) {
        let (mut first, mut used) = (0, 0);
        let fresh = self.fresh.load(Acquire).min(N as u32);
        for id in (1..=fresh).rev() {
            let e = &self.items[id as usize - 1];
            if e.life.load(Acquire) & 1 == 1 {
                used += 1;
            } else {
                e.next.store(first, Relaxed);
                first = id;
            }
        }
        self.used.store(used, Relaxed);
        let head = self.free.load(Acquire);
        self.free.store((head >> 32).wrapping_add(1) << 32 | u64::from(first), Release);
    }

    fn entry(&self, id: Id<T>) -> Option<&Entry<T>> {
        if id.is_none() { None } else { self.items.get(id.index()) }
    }

    /// The item, if it is in use.
    #[inline]
    pub fn get(&self, id: Id<T>) -> Option<&T> {
        let e = self.entry(id)?;
        (e.life.load(Acquire) & 1 == 1).then_some(&e.item)
    }

    /// The item's allocation count: equal counts mean the same life of the item.
    pub fn life(&self, id: Id<T>) -> u32 {
        self.entry(id).map_or(0, |e| e.life.load(Acquire))
    }

    /// All items in use (a snapshot by number; items may come and go meanwhile).
    pub fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        let n = (self.fresh.load(Acquire) as usize).min(N);
        (1..=n as u32).filter_map(move |i| self.get(Id::new(i)).map(|t| (Id::new(i), t)))
    }

    /// The highest id ever given out.
    pub fn high(&self) -> u32 {
        self.fresh.load(Acquire).min(N as u32)
    }

    /// How many are in use.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed) as usize
    }
}
