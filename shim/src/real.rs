//! The next definitions: what libc would have done.
//!
//! # Theory of operation
//! **Purpose.** A hook that passes a call on must know where the application would have landed without us.
//! **How it works.** Each row of the table owns a [`Next`]. The constructor resolves all of them (redhook's `dlsym_next`, that is
//! `dlsym(RTLD_NEXT)`), so that nothing is looked up in a signal handler or after a fork. A row called earlier (another library's constructor, an
//! allocator) resolves itself.
//! **Limits.** A symbol this libc does not have stays unresolved: calling it ends the program with a message, as lazy binding would.
//! **Locks.** The dynamic linker's. **Failure.** See limits. **See also.** dlsym(3).
use core::ffi::c_void;
use core::sync::atomic::{AtomicPtr, Ordering::*};

/// The next definition of one symbol.
pub(crate) struct Next {
    /// The name with its NUL.
    name: &'static str,
    at: AtomicPtr<c_void>,
}

impl Next {
    /// Of `name`, which ends with a NUL.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, at: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Where it is.
    #[inline(always)]
    pub(crate) fn get(&self) -> *const c_void {
        let at = self.at.load(Relaxed);
        if at.is_null() { self.resolve_or_die() } else { at }
    }

    /// Looks it up. False if libc has no such symbol.
    pub(crate) fn resolve(&self) -> bool {
        if !self.at.load(Relaxed).is_null() {
            return true;
        }
        // SAFETY: the name ends with a NUL. dlsym_next panics when there is none.
        let found = std::panic::catch_unwind(|| unsafe { redhook::ld_preload::dlsym_next(self.name) });
        let Ok(found) = found else { return false };
        self.at.store(found.cast_mut().cast(), Relaxed);
        true
    }

    #[cold]
    fn resolve_or_die(&self) -> *const c_void {
        if !self.resolve() {
            crate::ret::say(&["csel: this libc has no ", self.name.trim_end_matches('\0')]);
            std::process::abort();
        }
        self.at.load(Relaxed)
    }
}
