//! Finding the family's arena without its descriptor.
//!
//! # Theory of operation
//! **Purpose.** A program may have closed every descriptor between fork and exec in a way that nobody sees (posix_spawn(3)'s closefrom action, a raw
//! close_range(2)); it must find its instance all the same.
//! **How it works.** The ticket ([`super::preload`]) names the arena by its inode. The keeper has it open and says so by a symbolic link
//! `INODE.arena` in the directory of segments, which is its user's alone (0700), to its own `/proc/PID/fd/3` ([`publish`]). [`find`] follows it, asks the
//! parent's descriptors next, and takes only a memfd of ours with that inode: a link that leads elsewhere, or a recycled pid, is nothing.
//! **Limits.** After a change of user the keeper's descriptors are not to be had; the inherited one is. **Locks.** None.
//! **Failure.** The program begins a family of its own. **See also.** proc_pid_fd(5), memfd_create(2).
use core::ffi::CStr;
use core::fmt::Write as _;
use csel_core::config::{Path, Str};
use csel_core::gate::{self, file};
use libc::c_int;

/// A path being put together.
type Text = Str<400>;

fn with_c<R>(text: &Text, f: impl FnOnce(&CStr) -> R) -> Option<R> {
    let mut bytes = [0u8; 401];
    let t = text.as_bytes();
    bytes[..t.len()].copy_from_slice(t);
    CStr::from_bytes_until_nul(&bytes).ok().map(f)
}

fn link(dir: &[u8], inode: u64) -> Text {
    let mut text = Text::EMPTY;
    let _ = write!(text, "{}/{inode}.arena", core::str::from_utf8(dir).unwrap_or("/nowhere"));
    text
}

/// A descriptor (not to be inherited yet) of the arena with this inode.
pub(crate) fn find(dir: &Path, inode: u64, at: c_int) -> Option<c_int> {
    let ours = |text: &Text| {
        let fd = with_c(text, |path| gate::open(path, libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK, 0))?.ok()?;
        if crate::init::is_arena(fd) && file::fstat(fd).is_ok_and(|st| st.ino == inode) {
            return Some(fd);
        }
        let _ = gate::close(fd);
        None
    };
    // SAFETY: takes nothing.
    let parent = unsafe { gate::syscall(libc::SYS_getppid, [0; 6]) }.unwrap_or(0);
    let mut theirs = Text::EMPTY;
    let _ = write!(theirs, "/proc/{parent}/fd/{at}");
    trusted(dir).then(|| ours(&link(dir.as_bytes(), inode))).flatten().or_else(|| ours(&theirs))
}

/// Is the directory its user's alone?
fn trusted(dir: &Path) -> bool {
    let mut text = Text::EMPTY;
    let _ = text.push(dir.as_bytes());
    let fd = with_c(&text, |path| gate::open(path, libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_RDONLY, 0));
    let Some(Ok(fd)) = fd else { return false };
    let st = file::fstat(fd);
    let _ = gate::close(fd);
    st.is_ok_and(|st| st.uid == file::geteuid() && st.mode & 0o077 == 0)
}

/// The keeper says where the arena (its descriptor `fd`) is to be had.
pub(crate) fn publish(dir: &[u8], fd: c_int) {
    let Ok(st) = file::fstat(fd) else { return };
    let mut target = Text::EMPTY;
    let _ = write!(target, "/proc/{}/fd/{fd}", gate::getpid());
    withdraw(dir, fd);
    with_c(&target, |target| {
        with_c(&link(dir, st.ino), |link| {
            // SAFETY: two NUL-terminated paths.
            let _ = unsafe {
                gate::syscall(libc::SYS_symlinkat, [target.as_ptr() as usize, libc::AT_FDCWD as usize, link.as_ptr() as usize, 0, 0, 0])
            };
        })
    });
}

/// The keeper leaves.
pub(crate) fn withdraw(dir: &[u8], fd: c_int) {
    if let Ok(st) = file::fstat(fd) {
        with_c(&link(dir, st.ino), |link| file::unlink(link).map(|_| ()));
    }
}
