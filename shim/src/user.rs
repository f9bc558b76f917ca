//! The application's pointers.
//!
//! # Theory of operation
//! **Purpose.** The kernel answers EFAULT where a pointer is bad; a library would die. Small structures are copied in and out by [`get`] and [`put`];
//! buffers are handed to the core as pieces ([`pieces_in`], [`pieces_out`]) and copied there.
//! **How it works.** All copying is done by [`csel_core::gate::user::copy`], whose faults [`crate::signal`] turns into a short count. So there is no
//! system call and no probe.
//! **Limits.** x86-64; elsewhere a bad pointer is a SIGSEGV. So it is if the application blocks SIGSEGV. **Locks.** None. **Failure.** EFAULT, EINVAL as Linux.
//! **See also.** [`csel_core::gate::user`].
use crate::enter::thread;
use core::mem::MaybeUninit;
use csel_core::errno::{Errno, Result};
use csel_core::gate::user::{IoIn, IoOut, copy};
use libc::{c_int, c_void, iovec, size_t, sockaddr, socklen_t};

/// Room for any socket address.
pub(crate) const ADDR_MAX: usize = size_of::<libc::sockaddr_storage>();

/// Copies between us and the application; EFAULT if its pointer is bad.
fn guarded(to: *mut u8, from: *const u8, n: usize) -> Result<()> {
    let t = thread();
    t.copying.set(true);
    // SAFETY: one side is ours and valid for n bytes; the other is the application's and may fault, which is handled.
    let left = unsafe { copy(to, from, n) };
    t.copying.set(false);
    t.faulted.set(false);
    if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads a value of the application's.
pub(crate) fn get<T: Copy>(from: *const T) -> Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    guarded(value.as_mut_ptr().cast(), from.cast(), size_of::<T>())?;
    // SAFETY: all bytes were written; T is a plain C structure here.
    Ok(unsafe { value.assume_init() })
}

/// Writes a value of the application's.
pub(crate) fn put<T: Copy>(to: *mut T, value: &T) -> Result<()> {
    guarded(to.cast(), core::ptr::from_ref(value).cast(), size_of::<T>())
}

/// Reads bytes of the application's.
pub(crate) fn get_bytes(from: *const u8, into: &mut [u8]) -> Result<()> {
    guarded(into.as_mut_ptr(), from, into.len())
}

/// Writes bytes of the application's.
pub(crate) fn put_bytes(to: *mut u8, bytes: &[u8]) -> Result<()> {
    guarded(to, bytes.as_ptr(), bytes.len())
}

/// A socket address given by the application: as many bytes as it says.
pub(crate) struct Address {
    bytes: [u8; ADDR_MAX],
    len: usize,
}

impl Address {
    /// Reads it. EINVAL: a length that no address has (as move_addr_to_kernel in Linux).
    pub(crate) fn get(at: *const sockaddr, len: socklen_t) -> Result<Self> {
        let len = len as usize;
        if len > ADDR_MAX {
            return Err(Errno::EINVAL);
        }
        let mut a = Self { bytes: [0; ADDR_MAX], len };
        get_bytes(at.cast(), &mut a.bytes[..len])?;
        Ok(a)
    }
    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes an address out: as much as fits into `*len`, which becomes its real length. EINVAL: a negative length.
pub(crate) fn put_address(at: *mut sockaddr, len: *mut socklen_t, bytes: &[u8]) -> Result<()> {
    let room = get(len)? as c_int;
    if room < 0 {
        return Err(Errno::EINVAL);
    }
    put_bytes(at.cast(), &bytes[..bytes.len().min(room as usize)])?;
    put(len, &(bytes.len() as socklen_t))
}

/// One buffer to send.
pub(crate) fn one(base: *const c_void, len: size_t) -> iovec {
    // No more than Linux moves in one call (MAX_RW_COUNT).
    iovec { iov_base: base.cast_mut(), iov_len: len.min(0x7fff_f000) }
}

/// Checks an array of buffers. EINVAL: too many or too long; EFAULT: the array itself is bad.
fn check(iov: *const iovec, count: usize, too_many: Errno) -> Result<()> {
    if count > 1024 {
        return Err(too_many);
    }
    let mut total = 0usize;
    for n in 0..count {
        let v = get(iov.wrapping_add(n))?;
        if v.iov_len > isize::MAX as usize {
            return Err(Errno::EINVAL);
        }
        total = total.saturating_add(v.iov_len);
    }
    if total > isize::MAX as usize { Err(Errno::EINVAL) } else { Ok(()) }
}

/// An application's array as pieces to send.
pub(crate) fn pieces_in<'a>(iov: *const iovec, count: usize, too_many: Errno) -> Result<&'a [IoIn<'a>]> {
    check(iov, count, too_many)?;
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: the array was just read; the application keeps it until the call returns, and what its pieces point to is copied fault-safely.
    Ok(unsafe { IoIn::from_raw(core::slice::from_raw_parts(iov, count)) })
}

/// Can all of the pieces be read? Looks at each page once.
pub(crate) fn readable(v: &[IoIn<'_>]) -> bool {
    v.iter().all(|p| {
        let (base, len) = p.place();
        let mut at = 0;
        while at < len {
            if get(base.wrapping_add(at)).is_err() {
                return false;
            }
            at = ((base as usize + at + 4096) & !4095) - base as usize;
        }
        true
    })
}

/// An application's array as rooms to fill.
pub(crate) fn pieces_out<'a>(iov: *const iovec, count: usize, too_many: Errno) -> Result<&'a mut [IoOut<'a>]> {
    check(iov, count, too_many)?;
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as above; the core does not change the array.
    Ok(unsafe { IoOut::from_raw(core::slice::from_raw_parts_mut(iov.cast_mut(), count)) })
}
