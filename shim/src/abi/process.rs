//! Processes: fork(2), vfork(2), clone(2), exec(3), _exit(2), and the calls by which a process gives up rights. Spawning is in [`super::spawn`].
//!
//! The `execl` functions and vfork(2) are no rows of the macro: those read arguments from the stack, this returns twice on it.
use crate::exec;
use crate::exec::preload::Argv;
use crate::fork;
use crate::init;
use crate::ret::{IntoC, fail};
use crate::table::{Row, Status, interpose};
use crate::user;
use core::ffi::CStr;
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use libc::{c_char, c_int, c_long, c_void, pid_t, uid_t};

/// `environ`.
pub(crate) fn environment() -> Argv {
    unsafe extern "C" {
        static environ: Argv;
    }
    // SAFETY: libc's variable.
    unsafe { environ }
}

/// The path of an exec, as far as we look at it; what the kernel will say EFAULT to is empty.
///
/// # Safety
/// NULL, or a string.
unsafe fn text<'a>(path: *const c_char) -> &'a CStr {
    // SAFETY: the caller vouches.
    if path.is_null() { c"" } else { unsafe { CStr::from_ptr(path) } }
}

/// Does `filter`, which forbids this process most system calls from then on.
pub(super) fn confining<R: Into<i64> + Copy>(filter: impl FnOnce() -> R) -> R {
    if init::inert() {
        return filter();
    }
    let before = gate::sandbox::is_confined();
    crate::bells::confine();
    let r = filter();
    if r.into() != 0 && !before {
        gate::sandbox::leave();
    }
    r
}

interpose! {
    family process;

    /// prctl(2): only PR_SET_SECCOMP is of interest.
    plain fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int = Pass "" {
        // SAFETY: as the application passed it.
        let go = || unsafe { real::prctl(option, a, b, c, d) };
        if option == libc::PR_SET_SECCOMP { confining(go) } else { go() }
    }

    /// fork(2).
    plain fn fork() -> pid_t = Full "" {
        // SAFETY: no arguments.
        fork::fork(|| unsafe { real::fork() }, false)
    }
    /// fork(2), libc's other name for it.
    plain fn __fork() -> pid_t = Full "" {
        // SAFETY: no arguments.
        fork::fork(|| unsafe { real::__fork() }, false)
    }
    /// _Fork(3).
    plain fn _Fork() -> pid_t = Full "" {
        // SAFETY: no arguments.
        fork::fork(|| unsafe { real::_Fork() }, true)
    }
    /// clone(2).
    plain fn clone(run: Option<unsafe extern "C-unwind" fn(*mut c_void) -> c_int>, stack: *mut c_void, flags: c_int, arg: *mut c_void,
        parent: usize, tls: usize, child: usize) -> c_int = Partial "CLONE_VM without CLONE_THREAD or CLONE_VFORK is passed on: both count as one process" {
        match run {
            Some(run) if !stack.is_null() => {
                // SAFETY: as the application passed it; what it left out is not looked at.
                fork::clone(run, arg, flags, |run, arg| unsafe { real::clone(Some(run), stack, flags, arg, parent, tls, child) })
            }
            _ => fail(Errno::EINVAL),
        }
    }
    /// execve(2).
    plain fn execve(path: *const c_char, argv: Argv, envp: Argv) -> c_int = Partial "static and setuid programs use the kernel's network" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::execve(path, argv, envp) }
        } else {
            // SAFETY: as the application passed it.
            unsafe { exec::replace(libc::AT_FDCWD, text(path), 0, envp, |e| real::execve(path, argv, e)) }
        }
    }
    /// execv(3).
    plain fn execv(path: *const c_char, argv: Argv) -> c_int = Partial "static and setuid programs use the kernel's network" {
        // SAFETY: as the application passed it.
        unsafe { execve(path, argv, environment()) }
    }
    /// execvp(3).
    plain fn execvp(file: *const c_char, argv: Argv) -> c_int = Partial "static and setuid programs use the kernel's network" {
        // SAFETY: as the application passed it.
        unsafe { execvpe(file, argv, environment()) }
    }
    /// execvpe(3).
    plain fn execvpe(file: *const c_char, argv: Argv, envp: Argv) -> c_int = Partial "static and setuid programs use the kernel's network" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::execvpe(file, argv, envp) }
        } else {
            // SAFETY: as the application passed it.
            unsafe { exec::search::execvpe(file, argv, envp) }
        }
    }
    /// fexecve(3).
    plain fn fexecve(fd: c_int, argv: Argv, envp: Argv) -> c_int = Partial "static and setuid programs use the kernel's network" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::fexecve(fd, argv, envp) }
        } else {
            // SAFETY: as the application passed it.
            unsafe { exec::replace(fd, c"", libc::AT_EMPTY_PATH, envp, |e| real::fexecve(fd, argv, e)) }
        }
    }
    /// execveat(2).
    plain fn execveat(fd: c_int, path: *const c_char, argv: Argv, envp: Argv, flags: c_int) -> c_int = Partial
        "static and setuid programs use the kernel's network" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::execveat(fd, path, argv, envp, flags) }
        } else {
            // SAFETY: as the application passed it.
            unsafe { exec::replace(fd, text(path), flags, envp, |e| real::execveat(fd, path, argv, e, flags)) }
        }
    }
    /// setuid(2).
    plain fn setuid(uid: uid_t) -> c_int = Pass "" {
        init::keep_way_in();
        // SAFETY: no pointers.
        unsafe { real::setuid(uid) }
    }
    /// seteuid(2).
    plain fn seteuid(uid: uid_t) -> c_int = Pass "" {
        init::keep_way_in();
        // SAFETY: no pointers.
        unsafe { real::seteuid(uid) }
    }
    /// setreuid(2).
    plain fn setreuid(real_id: uid_t, effective: uid_t) -> c_int = Pass "" {
        init::keep_way_in();
        // SAFETY: no pointers.
        unsafe { real::setreuid(real_id, effective) }
    }
    /// setresuid(2).
    plain fn setresuid(real_id: uid_t, effective: uid_t, saved: uid_t) -> c_int = Pass "" {
        init::keep_way_in();
        // SAFETY: no pointers.
        unsafe { real::setresuid(real_id, effective, saved) }
    }
    /// chroot(2).
    plain fn chroot(path: *const c_char) -> c_int = Pass "" {
        init::keep_way_in();
        // SAFETY: as the application passed it.
        unsafe { real::chroot(path) }
    }
    /// _exit(2).
    plain fn _exit(status: c_int) = Full "" {
        fork::leave();
        init::exit(status);
    }
    /// _Exit(3).
    plain fn _Exit(status: c_int) = Full "" {
        fork::leave();
        init::exit(status);
    }
}

