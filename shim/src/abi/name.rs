//! Names as libc tells of them: getaddrinfo(3), getnameinfo(3), gethostbyname(3), gethostbyaddr(3).
//!
//! # Theory of operation
//! **Purpose.** The answers are [`csel_core::name`]'s; here they become C's structures. **How it works.** A [`Here`] is what the core asks about:
//! the segment's ports, the interfaces, the text of /etc/services (read once for each question that has a service's name). `struct addrinfo`
//! is allocated as glibc does (one malloc for each entry and its address, one for the canonical name), so that libc's freeaddrinfo(3) frees it.
//! A question makes the instance, as a first socket does: without it there are no peers.
//! DNS is asked last ([`crate::dns`]).
//! **Limits.** getaddrinfo_a(3), gethostent(3) and the res_* functions are libc's and see the host. AF_UNIX in getnameinfo(3) is libc's.
//! **Locks.** None. **Failure.** EAI_* and h_errno as glibc gives them; EAI_SYSTEM if there can be no instance.
//! **See also.** [`csel_core::name`], [`csel_core::net::link::segment`].
use crate::dns::Resolver;
use crate::enter::{self, with_cx};
use crate::init;
use crate::ret;
use crate::table::interpose;
use core::cell::OnceCell;
use core::ffi::CStr;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicPtr, Ordering::*};
use csel_core::config::{Cidr, Name, Str};
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::instance::Env;
use csel_core::name::{self, Answer, Eai, Hints, HostEntry, HostName, World, Zone, getaddrinfo as ask, getnameinfo as ask_back};
use csel_core::net::addr::Endpoint;
use csel_core::net::iface;
use csel_core::net::link::join;
use libc::{addrinfo, c_char, c_int, c_void, hostent, size_t, sockaddr, socklen_t};

/// h_errno's values.
const HOST_NOT_FOUND: c_int = 1;
const NO_RECOVERY: c_int = 3;
const NO_DATA: c_int = 4;
const NETDB_INTERNAL: c_int = -1;

unsafe extern "C" {
    fn __h_errno_location() -> *mut c_int;
}

fn set_h_errno(value: c_int) {
    // SAFETY: this thread's h_errno.
    unsafe { *__h_errno_location() = value };
}

/// What the core may ask about.
struct Here {
    env: &'static Env,
    services: OnceCell<Vec<u8>>,
}

impl World for Here {
    fn peer(&self, name: &str, each: &mut dyn FnMut(IpAddr)) {
        if let Some((_, port)) = self.env.seg.host(name) {
            port.addrs().filter(|(ip, _)| !ip.is_link_local6()).for_each(|(ip, _)| each(ip.wire().into()));
        }
    }
    fn peer_of(&self, addr: IpAddr) -> Option<Name> {
        self.env.seg.holder(join::of(addr)).map(|(_, port)| port.name()).filter(|n| !n.is_empty())
    }
    fn peers(&self, each: &mut dyn FnMut(&Name, IpAddr)) {
        for (_, port) in self.env.seg.taken() {
            let name = port.name();
            port.addrs().filter(|(ip, _)| !ip.is_link_local6()).for_each(|(ip, _)| each(&name, ip.wire().into()));
        }
    }
    fn dns(&self, name: &str, v4: bool, v6: bool, each: &mut dyn FnMut(IpAddr)) -> core::result::Result<HostName, Eai> {
        match Resolver::of(self.env) {
            Some(r) => kept_errno(|| r.addresses(name, v4, v6, each)),
            None => Err(Eai::NoName),
        }
    }
    fn dns_name(&self, addr: IpAddr) -> Option<HostName> {
        // What is nobody's on the segment is not asked about: a link-local or loopback address says nothing outside.
        let outside = !addr.is_loopback() && !matches!(addr, IpAddr::V6(a) if a.is_unicast_link_local());
        let resolver = outside.then(|| Resolver::of(self.env)).flatten()?;
        kept_errno(|| resolver.name_of(addr))
    }
    fn services(&self) -> &[u8] {
        self.services.get_or_init(|| read(c"/etc/services"))
    }
    fn if_index(&self, name: &[u8]) -> Option<u32> {
        with_cx(|cx| iface::by_name(cx, name).map(|i| i.index)).ok().flatten()
    }
    fn if_name(&self, index: u32) -> Option<Str<15>> {
        with_cx(|cx| iface::by_index(cx, index).and_then(|i| Str::new(i.name.as_bytes()).ok())).ok().flatten()
    }
}

