//! socket(2), bind(2), listen(2), accept(2), connect(2), shutdown(2), getsockname(2), getpeername(2), and the end of a socket.
use super::{Kind, Outcome, Reason, Wait};
use crate::arena::Id;
use crate::clock::Nanos;
use crate::errno::{Errno, Result};
use crate::fd::{self, Held, Sock};
use crate::instance::Cx;
use crate::net::addr::Endpoint;
use crate::net::{dgram, netlink, tcp};
use crate::poll;
use core::sync::atomic::Ordering::*;

/// Which virtual kind a socket(2) call makes: `Err(None)` if the kernel should do it.
pub fn kind_of(family: i32, ty: i32, protocol: i32) -> core::result::Result<Kind, Option<Errno>> {
    if family == libc::AF_NETLINK && netlink::speaks(protocol) {
        return match ty & 0xf {
            libc::SOCK_RAW | libc::SOCK_DGRAM => Ok(Kind::Netlink),
            _ => Err(Some(Errno::ESOCKTNOSUPPORT)),
        };
    }
    if family != libc::AF_INET && family != libc::AF_INET6 {
        return Err(None);
    }
    let v6 = family == libc::AF_INET6;
    if ty & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK | 0xf) != 0 {
        return Err(Some(Errno::EINVAL));
    }
    if !(0..256).contains(&protocol) && protocol != libc::IPPROTO_MPTCP {
        return Err(Some(Errno::EINVAL));
    }
    match (ty & 0xf, protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => Ok(Kind::Tcp),
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => Ok(Kind::Udp),
        (libc::SOCK_DGRAM, libc::IPPROTO_ICMP) if !v6 => Ok(Kind::Ping),
        (libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6) if v6 => Ok(Kind::Ping),
        (libc::SOCK_RAW, 0) => Err(Some(Errno::EPROTONOSUPPORT)),
        (libc::SOCK_RAW, _) => Ok(Kind::Raw),
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => Err(Some(Errno::EPROTONOSUPPORT)),
        (0..=10, _) => Err(Some(Errno::ESOCKTNOSUPPORT)),
        _ => Err(Some(Errno::EINVAL)),
    }
}

/// socket(2) without the descriptor: the front end makes the shadow and puts both together with [`crate::fd::Proc::set`].
pub fn socket(cx: &Cx<'_>, family: i32, ty: i32, protocol: i32) -> core::result::Result<Held, Option<Errno>> {
    let kind = kind_of(family, ty, protocol)?;
    let flags = libc::O_RDWR | if ty & libc::SOCK_NONBLOCK != 0 { libc::O_NONBLOCK } else { 0 };
    let protocol = match (kind, protocol) {
        (Kind::Tcp, _) => libc::IPPROTO_TCP,
        (Kind::Udp, 0) => libc::IPPROTO_UDP,
        (_, p) => p,
    };
    let s = fd::open(cx, kind, family as u16, (ty & 0xf) as u16, protocol as u16, flags as u32).map_err(Some)?;
    let opened = match kind {
        Kind::Tcp => tcp::open(cx, &s),
        _ => dgram::open(cx, &s),
    };
    match opened {
        Ok(()) => Ok(s),
        Err(e) => {
            s.release(cx);
            Err(Some(e))
        }
    }
}

/// The last reference is gone: closes the object and frees the description.
pub fn release(cx: &Cx<'_>, s: &'static Sock, id: Id<Sock>) {
    poll::release(cx, s, id);
    match s.kind() {
        Kind::Tcp => tcp::close(cx, s),
        Kind::Udp | Kind::Ping | Kind::Raw | Kind::Netlink => dgram::close(cx, s),
        Kind::Epoll | Kind::None => {}
    }
    cx.inst.socks.free(id);
}

