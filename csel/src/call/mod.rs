//! Calls: a system call's arguments turned into replica operations.
//!
//! # Theory of operation
//! **Purpose.** One function for each call of the man pages, named after it, that any front end can use: the preloaded library, the static
//! loader, the C API, tests.
//! **How it works.** A call never blocks. It answers [`Outcome`]: `Done`, `Fail`, `Wait` (on which socket, for which events, until when; call again
//! afterwards with the same operation value), or `Pass` (the kernel should do it, and why). What must survive a wait (bytes moved so far,
//! the deadline) lies in an operation value on the caller's stack ([`io::Send`], [`io::Recv`]...).
//! **Limits.** Pointers are already slices here. **Locks.** None held between calls. **Failure.** [`Errno`].
//! **See also.** design section 3; `shim/src/wait.rs`.
use crate::arena::Id;
use crate::clock::Nanos;
use crate::errno::Errno;
use crate::fd::Sock;
use crate::net::addr::Endpoint;

pub mod epoll;
pub mod io;
pub mod poll;
pub mod socket;

/// What is behind a virtual descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Nothing (a free slot).
    None = 0,
    /// TCP.
    Tcp = 1,
    /// UDP.
    Udp = 2,
    /// SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6.
    Ping = 3,
    /// SOCK_RAW.
    Raw = 4,
    /// epoll(7).
    Epoll = 5,
    /// netlink(7): NETLINK_ROUTE and NETLINK_SOCK_DIAG.
    Netlink = 6,
}

impl Kind {
    /// From what [`Sock`] stores.
    #[inline]
    pub fn from_u8(n: u8) -> Self {
        match n {
            1 => Self::Tcp,
            2 => Self::Udp,
            3 => Self::Ping,
            4 => Self::Raw,
            5 => Self::Epoll,
            6 => Self::Netlink,
            _ => Self::None,
        }
    }
}

/// Why a call is left to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The descriptor is not ours.
    NotVirtual,
    /// An address family we do not replicate (AF_UNIX...).
    Family,
}

/// Wait until `events` (EPOLL* bits) on `sock`, or until `deadline`.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// On what.
    pub sock: Id<Sock>,
    /// For what; EPOLLERR and EPOLLHUP always count.
    pub events: u32,
    /// Until when at most.
    pub deadline: Nanos,
}

/// What a call comes to.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The call's value.
    Done(usize),
    /// -1 and errno.
    Fail(Errno),
    /// It would block: wait, then call again.
    Wait(Wait),
    /// The kernel should do it.
    Pass(Reason),
}

impl From<Errno> for Outcome {
    fn from(e: Errno) -> Self {
        Self::Fail(e)
    }
}
impl From<crate::errno::Result<usize>> for Outcome {
    fn from(r: crate::errno::Result<usize>) -> Self {
        match r {
            Ok(n) => Self::Done(n),
            Err(e) => Self::Fail(e),
        }
    }
}
impl From<crate::errno::Result<()>> for Outcome {
    fn from(r: crate::errno::Result<()>) -> Self {
        r.map(|()| 0).into()
    }
}

/// What sendmsg(2) says besides the data.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendMsg<'a> {
    /// MSG_* flags.
    pub flags: i32,
    /// Where to, if said.
    pub to: Option<Endpoint>,
    /// Control messages, as given (cmsg(3)).
    pub control: &'a [u8],
}

/// What recvmsg(2) fills in besides the data.
#[derive(Debug, Default)]
pub struct RecvMsg<'a> {
    /// MSG_* flags, in.
    pub flags: i32,
    /// MSG_TRUNC, MSG_CTRUNC, MSG_EOR, MSG_ERRQUEUE..., out.
    pub out_flags: i32,
    /// The source, out (None: leaves msg_namelen 0).
    pub from: Option<Endpoint>,
    /// Room for control messages.
    pub control: &'a mut [u8],
    /// Bytes of control messages, out.
    pub control_len: usize,
}
