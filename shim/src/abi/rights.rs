//! SCM_RIGHTS: virtual sockets in messages between processes.
//!
//! # Theory of operation
//! **Purpose.** A message over AF_UNIX carries descriptors; a shadow carries its virtual socket along.
//! **How it works.** The hooks of sendmsg(2) look for SCM_RIGHTS in what goes out of a kernel's socket: each virtual socket is in flight from then on
//! ([`csel_core::fd::flight`]), and if the kernel refuses the message it is not. The hooks of recvmsg(2) make the shadows that came virtual here, and land
//! them, unless they only peeked. A receiver that is not of the family is a stranger ([`to_stranger`]).
//! **Limits.** 253 descriptors a message (the kernel's own SCM_MAX_FD). An epoll descriptor comes without its virtual interests.
//! **Locks.** None. **Failure.** A control buffer that cannot be read is the kernel's to refuse. **See also.** unix(7), cmsg(3).
use crate::enter::with_cx;
use crate::user;
use csel_core::arena::Id;
use csel_core::fd::flight;
use csel_core::fd::{Held, Sock};
use csel_core::gate;
use csel_core::instance::Cx;
use libc::{c_int, msghdr};

/// As many as the kernel takes in a message.
const MOST: usize = 253;

/// Virtual sockets that a message carries away.
pub(crate) struct Departed {
    ids: [u32; MOST],
    n: usize,
}

/// Calls `each` with every descriptor in the SCM_RIGHTS of the control bytes.
fn descriptors(control: &[u8], mut each: impl FnMut(c_int)) {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    let mut at = 0;
    while at + HEAD <= control.len() {
        let word = |i: usize| usize::from_ne_bytes(*control[at + i..].first_chunk().unwrap_or(&[0; 8]));
        let int = |i: usize| c_int::from_ne_bytes(*control[i..].first_chunk().unwrap_or(&[0; 4]));
        let len = word(0);
        if len < HEAD || len > control.len() - at {
            return;
        }
        if int(at + 8) == libc::SOL_SOCKET && int(at + 12) == libc::SCM_RIGHTS {
            for i in 0..(len - HEAD) / 4 {
                each(int(at + HEAD + 4 * i));
            }
        }
        at += len.next_multiple_of(8);
    }
}

/// The control bytes of a message, as far as they can be had.
fn control(msg: *const msghdr, room: &mut [u8; 4096]) -> Option<&[u8]> {
    let m = user::get(msg).ok()?;
    let n = m.msg_controllen;
    if m.msg_control.is_null() || n < size_of::<libc::cmsghdr>() || n > room.len() {
        return None;
    }
    user::get_bytes(m.msg_control.cast(), &mut room[..n]).ok()?;
    Some(&room[..n])
}

/// Does the message carry virtual sockets?
pub(crate) fn carries(msg: *const msghdr) -> bool {
    let Some(table) = crate::enter::proc() else { return false };
    let mut room = [0; 4096];
    let mut found = false;
    if let Some(control) = control(msg, &mut room) {
        descriptors(control, |fd| found |= table.is_virtual(fd));
    }
    found
}

/// A message is about to go out of the kernel's socket `fd`. `None`: it carries nothing of ours.
#[inline]
pub(crate) fn depart(fd: c_int, msg: *const msghdr) -> Option<Departed> {
    let table = crate::enter::proc()?;
    if msg.is_null() {
        return None;
    }
    let mut room = [0; 4096];
    let control = control(msg, &mut room)?;
    let mut virtuals = 0;
    descriptors(control, |fd| virtuals += usize::from(table.is_virtual(fd)));
    if virtuals == 0 {
        return None;
    }
    let mut gone = Departed { ids: [0; MOST], n: 0 };
    let _ = with_cx(|cx| {
        let stranger = is_stranger(cx, fd);
        descriptors(control, |fd| {
            let Some(held) = table.get(cx.inst, fd) else { return };
            if stranger {
                to_stranger(cx, &held);
            }
            if gone.n < MOST && flight::depart(cx, &held) {
                gone.ids[gone.n] = held.id().0;
                gone.n += 1;
            }
            held.release(cx);
        });
    });
    Some(gone)
}

impl Departed {
    /// The kernel did not take the message.
    pub(crate) fn stayed(self) {
        let _ = with_cx(|cx| {
            for &id in &self.ids[..self.n] {
                let id: Id<Sock> = Id::new(id);
                if let Some(s) = cx.inst.socks.get(id) {
                    flight::arrive(cx, s, id);
                }
            }
        });
    }
}

/// Is who listens at the other end known, and not of the family?
fn is_stranger(cx: &Cx<'_>, fd: c_int) -> bool {
    let (mut who, mut len) = (libc::ucred { pid: 0, uid: 0, gid: 0 }, size_of::<libc::ucred>() as u32);
    let a = [fd as usize, libc::SOL_SOCKET as usize, libc::SO_PEERCRED as usize, &raw mut who as usize, &raw mut len as usize, 0];
    // SAFETY: room for the credentials and their length.
    let known = unsafe { gate::syscall(libc::SYS_getsockopt, a) }.is_ok() && who.pid > 0;
    known && !cx.inst.procs.table.iter().any(|(_, p)| p.pid.load(core::sync::atomic::Ordering::Relaxed) == who.pid as u32)
}

/// A virtual socket goes to a process outside the family: where pumped mode will begin. (Who connected may since have passed its end on to one of ours, so
/// this is a suspicion, and nothing irrevocable may be done.)
fn to_stranger(_cx: &Cx<'_>, _held: &Held) {}

/// A message has come out of a kernel's socket: the shadows in it become virtual. `msg` is what a successful recvmsg(2) has filled in.
pub(crate) fn arrive(msg: *const msghdr, peeked: bool) {
    if crate::enter::proc().is_none() && !crate::init::family_has_instance() {
        return;
    }
    let mut room = [0; 4096];
    let Some(control) = control(msg, &mut room) else { return };
    let mut any = false;
    descriptors(control, |_| any = true);
    if !any || crate::init::instance().is_err() {
        return;
    }
    let _ = with_cx(|cx| {
        descriptors(control, |fd| {
            if let Some(id) = crate::shadow::heal(cx, fd)
                && !peeked
                && let Some(s) = cx.inst.socks.get(id)
            {
                flight::arrive(cx, s, id);
            }
        });
    });
}
