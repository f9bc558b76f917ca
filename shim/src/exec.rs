//! exec(2) and posix_spawn(3): another program, the same instance.
//!
//! # Theory of operation
//! **Purpose.** A program started by a process of the instance is of the instance, and finds the virtual descriptors it inherits.
//! **How it works.** The arena's descriptor is inherited on a fixed number ([`crate::fdguard`]). A program started by execve(2) keeps its pid, so it
//! finds its table; posix_spawn(3) makes the child's table beforehand and tells its number in the variable [`SPAWNED`]. [`rejoin`] then compares the table
//! with the descriptors there really are (close-on-exec, file actions). An environment given without `LD_PRELOAD` gets it back: one instance is
//! one program and all that it starts.
//! **Limits.** Static and setuid programs, and those started through raw system calls with an environment of their own, are not hooked: they
//! use the kernel's network. **Locks.** None. **Failure.** Without a table the inherited descriptors are found by their inodes.
//! **See also.** execve(2), posix_spawn(3), environ(7).
use crate::enter;
use core::ffi::CStr;
use core::sync::atomic::Ordering::*;
use csel_core::arena::Id;
use csel_core::gate;
use libc::{c_char, c_int};

/// The variable that tells a spawned program which table is its own.
pub(crate) const SPAWNED: &str = "CSEL_SPAWNED";

/// The constructor of a program whose family has an instance: attaches if there may be virtual descriptors.
pub(crate) fn rejoin(spawned: Option<&[u8]>) {
    let claimed = spawned.and_then(|t| core::str::from_utf8(t).ok()).and_then(|t| t.parse::<u32>().ok());
    if claimed.is_some() {
        // SAFETY: the constructor runs alone; the name ends with a NUL.
        unsafe { libc::unsetenv(c"CSEL_SPAWNED".as_ptr()) };
    }
    // A socket among the descriptors may be a shadow; without one there is no hurry.
    let mut sockets = false;
    each_descriptor(|fd| sockets |= crate::shadow::inode(fd).is_some());
    if !sockets && claimed.is_none() {
        return;
    }
    CLAIMED.store(claimed.unwrap_or(0), Relaxed);
    if crate::init::instance().is_ok() {
        crate::init::check_descriptors();
    }
}

static CLAIMED: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);

/// Takes over the table that a spawning parent made for us.
pub(crate) fn claim(inst: &'static csel_core::instance::Instance) {
    let n = CLAIMED.swap(0, Relaxed);
    let me = gate::getpid();
    if n != 0
        && let Some(p) = inst.procs.table.get(Id::new(n))
    {
        let _ = p.pid.compare_exchange(u32::MAX, me, AcqRel, Relaxed);
    }
}

/// Calls `each` with every open descriptor, except the one used to look.
pub(crate) fn each_descriptor(mut each: impl FnMut(c_int)) {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let Ok(dir) = gate::open(c"/proc/self/fd", flags, 0) else { return };
    let mut entries = [0u64; 256];
    loop {
        let room = size_of_val(&entries);
        // SAFETY: writable for its size.
        let got = unsafe { gate::syscall(libc::SYS_getdents64, [dir as usize, entries.as_mut_ptr() as usize, room, 0, 0, 0]) };
        let Ok(n @ 1..) = got else { break };
        let base = entries.as_ptr().cast::<u8>();
        let mut at = 0;
        while at < n {
            // SAFETY: linux_dirent64 as the kernel wrote it: d_reclen at 16, d_name at 19, NUL-terminated.
            let (len, name) = unsafe { (base.add(at + 16).cast::<u16>().read_unaligned(), CStr::from_ptr(base.add(at + 19).cast())) };
            if let Some(fd) = name.to_str().ok().and_then(|t| t.parse::<c_int>().ok())
                && fd != dir
            {
                each(fd);
            }
            at += len as usize;
        }
    }
    let _ = gate::close(dir);
}

/// What `LD_PRELOAD` was when this program started: it may have changed its environment since (sshd makes a new one for each session).
static OURS: once_cell::sync::OnceCell<std::ffi::CString> = once_cell::sync::OnceCell::new();

/// The constructor: keeps a copy of `LD_PRELOAD`.
pub(crate) fn remember(preload: Option<&[u8]>) {
    if let Some(v) = preload
        && let Ok(v) = std::ffi::CString::new([b"LD_PRELOAD=", v].concat())
    {
        let _ = OURS.set(v);
    }
}

/// An environment for a program to be started: the one given, with what must not be lost.
pub(crate) struct Environment {
    list: Vec<*const c_char>,
    _added: Vec<std::ffi::CString>,
}

impl Environment {
    /// `envp` with `LD_PRELOAD` put back if it was taken away, and the number of the table made for the child.
    ///
    /// # Safety
    /// `envp` must be an environment, ended by NULL.
    pub(crate) unsafe fn new(envp: *const *const c_char, table: u32) -> Option<Self> {
        let mut list = Vec::new();
        let mut preloaded = false;
        let mut at = envp;
        // SAFETY: the caller vouches.
        unsafe {
            while !at.is_null() && !(*at).is_null() {
                let text = CStr::from_ptr(*at).to_bytes();
                preloaded |= text.starts_with(b"LD_PRELOAD=");
                if !text.starts_with(b"CSEL_SPAWNED=") {
                    list.push(*at);
                }
                at = at.add(1);
            }
        }
        let mut added = Vec::new();
        if !preloaded && let Some(ours) = OURS.get() {
            added.push(ours.clone());
        }
        if table != 0 {
            added.push(std::ffi::CString::new(format!("{SPAWNED}={table}")).ok()?);
        }
        if added.is_empty() {
            return None;
        }
        list.extend(added.iter().map(|t| t.as_ptr()));
        list.push(core::ptr::null());
        Some(Self { list, _added: added })
    }
    /// For the call.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        self.list.as_ptr()
    }
}

/// A table for a child about to be spawned; 0: there is nothing to inherit.
pub(crate) fn table_for_child() -> u32 {
    if enter::proc().is_none() {
        return 0;
    }
    enter::with_cx(|cx| cx.inst.procs.fork(cx, cx.proc).unwrap_or(0)).unwrap_or(0)
}
