//! /proc/net as the instance has it: open(2), openat(2), fopen(3) of `/proc/net/if_inet6`.
//!
//! Programs ask this file whether there is IPv6 at all (Java does before its first socket), so it must agree with getifaddrs(3). The file is an
//! anonymous one with the text of the moment. Other paths go to libc untouched; the comparison is one look at the first bytes.
//! The rest of /proc/net stays the host's until there is a file namespace.
use crate::enter::with_cx;
use crate::init;
use crate::table::interpose;
use core::ffi::CStr;
use core::fmt::Write;
use csel_core::gate;
use csel_core::net::addr::Ip;
use csel_core::net::iface;
use libc::{FILE, c_char, c_int, mode_t};

/// Text in a fixed place; what does not fit is cut.
struct Text {
    bytes: [u8; 2048],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, s: &str) -> core::fmt::Result {
        let n = s.len().min(self.bytes.len() - self.len);
        self.bytes[self.len..self.len + n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// The scope column: proc(5), include/net/ipv6.h.
fn scope(ip: Ip) -> u8 {
    if ip.is_loopback() {
        0x10
    } else if ip.is_link_local6() {
        0x20
    } else {
        0
    }
}

/// Is this the path of a file we have our own of?
///
/// # Safety
/// `path` is null or a string.
unsafe fn is_ours(path: *const c_char) -> bool {
    if path.is_null() || init::inert() {
        return false;
    }
    // SAFETY: a string has at least its NUL, and each byte is looked at only if those before it matched.
    if unsafe { *path != b'/' as c_char || *path.add(1) != b'p' as c_char } {
        return false;
    }
    // SAFETY: the caller's string.
    let path = unsafe { CStr::from_ptr(path) };
    matches!(path.to_bytes(), b"/proc/net/if_inet6" | b"/proc/self/net/if_inet6" | b"/proc/thread-self/net/if_inet6")
}

/// A descriptor of the file as it is now; `None`: there is no instance to tell of.
fn open_ours(flags: c_int) -> Option<c_int> {
    init::instance().ok()?;
    let mut text = Text { bytes: [0; 2048], len: 0 };
    with_cx(|cx| {
        for i in iface::all(cx) {
            for p in i.addrs(cx).iter().filter(|p| !p.ip.is_v4()) {
                for b in p.ip.0 {
                    let _ = write!(text, "{b:02x}");
                }
                let _ = writeln!(text, " {:02x} {:02x} {:02x} 80 {:>8}", i.index, p.len, scope(p.ip), i.name);
            }
        }
    })
    .ok()?;
    let fd = gate::memfd_create(c"if_inet6", if flags & libc::O_CLOEXEC != 0 { libc::MFD_CLOEXEC } else { 0 }).ok()?;
    let _ = gate::write(fd, &text.bytes[..text.len]);
    // SAFETY: a plain call on our own descriptor.
    unsafe { libc::lseek64(fd, 0, libc::SEEK_SET) };
    Some(fd)
}

/// A stream on it.
///
/// # Safety
/// As fopen(3).
unsafe fn stream_ours(path: *const c_char) -> Option<*mut FILE> {
    // SAFETY: the caller's string.
    if !unsafe { is_ours(path) } {
        return None;
    }
    let fd = open_ours(libc::O_CLOEXEC)?;
    // SAFETY: a fresh descriptor and a literal.
    Some(unsafe { libc::fdopen(fd, c"r".as_ptr()) })
}

interpose! {
    family procnet;
    /// open(2).
    plain fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = Partial "of /proc/net only if_inet6 is the instance's; the other files there are the host's" {
        // SAFETY: as the application passed it.
        match unsafe { is_ours(path) }.then(|| open_ours(flags)).flatten() {
            Some(fd) => fd,
            // SAFETY: as the application passed it.
            None => unsafe { real::open(path, flags, mode) },
        }
    }
    /// open(2) with large files.
    plain fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int = Partial "as open" {
        // SAFETY: as the application passed it.
        match unsafe { is_ours(path) }.then(|| open_ours(flags)).flatten() {
            Some(fd) => fd,
            // SAFETY: as the application passed it.
            None => unsafe { real::open64(path, flags, mode) },
        }
    }
    /// openat(2).
    plain fn openat(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int = Partial "as open" {
        // SAFETY: as the application passed it.
        match unsafe { is_ours(path) }.then(|| open_ours(flags)).flatten() {
            Some(fd) => fd,
            // SAFETY: as the application passed it.
            None => unsafe { real::openat(dir, path, flags, mode) },
        }
    }
    /// openat(2) with large files.
    plain fn openat64(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int = Partial "as open" {
        // SAFETY: as the application passed it.
        match unsafe { is_ours(path) }.then(|| open_ours(flags)).flatten() {
            Some(fd) => fd,
            // SAFETY: as the application passed it.
            None => unsafe { real::openat64(dir, path, flags, mode) },
        }
    }
    /// fopen(3).
    plain fn fopen(path: *const c_char, mode: *const c_char) -> *mut FILE = Partial "as open" {
        // SAFETY: as the application passed it.
        match unsafe { stream_ours(path) } {
            Some(f) => f,
            // SAFETY: as the application passed it.
            None => unsafe { real::fopen(path, mode) },
        }
    }
    /// fopen(3) with large files.
    plain fn fopen64(path: *const c_char, mode: *const c_char) -> *mut FILE = Partial "as open" {
        // SAFETY: as the application passed it.
        match unsafe { stream_ours(path) } {
            Some(f) => f,
            // SAFETY: as the application passed it.
            None => unsafe { real::fopen64(path, mode) },
        }
    }
}
