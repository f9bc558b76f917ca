//! The arena: an instance's shared memory.
//!
//! # Theory of operation
//! **Purpose.** Everything two processes of one instance must agree on lies in one sparse memfd mapped MAP_SHARED at [`BASE`] in all of them.
//! **How it works.** The mapping starts with an [`crate::instance::Instance`], a `repr(C)` struct of typed [`slab`]s; after it come the socket
//! buffers ([`pages`]). A fresh memfd is all zeros, and all-zero bytes are a valid empty value of every [`Shared`] type, so creation is one
//! `ftruncate` and a header. Pointers inside the arena (smoltcp borrows its buffers) are valid in every process since the address is fixed.
//! **Limits.** No general allocator; every table has a fixed size ([`crate::instance`]). Untouched tables cost address space only.
//! **Locks.** Slab free lists are lock-free. **Failure.** ENOMEM if the address is taken or address space is limited; ENFILE-like errors
//! from full slabs are the callers' to name.
//! **See also.** memfd_create(2), mmap(2), `reference/smoltcp.md` section 6.
#![allow(unsafe_code)]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::*;

pub mod engine;
pub mod found;
pub mod map;
pub mod pages;
pub mod ring;
pub mod slab;

pub use csel_derive::Shared;
pub use slab::{Id, Slab};

/// Where the arena lies in every process.
pub const BASE: usize = 0x2000_0000_0000;

/// May lie in memory shared by processes: no pointers into a process, no function pointers, nothing that owns heap; and all-zero bytes
/// are a valid value.
///
/// # Safety
/// Implement it by `#[derive(Shared)]`, which checks every field.
pub unsafe trait Shared {}

macro_rules! shared {
    // SAFETY: plain numbers and atomics; zero is a value of each.
    ($($t:ty)*) => { $(unsafe impl Shared for $t {})* };
}
shared! { () bool u8 u16 u32 u64 u128 usize i8 i16 i32 i64 isize AtomicBool AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize AtomicI32 AtomicI64 }
// SAFETY: the element is shared.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}
// SAFETY: a cell adds nothing.
unsafe impl<T: Shared> Shared for core::cell::Cell<T> {}
// SAFETY: smoltcp built without alloc, std and async holds no process-private pointer; buffers are borrowed from the arena
// (reference/smoltcp.md section 6). It is only ever stored in a `Place`, whose zero is "empty".
unsafe impl Shared for smoltcp::iface::Interface {}
// SAFETY: as above.
unsafe impl Shared for smoltcp::iface::SocketStorage<'static> {}

/// Room for a value that has no all-zero form; all-zero bytes are an empty place.
#[repr(C)]
pub struct Place<T> {
    full: u8,
    value: MaybeUninit<T>,
}
// SAFETY: zero means empty, and a full place holds a shared value.
unsafe impl<T: Shared> Shared for Place<T> {}

impl<T> Place<T> {
    /// An empty place.
    pub const EMPTY: Self = Self { full: 0, value: MaybeUninit::uninit() };
    /// Puts a value there and gives it back. What was there is forgotten, not dropped (arena values own nothing).
    pub fn set(&mut self, value: T) -> &mut T {
        self.full = 1;
        self.value.write(value)
    }
    /// Empties the place.
    pub fn clear(&mut self) {
        self.full = 0;
    }
    /// The value, if there is one.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        // SAFETY: full says it was written.
        (self.full == 1).then(|| unsafe { self.value.assume_init_ref() })
    }
    /// The value, if there is one.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        // SAFETY: full says it was written.
        if self.full == 1 { Some(unsafe { self.value.assume_init_mut() }) } else { None }
    }
}

/// A value written once, before anybody else can see it (the header, the configuration), and only read afterwards.
#[repr(transparent)]
pub struct Once<T>(UnsafeCell<T>);
// SAFETY: written before it is published.
unsafe impl<T: Sync> Sync for Once<T> {}
// SAFETY: the value is shared.
unsafe impl<T: Shared> Shared for Once<T> {}
impl<T> Once<T> {
    /// The value.
    #[inline]
    pub fn get(&self) -> &T {
        // SAFETY: nobody writes any more.
        unsafe { &*self.0.get() }
    }
    /// Writes the value.
    ///
    /// # Safety
    /// Nobody else may be able to see this yet.
    pub unsafe fn set(&self, value: T) {
        // SAFETY: the caller is alone.
        unsafe { self.0.get().write(value) }
    }
}
// SAFETY: plain data (fixed-size strings, numbers), written once before the arena is shared and read only afterwards; see `Once`.
unsafe impl Shared for crate::instance::Facts {}
