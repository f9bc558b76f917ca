//! send(2) and recv(2): between an application's pieces and the engine's rings.
//!
//! # Theory of operation
//! **Purpose.** One copy from the application into the send ring, one from the receive ring to the application; what tcp_sendmsg and tcp_recvmsg answer
//! in each state, in their order.
//! **How it works.** A send is emitted by the same call, straight into the receiver's port. A receive that has opened the window by half tells the peer.
//! **Locks.** The flow's. **Failure.** The pending error, once; EPIPE, ENOTCONN, EAGAIN; EFAULT if a pointer was bad before the first byte.
use super::flow::{self, Inner, Phase, State};
use crate::call::{RecvMsg, SendMsg};
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::gate::user::{IoIn, IoOut, gather, scatter, total_in, total_out};
use crate::instance::Cx;
use core::sync::atomic::Ordering::*;

/// Checks control messages as sock_cmsg_send does: SOL_SOCKET's must be known, others are not TCP's business.
fn check_control(mut c: &[u8]) -> Result<()> {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    while c.len() >= HEAD {
        let word = |i: usize| {
            let mut b = [0; 4];
            b.copy_from_slice(&c[i..i + 4]);
            i32::from_ne_bytes(b)
        };
        let mut b = [0; size_of::<usize>()];
        b.copy_from_slice(&c[..size_of::<usize>()]);
        let len = usize::from_ne_bytes(b);
        if len < HEAD || len > c.len() {
            return Err(Errno::EINVAL);
        }
        let (level, ty) = (word(size_of::<usize>()), word(size_of::<usize>() + 4));
        if level == libc::SOL_SOCKET && ![libc::SCM_RIGHTS, libc::SCM_CREDENTIALS, libc::SO_TIMESTAMPING, libc::SO_MARK].contains(&ty) {
            return Err(Errno::EINVAL);
        }
        c = c.get(len.next_multiple_of(size_of::<usize>())..).unwrap_or(&[]);
    }
    Ok(())
}

/// sendmsg(2): queues what fits.
pub(super) fn send(cx: &Cx<'_>, s: &Held, data: &[IoIn<'_>], skip: usize, msg: &SendMsg<'_>) -> Result<usize> {
    if msg.flags & (libc::MSG_OOB | libc::MSG_FASTOPEN) != 0 {
        // Stated deviations: no urgent data, no TCP Fast Open.
        return Err(Errno::EOPNOTSUPP);
    }
    if !msg.control.is_empty() {
        check_control(msg.control)?;
    }
    let (n, _, mut i) = flow::must(cx, s)?;
    match i.phase {
        Phase::Open if !i.snd_shut && s.error.load(Relaxed) == 0 => {}
        Phase::Connecting | Phase::Embryo => return Err(pending(cx, s, &mut i, skip).unwrap_or(Errno::EAGAIN)),
        _ => return Err(pending(cx, s, &mut i, skip).unwrap_or(Errno::EPIPE)),
    }
    let wanted = total_in(data) - skip;
    if wanted == 0 {
        return Ok(0);
    }
    let limit = i.tx_limit as usize;
    let Some(e) = i.engine.get_mut() else { return Err(Errno::EPIPE) };
    let (done, bad, sq) = e.with(|socket| {
        let sq = socket.send_queue();
        let wanted = wanted.min(limit.saturating_sub(sq));
        let mut done = 0;
        let mut bad = false;
        // Twice, for the ring's wrap.
        for _ in 0..2 {
            let n = socket.send(|room| {
                let fit = room.len().min(wanted - done);
                let n = gather(data, skip + done, &mut room[..fit]);
                bad |= n < fit;
                (n, n)
            });
            done += n.unwrap_or(0);
            if bad || done == wanted {
                break;
            }
        }
        (done, bad, sq)
    });
    if done == 0 {
        if bad {
            return Err(Errno::EFAULT);
        }
        // Full: EPOLLOUT comes when a third is free again.
        flow::publish(cx, &mut i, 0);
        return Err(Errno::EAGAIN);
    }
    i.tx_run = if sq == 0 { done as u32 } else { i.tx_run.saturating_add(done as u32) };
    i.tx_high = i.tx_high.max(i.tx_run.min(i.tx_size));
    i.times.used_at = cx.now();
    i.opts.more = msg.flags & libc::MSG_MORE != 0;
    flow::drive(cx, n, &mut i, true);
    let look = i.look();
    if !i.writable(&look) {
        flow::publish(cx, &mut i, 0);
    }
    Ok(done)
}

/// The pending error; it stays pending if the call has already done something, whose count it returns.
fn pending(cx: &Cx<'_>, s: &Held, i: &mut Inner, skip: usize) -> Option<Errno> {
    if skip > 0 {
        return match s.error.load(Relaxed) {
            0 => None,
            e => Some(Errno(e as u16)),
        };
    }
    let e = s.take_error();
    if e.is_some() {
        // EPOLLERR goes with it.
        flow::publish(cx, i, 0);
    }
    e
}

