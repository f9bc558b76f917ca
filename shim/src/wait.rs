//! Waiting: the only place where the library blocks.
//!
//! # Theory of operation
//! **Purpose.** A call of the core that would block says on what and until when. [`run`] steps it, sleeps with no lock held and no reference to the core
//! on the stack, and steps it again, so that signals, timeouts and cancellation behave as in a system call.
//! **How it works.** The sleep is one futex(2), issued by a piece of assembly ([`futex`]) that first compares the thread's count of handlers that ran
//! with what it was when the call began. The signal trampoline moves a thread that it finds between this comparison and the system call to
//! the end of that piece: so a signal can neither be lost nor sleep through. Around it, asynchronous cancellation is on, as glibc does it in
//! its own cancellation points; pthread_cancel(3) then unwinds from there, and [`Hooked`]'s drop undoes the wait. A handler that longjmp(3)s away
//! drops nothing: the thread's waits are kept beside its stack ([`Holds`]), and the jump ends those it passes over ([`jump`]).
//! After a wake-up the call is tried once more, and only if it would still block is it interrupted: restarted if every handler had SA_RESTART and
//! no timeout is set on the socket, else EINTR (signal(7)).
//! **Limits.** A handler that leaves by swapcontext(3) leaves its wait behind. x86-64 has the closed window; elsewhere a signal in the last instructions before the sleep is seen at the next wake-up only.
//! **Locks.** None. **Failure.** EINTR. **See also.** [`csel_core::net::wait`], [`crate::signal`], futex(2), signal(7), pthreads(7).
use crate::bells::Bell;
use crate::enter::{Thread, thread, with_cx};
use core::cell::{Cell, UnsafeCell};
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU32;
use csel_core::arena::Id;
use csel_core::call::Outcome;
use csel_core::clock::{NEVER, Nanos};
use csel_core::errno::{Errno, Result};
use csel_core::fd::{Held, Sock};
use csel_core::instance::Cx;
use csel_core::net::wait::{How, Step, Waiting};
use libc::c_int;

unsafe extern "C-unwind" {
    fn pthread_testcancel();
    fn pthread_setcanceltype(ty: c_int, old: *mut c_int) -> c_int;
}
const ASYNCHRONOUS: c_int = 1;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.csel_futex,\"ax\",@progbits",
    ".p2align 4",
    ".hidden csel_futex",
    ".hidden csel_futex_call",
    ".hidden csel_futex_abort",
    ".globl csel_futex",
    ".globl csel_futex_call",
    ".globl csel_futex_abort",
    ".type csel_futex,@function",
    // (nr and arguments of the system call in a block at rdi; the counter at rsi; what it must be in edx)
    "csel_futex:",
    ".cfi_startproc",
    "mov r11, rdi",
    "mov rcx, rsi",
    "mov eax, edx",
    "cmp dword ptr [rcx], eax",
    "jne csel_futex_abort",
    "mov rdi, [r11 + 8]",
    "mov rsi, [r11 + 16]",
    "mov rdx, [r11 + 24]",
    "mov r10, [r11 + 32]",
    "mov r8, [r11 + 40]",
    "mov r9, [r11 + 48]",
    "mov rax, [r11]",
    "csel_futex_call:",
    "syscall",
    "ret",
    "csel_futex_abort:",
    "mov rax, -4",
    "ret",
    ".cfi_endproc",
    ".size csel_futex, . - csel_futex",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C-unwind" {
    fn csel_futex(args: *const [usize; 7], counter: *const u32, expected: u32) -> isize;
    fn csel_futex_call();
    fn csel_futex_abort();
}

/// A thread that a handler interrupted at instruction `rip`: where it should go on instead, if it was about to sleep.
#[cfg(target_arch = "x86_64")]
pub(crate) fn abort_at(rip: usize) -> Option<usize> {
    let from = csel_futex as *const () as usize;
    (from..=csel_futex_call as *const () as usize).contains(&rip).then_some(csel_futex_abort as *const () as usize)
}

