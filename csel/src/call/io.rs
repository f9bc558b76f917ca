//! send(2), recv(2) and all that write and read: one operation value each, stepped until it is done.
use super::{Kind, Outcome, RecvMsg, SendMsg, Wait};
use crate::clock::Nanos;
use crate::errno::Errno;
use crate::fd::Held;
use crate::gate::user::{IoIn, IoOut, total_in, total_out};
use crate::instance::Cx;
use crate::net::{self, dgram, tcp};

/// A send under way. [`Send::done`] bytes are already the peer's; an interruption returns that count if it is not 0.
#[derive(Debug, Default)]
pub struct Send {
    /// Bytes queued so far.
    pub done: usize,
    deadline: Option<Nanos>,
}

impl Send {
    /// Sends what can be sent now. EPIPE comes as `Fail`: the front end raises SIGPIPE unless MSG_NOSIGNAL.
    #[inline]
    pub fn step(&mut self, cx: &Cx<'_>, s: &Held, data: &[IoIn<'_>], msg: &SendMsg<'_>, timed_out: bool) -> Outcome {
        let tcp = match s.kind() {
            Kind::Tcp => true,
            Kind::Epoll | Kind::None => return Errno::ENOTSOCK.into(),
            _ => false,
        };
        let mut first = true;
        loop {
            let r = if tcp { tcp::send(cx, s, data, self.done, msg) } else { dgram::send(cx, s, data, msg) };
            match r {
                Ok(n) => {
                    self.done += n;
                    // Nothing taken although something is there: a bad pointer (gate::user), which the front end makes EFAULT of.
                    if !tcp || n == 0 || self.done >= total_in(data) {
                        return Outcome::Done(self.done);
                    }
                }
                Err(Errno::EAGAIN) => {
                    if first && net::progress(cx) {
                        first = false;
                        continue;
                    }
                    if s.nonblocking() || msg.flags & libc::MSG_DONTWAIT != 0 || timed_out {
                        return if self.done > 0 { Outcome::Done(self.done) } else { Errno::EAGAIN.into() };
                    }
                    let deadline = *self.deadline.get_or_insert_with(|| s.snd_deadline(cx));
                    return Outcome::Wait(Wait { sock: s.id(), events: libc::EPOLLOUT as u32, deadline });
                }
                Err(_) if self.done > 0 => return Outcome::Done(self.done),
                Err(e) => return e.into(),
            }
        }
    }
}

/// A receive under way.
#[derive(Debug, Default)]
pub struct Recv {
    /// Bytes received so far (MSG_WAITALL).
    pub done: usize,
    deadline: Option<Nanos>,
}

impl Recv {
    /// Receives what is there now.
    #[inline]
    pub fn step(&mut self, cx: &Cx<'_>, s: &Held, room: &mut [IoOut<'_>], msg: &mut RecvMsg<'_>, timed_out: bool) -> Outcome {
        let tcp = match s.kind() {
            Kind::Tcp => true,
            Kind::Epoll | Kind::None => return Errno::ENOTSOCK.into(),
            _ => false,
        };
        let wanted = total_out(room);
        let mut first = true;
        loop {
            let r = if tcp { tcp::recv(cx, s, room, self.done, msg) } else { dgram::recv(cx, s, room, msg) };
            match r {
                Ok(n) if !tcp => return Outcome::Done(n),
                Ok(n) => {
                    self.done += n;
                    let all = msg.flags & libc::MSG_WAITALL != 0 && msg.flags & libc::MSG_PEEK == 0;
                    if n == 0 || self.done >= wanted || !all {
                        return Outcome::Done(self.done);
                    }
                    first = true;
                }
                Err(Errno::EAGAIN) => {
                    if first && net::progress(cx) {
                        first = false;
                        continue;
                    }
                    // The error queue never blocks.
                    let never = s.nonblocking() || msg.flags & (libc::MSG_DONTWAIT | libc::MSG_ERRQUEUE) != 0;
                    if never || timed_out {
                        return if self.done > 0 { Outcome::Done(self.done) } else { Errno::EAGAIN.into() };
                    }
                    let deadline = *self.deadline.get_or_insert_with(|| s.rcv_deadline(cx));
                    return Outcome::Wait(Wait { sock: s.id(), events: libc::EPOLLIN as u32, deadline });
                }
                Err(_) if self.done > 0 => return Outcome::Done(self.done),
                Err(e) => return e.into(),
            }
        }
    }
}
