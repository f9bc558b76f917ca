//! Scoped Syscall User Dispatch: what libc does inside itself stays inside the instance.
//!
//! # Theory of operation
//! **Purpose.** Some functions of libc make system calls of their own on sockets: the resolver's res_* functions, rcmd(3), setsourcefilter(3),
//! backtrace_symbols_fd(3). Their calls do not pass our symbols. [`scope`] runs such a function so that every system call it makes comes to us first.
//! **How it works.** prctl(2) PR_SET_SYSCALL_USER_DISPATCH makes the kernel send SIGSYS for each system call of this thread that is not made from libcsel's
//! own text, while a byte of the thread's says so ([`BLOCK`]). It is on for the length of one [`scope`] only, so nothing else pays. The handler answers as
//! libc's syscall(2) would ([`crate::abi::syscall`]), or makes the call from our text, and puts the result into the interrupted context.
//! A handler of the application's that interrupts a scope runs with the byte at [`ALLOW`] ([`suspend`]); its return, rt_sigreturn(2) from libc's text,
//! traps again and is carried out from ours. SIGSYS is never blocked meanwhile: not by masks of handlers, not by rt_sigprocmask(2) inside the scope.
//! **Limits.** x86-64, Linux 5.11. A function in a scope makes no thread (clone(2) with CLONE_VM: EAGAIN) and is no cancellation point. fork in a handler
//! is safe: the kernel does not pass dispatch on to children. A debugger sees a SIGSYS for each call.
//! **Locks.** None. **Failure.** Where the kernel has no such thing, or a seccomp filter forbids it, the function runs as it is, its calls go to the
//! kernel, and the counter `inward_unseen` and a line in the trace say so.
//! **See also.** prctl(2), Documentation/admin-guide/syscall-user-dispatch.rst; [`crate::signal`]; design section 8.
use crate::enter::{Thread, env, thread};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::stats;
use libc::{c_int, c_long, c_void, siginfo_t};

/// System calls of this thread are made.
pub(crate) const ALLOW: u8 = 0;
/// System calls from outside libcsel's text come to the handler.
pub(crate) const BLOCK: u8 = 1;

const PR_SET_SYSCALL_USER_DISPATCH: usize = 59;
/// si_code of a dispatched call.
const SYS_USER_DISPATCH: c_int = 2;
const SA_RESTORER: u64 = 0x0400_0000;
const SIGSYS_BIT: u64 = 1 << (libc::SIGSYS - 1);
const PTHREAD_CANCEL_DISABLE: c_int = 1;

/// Our handler is SIGSYS's, for good.
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// Where libcsel's text lies, and how long it is; 0: not known yet.
static TEXT: AtomicUsize = AtomicUsize::new(0);
static TEXT_LEN: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C-unwind" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.csel_inward,\"ax\",@progbits",
    ".hidden csel_inward_sigreturn",
    ".globl csel_inward_sigreturn",
    ".type csel_inward_sigreturn,@function",
    "nop",
    "csel_inward_sigreturn:",
    "mov rax, 15",
    "syscall",
    ".size csel_inward_sigreturn, . - csel_inward_sigreturn",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    fn csel_inward_sigreturn();
}

/// Is SIGSYS's disposition in the kernel ours, whatever the application asked for?
pub(crate) fn owns_sigsys() -> bool {
    INSTALLED.load(Acquire)
}

/// The mask that a handler of the application's may have in the kernel: SIGSYS must come through, or the kernel ends the process.
pub(crate) fn without_sigsys(mask: u64) -> u64 {
    mask & !SIGSYS_BIT
}

/// While a handler of the application's runs its calls are its own. Give the result back to [`resume`].
#[inline]
pub(crate) fn suspend(t: &Thread) -> u8 {
    t.selector.replace(ALLOW)
}

/// After the handler.
#[inline]
pub(crate) fn resume(t: &Thread, was: u8) {
    t.selector.set(was);
}