/// A system call that does not begin if a handler has run since `t.handled` was `seen`, and that pthread_cancel(3) ends.
/// EINTR: a handler ran.
///
/// # Safety
/// The arguments must be what the man page of `nr` demands. Nothing on the stacks above may rely on not being unwound.
pub(crate) unsafe fn interruptible(t: &Thread, seen: u32, nr: libc::c_long, a: [usize; 6]) -> Result<usize> {
    let block = [nr as usize, a[0], a[1], a[2], a[3], a[4], a[5]];
    let mut old = 0;
    // SAFETY: plain calls of libc; cancellation unwinds through here, which has nothing to drop.
    unsafe { pthread_setcanceltype(ASYNCHRONOUS, &raw mut old) };
    t.cancel_type.set(old + 1);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for the arguments; the counter is this thread's.
    let ret = unsafe { csel_futex(&raw const block, t.handled.as_ptr(), seen) };
    #[cfg(not(target_arch = "x86_64"))]
    let ret = if t.handled.get() != seen {
        -(libc::EINTR as isize)
    } else {
        // SAFETY: the caller vouches for the arguments.
        unsafe { csel_core::gate::syscall(nr, a) }.map_or_else(|e| -(e.0 as isize), |n| n as isize)
    };
    t.cancel_type.set(0);
    // SAFETY: as above.
    unsafe { pthread_setcanceltype(old, &raw mut old) };
    if ret < 0 { Err(Errno((-ret) as u16)) } else { Ok(ret as usize) }
}

/// Runs a handler: not cancelled at any instruction of its own though it has interrupted a call that is; it may also jump away.
pub(crate) fn handled(t: &Thread, handler: impl FnOnce()) {
    let ty = t.cancel_type.replace(0);
    if ty == 0 {
        return handler();
    }
    let mut old = 0;
    // SAFETY: plain calls of libc. The second may unwind, into the interrupted call.
    unsafe { pthread_setcanceltype(ty - 1, &raw mut old) };
    handler();
    t.cancel_type.set(ty);
    // SAFETY: as above.
    unsafe { pthread_setcanceltype(ASYNCHRONOUS, &raw mut old) };
}

/// Sleeps on `word` while it is `expected`, until `until`.
pub(crate) fn futex(t: &Thread, seen: u32, word: &AtomicU32, expected: u32, until: Nanos) -> Result<usize> {
    let ts = libc::timespec { tv_sec: (until / 1_000_000_000) as i64, tv_nsec: (until % 1_000_000_000) as i64 };
    let timeout = if until == NEVER { 0 } else { &raw const ts as usize };
    let a = [word.as_ptr() as usize, libc::FUTEX_WAIT_BITSET as usize, expected as usize, timeout, 0, u32::MAX as usize];
    // SAFETY: the word is in the arena; the timeout is null or lives until the call ends.
    unsafe { interruptible(t, seen, libc::SYS_futex, a) }
}

/// pthread_testcancel(3): each cancellation point does this before it does anything else.
#[inline]
pub(crate) fn test_cancel() {
    // SAFETY: a plain call of libc. If it unwinds, nothing is to be undone yet.
    unsafe { pthread_testcancel() };
}

/// Waits of one thread at once: one, and one for each handler that waits on top of another.
const DEEP: usize = 8;

/// A wait under way.
struct Hold {
    waiting: Waiting,
    bell: Option<Bell>,
    /// Where on the stack its call is.
    at: usize,
}

/// The waits of a thread. They are here and not on its stack, so that a longjmp(3) that passes over a call can end the call's wait ([`jump`]).
pub(crate) struct Holds {
    /// How often each place was taken, and whether it is (odd).
    turns: [Cell<u32>; DEEP],
    places: [UnsafeCell<MaybeUninit<Hold>>; DEEP],
}

impl Holds {
    pub(crate) const fn new() -> Self {
        Self { turns: [const { Cell::new(0) }; DEEP], places: [const { UnsafeCell::new(MaybeUninit::uninit()) }; DEEP] }
    }

    fn put(&self, hold: Hold) -> Result<Hooked> {
        let Some(n) = self.turns.iter().position(|t| t.get().is_multiple_of(2)) else { return Err(Errno::EAGAIN) };
        // SAFETY: the thread's own, and the place is free.
        unsafe { (*self.places[n].get()).write(hold) };
        self.turns[n].set(self.turns[n].get().wrapping_add(1));
        Ok(Hooked { place: n, turn: self.turns[n].get() })
    }
    /// Does something with a wait; none if it has been taken away.
    fn with<R>(&self, h: &Hooked, f: impl FnOnce(&mut Hold) -> R) -> Option<R> {
        // SAFETY: the place was written when its turn became odd; the core is being called or about to be, so nothing else of this thread is here.
        (self.turns[h.place].get() == h.turn).then(|| f(unsafe { (*self.places[h.place].get()).assume_init_mut() }))
    }
    /// After fork: the waits are the parent's.
    pub(crate) fn forget(&self) {
        for t in &self.turns {
            t.set(t.get().next_multiple_of(2));
        }
    }
    fn take(&self, place: usize, turn: u32) -> Option<Hold> {
        if self.turns[place].get() != turn || turn.is_multiple_of(2) {
            return None;
        }
        self.turns[place].set(turn.wrapping_add(1));
        // SAFETY: written when its turn became odd, and no longer there for anybody else.
        Some(unsafe { (*self.places[place].get()).assume_init_read() })
    }
}