/// Does something that leaves errno alone.
fn kept_errno<R>(f: impl FnOnce() -> R) -> R {
    let saved = ret::errno();
    let r = f();
    ret::fail(saved);
    r
}

/// A small file; empty if it cannot be read. A megabyte at most.
pub(crate) fn read(path: &CStr) -> Vec<u8> {
    let mut text = Vec::new();
    let Ok(fd) = gate::open(path, libc::O_RDONLY | libc::O_CLOEXEC, 0) else { return text };
    let mut piece = [0; 4096];
    while text.len() < 1 << 20 {
        match gate::read(fd, &mut piece) {
            Ok(n) if n > 0 => text.extend_from_slice(&piece[..n]),
            Err(Errno::EINTR) => {}
            _ => break,
        }
    }
    let _ = gate::close(fd);
    text
}

/// Asks `question` of the instance's zone; makes the instance first.
fn with_zone<R>(question: impl FnOnce(&Zone<'_, Here>) -> R) -> Result<R> {
    init::instance()?;
    let env = enter::env().ok_or(Errno::ENOSYS)?;
    let facts = env.inst.facts.get();
    let addrs = name::own_addrs(facts);
    let here = Here { env, services: OnceCell::new() };
    let addrs: &[Cidr] = addrs.as_slice();
    let hostname = facts.config.hostname_or(&facts.name);
    Ok(question(&Zone { hosts: facts.config.hosts.as_slice(), name: &facts.name, hostname, addrs, world: &here }))
}

/// A string of the application's, or none.
///
/// # Safety
/// Null, or a string that lives as long as the result.
unsafe fn string<'a>(text: *const c_char) -> Option<&'a [u8]> {
    // SAFETY: the caller vouches.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// Names are looked up here, not by libc: csel is live and not switched off.
fn ours() -> bool {
    !init::inert()
}

/// A system error as getaddrinfo(3) says it.
fn system(e: Errno) -> c_int {
    ret::fail(e);
    Eai::System as c_int
}

/// The list of `struct addrinfo`; null if there is no memory.
fn list(answer: &Answer, flags: c_int) -> *mut addrinfo {
    let mut first: *mut addrinfo = core::ptr::null_mut();
    let mut link: *mut *mut addrinfo = &raw mut first;
    for (kind, address) in answer.entries() {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let scope = if let SocketAddr::V6(a) = address { a.scope_id() } else { 0 };
        let mut bytes = [0u8; 28];
        let n = Endpoint::new(join::of(address.ip()), address.port()).with_scope(scope).emit(family as u16, &mut bytes);
        // SAFETY: one block for the entry and its address, written before it is linked; `link` is `first` or the last entry's ai_next.
        unsafe {
            let entry = libc::calloc(1, size_of::<addrinfo>() + n).cast::<addrinfo>();
            if entry.is_null() {
                libc::freeaddrinfo(first);
                return core::ptr::null_mut();
            }
            let sa = entry.add(1).cast::<u8>();
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), sa, n);
            (*entry).ai_flags = flags;
            (*entry).ai_family = family;
            (*entry).ai_socktype = kind.socktype;
            (*entry).ai_protocol = kind.protocol;
            (*entry).ai_addrlen = n as socklen_t;
            (*entry).ai_addr = sa.cast();
            if first.is_null() && !answer.canon.is_empty() {
                let text = answer.canon.as_bytes();
                (*entry).ai_canonname = libc::strndup(text.as_ptr().cast(), text.len());
            }
            *link = entry;
            link = &raw mut (*entry).ai_next;
        }
    }
    first
}

