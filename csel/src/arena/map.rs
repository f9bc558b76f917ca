//! Creating and mapping shared memory.
#![allow(unsafe_code)]

use super::Shared;
use crate::errno::{Errno, Result};
use crate::gate;

/// Maps `len` bytes of `fd` shared and writable, at exactly `at` (or anywhere if 0).
pub fn map_shared(fd: i32, len: usize, at: usize) -> Result<*mut u8> {
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | if at != 0 { libc::MAP_FIXED_NOREPLACE } else { 0 };
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping; without it the kernel chooses.
    let got = unsafe { gate::syscall(libc::SYS_mmap, [at, len, prot as usize, flags as usize, fd as usize, 0]) }?;
    if at != 0 && got != at {
        // A kernel before 4.17 takes the address as a hint.
        // SAFETY: this is the mapping just made.
        let _ = unsafe { gate::syscall(libc::SYS_munmap, [got, len, 0, 0, 0, 0]) };
        return Err(Errno::EEXIST);
    }
    // Not in core dumps: the arena is huge and sparse.
    // SAFETY: advice on our own mapping.
    let _ = unsafe { gate::syscall(libc::SYS_madvise, [got, len, libc::MADV_DONTDUMP as usize, 0, 0, 0]) };
    Ok(got as *mut u8)
}

/// Says that a file's mapping is read here and there (a word of each port of a segment): no reading ahead. On a disk's file system a fresh
/// segment's 256 first reads would otherwise bring in 128 KiB of holes each (a third of a second).
pub fn scattered<T: Shared>(what: &'static T) {
    let (at, len) = (core::ptr::from_ref(what) as usize, size_of::<T>());
    // SAFETY: advice on a whole mapping of ours; it changes no contents.
    let _ = unsafe { gate::syscall(libc::SYS_madvise, [at, len, libc::MADV_RANDOM as usize, 0, 0, 0]) };
}

/// Maps `len` anonymous shared bytes anywhere (tests, instances without a segment).
pub fn map_anonymous(len: usize) -> Result<*mut u8> {
    let flags = libc::MAP_SHARED | libc::MAP_NORESERVE | libc::MAP_ANONYMOUS;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping where the kernel likes.
    unsafe { gate::syscall(libc::SYS_mmap, [0, len, prot as usize, flags as usize, usize::MAX, 0]) }.map(|p| p as *mut u8)
}

/// Undoes a mapping that nobody uses any more.
///
/// # Safety
/// No reference into it may be left.
pub unsafe fn unmap(at: *mut u8, len: usize) {
    // SAFETY: the caller vouches.
    let _ = unsafe { gate::syscall(libc::SYS_munmap, [at as usize, len, 0, 0, 0, 0]) };
}

/// Views the start of a mapping as a `T`. Zeros are a valid `T`, whatever else is there was written through the same type (the caller checked
/// a magic and a layout hash first, or treats every word as hostile).
///
/// # Safety
/// `at` must be a mapping of at least `size_of::<T>()` bytes that stays for ever, page aligned.
pub unsafe fn view<T: Shared>(at: *mut u8) -> &'static T {
    // SAFETY: the caller vouches for the memory; Shared says that any process may look.
    unsafe { &*at.cast::<T>() }
}

/// Gives pages back to the system; the next read sees zeros (MADV_REMOVE; on memory that is no file: MADV_DONTNEED).
///
/// # Safety
/// The range must be page aligned, inside a mapping of ours and free of live data.
pub unsafe fn release(at: usize, len: usize) {
    if gate::sandbox::is_confined() {
        // The pages stay until they are used again: they hold nothing, but memory.
        return;
    }
    // SAFETY: the caller vouches for the range.
    if unsafe { gate::syscall(libc::SYS_madvise, [at, len, libc::MADV_REMOVE as usize, 0, 0, 0]) }.is_err() {
        // SAFETY: as above.
        let _ = unsafe { gate::syscall(libc::SYS_madvise, [at, len, libc::MADV_DONTNEED as usize, 0, 0, 0]) };
    }
}

/// Maps a file that holds a `T`, anywhere, until [`forget`]. What is in it must be zeros or of the same type (checked by its magic), or every word
/// of it treated as hostile.
pub fn of_file<T: Shared>(fd: i32) -> Result<&'static T> {
    let at = map_shared(fd, size_of::<T>(), 0)?;
    // SAFETY: a fresh mapping of that size, page aligned; only `forget` takes it away.
    Ok(unsafe { view(at) })
}

/// A zero `T` in anonymous memory that children share, until [`forget`].
pub fn of_nothing<T: Shared>() -> Result<&'static T> {
    let at = map_anonymous(size_of::<T>())?;
    // SAFETY: a fresh mapping of that size, page aligned, all zeros; only `forget` takes it away.
    Ok(unsafe { view(at) })
}

/// Unmaps what [`of_file`] or [`of_nothing`] gave; the caller has no other reference to it.
pub fn forget<T: Shared>(what: &'static T) {
    // SAFETY: the mapping was made for this value, and the caller lets go of it.
    unsafe { unmap(core::ptr::from_ref(what).cast_mut().cast(), size_of::<T>()) }
}
