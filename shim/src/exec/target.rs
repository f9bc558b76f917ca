//! What an exec target is: can libcsel.so be preloaded into it?
//!
//! # Theory of operation
//! **Purpose.** A static program, one of another libc or machine, and one that gains privileges run without us: what they inherit must go pumped, and
//! that has to be known before the exec.
//! **How it works.** [`can_attach`] follows `#!` lines as the kernel does, and reads of the ELF file the class, the machine and PT_INTERP. Secure
//! execution (AT_SECURE: the effective ids after the exec are not the real ones, or file capabilities are gained) makes the dynamic linker
//! ignore us; neither counts under no_new_privs or on a nosuid mount. The library must be there to be read (it is not after a chroot(2)).
//! Nothing is allocated and no function of libc is called: it runs between fork or vfork and exec.
//! **Limits.** What binfmt_misc would do is not known. A file that may be executed but not read is taken for one that cannot attach.
//! **Locks.** None. **Failure.** A file that is not there, or is no program, can attach: the exec will fail by itself. **See also.** execve(2), ld.so(8), elf(5).
use core::ffi::CStr;
use csel_core::errno::Errno;
use csel_core::gate;
use libc::c_int;

/// Why a program cannot be of the instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// No dynamic linker.
    Static,
    /// Another libc's dynamic linker.
    OtherLibc,
    /// Another machine or word size.
    OtherMachine,
    /// It gains privileges: the dynamic linker ignores LD_PRELOAD.
    Privileged,
    /// It may be executed, not read: nobody knows.
    Unreadable,
    /// The library is not there for it (chroot).
    NoLibrary,
}

impl Why {
    /// In words that fit after "PROGRAM: ".
    pub(crate) fn words_c(self) -> &'static CStr {
        match self {
            Self::Static => c"it is statically linked, nothing can be preloaded into it",
            Self::OtherLibc => c"it uses another libc, libcsel.so is for glibc",
            Self::OtherMachine => c"it is for another machine or word size",
            Self::Privileged => c"it gains privileges, the dynamic linker ignores LD_PRELOAD for it",
            Self::Unreadable => c"it cannot be read, so nobody knows what it is",
            Self::NoLibrary => c"libcsel.so cannot be read from where it runs",
        }
    }

    /// The same as text.
    pub(crate) fn words(self) -> &'static str {
        self.words_c().to_str().unwrap_or("")
    }
}

/// As deep as the kernel follows `#!` lines.
const DEPTH: usize = 5;

/// This machine, as e_machine says it.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// Will a program started from `path` run with the library, if LD_PRELOAD names it?
pub(crate) fn can_attach(path: &CStr) -> Result<(), Why> {
    can_attach_at(libc::AT_FDCWD, path, 0)
}

/// The same for execveat(2) and fexecve(3) (an empty path with AT_EMPTY_PATH).
pub(crate) fn can_attach_at(dir: c_int, path: &CStr, flags: c_int) -> Result<(), Why> {
    let fd = if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 { Opened::again(dir) } else { Opened::at(dir, path) };
    let mut fd = match fd {
        Ok(fd) => fd,
        Err(Errno::EACCES) => return unreadable(dir, path, flags),
        Err(_) => return Ok(()),
    };
    let mut head = [0u8; 256];
    for _ in 0..DEPTH {
        let n = fd.read(&mut head, 0);
        let head = &head[..n];
        if head.starts_with(b"\x7fELF") {
            elf(&fd, head)?;
            if gains(&fd) {
                return Err(Why::Privileged);
            }
            return library();
        }
        let Some(line) = head.strip_prefix(b"#!") else { break };
        let line = line.split(|&b| b == b'\n').next().unwrap_or(line).trim_ascii_start();
        let word = line.split(u8::is_ascii_whitespace).next().unwrap_or(line);
        let mut name = [0u8; 256];
        let n = word.len().min(name.len() - 1);
        name[..n].copy_from_slice(&word[..n]);
        let Ok(name) = CStr::from_bytes_until_nul(&name) else { break };
        fd = match Opened::at(libc::AT_FDCWD, name) {
            Ok(fd) => fd,
            Err(Errno::EACCES) => return unreadable(libc::AT_FDCWD, name, 0),
            Err(_) => return Ok(()),
        };
    }
    // Neither: execve(2) refuses it, and execvp(3) gives it to the shell.
    library()
}

/// A file that cannot be opened: is that because it may only be executed?
fn unreadable(dir: c_int, path: &CStr, flags: c_int) -> Result<(), Why> {
    // SAFETY: a NUL-terminated path, no other pointer.
    let may = unsafe {
        gate::syscall(
            libc::SYS_faccessat2,
            [dir as usize, path.as_ptr() as usize, libc::X_OK as usize, (flags | libc::AT_EACCESS) as usize, 0, 0],
        )
    };
    if may.is_ok() { Err(Why::Unreadable) } else { Ok(()) }
}

/// A file open for reading, closed when dropped.
struct Opened(c_int);