/// A call's wait; its drop ends it, also when the thread is cancelled or its handler unwinds.
pub(crate) struct Hooked {
    place: usize,
    turn: u32,
}

impl Hooked {
    /// Hooks on by `begin`, which is given the key of the bell (0: none), if one is wanted and can be had.
    pub(crate) fn begin(t: &Thread, bell: bool, begin: impl FnOnce(&Cx<'_>, u64) -> Waiting) -> Result<Self> {
        // Kept before the core is left: a handler that was put off runs then.
        with_cx(|cx| {
            let bell = if bell { Bell::take() } else { None };
            let waiting = begin(cx, bell.as_ref().map_or(0, Bell::key));
            let at = (&raw const bell).addr();
            if t.holds.turns.iter().all(|t| !t.get().is_multiple_of(2)) {
                waiting.end(cx);
                return Err(Errno::EAGAIN);
            }
            t.holds.put(Hold { waiting, bell, at })
        })
        .flatten()
    }
    /// What to do next. EINTR: a jump has ended the wait.
    pub(crate) fn step(&mut self, t: &Thread, deadline: Nanos) -> Result<Step> {
        with_cx(|cx| t.holds.with(self, |h| h.waiting.step(cx, deadline)).ok_or(Errno::EINTR)).flatten()
    }
    /// The bell's descriptor, if there is one.
    pub(crate) fn bell(&self, t: &Thread) -> Option<c_int> {
        t.holds.with(self, |h| h.bell.as_ref().map(Bell::fd)).flatten()
    }
    /// Ends the wait and goes on with the socket; `None`: it is not open any more.
    fn end<R>(self, t: &Thread, id: Id<Sock>, f: impl FnOnce(&Cx<'_>, &Held) -> R) -> Result<Option<R>> {
        with_cx(|cx| {
            let held = Held::take(cx.inst, id);
            self.leave(t, cx);
            held.map(|held| {
                let r = f(cx, &held);
                held.release(cx);
                r
            })
        })
    }
    fn leave(&self, t: &Thread, cx: &Cx<'_>) {
        if let Some(h) = t.holds.take(self.place, self.turn) {
            h.waiting.end(cx);
        }
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        let t = thread();
        if t.holds.turns[self.place].get() == self.turn {
            let _ = with_cx(|cx| self.leave(t, cx));
        }
    }
}

/// The thread is about to jump to where its stack pointer is `target`, from a handler: the waits of the calls it passes over end.
pub(crate) fn jump(target: impl FnOnce() -> usize) {
    let t = thread();
    if t.holds.turns.iter().all(|t| t.get().is_multiple_of(2)) || t.depth.get() != 0 {
        return;
    }
    let target = target();
    // SAFETY: all-zero is a valid stack_t.
    let mut alt: libc::stack_t = unsafe { core::mem::zeroed() };
    alt.ss_flags = libc::SS_DISABLE;
    if !csel_core::gate::sandbox::is_confined() {
        // SAFETY: alt is writable.
        let _ = unsafe { csel_core::gate::syscall(libc::SYS_sigaltstack, [0, &raw mut alt as usize, 0, 0, 0, 0]) };
    }
    let alternate = |at: usize| alt.ss_flags & libc::SS_DISABLE == 0 && at.wrapping_sub(alt.ss_sp.addr()) < alt.ss_size;
    for place in 0..DEEP {
        let turn = t.holds.turns[place].get();
        if turn.is_multiple_of(2) {
            continue;
        }
        // SAFETY: an odd turn: it was written.
        let at = unsafe { (*t.holds.places[place].get()).assume_init_ref() }.at;
        // Calls on the alternate stack are passed over by leaving it; on one stack, by going up.
        let passed = if alternate(at) == alternate(target) { at < target } else { alternate(at) };
        if passed {
            let _ = with_cx(|cx| Hooked { place, turn }.leave(t, cx));
        }
    }
}

/// What the thread's handlers had done when a call began.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    handled: u32,
    broke: u32,
}

impl Seen {
    /// Now.
    pub(crate) fn now(t: &Thread) -> Self {
        Self { handled: t.handled.get(), broke: t.broke.get() }
    }
    /// The count of handlers.
    pub(crate) fn handled(&self) -> u32 {
        self.handled
    }
    /// Must a call that would go on waiting end with EINTR? If not, what ran is forgotten.
    fn interrupts(&mut self, t: &Thread, restarts: bool) -> bool {
        if t.handled.get() == self.handled {
            return false;
        }
        if !restarts || t.broke.get() != self.broke {
            return true;
        }
        *self = Self::now(t);
        false
    }
}

/// Steps a call on descriptor `fd` until it is done. EBADF: not virtual any more. The call is restarted after handlers with SA_RESTART unless it has
/// a timeout.
#[inline]
pub(crate) fn run(fd: c_int, exclusive: bool, mut step: impl FnMut(&Cx<'_>, &Held, bool) -> Outcome) -> Result<usize> {
    test_cancel();
    let t = thread();
    t.faulted.set(false);
    let seen = Seen::now(t);
    let out = with_cx(|cx| match cx.inst.procs.get(cx.proc).get(cx.inst, fd) {
        None => Outcome::Fail(Errno::EBADF),
        Some(held) => {
            let out = step(cx, &held, false);
            held.release(cx);
            out
        }
    })?;
    match out {
        Outcome::Done(n) if !t.faulted.get() => Ok(n),
        Outcome::Fail(e) if !t.faulted.get() => Err(e),
        Outcome::Wait(w) if !t.faulted.get() => sleep(t, seen, w, exclusive, &mut step),
        out => finished(t, out),
    }
}

/// A call's end, when a pointer may have been bad: bytes moved before that count (the mark stays for datagrams, which cannot be cut).
#[cold]
fn finished(t: &Thread, out: Outcome) -> Result<usize> {
    let faulted = t.faulted.get();
    match out {
        Outcome::Done(0) | Outcome::Wait(_) if faulted => Err(Errno::EFAULT),
        Outcome::Done(n) => Ok(n),
        Outcome::Fail(_) if faulted => Err(Errno::EFAULT),
        Outcome::Fail(e) => Err(e),
        Outcome::Wait(_) | Outcome::Pass(_) => Err(Errno::EOPNOTSUPP),
    }
}

#[cold]
fn sleep(
    t: &Thread,
    mut seen: Seen,
    mut w: csel_core::call::Wait,
    exclusive: bool,
    step: &mut dyn FnMut(&Cx<'_>, &Held, bool) -> Outcome,
) -> Result<usize> {
    loop {
        let how = How { exclusive, ..How::default() };
        let mut hooked = Hooked::begin(t, false, |cx, _| Waiting::begin(cx, &[(w.sock, w.events)], how))?;
        let mut timed_out = false;
        let mut interrupted = false;
        // Until there is something to try again for.
        loop {
            match hooked.step(t, w.deadline) {
                // EINTR: the wait is not ours any more (a handler forked, and we are the child): a new one.
                Ok(Step::Ready) | Err(Errno::EINTR) => break,
                Err(e) => return Err(e),
                Ok(Step::TimedOut) => {
                    timed_out = true;
                    break;
                }
                Ok(Step::Sleep(s)) => {
                    let _ = futex(t, seen.handled, s.word, s.expected, s.until);
                    if seen.interrupts(t, w.deadline == NEVER) {
                        interrupted = true;
                        break;
                    }
                }
            }
        }
        // An interrupted call is tried once more, and then says what it has moved so far.
        let out = hooked.end(t, w.sock, |cx, held| step(cx, held, timed_out || interrupted))?;
        match out.ok_or(Errno::EBADF)? {
            Outcome::Fail(Errno::EAGAIN | Errno::EINPROGRESS | Errno::EALREADY) if interrupted && !t.faulted.get() => {
                return Err(Errno::EINTR);
            }
            Outcome::Wait(next) if !t.faulted.get() => w = next,
            out => return finished(t, out),
        }
    }
}
