//! Virtual sockets as the keeper uses them: calls of the core on numbers of the keeper's own table, never blocking.
//!
//! The numbers are no descriptors of any kernel: the table is there so that somebody lets go of the sockets when the keeper is killed.
use csel_core::call::io::{Recv, Send};
use csel_core::call::{Outcome, RecvMsg, SendMsg, socket};
use csel_core::errno::{Errno, Result};
use csel_core::fd::{FDS, Held};
use csel_core::gate::user::{IoIn, IoOut};
use csel_core::instance::Cx;
use csel_core::net::addr::Endpoint;
use csel_core::net::option;
use libc::c_int;

/// Puts a socket into the keeper's table; its number there.
pub(crate) fn keep(cx: &Cx<'_>, held: Held) -> Result<c_int> {
    let table = cx.inst.procs.get(cx.proc);
    match (1..FDS as c_int).find(|&n| !table.is_virtual(n)) {
        Some(n) => table.set(cx, n, held).map(|()| n),
        None => {
            held.release(cx);
            Err(Errno::EMFILE)
        }
    }
}

/// A new socket's number.
pub(crate) fn open(cx: &Cx<'_>, family: c_int, ty: c_int) -> Result<c_int> {
    let held = socket::socket(cx, family, ty | libc::SOCK_NONBLOCK, 0).map_err(|e| e.unwrap_or(Errno::EAFNOSUPPORT))?;
    keep(cx, held)
}

/// Lets go of a socket: close(2).
pub(crate) fn close(cx: &Cx<'_>, n: c_int) {
    cx.inst.procs.get(cx.proc).clear(cx, n);
}

/// Does something with the socket of number `n`.
pub(crate) fn with<R>(cx: &Cx<'_>, n: c_int, f: impl FnOnce(&Held) -> Result<R>) -> Result<R> {
    let held = cx.inst.procs.get(cx.proc).get(cx.inst, n).ok_or(Errno::EBADF)?;
    let r = f(&held);
    held.release(cx);
    r
}

fn settled(out: Outcome) -> Result<usize> {
    match out {
        Outcome::Done(n) => Ok(n),
        Outcome::Fail(e) => Err(e),
        Outcome::Wait(_) | Outcome::Pass(_) => Err(Errno::EAGAIN),
    }
}

/// recv(2).
pub(crate) fn recv(cx: &Cx<'_>, s: &Held, into: &mut [u8], flags: c_int) -> Result<usize> {
    let mut msg = RecvMsg { flags: flags | libc::MSG_DONTWAIT, ..RecvMsg::default() };
    settled(Recv::default().step(cx, s, &mut [IoOut::new(into)], &mut msg, false))
}

/// recvfrom(2).
pub(crate) fn recvfrom(cx: &Cx<'_>, s: &Held, into: &mut [u8]) -> Result<(usize, Option<Endpoint>)> {
    let mut msg = RecvMsg { flags: libc::MSG_DONTWAIT, ..RecvMsg::default() };
    let n = settled(Recv::default().step(cx, s, &mut [IoOut::new(into)], &mut msg, false))?;
    Ok((n, msg.from))
}

/// send(2) or, with an address, sendto(2).
pub(crate) fn send(cx: &Cx<'_>, s: &Held, data: &[u8], to: Option<Endpoint>) -> Result<usize> {
    let msg = SendMsg { flags: libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL, to, control: &[] };
    settled(Send::default().step(cx, s, &[IoIn::new(data)], &msg, false))
}

/// The next close is a reset.
pub(crate) fn reset_on_close(cx: &Cx<'_>, s: &Held) {
    let mut value = [0u8; 8];
    value[..4].copy_from_slice(&1i32.to_ne_bytes());
    let _ = option::set(cx, s, libc::SOL_SOCKET, libc::SO_LINGER, &value);
}

/// setsockopt(2) of a number.
pub(crate) fn set(cx: &Cx<'_>, s: &Held, level: c_int, name: c_int, value: c_int) -> Result<()> {
    option::set(cx, s, level, name, &value.to_ne_bytes())
}

/// An address as bind(2) and connect(2) of socket `s` want it.
pub(crate) fn sockaddr(s: &Held, at: &Endpoint) -> ([u8; 28], usize) {
    socket::emit(s, at)
}

/// connect(2) of a datagram socket.
pub(crate) fn connect(cx: &Cx<'_>, n: c_int, to: &Endpoint) -> Result<()> {
    with(cx, n, |s| {
        let (sa, len) = sockaddr(s, to);
        settled(socket::Connect::default().step(cx, s, &sa[..len], false)).map(drop)
    })
}

/// A connect(2) under way: one address after the other.
pub(crate) struct Dial {
    left: Vec<Endpoint>,
    at: Endpoint,
    op: socket::Connect,
}

impl Dial {
    /// Begins with the first of `to`; the socket's number.
    pub(crate) fn begin(cx: &Cx<'_>, mut to: Vec<Endpoint>) -> Result<(Self, c_int)> {
        to.reverse();
        let mut last = Errno::EADDRNOTAVAIL;
        while let Some(at) = to.pop() {
            let mut dial = Self { left: core::mem::take(&mut to), at, op: socket::Connect::default() };
            match dial.attempt(cx) {
                Ok(n) => return Ok((dial, n)),
                Err(e) => last = e,
            }
            to = dial.left;
        }
        Err(last)
    }

    fn attempt(&mut self, cx: &Cx<'_>) -> Result<c_int> {
        let family = if self.at.ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 };
        let n = open(cx, family, libc::SOCK_STREAM)?;
        match self.step(cx, n) {
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EALREADY) => Ok(n),
            Err(e) => {
                close(cx, n);
                Err(e)
            }
        }
    }

    /// Is it there? EINPROGRESS: not yet.
    pub(crate) fn step(&mut self, cx: &Cx<'_>, n: c_int) -> Result<()> {
        with(cx, n, |s| {
            let (sa, len) = sockaddr(s, &self.at);
            settled(self.op.step(cx, s, &sa[..len], false)).map(drop)
        })
    }

    /// The next address, if there is one.
    pub(crate) fn next(&mut self, cx: &Cx<'_>) -> Option<c_int> {
        while let Some(at) = self.left.pop() {
            (self.at, self.op) = (at, socket::Connect::default());
            if let Ok(n) = self.attempt(cx) {
                return Some(n);
            }
        }
        None
    }
}