/// Puts a `struct hostent` and all it points to into a buffer. ERANGE: it is too small.
///
/// # Safety
/// `out` and `len` bytes at `buf` are writable.
unsafe fn pack(entry: &HostEntry, v6: bool, out: *mut hostent, buf: *mut c_char, len: size_t) -> Result<()> {
    let each = if v6 { 16 } else { 4 };
    let n = entry.addrs.len();
    let skip = buf.align_offset(align_of::<*mut c_char>());
    let pointers = (1 + n + 1) * size_of::<*mut c_char>();
    let name = entry.name.as_bytes();
    if skip.saturating_add(pointers + n * each + name.len() + 1) > len {
        return Err(Errno::ERANGE);
    }
    // SAFETY: all places lie in the `len` bytes, as just counted, and the pointers are aligned.
    unsafe {
        let aliases = buf.add(skip).cast::<*mut c_char>();
        let addrs = aliases.add(1);
        let bytes = addrs.add(n + 1).cast::<u8>();
        aliases.write(core::ptr::null_mut());
        for (i, addr) in entry.addrs.iter().enumerate() {
            let to = bytes.add(i * each);
            match addr {
                IpAddr::V4(a) => core::ptr::copy_nonoverlapping(a.octets().as_ptr(), to, 4),
                IpAddr::V6(a) => core::ptr::copy_nonoverlapping(a.octets().as_ptr(), to, 16),
            }
            addrs.add(i).write(to.cast());
        }
        addrs.add(n).write(core::ptr::null_mut());
        let text = bytes.add(n * each);
        core::ptr::copy_nonoverlapping(name.as_ptr(), text, name.len());
        text.add(name.len()).write(0);
        out.write(hostent {
            h_name: text.cast(),
            h_aliases: aliases,
            h_addrtype: if v6 { libc::AF_INET6 } else { libc::AF_INET },
            h_length: each as c_int,
            h_addr_list: addrs,
        });
    }
    Ok(())
}

/// What a host question came to: an entry with addresses and whether it is IPv6's, or h_errno.
type Found = core::result::Result<(HostEntry, bool), c_int>;

fn by_name(name: &[u8], family: c_int) -> Found {
    let v6 = match family {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => {
            ret::fail(Errno::EAFNOSUPPORT);
            return Err(NETDB_INTERNAL);
        }
    };
    match with_zone(|z| name::gethostbyname(z, name, v6)) {
        Err(e) => {
            ret::fail(e);
            Err(NETDB_INTERNAL)
        }
        Ok(None) => Err(HOST_NOT_FOUND),
        Ok(Some(entry)) if entry.addrs.is_empty() => Err(NO_DATA),
        Ok(Some(entry)) => Ok((entry, v6)),
    }
}

/// # Safety
/// `len` bytes at `addr` are readable.
unsafe fn by_addr(addr: *const c_void, len: socklen_t, family: c_int) -> Found {
    let v6 = match (family, len) {
        (libc::AF_INET, 4) => false,
        (libc::AF_INET6, 16) => true,
        _ => {
            ret::fail(Errno::EINVAL);
            return Err(NO_RECOVERY);
        }
    };
    // SAFETY: the caller vouches for 4 or 16 bytes.
    let ip: IpAddr = unsafe { if v6 { addr.cast::<[u8; 16]>().read().into() } else { addr.cast::<[u8; 4]>().read().into() } };
    match with_zone(|z| name::gethostbyaddr(z, ip)) {
        Err(e) => {
            ret::fail(e);
            Err(NETDB_INTERNAL)
        }
        Ok(None) => Err(HOST_NOT_FOUND),
        Ok(Some(entry)) => Ok((entry, v6)),
    }
}

/// The `_r` functions' end: 0 with or without a result, or ERANGE and others.
///
/// # Safety
/// As the man page says of the pointers.
unsafe fn reentrant(found: Found, out: *mut hostent, buf: *mut c_char, len: size_t, result: *mut *mut hostent, h: *mut c_int) -> c_int {
    // SAFETY: the caller vouches.
    unsafe {
        *result = core::ptr::null_mut();
        match found {
            Ok((entry, v6)) => match pack(&entry, v6, out, buf, len) {
                Ok(()) => {
                    *result = out;
                    0
                }
                Err(e) => {
                    *h = NETDB_INTERNAL;
                    ret::fail(e);
                    c_int::from(e.0)
                }
            },
            Err(NETDB_INTERNAL) => {
                *h = NETDB_INTERNAL;
                c_int::from(ret::errno().0)
            }
            Err(why) => {
                *h = why;
                0
            }
        }
    }
}