/// recvmsg(2): takes what is there.
pub(super) fn recv(cx: &Cx<'_>, s: &Held, room: &mut [IoOut<'_>], skip: usize, msg: &mut RecvMsg<'_>) -> Result<usize> {
    if msg.flags & libc::MSG_ERRQUEUE != 0 {
        return Err(Errno::EAGAIN);
    }
    if msg.flags & libc::MSG_OOB != 0 {
        return Err(Errno::EINVAL);
    }
    let (n, _, mut i) = flow::must(cx, s)?;
    if i.phase == Phase::Listening {
        return Err(Errno::ENOTCONN);
    }
    let wanted = total_out(room) - skip;
    let look = i.look();
    let peek = msg.flags & libc::MSG_PEEK != 0;
    let all = msg.flags & libc::MSG_WAITALL != 0;
    let over = i.rcv_shut || s.error.load(Relaxed) != 0;
    let blocks = !s.nonblocking() && msg.flags & libc::MSG_DONTWAIT == 0;
    // A reader who may wait does so until there is what it asked for: all of it (MSG_WAITALL, when peeking), or SO_RCVLOWAT.
    let least = if peek && all { wanted } else { wanted.min(i.opts.rcvlowat as usize) };
    if look.rq == 0 || (look.rq < least && !over && blocks && skip == 0) {
        return nothing(cx, s, &mut i, skip);
    }
    msg.from = None;
    if wanted == 0 {
        return Ok(0);
    }
    let want = wanted.min(look.rq);
    let drop_it = msg.flags & libc::MSG_TRUNC != 0;
    if peek {
        return if drop_it { Ok(want) } else { peek_at(cx, &mut i, room, skip, want) };
    }
    let Some(e) = i.engine.get_mut() else { return Err(Errno::ENOTCONN) };
    let mut bad = false;
    let done = e.with(|socket| {
        let mut done = 0;
        for _ in 0..2 {
            let n = socket.recv(|have| {
                let fit = have.len().min(want - done);
                let n = if drop_it { fit } else { scatter(room, skip + done, &have[..fit]) };
                bad |= n < fit;
                (n, n)
            });
            done += n.unwrap_or(0);
            if bad || done == want {
                break;
            }
        }
        done
    });
    if done == 0 {
        return Err(Errno::EFAULT);
    }
    i.times.used_at = cx.now();
    let left = look.rq - done;
    if i.phase == Phase::Open && opened(&i, left) {
        flow::drive(cx, n, &mut i, true);
    }
    if left < i.opts.rcvlowat.max(1) as usize {
        flow::publish(cx, &mut i, 0);
    }
    Ok(done)
}

/// Has reading opened the window so far that the peer should know (twice what it believes)?
#[inline]
pub(super) fn opened(i: &Inner, rq: usize) -> bool {
    let m = &i.meter;
    let left = m.rcv_edge.wrapping_sub(m.rcv_nxt) as i32;
    let free = (i.rx_size as usize).saturating_sub(rq);
    free / 2 >= left.max(0) as usize + (1 << m.scaled())
}

/// There is nothing to read: why?
fn nothing(cx: &Cx<'_>, s: &Held, i: &mut Inner, skip: usize) -> Result<usize> {
    // A reader past the end does not take the error away (SOCK_DONE).
    if i.fin {
        return Ok(0);
    }
    if let Some(e) = pending(cx, s, i, skip) {
        return Err(e);
    }
    match i.phase {
        _ if i.rcv_shut => Ok(0),
        Phase::Fresh | Phase::Free | Phase::Done => Err(Errno::ENOTCONN),
        _ => Err(Errno::EAGAIN),
    }
}

/// MSG_PEEK. What wraps around the end of the ring goes over the scratch page, since the engine peeks from the start only.
fn peek_at(cx: &Cx<'_>, i: &mut Inner, room: &mut [IoOut<'_>], skip: usize, want: usize) -> Result<usize> {
    let Some(e) = i.engine.get_mut() else { return Err(Errno::ENOTCONN) };
    let (done, whole) = e.with(|socket| match socket.peek(want) {
        Ok(have) => (scatter(room, skip, have), have.len()),
        Err(_) => (0, want),
    });
    if done < whole {
        return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
    }
    if whole == want {
        return Ok(done);
    }
    let mut scratch = cx.inst.net.tcp.scratch.lock(cx.me);
    let n = want.min(scratch.len());
    if n <= done {
        return Ok(done);
    }
    let n = e.with(|socket| socket.peek_slice(&mut scratch[..n]).unwrap_or(0));
    Ok(scatter(room, skip, &scratch[..n]))
}

/// FIONREAD, SIOCOUTQ, SIOCOUTQNSD.
pub(super) fn queued(cx: &Cx<'_>, s: &Held) -> Result<(usize, usize, usize)> {
    // Linux's softirq would have put into the queues what has arrived.
    crate::net::progress(cx);
    let (_, _, mut i) = flow::must(cx, s)?;
    if i.phase == Phase::Listening {
        return Err(Errno::EINVAL);
    }
    let look = i.look();
    let fin = usize::from(matches!(look.state, State::FinWait1 | State::Closing | State::LastAck));
    let unsent = look.sq.saturating_sub(i.meter.in_flight());
    Ok((look.rq, look.sq + if look.sq > 0 { fin } else { 0 }, unsent))
}