/// Runs `f`, a function of libc's, with its system calls coming to us. Nothing but libc may run in it.
pub(crate) fn scope<R>(f: impl FnOnce() -> R) -> R {
    if crate::init::inert() || crate::init::instance().is_err() {
        return f();
    }
    let t = thread();
    match Scope::enter(t) {
        Some(_scope) => f(),
        None => {
            if let Some(env) = env() {
                stats::bump(&env.inst.stats.inward_unseen);
            }
            f()
        }
    }
}

/// Dispatch is on for this thread; its drop ends that, also when an exception or a longjmp of libc's unwinds.
struct Scope {
    t: &'static Thread,
    outer: u8,
    blocked: bool,
    cancel: c_int,
}

impl Scope {
    #[cfg(not(target_arch = "x86_64"))]
    fn enter(_t: &'static Thread) -> Option<Self> {
        None
    }

    #[cfg(target_arch = "x86_64")]
    fn enter(t: &'static Thread) -> Option<Self> {
        install().ok()?;
        if t.selector.get() != BLOCK {
            dispatch(true, t).ok()?;
        }
        let mut cancel = 0;
        // SAFETY: plain calls of libc; the masks are eight bytes.
        let blocked = unsafe {
            pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut cancel);
            let mut old = 0u64;
            let bit = SIGSYS_BIT;
            let a = [libc::SIG_UNBLOCK as usize, &raw const bit as usize, &raw mut old as usize, 8, 0, 0];
            let _ = gate::syscall(libc::SYS_rt_sigprocmask, a);
            old & SIGSYS_BIT != 0
        };
        Some(Self { t, outer: t.selector.replace(BLOCK), blocked, cancel })
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.t.selector.set(self.outer);
        if self.outer != BLOCK {
            let _ = dispatch(false, self.t);
        }
        let bit = SIGSYS_BIT;
        // SAFETY: a mask of eight bytes; a plain call of libc, whose cancellation point this is not.
        unsafe {
            if self.blocked {
                let _ = gate::syscall(libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK as usize, &raw const bit as usize, 0, 8, 0, 0]);
            }
            pthread_setcancelstate(self.cancel, core::ptr::null_mut());
        }
    }
}

/// Switches dispatch for the calling thread. EINVAL: this kernel has none.
fn dispatch(on: bool, t: &Thread) -> Result<()> {
    let (from, len) = (TEXT.load(Relaxed), TEXT_LEN.load(Relaxed));
    let a = if on { [PR_SET_SYSCALL_USER_DISPATCH, 1, from, len, t.selector.as_ptr() as usize, 0] } else { [59, 0, 0, 0, 0, 0] };
    // SAFETY: the selector lives as long as the thread; the range is our text.
    unsafe { gate::syscall(libc::SYS_prctl, a) }.map(|_| ())
}

/// Finds our text and installs the handler, once.
#[cfg(target_arch = "x86_64")]
fn install() -> Result<()> {
    if INSTALLED.load(Acquire) {
        return Ok(());
    }
    // SAFETY: the callback fits dl_iterate_phdr(3).
    unsafe { libc::dl_iterate_phdr(Some(find_text), core::ptr::null_mut()) };
    if TEXT.load(Relaxed) == 0 {
        return Err(Errno::ENOSYS);
    }
    crate::signal::adopt_sigsys();
    #[repr(C)]
    struct KernelAction {
        handler: usize,
        flags: u64,
        restorer: usize,
        mask: u64,
    }
    let ours = KernelAction {
        handler: on_sigsys as *const () as usize,
        // On the thread's own stack: a scope is entered on whatever stack runs.
        flags: SA_RESTORER | libc::SA_SIGINFO as u64 | libc::SA_NODEFER as u64 | libc::SA_RESTART as u64,
        restorer: csel_inward_sigreturn as *const () as usize,
        mask: 0,
    };
    // SAFETY: a struct sigaction of the kernel's.
    unsafe { gate::syscall(libc::SYS_rt_sigaction, [libc::SIGSYS as usize, &raw const ours as usize, 0, 8, 0, 0]) }?;
    INSTALLED.store(true, Release);
    Ok(())
}

