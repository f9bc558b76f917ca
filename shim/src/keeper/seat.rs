//! The keeper's office as a robust futex, and room for its descriptors.
//!
//! The word `header.keeper` holds the keeper's pid. It is put on the list of robust futexes (get_robust_list(2)), so the kernel sets FUTEX_OWNER_DIED
//! in it when the keeper ends, however it does: everybody else sees with one load whether there is a keeper.
use core::sync::atomic::AtomicU32;
use csel_core::errno::Result;
use csel_core::gate;

/// `struct robust_list_head`.
#[repr(C)]
struct Head {
    next: *const Entry,
    offset: isize,
    pending: *const Entry,
}
#[repr(C)]
struct Entry {
    next: *const Head,
}

/// Puts `word` on the process's list: only while it holds the process's id does the kernel touch it. The keeper has one thread and uses no robust
/// mutex of libc's, so the list may be ours.
pub(super) fn take(word: &'static AtomicU32) -> Result<()> {
    let entry = Box::leak(Box::new(Entry { next: core::ptr::null() }));
    let at = core::ptr::from_ref(entry);
    let head = Box::leak(Box::new(Head { next: at, offset: word.as_ptr() as isize - at as isize, pending: core::ptr::null() }));
    entry.next = core::ptr::from_ref(head);
    // SAFETY: head and entry are never freed; the kernel follows them when the thread ends.
    unsafe { gate::syscall(libc::SYS_set_robust_list, [core::ptr::from_ref(head) as usize, size_of::<Head>(), 0, 0, 0, 0]) }.map(drop)
}

/// The limit of open files goes as high as it may: connections that are relayed have one each.
pub(super) fn room() {
    let mut limit = [0u64; 2];
    let nofile = libc::RLIMIT_NOFILE as usize;
    // SAFETY: two writable words, then two readable ones.
    unsafe {
        if gate::syscall(libc::SYS_prlimit64, [0, nofile, 0, limit.as_mut_ptr() as usize, 0, 0]).is_ok() {
            limit[0] = limit[1];
            let _ = gate::syscall(libc::SYS_prlimit64, [0, nofile, limit.as_ptr() as usize, 0, 0, 0]);
        }
    }
}
