//! Calls as values: `sys!(libc::connect(fd, p, n)).fails(ECONNREFUSED)`.
//!
//! # Theory of operation
//! [`sys!`] makes a call and keeps its result together with errno as an [`R`], on which a case says what it expects. [`Fd`] closes on drop
//! and has the calls a case makes most; [`Addr`] is a socket address of either version. All of them go through libc's symbols, which is
//! what csel replaces; nothing here uses std::net.
//!
//! Limits: the helper methods are for the plain use of a call; a case that passes wrong arguments writes the call out with `sys!`.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Makes a system call through libc.
macro_rules! sys {
    ($call:expr) => {{
        // SAFETY: a case passes what the man page asks for, or wrong arguments on purpose, which the kernel (and so csel) refuses.
        #[allow(unused_unsafe)]
        let value = unsafe { $call };
        $crate::sys::R::new(value as isize)
    }};
}
pub(crate) use sys;

/// Whether this child runs under csel. For [`deviation`] and the harness; a case does not ask.
pub(crate) fn csel() -> bool {
    std::env::var("CSEL_MODE").is_ok_and(|mode| mode == "csel")
}

/// What csel states to do otherwise than Linux: `why` is the row of the support table.
#[allow(dead_code)]
pub(crate) fn deviation(why: &str, linux: impl FnOnce(), ours: impl FnOnce()) {
    assert!(!why.is_empty(), "a deviation has a stated reason");
    if csel() { ours() } else { linux() }
}

/// errno's symbolic name, for messages.
fn name(errno: i32) -> String {
    format!("{} ({errno})", io::Error::from_raw_os_error(errno))
}

/// What a call returned.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct R(Result<isize, i32>);

impl R {
    pub(crate) fn new(value: isize) -> Self {
        if value == -1 { Self(Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))) } else { Self(Ok(value)) }
    }
    pub(crate) fn get(self) -> Result<isize, i32> {
        self.0
    }
    /// It succeeded: its value.
    #[track_caller]
    pub(crate) fn ok(self) -> isize {
        match self.0 {
            Ok(value) => value,
            Err(e) => panic!("failed with {}", name(e)),
        }
    }
    /// It succeeded with `value`.
    #[track_caller]
    pub(crate) fn is(self, value: isize) {
        let got = self.ok();
        assert_eq!(got, value, "returned {got}, expected {value}");
    }
    /// It failed with `errno`.
    #[track_caller]
    pub(crate) fn fails(self, errno: i32) {
        match self.0 {
            Ok(value) => panic!("returned {value}, expected to fail with {}", name(errno)),
            Err(e) if e != errno => panic!("failed with {}, expected {}", name(e), name(errno)),
            Err(_) => {}
        }
    }
    /// It made a descriptor.
    #[track_caller]
    pub(crate) fn fd(self) -> Fd {
        Fd(self.ok() as i32)
    }
}

/// IP version of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    V4,
    V6,
}

impl Net {
    pub(crate) fn af(self) -> i32 {
        if self == Self::V4 { libc::AF_INET } else { libc::AF_INET6 }
    }
    /// The loopback address, any port.
    pub(crate) fn lo(self) -> Addr {
        if self == Self::V4 { Addr::v4([127, 0, 0, 1], 0) } else { Addr::v6(Ipv6Addr::LOCALHOST, 0) }
    }
    /// The unspecified address, any port.
    pub(crate) fn any(self) -> Addr {
        if self == Self::V4 { Addr::v4([0; 4], 0) } else { Addr::v6(Ipv6Addr::UNSPECIFIED, 0) }
    }
    pub(crate) fn socket(self, kind: i32) -> Fd {
        socket(self.af(), kind, 0)
    }
    pub(crate) fn tcp(self) -> Fd {
        self.socket(libc::SOCK_STREAM)
    }
    pub(crate) fn udp(self) -> Fd {
        self.socket(libc::SOCK_DGRAM)
    }
}

#[track_caller]
pub(crate) fn socket(domain: i32, kind: i32, protocol: i32) -> Fd {
    sys!(libc::socket(domain, kind, protocol)).fd()
}

/// A socket address.
#[derive(Clone, Copy)]
pub(crate) struct Addr {
    pub(crate) store: libc::sockaddr_storage,
    pub(crate) len: libc::socklen_t,
}