/// bind(2). `sa` is the address as given.
pub fn bind(cx: &Cx<'_>, s: &Held, sa: &[u8]) -> Result<()> {
    let family = s.family.load(Relaxed);
    // bind(2): Linux takes AF_UNSPEC with INADDR_ANY for AF_INET, for old programs' sake.
    let mut fixed = [0; 28];
    let sa = if i32::from(family) == libc::AF_INET && sa.len() >= 16 && sa[..2] == [0, 0] && sa[4..8] == [0; 4] {
        fixed[..16].copy_from_slice(&sa[..16]);
        fixed[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        &fixed[..16]
    } else {
        sa
    };
    let at = Endpoint::parse(family, sa)?;
    match s.kind() {
        Kind::Tcp => tcp::bind(cx, s, &at),
        Kind::Epoll | Kind::None => Err(Errno::ENOTSOCK),
        Kind::Netlink => netlink::bind(cx, s, &at),
        _ => dgram::bind(cx, s, &at),
    }
}

/// listen(2).
pub fn listen(cx: &Cx<'_>, s: &Held, backlog: i32) -> Result<()> {
    match s.kind() {
        Kind::Tcp => tcp::listen(cx, s, backlog),
        Kind::Epoll | Kind::None => Err(Errno::ENOTSOCK),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// An accept(2) under way.
#[derive(Debug, Default)]
pub struct Accept {
    deadline: Option<Nanos>,
}

impl Accept {
    /// accept4(2) once: the new socket (its flags set from `flags`) and the peer, or what to do instead.
    pub fn step(&mut self, cx: &Cx<'_>, s: &Held, flags: i32, timed_out: bool) -> core::result::Result<(Held, Endpoint), Outcome> {
        if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
            return Err(Errno::EINVAL.into());
        }
        match s.kind() {
            Kind::Tcp => {}
            Kind::Epoll | Kind::None => return Err(Errno::ENOTSOCK.into()),
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
        let mut got = tcp::accept(cx, s);
        if matches!(got, Err(Errno::EAGAIN)) && crate::net::progress(cx) {
            got = tcp::accept(cx, s);
        }
        match got {
            Ok((new, peer)) => {
                let nb = if flags & libc::SOCK_NONBLOCK != 0 { libc::O_NONBLOCK } else { 0 };
                new.flags.store((libc::O_RDWR | nb) as u32, Relaxed);
                Ok((new, peer))
            }
            Err(Errno::EAGAIN) if !s.nonblocking() && !timed_out => {
                let deadline = *self.deadline.get_or_insert_with(|| s.rcv_deadline(cx));
                Err(Outcome::Wait(Wait { sock: s.id(), events: libc::EPOLLIN as u32, deadline }))
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// A connect(2) under way.
#[derive(Debug, Default)]
pub struct Connect {
    begun: bool,
    /// It went on from another call's: then a timeout is EALREADY.
    again: bool,
    deadline: Option<Nanos>,
}

impl Connect {
    /// connect(2) once.
    pub fn step(&mut self, cx: &Cx<'_>, s: &Held, sa: &[u8], timed_out: bool) -> Outcome {
        if sa.len() < 2 {
            return Errno::EINVAL.into();
        }
        let unspec = sa[..2] == (libc::AF_UNSPEC as u16).to_ne_bytes();
        let family = s.family.load(Relaxed);
        match s.kind() {
            Kind::Epoll | Kind::None => Errno::ENOTSOCK.into(),
            Kind::Tcp => {
                let r = if self.begun {
                    crate::net::progress(cx);
                    tcp::connected(cx, s)
                } else if unspec {
                    return tcp::disconnect(cx, s).into();
                } else {
                    let to = match Endpoint::parse(family, sa) {
                        Ok(to) => to,
                        Err(e) => return e.into(),
                    };
                    let r = tcp::connect(cx, s, &to);
                    // A second connect(2) on a blocking socket whose first was interrupted waits too.
                    self.again = matches!(r, Err(Errno::EALREADY));
                    self.begun = matches!(r, Err(Errno::EINPROGRESS)) || (self.again && !s.nonblocking());
                    r
                };
                match r {
                    Err(Errno::EINPROGRESS | Errno::EALREADY) if self.begun && !s.nonblocking() && !timed_out => {
                        let deadline = *self.deadline.get_or_insert_with(|| s.snd_deadline(cx));
                        Outcome::Wait(Wait { sock: s.id(), events: libc::EPOLLOUT as u32, deadline })
                    }
                    Err(Errno::EINPROGRESS) if self.again => Errno::EALREADY.into(),
                    r => r.into(),
                }
            }
            Kind::Netlink if unspec => netlink::connect(cx, s, None).into(),
            Kind::Netlink => Endpoint::parse(family, sa).and_then(|to| netlink::connect(cx, s, Some(&to))).into(),
            _ if unspec => dgram::connect(cx, s, None).into(),
            _ => Endpoint::parse(family, sa).and_then(|to| dgram::connect(cx, s, Some(&to))).into(),
        }
    }
}

/// shutdown(2).
pub fn shutdown(cx: &Cx<'_>, s: &Held, how: i32) -> Result<()> {
    match s.kind() {
        Kind::Epoll | Kind::None => Err(Errno::ENOTSOCK),
        _ if !(libc::SHUT_RD..=libc::SHUT_RDWR).contains(&how) => Err(Errno::EINVAL),
        Kind::Netlink => Err(Errno::EOPNOTSUPP),
        Kind::Tcp => tcp::shutdown(cx, s, how),
        _ => dgram::shutdown(cx, s, how),
    }
}

/// getsockname(2): the address as bytes, and how many.
pub fn getsockname(cx: &Cx<'_>, s: &Held) -> Result<([u8; 28], usize)> {
    let at = match s.kind() {
        Kind::Tcp => tcp::local(cx, s),
        Kind::Epoll | Kind::None => Err(Errno::ENOTSOCK),
        _ => dgram::local(cx, s),
    }?;
    Ok(emit(s, &at))
}

/// getpeername(2): the address as bytes, and how many.
pub fn getpeername(cx: &Cx<'_>, s: &Held) -> Result<([u8; 28], usize)> {
    let at = match s.kind() {
        Kind::Tcp => tcp::peer(cx, s),
        Kind::Epoll | Kind::None => Err(Errno::ENOTSOCK),
        Kind::Netlink => netlink::peer(cx, s),
        _ => dgram::peer(cx, s),
    }?;
    Ok(emit(s, &at))
}

/// An endpoint as an application with this socket sees it.
pub fn emit(s: &Sock, at: &Endpoint) -> ([u8; 28], usize) {
    let mut out = [0; 28];
    let n = at.emit(s.family.load(Relaxed), &mut out);
    (out, n)
}

/// A descriptor that is not ours: for front ends that want an [`Outcome`].
pub const NOT_VIRTUAL: Outcome = Outcome::Pass(Reason::NotVirtual);
