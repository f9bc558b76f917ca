//! Signals: handlers run outside the core, and bad pointers become EFAULT.
//!
//! # Theory of operation
//! **Purpose.** A handler that ran in the middle of a locked section could call us again, or longjmp(3) away with the lock held. And the waiting code
//! must know whether a handler that ended a sleep had SA_RESTART.
//! **How it works.** Once the process has an instance ([`arm`]), every handler is installed through [`trampoline`]; what the application asked for
//! is kept in [`ACTIONS`], and sigaction(2) shows it that. If the thread is in the core, the trampoline sends the signal to itself again, blocked, and
//! [`deliver`] lets it in when the core has been left: so the kernel keeps the siginfo, the mask and the order. SIGSEGV and SIGBUS are always ours:
//! a fault in [`csel_core::gate::user::copy`] ends the copy; any other goes to the application's handler or to the default.
//! **Limits.** In a process that has confined itself (seccomp) handlers run at once. Handlers installed by raw rt_sigaction(2) (Go) run at once. SA_RESETHAND and SA_NODEFER are done here, not by the kernel.
//! **Locks.** [`ACTIONS`] is read without one: a handler that is being replaced may get the other's flags for an instant.
//! **Failure.** None. **See also.** sigaction(2), rt_tgsigqueueinfo(2), [`crate::wait`].
use crate::abi::signal::real;
use crate::enter::{Thread, thread};
use crate::inward;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering::*};
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::gate::sigio::{self, SI_SIGIO};
use libc::{c_int, c_void, siginfo_t};

/// Signals are numbered 1 to 64.
const SIGNALS: usize = 64;

/// What the application asked for.
struct Action {
    /// Ours is installed in the kernel for it.
    ours: AtomicBool,
    handler: AtomicUsize,
    flags: AtomicI32,
    mask: AtomicU64,
}

static ACTIONS: [Action; SIGNALS + 1] = [const {
    Action { ours: AtomicBool::new(false), handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0), mask: AtomicU64::new(0) }
}; SIGNALS + 1];

/// Handlers go through the trampoline from now on.
static ARMED: AtomicBool = AtomicBool::new(false);

/// Is sigaction(2) ours?
pub(crate) fn armed() -> bool {
    ARMED.load(Acquire)
}

fn is_fault(sig: c_int) -> bool {
    sig == libc::SIGSEGV || sig == libc::SIGBUS
}

fn word(set: &libc::sigset_t) -> u64 {
    // SAFETY: a sigset_t begins with the kernel's 64 bits.
    unsafe { core::ptr::from_ref(set).cast::<u64>().read() }
}

fn set_of(word: u64) -> libc::sigset_t {
    // SAFETY: all-zero is an empty set, whose first 64 bits are the kernel's.
    unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        (&raw mut set).cast::<u64>().write(word);
        set
    }
}

/// Adds to or takes from the calling thread's mask.
fn mask(how: c_int, bits: u64) {
    // SAFETY: a mask of eight bytes.
    let _ = unsafe { gate::syscall(libc::SYS_rt_sigprocmask, [how as usize, &raw const bits as usize, 0, 8, 0, 0]) };
}

/// Takes over the handlers that are installed already. Called once, before the process's first virtual socket exists.
pub(crate) fn arm() {
    if ARMED.swap(true, AcqRel) {
        return;
    }
    for sig in 1..=SIGNALS as c_int {
        // Signals 32 and 33 are libc's own: cancellation and setuid.
        if matches!(sig, libc::SIGKILL | libc::SIGSTOP | 32 | 33) {
            continue;
        }
        // SAFETY: all-zero is a valid sigaction.
        let mut old: libc::sigaction = unsafe { core::mem::zeroed() };
        // SAFETY: old is writable.
        if unsafe { real::sigaction(sig, core::ptr::null(), &raw mut old) } != 0 {
            continue;
        }
        let handled = old.sa_sigaction != libc::SIG_DFL && old.sa_sigaction != libc::SIG_IGN;
        if handled || is_fault(sig) {
            let _ = install(sig, &old);
        }
    }
}

/// Puts the trampoline before `act`.
fn install(sig: c_int, act: &libc::sigaction) -> Result<()> {
    let a = &ACTIONS[sig as usize];
    a.flags.store(act.sa_flags, Relaxed);
    a.mask.store(word(&act.sa_mask), Relaxed);
    a.handler.store(act.sa_sigaction, Release);
    if sig == libc::SIGSYS && inward::owns_sigsys() {
        return Ok(());
    }
    let kept = act.sa_flags & !(libc::SA_RESETHAND | libc::SA_NODEFER);
    let mut ours = *act;
    ours.sa_sigaction = trampoline as *const () as usize;
    ours.sa_flags = kept | libc::SA_SIGINFO;
    ours.sa_mask = set_of(inward::without_sigsys(word(&act.sa_mask)));
    if is_fault(sig) {
        // A stack overflow must reach the application's handler on its own stack; without one this flag means nothing.
        ours.sa_flags |= libc::SA_ONSTACK;
    }
    // SAFETY: a valid sigaction.
    if unsafe { real::sigaction(sig, &raw const ours, core::ptr::null_mut()) } != 0 {
        return Err(crate::ret::errno());
    }
    a.ours.store(true, Release);
    Ok(())
}

