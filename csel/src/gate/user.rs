//! An application's buffers as slices.
//!
//! The front end checks a pointer as far as Linux would (NULL, overflow) and vouches for it here once; the core then works on slices.
//! A pointer that turns out to be bad faults, and the front end's SIGSEGV handling turns that into EFAULT.
use core::marker::PhantomData;

/// One piece of data an application wants sent: an `iovec`, readable.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct IoIn<'a>(libc::iovec, PhantomData<&'a [u8]>);

/// One piece of room an application wants filled: an `iovec`, writable.
#[repr(transparent)]
pub struct IoOut<'a>(libc::iovec, PhantomData<&'a mut [u8]>);

impl<'a> IoIn<'a> {
    /// A piece from a slice.
    pub fn new(data: &'a [u8]) -> Self {
        Self(libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }, PhantomData)
    }
    /// Views an application's array as pieces.
    ///
    /// # Safety
    /// Each `iovec` must be readable for its length for as long as `'a`.
    pub unsafe fn from_raw(v: &'a [libc::iovec]) -> &'a [Self] {
        // SAFETY: repr(transparent) over iovec.
        unsafe { core::slice::from_raw_parts(v.as_ptr().cast(), v.len()) }
    }
    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        if self.0.iov_len == 0 {
            return &[];
        }
        // SAFETY: vouched for at construction.
        unsafe { core::slice::from_raw_parts(self.0.iov_base.cast(), self.0.iov_len) }
    }
}

impl<'a> IoOut<'a> {
    /// A piece from a slice.
    pub fn new(room: &'a mut [u8]) -> Self {
        Self(libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }, PhantomData)
    }
    /// Views an application's array as pieces.
    ///
    /// # Safety
    /// Each `iovec` must be writable for its length for as long as `'a`, and they must not be accessed otherwise meanwhile.
    pub unsafe fn from_raw(v: &'a mut [libc::iovec]) -> &'a mut [Self] {
        // SAFETY: repr(transparent) over iovec.
        unsafe { core::slice::from_raw_parts_mut(v.as_mut_ptr().cast(), v.len()) }
    }
    /// How many bytes fit.
    pub fn len(&self) -> usize {
        self.0.iov_len
    }
    /// Is there no room at all?
    pub fn is_empty(&self) -> bool {
        self.0.iov_len == 0
    }
    /// The room.
    pub fn room(&mut self) -> &mut [u8] {
        if self.0.iov_len == 0 {
            return &mut [];
        }
        // SAFETY: vouched for at construction.
        unsafe { core::slice::from_raw_parts_mut(self.0.iov_base.cast(), self.0.iov_len) }
    }
}

/// The sum of the pieces' lengths.
pub fn total_in(v: &[IoIn<'_>]) -> usize {
    v.iter().map(|p| p.0.iov_len).sum()
}

/// The sum of the rooms' lengths.
pub fn total_out(v: &[IoOut<'_>]) -> usize {
    v.iter().map(|p| p.0.iov_len).sum()
}

/// Copies from the pieces, starting `skip` bytes in, into `to`; how many bytes were copied.
pub fn gather(v: &[IoIn<'_>], mut skip: usize, to: &mut [u8]) -> usize {
    let mut done = 0;
    for p in v {
        let b = p.bytes();
        if skip >= b.len() {
            skip -= b.len();
            continue;
        }
        let n = (b.len() - skip).min(to.len() - done);
        to[done..done + n].copy_from_slice(&b[skip..skip + n]);
        skip = 0;
        done += n;
        if done == to.len() {
            break;
        }
    }
    done
}

/// Copies `from` into the rooms, starting `skip` bytes in; how many bytes were copied.
pub fn scatter(v: &mut [IoOut<'_>], mut skip: usize, from: &[u8]) -> usize {
    let mut done = 0;
    for p in v {
        let len = p.len();
        if skip >= len {
            skip -= len;
            continue;
        }
        let n = (len - skip).min(from.len() - done);
        p.room()[skip..skip + n].copy_from_slice(&from[done..done + n]);
        skip = 0;
        done += n;
        if done == from.len() {
            break;
        }
    }
    done
}