/// The executable segment that holds this function.
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn find_text(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    let here = install as *const () as usize;
    // SAFETY: the dynamic linker's list of dlpi_phnum headers.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr as usize, core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    for h in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_X != 0) {
        let (from, len) = (base + h.p_vaddr as usize, h.p_memsz as usize);
        if (from..from + len).contains(&here) {
            TEXT_LEN.store(len, Relaxed);
            TEXT.store(from, Release);
            return 1;
        }
    }
    0
}

/// A system call of libc's, made in a scope.
#[cfg(target_arch = "x86_64")]
unsafe extern "C-unwind" fn on_sigsys(sig: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo and context.
    let (code, uc) = unsafe { ((*info).si_code, &mut *context.cast::<libc::ucontext_t>()) };
    if code != SYS_USER_DISPATCH {
        // A seccomp filter of the application's, or somebody's kill(2).
        // SAFETY: as the kernel called us.
        unsafe { crate::signal::pass_on(sig, info, context) };
        return;
    }
    let t = thread();
    let was = suspend(t);
    let saved = crate::ret::errno();
    let regs = &mut uc.uc_mcontext.gregs;
    let at = |r: c_int| regs[r as usize] as usize;
    let nr = at(libc::REG_RAX) as c_long;
    let a = [at(libc::REG_RDI), at(libc::REG_RSI), at(libc::REG_RDX), at(libc::REG_R10), at(libc::REG_R8), at(libc::REG_R9)];
    match nr {
        libc::SYS_rt_sigreturn => {
            // A handler of the application's returns: the same from our text, on the same stack.
            regs[libc::REG_RIP as usize] = csel_inward_sigreturn as *const () as usize as i64;
        }
        libc::SYS_rt_sigprocmask => {
            let r = set_mask(&mut uc.uc_sigmask, a);
            uc.uc_mcontext.gregs[libc::REG_RAX as usize] = value(r);
        }
        _ => {
            let r = perform(nr, a);
            uc.uc_mcontext.gregs[libc::REG_RAX as usize] = value(r);
        }
    }
    crate::ret::fail(saved);
    resume(t, was);
}

/// As the kernel returns it.
#[cfg(target_arch = "x86_64")]
fn value(r: Result<usize>) -> i64 {
    match r {
        Ok(n) => n as i64,
        Err(e) => -i64::from(e.0),
    }
}

#[cfg(target_arch = "x86_64")]
fn perform(nr: c_long, a: [usize; 6]) -> Result<usize> {
    const CLONE_VM: usize = libc::CLONE_VM as usize;
    match nr {
        // Its arguments are a structure: glibc then uses clone(2).
        libc::SYS_clone3 => Err(Errno::ENOSYS),
        // A child on this stack would return into our handler.
        libc::SYS_vfork => Err(Errno::EAGAIN),
        libc::SYS_clone if a[0] & CLONE_VM != 0 => Err(Errno::EAGAIN),
        _ => {
            // SAFETY: the arguments are libc's own, as it would have passed them to the kernel.
            match unsafe { crate::abi::syscall::dispatch(nr, a) } {
                Some(-1) => Err(crate::ret::errno()),
                Some(n) => Ok(n as usize),
                // SAFETY: as above.
                None => unsafe { gate::syscall(nr, a) },
            }
        }
    }
}

/// rt_sigprocmask(2) in a scope: the mask is that of the interrupted context, to which the handler returns.
#[cfg(target_arch = "x86_64")]
fn set_mask(mask: &mut libc::sigset_t, a: [usize; 6]) -> Result<usize> {
    // SAFETY: a sigset_t begins with the kernel's 64 bits.
    let word = unsafe { &mut *core::ptr::from_mut(mask).cast::<u64>() };
    let old = *word;
    if a[3] != 8 {
        return Err(Errno::EINVAL);
    }
    if a[1] != 0 {
        let set = crate::user::get(a[1] as *const u64)?;
        let new = match a[0] as c_int {
            libc::SIG_BLOCK => old | set,
            libc::SIG_UNBLOCK => old & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        *word = without_sigsys(new) & !(1 << (libc::SIGKILL - 1)) & !(1 << (libc::SIGSTOP - 1));
    }
    if a[2] != 0 {
        crate::user::put(a[2] as *mut u64, &old)?;
    }
    Ok(0)
}
