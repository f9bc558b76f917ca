//! SO_LINGER: a close(2) that waits.
//!
//! Linux: closing the last descriptor of a connection with SO_LINGER on sends what is left and a FIN and waits until the peer has acknowledged them,
//! for the linger time at most (tcp_close). With a time of zero the connection is reset, which the core does by itself.
use crate::enter::{proc, thread, with_cx};
use crate::wait::{self, Hooked, Seen};
use core::sync::atomic::Ordering::Relaxed;
use csel_core::call::Kind;
use csel_core::net::tcp;
use csel_core::net::wait::{How, Step, Waiting};
use libc::c_int;

/// Waits, if closing `fd` has to.
#[inline]
pub(crate) fn linger(fd: c_int) {
    let waits = with_cx(|cx| {
        let held = proc().and_then(|p| p.get(cx.inst, fd))?;
        // The table's reference and ours: the last descriptor.
        let last = held.refs.load(Relaxed) == 2;
        let time = if last && held.kind() == Kind::Tcp { held.options.lock(cx.me).linger } else { -1 };
        let waits = if time > 0 {
            let _ = tcp::shutdown(cx, &held, libc::SHUT_RDWR);
            tcp::lingers(cx, &held)
        } else {
            false
        };
        let id = held.id();
        held.release(cx);
        waits.then(|| (id, cx.now().saturating_add(time as u64 * csel_core::clock::SEC)))
    });
    if let Ok(Some((id, deadline))) = waits {
        until(fd, id, deadline);
    }
}

#[cold]
fn until(fd: c_int, id: csel_core::arena::Id<csel_core::fd::Sock>, deadline: u64) {
    let t = thread();
    let seen = Seen::now(t);
    let Ok(mut hooked) = Hooked::begin(t, false, |cx, _| Waiting::begin(cx, &[(id, libc::EPOLLHUP as u32)], How::default())) else {
        return;
    };
    loop {
        let goes_on = with_cx(|cx| {
            proc().and_then(|p| p.get(cx.inst, fd)).is_some_and(|held| {
                let more = tcp::lingers(cx, &held);
                held.release(cx);
                more
            })
        });
        if goes_on != Ok(true) {
            break;
        }
        match hooked.step(t, deadline) {
            // A handler ends the wait, not the close.
            Ok(Step::Sleep(s)) if wait::futex(t, seen.handled(), s.word, s.expected, s.until) != Err(csel_core::errno::Errno::EINTR) => {}
            _ => break,
        }
    }
}