/// The next fork(2).
///
/// # Safety
/// None beyond fork(2)'s.
pub(crate) unsafe fn libc_fork() -> pid_t {
    // SAFETY: no arguments.
    unsafe { real::fork() }
}

/// clone(2) by syscall(2), whose order of arguments is the kernel's.
pub(crate) fn raw_clone(a: [usize; 6]) -> c_long {
    let r = fork::raw(a[0] as u64, |flags| {
        // SAFETY: as the application passed it; without CLONE_VM the child has a copy of this stack.
        unsafe { gate::syscall(libc::SYS_clone, [flags as usize, a[1], a[2], a[3], a[4], 0]) }
    });
    done(r)
}

/// Does the child of clone3(2) go on on a copy of the parent's stack? With a stack of its own the caller knows what it does.
pub(crate) fn stays(at: *const u64, size: usize) -> bool {
    const STACK: usize = 5;
    size < (STACK + 1) * 8 || user::get(at.wrapping_add(STACK)) == Ok(0)
}

/// clone3(2) by syscall(2).
pub(crate) fn raw_clone3(at: *const u64, size: usize) -> c_long {
    const MAX: usize = 32;
    let words = size / 8;
    if words == 0 || words > MAX {
        // SAFETY: the kernel judges it.
        return done(unsafe { gate::syscall(libc::SYS_clone3, [at as usize, size, 0, 0, 0, 0]) });
    }
    let mut args = [0u64; MAX];
    for (i, word) in args[..words].iter_mut().enumerate() {
        match user::get(at.wrapping_add(i)) {
            Ok(w) => *word = w,
            Err(e) => return c_long::from(fail(e)),
        }
    }
    let r = fork::raw(args[0], |flags| {
        args[0] = flags;
        // SAFETY: a struct clone_args of that size; what it points to is the application's.
        unsafe { gate::syscall(libc::SYS_clone3, [args.as_ptr() as usize, words * 8, 0, 0, 0, 0]) }
    });
    done(r)
}

/// fork(2) and vfork(2) by syscall(2).
pub(crate) fn raw_fork(flags: c_int) -> c_long {
    raw_clone([(flags | libc::SIGCHLD) as usize, 0, 0, 0, 0, 0])
}