impl Addr {
    /// Room for the kernel to fill in.
    pub(crate) fn room() -> Self {
        // SAFETY: all-zero is a valid sockaddr_storage.
        Self { store: unsafe { mem::zeroed() }, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }
    fn of<T: Copy>(value: T) -> Self {
        let mut a = Self::room();
        // SAFETY: T is one of the sockaddr types, none of which is larger than sockaddr_storage.
        unsafe { (&raw mut a.store).cast::<T>().write(value) };
        a.len = size_of::<T>() as libc::socklen_t;
        a
    }
    fn to<T: Copy>(self) -> T {
        // SAFETY: as above, and every bit pattern is a valid sockaddr.
        unsafe { (&raw const self.store).cast::<T>().read() }
    }
    pub(crate) fn v4(ip: [u8; 4], port: u16) -> Self {
        Self::of(libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip) },
            sin_zero: [0; 8],
        })
    }
    pub(crate) fn v6(ip: Ipv6Addr, port: u16) -> Self {
        Self::of(libc::sockaddr_in6 {
            sin6_family: libc::AF_INET6 as u16,
            sin6_port: port.to_be(),
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: ip.octets() },
            sin6_scope_id: 0,
        })
    }
    /// An address of family `family` and otherwise nothing.
    pub(crate) fn bare(family: i32, len: usize) -> Self {
        let mut a = Self::room();
        a.store.ss_family = family as u16;
        a.len = len as libc::socklen_t;
        a
    }
    pub(crate) fn ptr(&self) -> *const libc::sockaddr {
        (&raw const self.store).cast()
    }
    pub(crate) fn mut_ptr(&mut self) -> *mut libc::sockaddr {
        (&raw mut self.store).cast()
    }
    pub(crate) fn family(&self) -> i32 {
        i32::from(self.store.ss_family)
    }
    pub(crate) fn port(&self) -> u16 {
        u16::from_be(self.to::<libc::sockaddr_in>().sin_port)
    }
    pub(crate) fn at(mut self, port: u16) -> Self {
        let mut sin = self.to::<libc::sockaddr_in>();
        sin.sin_port = port.to_be();
        let len = self.len;
        if self.family() == libc::AF_INET6 {
            let mut sin6 = self.to::<libc::sockaddr_in6>();
            sin6.sin6_port = port.to_be();
            self = Self::of(sin6);
        } else {
            self = Self::of(sin);
        }
        self.len = len;
        self
    }
    pub(crate) fn scoped(self, scope: u32) -> Self {
        let mut sin6 = self.to::<libc::sockaddr_in6>();
        sin6.sin6_scope_id = scope;
        Self::of(sin6)
    }
    pub(crate) fn ip(&self) -> IpAddr {
        match self.family() {
            libc::AF_INET => Ipv4Addr::from(self.to::<libc::sockaddr_in>().sin_addr.s_addr.to_ne_bytes()).into(),
            libc::AF_INET6 => Ipv6Addr::from(self.to::<libc::sockaddr_in6>().sin6_addr.s6_addr).into(),
            other => panic!("address family {other}"),
        }
    }
    pub(crate) fn scope(&self) -> u32 {
        self.to::<libc::sockaddr_in6>().sin6_scope_id
    }
}

impl PartialEq for Addr {
    fn eq(&self, other: &Self) -> bool {
        self.ip() == other.ip() && self.port() == other.port()
    }
}

impl std::fmt::Debug for Addr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}:{}", self.ip(), self.port())
    }
}

/// A descriptor, closed when dropped.
#[derive(Debug)]
pub(crate) struct Fd(pub(crate) i32);

impl Drop for Fd {
    fn drop(&mut self) {
        if self.0 >= 0 {
            let _ = sys!(libc::close(self.0));
        }
    }
}

