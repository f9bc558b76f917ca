//! Processes: fork(2), exec(2), posix_spawn(3), _exit(2), and the calls by which a process gives up rights.
use crate::exec::{Environment, table_for_child};
use crate::fork;
use crate::init;
use crate::table::interpose;
use csel_core::gate;
use libc::{c_char, c_int, c_void, pid_t, uid_t};

type Argv = *const *const c_char;

/// Calls `go` with the environment as it must be.
///
/// # Safety
/// `envp` is an environment.
unsafe fn with_environment(envp: Argv, table: u32, go: impl FnOnce(Argv) -> c_int) -> c_int {
    // SAFETY: the caller vouches.
    match unsafe { Environment::new(envp, table) } {
        Some(e) => go(e.as_ptr()),
        None => go(envp),
    }
}

/// posix_spawn(3) with a table for the child.
///
/// # Safety
/// As the man page says.
unsafe fn spawn(pid: *mut pid_t, envp: Argv, go: impl FnOnce(*mut pid_t, Argv) -> c_int) -> c_int {
    if init::inert() {
        return go(pid, envp);
    }
    let table = table_for_child();
    let mut child: pid_t = -1;
    // SAFETY: the caller vouches for envp.
    let r = unsafe { with_environment(envp, table, |e| go(&raw mut child, e)) };
    if table != 0 {
        fork::settle(table, if r == 0 { child } else { -1 });
    }
    if r == 0 && !pid.is_null() {
        // SAFETY: where the application wants the pid.
        unsafe { *pid = child };
    }
    r
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
    /// vfork(2): a fork(2).
    plain fn vfork() -> pid_t = Partial "vfork is done as fork: the child has memory of its own and the parent goes on" {
        // SAFETY: no arguments.
        fork::fork(|| unsafe { libc_fork() }, false)
    }
    /// vfork(2), libc's other name for it.
    plain fn __vfork() -> pid_t = Partial "vfork is done as fork" {
        // SAFETY: no arguments.
        fork::fork(|| unsafe { libc_fork() }, false)
    }
    /// execve(2).
    plain fn execve(path: *const c_char, argv: Argv, envp: Argv) -> c_int = Partial "static and setuid programs use the kernel's network" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::execve(path, argv, envp) }
        } else {
            // SAFETY: as the application passed it.
            unsafe { with_environment(envp, 0, |e| real::execve(path, argv, e)) }
        }
    }
    /// execvpe(3).
    plain fn execvpe(path: *const c_char, argv: Argv, envp: Argv) -> c_int = Partial "static and setuid programs use the kernel's network" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::execvpe(path, argv, envp) }
        } else {
            // SAFETY: as the application passed it.
            unsafe { with_environment(envp, 0, |e| real::execvpe(path, argv, e)) }
        }
    }
    /// fexecve(3).
    plain fn fexecve(fd: c_int, argv: Argv, envp: Argv) -> c_int = Partial "static and setuid programs use the kernel's network" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::fexecve(fd, argv, envp) }
        } else {
            // SAFETY: as the application passed it.
            unsafe { with_environment(envp, 0, |e| real::fexecve(fd, argv, e)) }
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
            unsafe { with_environment(envp, 0, |e| real::execveat(fd, path, argv, e, flags)) }
        }
    }
    /// posix_spawn(3).
    plain fn posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const c_void, attr: *const c_void, argv: Argv, envp: Argv) -> c_int = Partial
        "static and setuid programs use the kernel's network" {
        // SAFETY: as the application passed it.
        unsafe { spawn(pid, envp, |pid, e| real::posix_spawn(pid, path, actions, attr, argv, e)) }
    }
    /// posix_spawnp(3).
    plain fn posix_spawnp(pid: *mut pid_t, path: *const c_char, actions: *const c_void, attr: *const c_void, argv: Argv, envp: Argv) -> c_int = Partial
        "static and setuid programs use the kernel's network" {
        // SAFETY: as the application passed it.
        unsafe { spawn(pid, envp, |pid, e| real::posix_spawnp(pid, path, actions, attr, argv, e)) }
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
unsafe fn libc_fork() -> pid_t {
    // SAFETY: no arguments.
    unsafe { real::fork() }
}