/// The answer of the functions that are not reentrant: one for the process, as libc's.
fn one_for_all(found: Found) -> *mut hostent {
    #[repr(C)]
    struct Room {
        head: hostent,
        bytes: [c_char; 2048],
    }
    static ROOM: AtomicPtr<Room> = AtomicPtr::new(core::ptr::null_mut());
    let (entry, v6) = match found {
        Ok(found) => found,
        Err(why) => {
            set_h_errno(why);
            return core::ptr::null_mut();
        }
    };
    let mut room = ROOM.load(Acquire);
    if room.is_null() {
        // SAFETY: zeros are a valid Room.
        let fresh = unsafe { libc::calloc(1, size_of::<Room>()) }.cast::<Room>();
        if fresh.is_null() {
            set_h_errno(NETDB_INTERNAL);
            return core::ptr::null_mut();
        }
        room = match ROOM.compare_exchange(core::ptr::null_mut(), fresh, AcqRel, Acquire) {
            Ok(_) => fresh,
            Err(theirs) => {
                // SAFETY: nobody has seen it.
                unsafe { libc::free(fresh.cast()) };
                theirs
            }
        };
    }
    // SAFETY: the room stays; two threads that call at once spoil each other's answer, as the man page says.
    let packed = unsafe { pack(&entry, v6, &raw mut (*room).head, (&raw mut (*room).bytes).cast(), 2048) };
    if packed.is_err() {
        set_h_errno(NETDB_INTERNAL);
        return core::ptr::null_mut();
    }
    room.cast()
}

