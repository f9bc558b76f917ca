//! An application's buffers as slices.
//!
//! The front end checks a pointer as far as Linux would (overflow) and vouches for it here once; the core then works on pieces, and moves bytes
//! only by [`gather`] and [`scatter`]. Those copy with [`copy`], the one routine in which a bad pointer may fault: the front end's SIGSEGV handling
//! sees that the instruction lies in [`copy_range`] and goes on at its end ([`fault_at`]), as the kernel's exception table does. The copy is then
//! short, the count says so, and the front end makes EFAULT of it. So a lock is never left held by a bad pointer.
use core::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.csel_copy,\"ax\",@progbits",
    ".p2align 4",
    ".hidden csel_copy_begin",
    ".hidden csel_copy_fault",
    ".globl csel_copy_begin",
    ".globl csel_copy_fault",
    ".type csel_copy_begin,@function",
    "csel_copy_begin:", // rdi to, rsi from, rdx count; the bytes not copied in rax
    ".cfi_startproc",
    "cmp rdx, 512",
    "ja 6f",
    "cmp rdx, 32",
    "jb 3f",
    "2:",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "add rsi, 32",
    "add rdi, 32",
    "sub rdx, 32",
    "cmp rdx, 32",
    "jae 2b",
    "3:",
    "cmp rdx, 8",
    "jb 5f",
    "4:",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "sub rdx, 8",
    "cmp rdx, 8",
    "jae 4b",
    "5:",
    "test rdx, rdx",
    "je 7f",
    "8:",
    "mov al, [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec rdx",
    "jne 8b",
    "7:",
    "xor eax, eax",
    "ret",
    "6:",
    "mov rcx, rdx",
    "xor edx, edx",
    "rep movsb",
    "xor eax, eax",
    "ret",
    "csel_copy_fault:", // exactly one of rdx and rcx counts what is left, see fault_at
    "mov rax, rdx",
    "ret",
    ".cfi_endproc",
    ".size csel_copy_begin, . - csel_copy_begin",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn csel_copy_begin(to: *mut u8, from: *const u8, n: usize) -> usize;
    fn csel_copy_fault();
}

/// Copies `n` bytes; how many were *not* copied because one of the pointers was bad (only where the front end handles the fault).
///
/// # Safety
/// The ranges must not overlap; each must be the application's (vouched for by its call) or valid.
#[inline]
#[must_use]
pub unsafe fn copy(to: *mut u8, from: *const u8, n: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches; the routine touches nothing else.
    unsafe {
        csel_copy_begin(to, from, n)
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller vouches. A bad pointer ends the program here: no fault recovery on this architecture yet.
    unsafe {
        core::ptr::copy_nonoverlapping(from, to, n);
        0
    }
}

/// Where in the program [`copy`] may fault.
#[cfg(target_arch = "x86_64")]
pub fn copy_range() -> core::ops::Range<usize> {
    csel_copy_begin as *const () as usize..csel_copy_fault as *const () as usize
}

/// A fault at an instruction in [`copy_range`]: where to go on, and what rdx must be there, from the rdx and rcx at the fault.
#[cfg(target_arch = "x86_64")]
pub fn fault_at(rdx: u64, rcx: u64) -> (usize, u64) {
    // `rep movsb` counts in rcx and has zeroed rdx; the loops count in rdx, which is never 0 when they touch memory.
    (csel_copy_fault as *const () as usize, if rdx == 0 { rcx } else { rdx })
}

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
    /// Where it is and how long.
    pub fn place(&self) -> (*const u8, usize) {
        (self.0.iov_base.cast::<u8>().cast_const(), self.0.iov_len)
    }
    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        if self.0.iov_len == 0 || self.0.iov_base.is_null() {
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
        if self.0.iov_len == 0 || self.0.iov_base.is_null() {
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

/// Copies from the pieces, starting `skip` bytes in, into `to`; how many bytes were copied: fewer than there are only if a pointer was bad.
pub fn gather(v: &[IoIn<'_>], mut skip: usize, to: &mut [u8]) -> usize {
    let mut done = 0;
    for p in v {
        let len = p.0.iov_len;
        if skip >= len {
            skip -= len;
            continue;
        }
        let n = (len - skip).min(to.len() - done);
        // SAFETY: `to` has room for n more; the piece is the application's to vouch for, n bytes from skip are in it.
        let left = unsafe { copy(to.as_mut_ptr().add(done), p.0.iov_base.cast::<u8>().cast_const().wrapping_add(skip), n) };
        skip = 0;
        done += n - left;
        if left != 0 || done == to.len() {
            break;
        }
    }
    done
}

/// Copies `from` into the rooms, starting `skip` bytes in; how many bytes were copied: fewer than fit only if a pointer was bad.
pub fn scatter(v: &mut [IoOut<'_>], mut skip: usize, from: &[u8]) -> usize {
    let mut done = 0;
    for p in v {
        let len = p.len();
        if skip >= len {
            skip -= len;
            continue;
        }
        let n = (len - skip).min(from.len() - done);
        // SAFETY: `from` has n more bytes; the room is the application's to vouch for, n bytes from skip are in it.
        let left = unsafe { copy(p.0.iov_base.cast::<u8>().wrapping_add(skip), from.as_ptr().add(done), n) };
        skip = 0;
        done += n - left;
        if left != 0 || done == from.len() {
            break;
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_every_length() {
        let from: Vec<u8> = (0..2000u32).map(|n| (n * 7) as u8).collect();
        for n in (0..700).chain([1023, 1024, 1999]) {
            let mut to = vec![0xee; n + 1];
            // SAFETY: both are valid for n bytes.
            assert_eq!(unsafe { copy(to.as_mut_ptr(), from.as_ptr(), n) }, 0);
            assert_eq!(to[..n], from[..n]);
            assert_eq!(to[n], 0xee);
        }
    }

    #[test]
    fn gathers_and_scatters_across_pieces() {
        let (a, b) = (*b"hello ", *b"world");
        let mut to = [0; 8];
        assert_eq!(gather(&[IoIn::new(&a), IoIn::new(&[]), IoIn::new(&b)], 2, &mut to), 8);
        assert_eq!(&to, b"llo worl");
        let (mut x, mut y) = ([0; 3], [0; 9]);
        assert_eq!(scatter(&mut [IoOut::new(&mut x), IoOut::new(&mut y)], 1, b"abcdef"), 6);
        assert_eq!((&x[..], &y[..4]), (&b"\0ab"[..], &b"cdef"[..]));
    }
}
