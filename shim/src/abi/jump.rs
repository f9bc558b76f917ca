//! longjmp(3) and its other names: a handler may leave a call of ours by it.
//!
//! Nothing is dropped on the way, so the waits of the calls that are passed over end here ([`crate::wait::jump`]). Where the jump goes is read from the
//! `jmp_buf`, whose stack pointer glibc has mangled with the thread's guard. Elsewhere than on x86-64 nothing is done: a wait left so lasts until the
//! thread's process ends.
use crate::table::interpose;
use libc::{c_int, c_void};

/// Index of the stack pointer in a `jmp_buf`.
#[cfg(target_arch = "x86_64")]
const SP: usize = 6;

/// The stack pointer that is jumped to.
#[cfg(target_arch = "x86_64")]
fn target(env: *const c_void) -> usize {
    let guard: usize;
    // SAFETY: the thread control block's pointer guard, which glibc has at this place on x86-64.
    unsafe { core::arch::asm!("mov {}, fs:[0x30]", out(reg) guard, options(nostack, readonly, preserves_flags)) };
    // SAFETY: a jmp_buf that setjmp(3) has filled in: the caller is about to jump by it.
    unsafe { env.cast::<usize>().add(SP).read() }.rotate_right(17) ^ guard
}

#[inline]
fn passing(env: *const c_void) {
    #[cfg(target_arch = "x86_64")]
    crate::wait::jump(|| target(env));
    let _ = env;
}

interpose! {
    family jump;

    /// longjmp(3).
    plain fn longjmp(env: *mut c_void, value: c_int) = Full "" {
        passing(env);
        // SAFETY: as the application passed it.
        unsafe { real::longjmp(env, value) }
    }
    /// longjmp(3), the BSD name.
    plain fn _longjmp(env: *mut c_void, value: c_int) = Full "" {
        passing(env);
        // SAFETY: as the application passed it.
        unsafe { real::_longjmp(env, value) }
    }
    /// siglongjmp(3).
    plain fn siglongjmp(env: *mut c_void, value: c_int) = Full "" {
        passing(env);
        // SAFETY: as the application passed it.
        unsafe { real::siglongjmp(env, value) }
    }
    /// longjmp(3) of fortified programs.
    plain fn __longjmp_chk(env: *mut c_void, value: c_int) = Full "" {
        passing(env);
        // SAFETY: as the application passed it.
        unsafe { real::__longjmp_chk(env, value) }
    }
}