impl Opened {
    fn at(dir: c_int, path: &CStr) -> Result<Self, Errno> {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
        // SAFETY: a NUL-terminated path.
        unsafe { gate::syscall(libc::SYS_openat, [dir as usize, path.as_ptr() as usize, flags as usize, 0, 0, 0]) }
            .map(|n| Self(n as c_int))
    }
    /// What a descriptor (perhaps an O_PATH one) is open on.
    fn again(fd: c_int) -> Result<Self, Errno> {
        let mut name = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0\0";
        let mut digits = [0u8; 10];
        let (mut n, mut at) = (fd.max(0) as u32, digits.len());
        loop {
            at -= 1;
            digits[at] = b'0' + (n % 10) as u8;
            n /= 10;
            if n == 0 {
                break;
            }
        }
        name[14..14 + digits.len() - at].copy_from_slice(&digits[at..]);
        CStr::from_bytes_until_nul(&name).map_err(|_| Errno::EINVAL).and_then(|name| Self::at(libc::AT_FDCWD, name))
    }
    /// Reads at `from`; how much.
    fn read(&self, into: &mut [u8], from: u64) -> usize {
        let a = [self.0 as usize, into.as_mut_ptr() as usize, into.len(), from as usize, 0, 0];
        // SAFETY: writable for its length.
        unsafe { gate::syscall(libc::SYS_pread64, a) }.unwrap_or(0)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let _ = gate::close(self.0);
    }
}

/// A little-endian number of `n` bytes; 0 beyond the end.
fn le(bytes: &[u8], at: usize, n: usize) -> u64 {
    bytes.get(at..at + n).map_or(0, |b| b.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
}

fn elf(fd: &Opened, head: &[u8]) -> Result<(), Why> {
    const PT_INTERP: u64 = 3;
    // Class 64, little endian.
    if head.get(4..6) != Some(&[2, 1]) || le(head, 18, 2) != u64::from(MACHINE) {
        return Err(Why::OtherMachine);
    }
    let (offset, size, count) = (le(head, 32, 8), le(head, 54, 2), le(head, 56, 2));
    for i in 0..count.min(128) {
        let mut row = [0u8; 56];
        if fd.read(&mut row, offset.wrapping_add(i * size)) != row.len() {
            break;
        }
        if le(&row, 0, 4) == PT_INTERP {
            let mut name = [0u8; 256];
            let n = fd.read(&mut name, le(&row, 8, 8)).min(le(&row, 32, 8) as usize);
            let name = name[..n].split(|&b| b == 0).next().unwrap_or(&[]);
            let last = name.rsplit(|&b| b == b'/').next().unwrap_or(name);
            return if last.starts_with(b"ld-linux") { Ok(()) } else { Err(Why::OtherLibc) };
        }
    }
    Err(Why::Static)
}

/// Will the dynamic linker run in secure-execution mode?
fn gains(fd: &Opened) -> bool {
    // SAFETY: system calls without arguments.
    let id = |nr| unsafe { gate::syscall(nr, [0; 6]) }.unwrap_or(0) as u32;
    let (uid, euid, gid, egid) = (id(libc::SYS_getuid), id(libc::SYS_geteuid), id(libc::SYS_getgid), id(libc::SYS_getegid));
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: st is writable.
    if unsafe { gate::syscall(libc::SYS_fstat, [fd.0 as usize, &raw mut st as usize, 0, 0, 0, 0]) }.is_err() {
        return false;
    }
    let setuid = st.st_mode & libc::S_ISUID != 0;
    let setgid = st.st_mode & libc::S_ISGID != 0 && st.st_mode & libc::S_IXGRP != 0;
    // With size 0 nothing is written.
    let a = [fd.0 as usize, c"security.capability".as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: a NUL-terminated name.
    let caps = uid != 0 && unsafe { gate::syscall(libc::SYS_fgetxattr, a) }.is_ok_and(|n| n > 0);
    if (setuid || setgid || caps) && !forbidden(fd) {
        let (euid, egid) = (if setuid { st.st_uid } else { euid }, if setgid { st.st_gid } else { egid });
        return caps || euid != uid || egid != gid;
    }
    euid != uid || egid != gid
}

/// Are the bits of the file without effect (no_new_privs, nosuid)?
fn forbidden(fd: &Opened) -> bool {
    // SAFETY: prctl with numbers only.
    if unsafe { gate::syscall(libc::SYS_prctl, [libc::PR_GET_NO_NEW_PRIVS as usize, 0, 0, 0, 0, 0]) } == Ok(1) {
        return true;
    }
    // struct statfs: f_flags is the eleventh word.
    let mut fs = [0u64; 15];
    // SAFETY: as large as the kernel's structure, writable.
    let known = unsafe { gate::syscall(libc::SYS_fstatfs, [fd.0 as usize, fs.as_mut_ptr() as usize, 0, 0, 0, 0]) }.is_ok();
    known && fs[10] & libc::ST_NOSUID != 0
}

/// Can the library be read from here?
fn library() -> Result<(), Why> {
    let path = super::preload::library();
    if path.is_empty() {
        return Ok(());
    }
    let a = [libc::AT_FDCWD as usize, path.as_ptr() as usize, libc::R_OK as usize, libc::AT_EACCESS as usize, 0, 0];
    // SAFETY: a NUL-terminated path.
    match unsafe { gate::syscall(libc::SYS_faccessat2, a) } {
        Err(Errno::ENOSYS | Errno::EPERM) | Ok(_) => Ok(()),
        Err(_) => Err(Why::NoLibrary),
    }
}