/// What the application believes is installed.
fn shown(sig: c_int, old: &mut libc::sigaction) {
    let a = &ACTIONS[sig as usize];
    if old.sa_sigaction == trampoline as *const () as usize || sig == libc::SIGSYS && inward::owns_sigsys() {
        old.sa_sigaction = a.handler.load(Acquire);
        old.sa_flags = a.flags.load(Relaxed);
        old.sa_mask = set_of(a.mask.load(Relaxed));
    }
}

/// sigaction(2) once armed.
pub(crate) fn action(sig: c_int, act: Option<&libc::sigaction>, old: Option<&mut libc::sigaction>) -> Result<()> {
    if !(1..=SIGNALS as c_int).contains(&sig) || matches!(sig, 32 | 33) {
        return Err(Errno::EINVAL);
    }
    // SAFETY: all-zero is a valid sigaction.
    let mut was: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: was is writable.
    if unsafe { real::sigaction(sig, core::ptr::null(), &raw mut was) } != 0 {
        return Err(crate::ret::errno());
    }
    shown(sig, &mut was);
    if let Some(act) = act {
        let plain = act.sa_sigaction == libc::SIG_DFL || act.sa_sigaction == libc::SIG_IGN;
        // A child of vfork(2) has dispositions of its own, and the parent's memory.
        if plain && !is_fault(sig) && !(sig == libc::SIGSYS && inward::owns_sigsys()) || thread().vforked.get() {
            // SAFETY: a valid sigaction.
            if unsafe { real::sigaction(sig, act, core::ptr::null_mut()) } != 0 {
                return Err(crate::ret::errno());
            }
        } else {
            install(sig, act)?;
        }
    }
    if let Some(old) = old {
        *old = was;
    }
    Ok(())
}

/// SIGSYS becomes [`crate::inward`]'s: what the application asked for is remembered.
pub(crate) fn adopt_sigsys() {
    // SAFETY: all-zero is a valid sigaction.
    let mut old: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: old is writable.
    let known = unsafe { real::sigaction(libc::SIGSYS, core::ptr::null(), &raw mut old) } == 0;
    if known && old.sa_sigaction != trampoline as *const () as usize {
        let a = &ACTIONS[libc::SIGSYS as usize];
        a.flags.store(old.sa_flags, Relaxed);
        a.mask.store(word(&old.sa_mask), Relaxed);
        a.handler.store(old.sa_sigaction, Release);
    }
}

/// A SIGSYS that is the application's.
pub(crate) unsafe fn pass_on(sig: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let handler = ACTIONS[sig as usize].handler.load(Acquire);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // SAFETY: the kernel's siginfo. What it sends for a call that a filter refused cannot be ignored.
        if handler == libc::SIG_DFL || unsafe { (*info).si_code } > 0 {
            set_default(sig);
            let me = thread().me();
            // SAFETY: plain numbers.
            let _ = unsafe { gate::syscall(libc::SYS_tgkill, [me.pid as usize, me.tid as usize, sig as usize, 0, 0, 0]) };
        }
        return;
    }
    // SAFETY: as the kernel called us.
    unsafe { trampoline(sig, info, context) };
}

/// The handlers that came while the thread was in the core run now.
#[cold]
pub(crate) fn deliver(t: &Thread) {
    let bits = t.deferred.replace(0);
    mask(libc::SIG_UNBLOCK, bits);
}