fn done(r: Result<usize>) -> c_long {
    let r: isize = r.into_c();
    r as c_long
}

/// Rows that are not written by the macro.
mod by_hand {
    use crate::real::Next;
    pub(super) static EXECL: Next = Next::new("execl\0");
    pub(super) static EXECLP: Next = Next::new("execlp\0");
    pub(super) static EXECLE: Next = Next::new("execle\0");
    pub(super) static VFORK: Next = Next::new("vfork\0");
    pub(super) static VFORK2: Next = Next::new("__vfork\0");
}

const fn row(name: &'static str, status: Status, words: &'static str, next: &'static crate::real::Next) -> Row {
    Row { name, family: "process", cancels: false, status, words, next }
}

/// The `execl` functions and vfork(2).
pub(crate) static BY_HAND: &[Row] = &[
    row("execl", Status::Partial, "static and setuid programs use the kernel's network", &by_hand::EXECL),
    row("execlp", Status::Partial, "static and setuid programs use the kernel's network", &by_hand::EXECLP),
    row("execle", Status::Partial, "static and setuid programs use the kernel's network", &by_hand::EXECLE),
    row("vfork", Status::Full, "", &by_hand::VFORK),
    row("__vfork", Status::Full, "", &by_hand::VFORK2),
];

/// Where libc's vfork(2) is.
pub(crate) fn next_vfork() -> usize {
    by_hand::VFORK.get() as usize
}

/// What the `execl` functions come to: the list becomes an array.
///
/// # Safety
/// `first` are the arguments after the path that came in registers, `rest` those on the stack; NULL ends them.
#[cfg(target_arch = "x86_64")]
unsafe extern "C" fn listed(path: *const c_char, first: *const *const c_char, rest: *const *const c_char, kind: u32) -> c_int {
    const IN_REGISTERS: usize = 5;
    const ON_STACK: usize = 256;
    // SAFETY: the caller vouches.
    let arg = |i: usize| unsafe { if i < IN_REGISTERS { *first.add(i) } else { *rest.add(i - IN_REGISTERS) } };
    let n = (0..).take_while(|&i| !arg(i).is_null()).count();
    let envp = if kind == 2 { arg(n + 1).cast() } else { environment() };
    let mut here = [core::ptr::null::<c_char>(); ON_STACK];
    let room = if n < ON_STACK {
        &mut here[..]
    } else {
        let (len, flags) = ((n + 1) * size_of::<usize>(), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping where the kernel likes.
        match unsafe { gate::syscall(libc::SYS_mmap, [0, len, prot as usize, flags as usize, usize::MAX, 0]) } {
            // SAFETY: fresh, zero, of that length. It stays if the exec fails: such lists are rare.
            Ok(at) => unsafe { core::slice::from_raw_parts_mut(at as *mut *const c_char, n + 1) },
            Err(e) => return fail(e),
        }
    };
    for (i, a) in room[..n].iter_mut().enumerate() {
        *a = arg(i);
    }
    // SAFETY: as the application passed it.
    unsafe { if kind == 1 { execvpe(path, room.as_ptr(), envp) } else { execve(path, room.as_ptr(), envp) } }
}

#[cfg(target_arch = "x86_64")]
macro_rules! listed {
    ($($(#[doc = $doc:literal])* $name:ident = $kind:literal)*) => {$(
        $(#[doc = $doc])*
        ///
        /// # Safety
        /// As the man page says.
        #[allow(unreachable_pub)]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                // Alignment: eight bytes for the return address, forty for the five registers.
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "lea rdx, [rsp + 48]",
                "mov ecx, {kind}",
                "call {listed}",
                "add rsp, 40",
                "ret",
                kind = const $kind,
                listed = sym listed,
            )
        }
    )*};
}
#[cfg(target_arch = "x86_64")]
listed! {
    /// execl(3).
    execl = 0
    /// execlp(3).
    execlp = 1
    /// execle(3).
    execle = 2
}

macro_rules! vforks {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {$(
        $(#[doc = $doc])*
        ///
        /// # Safety
        /// As the man page says.
        #[cfg(target_arch = "x86_64")]
        #[allow(unreachable_pub)]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() -> pid_t {
            core::arch::naked_asm!("jmp {vfork}", vfork = sym fork::vfork)
        }
    )*};
}
vforks! {
    /// vfork(2).
    vfork
    /// vfork(2), libc's other name for it.
    __vfork
}