impl Fd {
    pub(crate) fn raw(&self) -> i32 {
        self.0
    }
    /// Gives up the number without closing it.
    pub(crate) fn take(mut self) -> i32 {
        mem::replace(&mut self.0, -1)
    }
    pub(crate) fn close(self) -> R {
        sys!(libc::close(self.take()))
    }
    pub(crate) fn bind(&self, a: &Addr) -> R {
        sys!(libc::bind(self.0, a.ptr(), a.len))
    }
    pub(crate) fn connect(&self, a: &Addr) -> R {
        sys!(libc::connect(self.0, a.ptr(), a.len))
    }
    pub(crate) fn listen(&self, backlog: i32) -> R {
        sys!(libc::listen(self.0, backlog))
    }
    pub(crate) fn accept(&self) -> R {
        sys!(libc::accept(self.0, std::ptr::null_mut(), std::ptr::null_mut()))
    }
    pub(crate) fn shutdown(&self, how: i32) -> R {
        sys!(libc::shutdown(self.0, how))
    }
    pub(crate) fn send(&self, data: &[u8], flags: i32) -> R {
        sys!(libc::send(self.0, data.as_ptr().cast(), data.len(), flags))
    }
    pub(crate) fn recv(&self, room: &mut [u8], flags: i32) -> R {
        sys!(libc::recv(self.0, room.as_mut_ptr().cast(), room.len(), flags))
    }
    pub(crate) fn sendto(&self, data: &[u8], flags: i32, to: &Addr) -> R {
        sys!(libc::sendto(self.0, data.as_ptr().cast(), data.len(), flags, to.ptr(), to.len))
    }
    pub(crate) fn recvfrom(&self, room: &mut [u8], flags: i32, from: &mut Addr) -> R {
        from.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        sys!(libc::recvfrom(self.0, room.as_mut_ptr().cast(), room.len(), flags, from.mut_ptr(), &raw mut from.len))
    }
    pub(crate) fn write(&self, data: &[u8]) -> R {
        sys!(libc::write(self.0, data.as_ptr().cast(), data.len()))
    }
    pub(crate) fn read(&self, room: &mut [u8]) -> R {
        sys!(libc::read(self.0, room.as_mut_ptr().cast(), room.len()))
    }
    pub(crate) fn getsockname(&self, a: &mut Addr) -> R {
        sys!(libc::getsockname(self.0, a.mut_ptr(), &raw mut a.len))
    }
    pub(crate) fn getpeername(&self, a: &mut Addr) -> R {
        sys!(libc::getpeername(self.0, a.mut_ptr(), &raw mut a.len))
    }
    #[track_caller]
    pub(crate) fn name(&self) -> Addr {
        let mut a = Addr::room();
        self.getsockname(&mut a).is(0);
        a
    }
    #[track_caller]
    pub(crate) fn peer(&self) -> Addr {
        let mut a = Addr::room();
        self.getpeername(&mut a).is(0);
        a
    }
    pub(crate) fn set<T>(&self, level: i32, option: i32, value: &T) -> R {
        sys!(libc::setsockopt(self.0, level, option, (&raw const *value).cast(), size_of::<T>() as libc::socklen_t))
    }
    /// setsockopt of an int, which must succeed.
    #[track_caller]
    pub(crate) fn on(&self, level: i32, option: i32, value: i32) {
        self.set(level, option, &value).is(0);
    }
    /// getsockopt into `value`; the length that came back.
    #[track_caller]
    pub(crate) fn get_into<T>(&self, level: i32, option: i32, value: &mut T) -> usize {
        let mut len = size_of::<T>() as libc::socklen_t;
        sys!(libc::getsockopt(self.0, level, option, (&raw mut *value).cast(), &raw mut len)).is(0);
        len as usize
    }
    /// getsockopt of an int.
    #[track_caller]
    pub(crate) fn opt(&self, level: i32, option: i32) -> i32 {
        let mut value = 0i32;
        let len = self.get_into(level, option, &mut value);
        assert_eq!(len, 4);
        value
    }
    pub(crate) fn get_opt(&self, level: i32, option: i32) -> R {
        let (mut value, mut len) = ([0u8; 256], 256 as libc::socklen_t);
        sys!(libc::getsockopt(self.0, level, option, value.as_mut_ptr().cast(), &raw mut len))
    }
    /// SO_ERROR, which reading clears.
    #[track_caller]
    pub(crate) fn error(&self) -> i32 {
        self.opt(libc::SOL_SOCKET, libc::SO_ERROR)
    }
    #[track_caller]
    pub(crate) fn nonblock(&self, yes: bool) -> &Self {
        let flags = sys!(libc::fcntl(self.0, libc::F_GETFL)).ok() as i32;
        let flags = if yes { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        sys!(libc::fcntl(self.0, libc::F_SETFL, flags)).is(0);
        self
    }
    /// poll(2) of this one; its revents.
    #[track_caller]
    pub(crate) fn poll(&self, events: i16, timeout: i32) -> i16 {
        let mut p = libc::pollfd { fd: self.0, events, revents: 0 };
        sys!(libc::poll(&raw mut p, 1, timeout)).ok();
        p.revents
    }
    /// What is ready now.
    #[track_caller]
    pub(crate) fn ready(&self) -> i16 {
        self.poll(libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP, 0)
    }
    /// ioctl that fills an int.
    #[track_caller]
    pub(crate) fn ioctl_int(&self, request: libc::Ioctl) -> i32 {
        let mut value = -1i32;
        sys!(libc::ioctl(self.0, request, &raw mut value)).is(0);
        value
    }
}