/// What the kernel calls for every handled signal.
unsafe extern "C-unwind" fn trampoline(sig: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let t = thread();
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes a valid siginfo and context.
    let (code, uc) = unsafe { ((*info).si_code, &mut *context) };
    // A fault of this thread's own, as opposed to a SIGSEGV somebody sent.
    let synchronous = matches!(sig, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP | libc::SIGSYS) && code > 0;
    if synchronous && is_fault(sig) && (t.depth.get() > 0 || t.copying.get()) && mend(t, uc) {
        return;
    }
    // (A process that may hardly call the kernel cannot put it off: its handler finds that its calls of sockets fail with EAGAIN.)
    if t.depth.get() > 0 && !synchronous && !gate::sandbox::is_confined() {
        put_off(t, sig, info, uc);
        return;
    }
    let a = &ACTIONS[sig as usize];
    let handler = a.handler.load(Acquire);
    let flags = a.flags.load(Relaxed);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        default(sig, handler, synchronous);
        return;
    }
    // What was interrupted is another handler that has not begun: two signals came at once, and the first decides how the call goes on.
    let counts = !interrupts_itself(uc);
    let handled = t.handled.get().wrapping_add(u32::from(counts));
    let broke = t.broke.get().wrapping_add(u32::from(counts && flags & libc::SA_RESTART == 0));
    t.handled.set(handled);
    t.broke.set(broke);
    #[cfg(target_arch = "x86_64")]
    {
        let rip = &mut uc.uc_mcontext.gregs[libc::REG_RIP as usize];
        if let Some(at) = crate::wait::abort_at(*rip as usize) {
            *rip = at as i64;
        }
    }
    if flags & libc::SA_RESETHAND != 0 {
        a.handler.store(libc::SIG_DFL, Release);
        if !is_fault(sig) {
            set_default(sig);
        }
    }
    if flags & libc::SA_NODEFER != 0 && word(&uc.uc_sigmask) >> (sig - 1) & 1 == 0 {
        mask(libc::SIG_UNBLOCK, 1 << (sig - 1));
    }
    if code == SI_SIGIO {
        // One of ours ([`csel_core::gate::sigio`]): only the kernel may say why by the code.
        // SAFETY: the kernel's siginfo, whose si_band lies behind four numbers.
        unsafe { (*info).si_code = sigio::code_of(info.cast::<i64>().add(2).read()) };
    }
    // SAFETY: what the application installed; a handler of one argument ignores the others.
    let handler: unsafe extern "C-unwind" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { core::mem::transmute(handler) };
    let was = inward::suspend(t);
    // SAFETY: called as the kernel would have.
    crate::wait::handled(t, || unsafe { handler(sig, info, context.cast()) });
    inward::resume(t, was);
    // Handlers that have interrupted this one are not the interrupted call's affair.
    t.handled.set(handled);
    t.broke.set(broke);
}

/// Was this very function about to begin?
fn interrupts_itself(uc: &libc::ucontext_t) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        uc.uc_mcontext.gregs[libc::REG_RIP as usize] as usize == trampoline as *const () as usize
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = uc;
        false
    }
}

/// A fault in the copy routine: the copy ends short. False: the fault is not ours.
#[cfg(target_arch = "x86_64")]
fn mend(t: &Thread, uc: &mut libc::ucontext_t) -> bool {
    use csel_core::gate::user::{copy_range, fault_at};
    let regs = &mut uc.uc_mcontext.gregs;
    if !copy_range().contains(&(regs[libc::REG_RIP as usize] as usize)) {
        return false;
    }
    t.faulted.set(true);
    let (rip, rdx) = fault_at(regs[libc::REG_RDX as usize] as u64, regs[libc::REG_RCX as usize] as u64);
    regs[libc::REG_RIP as usize] = rip as i64;
    regs[libc::REG_RDX as usize] = rdx as i64;
    true
}
#[cfg(not(target_arch = "x86_64"))]
fn mend(_t: &Thread, _uc: &mut libc::ucontext_t) -> bool {
    false
}

/// Blocks the signal in what the thread returns to and sends it again, so that it waits in the kernel.
fn put_off(t: &Thread, sig: c_int, info: *mut siginfo_t, uc: &mut libc::ucontext_t) {
    let bit = 1u64 << (sig - 1);
    let me = t.me();
    mask(libc::SIG_BLOCK, bit);
    // SAFETY: the siginfo is the kernel's own.
    let sent = unsafe { gate::syscall(libc::SYS_rt_tgsigqueueinfo, [me.pid as usize, me.tid as usize, sig as usize, info as usize, 0, 0]) };
    if sent.is_err() {
        // No room for queued signals: without its siginfo, then.
        // SAFETY: plain numbers.
        let _ = unsafe { gate::syscall(libc::SYS_tgkill, [me.pid as usize, me.tid as usize, sig as usize, 0, 0, 0]) };
    }
    uc.uc_sigmask = set_of(word(&uc.uc_sigmask) | bit);
    t.deferred.set(t.deferred.get() | bit);
}

fn set_default(sig: c_int) {
    // SAFETY: all-zero is SIG_DFL with no flags.
    let dfl: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: a valid sigaction.
    unsafe { real::sigaction(sig, &raw const dfl, core::ptr::null_mut()) };
}

/// SIGSEGV or SIGBUS that the application does not handle.
fn default(sig: c_int, handler: usize, synchronous: bool) {
    if handler == libc::SIG_IGN && !synchronous {
        return;
    }
    // The faulting instruction is run again, or the signal sent again, and the default action is taken.
    set_default(sig);
    if !synchronous {
        let me = thread().me();
        // SAFETY: plain numbers.
        let _ = unsafe { gate::syscall(libc::SYS_tgkill, [me.pid as usize, me.tid as usize, sig as usize, 0, 0, 0]) };
    }
}