/// Copies a text out, with its NUL.
///
/// # Safety
/// `len` bytes at `to` are writable.
unsafe fn copy_out(text: &[u8], to: *mut c_char, len: socklen_t) -> c_int {
    if text.len() >= len as usize {
        return Eai::Overflow as c_int;
    }
    // SAFETY: it fits, as just seen.
    unsafe {
        core::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    0
}

interpose! {
    family name;

    /// getaddrinfo(3).
    cancels fn getaddrinfo(node: *const c_char, service: *const c_char, hints: *const addrinfo, out: *mut *mut addrinfo) -> c_int
        = Partial "the instance's names, its peers', --add-host and localhost; then DNS, if --dns, a route to the host or an uplink leads to a server; AI_IDN does nothing" {
        // SAFETY: the man page's pointers.
        unsafe {
            if ours() {
                let wanted = hints.as_ref().map(|h| Hints { flags: h.ai_flags, family: h.ai_family, socktype: h.ai_socktype, protocol: h.ai_protocol });
                match with_zone(|z| ask(z, string(node), string(service), wanted.as_ref())) {
                    Err(e) => system(e),
                    Ok(Err(why)) => why as c_int,
                    Ok(Ok(answer)) => {
                        let first = list(&answer, wanted.unwrap_or_default().flags);
                        if first.is_null() {
                            Eai::Memory as c_int
                        } else {
                            *out = first;
                            0
                        }
                    }
                }
            } else {
                real::getaddrinfo(node, service, hints, out)
            }
        }
    }
    /// getnameinfo(3).
    cancels fn getnameinfo(sa: *const sockaddr, len: socklen_t, host: *mut c_char, hostlen: socklen_t, serv: *mut c_char, servlen: socklen_t, flags: c_int) -> c_int
        = Partial "as getaddrinfo" {
        // SAFETY: the man page's pointers.
        unsafe {
            let family = if sa.is_null() || (len as usize) < 2 { libc::AF_UNSPEC } else { c_int::from((*sa).sa_family) };
            let least = match family {
                libc::AF_INET => 16,
                // Without the scope, as RFC 2133 had it.
                libc::AF_INET6 => 24,
                _ => usize::MAX,
            };
            if !ours() || family == libc::AF_UNIX {
                real::getnameinfo(sa, len, host, hostlen, serv, servlen, flags)
            } else if (len as usize) < least {
                Eai::Family as c_int
            } else {
                let mut bytes = [0u8; 28];
                let n = (len as usize).min(28);
                core::ptr::copy_nonoverlapping(sa.cast::<u8>(), bytes.as_mut_ptr(), n);
                let port = u16::from_be_bytes([bytes[2], bytes[3]]);
                let address = if family == libc::AF_INET {
                    SocketAddr::new(IpAddr::from([bytes[4], bytes[5], bytes[6], bytes[7]]), port)
                } else {
                    let ip: [u8; 16] = *bytes[8..].first_chunk().unwrap_or(&[0; 16]);
                    let scope = u32::from_ne_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
                    SocketAddr::V6(core::net::SocketAddrV6::new(ip.into(), port, 0, scope))
                };
                let wants = |to: *mut c_char, room: socklen_t| !to.is_null() && room > 0;
                match with_zone(|z| ask_back(z, address, wants(host, hostlen), wants(serv, servlen), flags)) {
                    Err(e) => system(e),
                    Ok(Err(why)) => why as c_int,
                    Ok(Ok(found)) => {
                        let mut r = 0;
                        if wants(host, hostlen) {
                            r = copy_out(found.host.as_bytes(), host, hostlen);
                        }
                        if r == 0 && wants(serv, servlen) {
                            r = copy_out(found.service.as_bytes(), serv, servlen);
                        }
                        r
                    }
                }
            }
        }
    }
    /// gethostbyname(3).
    cancels fn gethostbyname(name: *const c_char) -> *mut hostent = Partial "as getaddrinfo; no aliases" {
        // SAFETY: the man page's pointer.
        unsafe { if ours() { one_for_all(by_name(string(name).unwrap_or_default(), libc::AF_INET)) } else { real::gethostbyname(name) } }
    }
    /// gethostbyname2(3).
    cancels fn gethostbyname2(name: *const c_char, family: c_int) -> *mut hostent = Partial "as getaddrinfo; no aliases" {
        // SAFETY: the man page's pointer.
        unsafe { if ours() { one_for_all(by_name(string(name).unwrap_or_default(), family)) } else { real::gethostbyname2(name, family) } }
    }
    /// gethostbyaddr(3).
    cancels fn gethostbyaddr(addr: *const c_void, len: socklen_t, family: c_int) -> *mut hostent = Partial "as getnameinfo; no aliases" {
        // SAFETY: the man page's pointer.
        unsafe { if ours() { one_for_all(by_addr(addr, len, family)) } else { real::gethostbyaddr(addr, len, family) } }
    }
    /// gethostbyname_r(3).
    cancels fn gethostbyname_r(name: *const c_char, out: *mut hostent, buf: *mut c_char, len: size_t, result: *mut *mut hostent, h: *mut c_int) -> c_int
        = Partial "as getaddrinfo; no aliases" {
        // SAFETY: the man page's pointers.
        unsafe {
            if ours() {
                reentrant(by_name(string(name).unwrap_or_default(), libc::AF_INET), out, buf, len, result, h)
            } else {
                real::gethostbyname_r(name, out, buf, len, result, h)
            }
        }
    }
    /// gethostbyname2_r(3).
    cancels fn gethostbyname2_r(name: *const c_char, family: c_int, out: *mut hostent, buf: *mut c_char, len: size_t, result: *mut *mut hostent, h: *mut c_int) -> c_int
        = Partial "as getaddrinfo; no aliases" {
        // SAFETY: the man page's pointers.
        unsafe {
            if ours() {
                reentrant(by_name(string(name).unwrap_or_default(), family), out, buf, len, result, h)
            } else {
                real::gethostbyname2_r(name, family, out, buf, len, result, h)
            }
        }
    }
    /// gethostbyaddr_r(3).
    cancels fn gethostbyaddr_r(addr: *const c_void, alen: socklen_t, family: c_int, out: *mut hostent, buf: *mut c_char, len: size_t, result: *mut *mut hostent, h: *mut c_int) -> c_int
        = Partial "as getnameinfo; no aliases" {
        // SAFETY: the man page's pointers.
        unsafe {
            if ours() {
                reentrant(by_addr(addr, alen, family), out, buf, len, result, h)
            } else {
                real::gethostbyaddr_r(addr, alen, family, out, buf, len, result, h)
            }
        }
    }
}
