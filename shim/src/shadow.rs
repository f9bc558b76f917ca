//! Shadows: the real kernel descriptors that stand for virtual sockets.
//!
//! A shadow is an unconnected AF_UNIX socket of the same type, so fstat(2) says S_IFSOCK, numbers and limits are the kernel's, and read(2) by
//! somebody we do not see fails instead of hanging. Its inode is the socket's identity in other processes ([`csel_core::fd::Sock::inode`]).
use csel_core::arena::Id;
use csel_core::errno::{Errno, Result};
use csel_core::fd::{Held, Sock};
use csel_core::gate;
use csel_core::instance::Cx;
use libc::c_int;

/// The inode of a descriptor if it is a socket.
pub(crate) fn inode(fd: c_int) -> Option<u64> {
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: st is writable.
    unsafe { gate::syscall(libc::SYS_fstat, [fd as usize, &raw mut st as usize, 0, 0, 0, 0]) }.ok()?;
    (st.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(st.st_ino)
}

/// Makes a shadow of socket type `ty` (with SOCK_CLOEXEC or not). EMFILE, ENFILE as the kernel says.
pub(crate) fn make(ty: c_int) -> Result<c_int> {
    let kind = match ty & 0xf {
        libc::SOCK_STREAM => libc::SOCK_STREAM,
        _ => libc::SOCK_DGRAM,
    };
    let kind = kind | (ty & libc::SOCK_CLOEXEC);
    // SAFETY: socket takes no pointers.
    let fd = unsafe { gate::syscall(libc::SYS_socket, [libc::AF_UNIX as usize, kind as usize, 0, 0, 0, 0]) }?;
    Ok(fd as c_int)
}

/// Gives an open description its descriptor: shadow, identity, table word.
pub(crate) fn attach(cx: &Cx<'_>, held: Held, ty: c_int) -> Result<c_int> {
    let fd = match make(ty) {
        Ok(fd) => fd,
        Err(e) => {
            held.release(cx);
            return Err(e);
        }
    };
    adopt(cx, held, fd)?;
    Ok(fd)
}

/// Makes `fd`, a socket of the kernel's made for this, mean `held`. Closes it if that fails.
pub(crate) fn adopt(cx: &Cx<'_>, held: Held, fd: c_int) -> Result<()> {
    held.inode.store(inode(fd).unwrap_or(0), core::sync::atomic::Ordering::Relaxed);
    let set = cx.inst.procs.get(cx.proc).set(cx, fd, held);
    if set.is_err() {
        let _ = gate::close(fd);
    }
    set
}

/// A descriptor that came from elsewhere (SCM_RIGHTS, exec): if it is a shadow of this instance, makes it virtual here and says which socket it is.
pub(crate) fn heal(cx: &Cx<'_>, fd: c_int) -> Option<Id<Sock>> {
    use core::sync::atomic::Ordering::Relaxed;
    let inode = inode(fd)?;
    let (id, _) = cx.inst.socks.iter().find(|(_, s)| s.inode.load(Relaxed) == inode)?;
    let held = Held::take(cx.inst, id)?;
    if held.inode.load(Relaxed) != inode {
        held.release(cx);
        return None;
    }
    (cx.inst.procs.get(cx.proc).set(cx, fd, held) != Err(Errno::EMFILE)).then_some(id)
}
