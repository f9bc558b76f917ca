//! Interfaces as libc tells of them: getifaddrs(3), if_nameindex(3), SIOCGIFCONF. All from [`csel_core::net::iface`].
use crate::enter::with_cx;
use crate::init;
use crate::ret::{IntoC, fail};
use crate::table::interpose;
use crate::user;
use csel_core::errno::{Errno, Result};
use csel_core::instance::Prefix;
use csel_core::net::addr::{Endpoint, Ip};
use csel_core::net::iface::{self, Iface};
use libc::{c_char, c_int, c_uint, c_void};

/// `struct ifconf`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Conf {
    len: c_int,
    room: *mut c_void,
}

/// `struct ifreq` with an address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Req {
    name: [u8; 16],
    addr: [u8; 24],
}

/// ioctl(2) SIOCGIFCONF: the IPv4 addresses; with a null pointer, how much room they take.
pub(crate) fn gifconf(_fd: c_int, arg: *mut c_void) -> Result<()> {
    let mut conf = user::get(arg.cast::<Conf>())?;
    let (reqs, n) = with_cx(|cx| {
        let mut reqs = [Req { name: [0; 16], addr: [0; 24] }; 16];
        let mut n = 0;
        for i in iface::all(cx) {
            for p in i.addrs(cx).iter().filter(|p| p.ip.is_v4()) {
                if n < reqs.len() {
                    reqs[n].name[..i.name.len()].copy_from_slice(i.name.as_bytes());
                    let mut sa = [0; 28];
                    Endpoint::new(p.ip, 0).emit(libc::AF_INET as u16, &mut sa);
                    reqs[n].addr[..16].copy_from_slice(&sa[..16]);
                    n += 1;
                }
            }
        }
        (reqs, n)
    })?;
    let size = size_of::<Req>();
    let fit = if conf.room.is_null() { n } else { n.min(conf.len.max(0) as usize / size) };
    if !conf.room.is_null() {
        for (k, r) in reqs[..fit].iter().enumerate() {
            user::put(conf.room.cast::<Req>().wrapping_add(k), r)?;
        }
    }
    conf.len = (fit * size) as c_int;
    user::put(arg.cast(), &conf)
}

/// One entry of getifaddrs(3), with all it points to, in one block.
#[repr(C)]
struct Entry {
    head: libc::ifaddrs,
    name: [u8; 16],
    addr: libc::sockaddr_storage,
    mask: libc::sockaddr_storage,
    other: libc::sockaddr_storage,
    /// `struct rtnl_link_stats`: zeros.
    stats: [u32; 24],
}

fn storage(ip: Ip, scope: u32) -> libc::sockaddr_storage {
    let mut bytes = [0; 28];
    let family = if ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 };
    let n = Endpoint::new(ip, 0).with_scope(scope).emit(family as u16, &mut bytes);
    // SAFETY: all-zero is a valid sockaddr_storage, and larger than 28 bytes.
    unsafe {
        let mut s: libc::sockaddr_storage = core::mem::zeroed();
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut s).cast(), n);
        s
    }
}

/// The mask of a prefix length as an address.
fn mask(p: &Prefix) -> Ip {
    let ones = |bits: u8, of: u32| if bits == 0 { 0u128 } else { u128::MAX << (of - u32::from(bits)) };
    if p.ip.is_v4() { Ip::v4(((ones(p.len, 32) as u32).to_be_bytes()) as [u8; 4]) } else { Ip(ones(p.len, 128).to_be_bytes()) }
}

fn packet(i: &Iface, mac: [u8; 6]) -> libc::sockaddr_storage {
    // SAFETY: all-zero is valid for both, and sockaddr_ll fits.
    unsafe {
        let mut s: libc::sockaddr_storage = core::mem::zeroed();
        let ll = (&raw mut s).cast::<libc::sockaddr_ll>();
        (*ll).sll_family = libc::AF_PACKET as u16;
        (*ll).sll_ifindex = i.index as c_int;
        (*ll).sll_hatype = i.hardware;
        (*ll).sll_halen = 6;
        (&mut (*ll).sll_addr)[..6].copy_from_slice(&mac);
        s
    }
}

/// What getifaddrs(3) lists: the interfaces, then their IPv4 addresses, then their IPv6 ones, as rtnetlink dumps them.
fn list() -> Result<Vec<(Iface, Option<Prefix>)>> {
    init::instance()?;
    with_cx(|cx| {
        let mut all: Vec<(Iface, Option<Prefix>)> = iface::all(cx).map(|i| (i, None)).collect();
        for v4 in [true, false] {
            for i in iface::all(cx) {
                all.extend(i.addrs(cx).iter().filter(|p| p.ip.is_v4() == v4).map(|p| (i, Some(*p))));
            }
        }
        all
    })
}

fn interfaces(out: *mut *mut libc::ifaddrs) -> Result<()> {
    let all = list()?;
    // freeifaddrs(3) is libc's and frees one block.
    // SAFETY: calloc of whole entries; zeros are a valid Entry.
    let block = unsafe { libc::calloc(all.len().max(1), size_of::<Entry>()) }.cast::<Entry>();
    if block.is_null() {
        return Err(Errno::ENOMEM);
    }
    for (n, (i, p)) in all.iter().enumerate() {
        // SAFETY: entry n of the block, zeroed; its pointers point into itself and to its neighbour.
        unsafe {
            let e = &mut *block.add(n);
            e.name[..i.name.len()].copy_from_slice(i.name.as_bytes());
            e.head.ifa_name = e.name.as_mut_ptr().cast();
            e.head.ifa_flags = i.flags;
            e.head.ifa_next = if n + 1 < all.len() { &raw mut (*block.add(n + 1)).head } else { core::ptr::null_mut() };
            e.head.ifa_addr = (&raw mut e.addr).cast();
            match p {
                None => {
                    e.addr = packet(i, i.mac);
                    e.other = packet(i, if i.index == iface::LO { [0; 6] } else { [0xff; 6] });
                    e.head.ifa_ifu = (&raw mut e.other).cast();
                    e.head.ifa_data = (&raw mut e.stats).cast();
                }
                Some(p) => {
                    e.addr = storage(p.ip, if p.ip.is_link_local6() { i.index } else { 0 });
                    e.mask = storage(mask(p), 0);
                    e.head.ifa_netmask = (&raw mut e.mask).cast();
                    let other = if i.index == iface::LO && p.ip.is_v4() { Some(p.ip) } else { iface::broadcast_of(p) };
                    if let Some(b) = other.filter(|_| p.ip.is_v4()) {
                        e.other = storage(b, 0);
                        e.head.ifa_ifu = (&raw mut e.other).cast();
                    }
                }
            }
        }
    }
    user::put(out, &if all.is_empty() { core::ptr::null_mut() } else { block.cast() })
}

/// An interface's name as C text.
fn text(i: &Iface) -> [u8; 16] {
    let mut t = [0; 16];
    t[..i.name.len()].copy_from_slice(i.name.as_bytes());
    t
}

fn find(by: impl Fn(&Iface) -> bool) -> Result<Iface> {
    init::instance()?;
    with_cx(|cx| iface::all(cx).find(|i| by(i)).ok_or(Errno::ENODEV)).flatten()
}

interpose! {
    family ifaddr;

    /// getifaddrs(3).
    plain fn getifaddrs(out: *mut *mut libc::ifaddrs) -> c_int = Full "" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::getifaddrs(out) }
        } else {
            interfaces(out).into_c()
        }
    }
    /// if_nameindex(3).
    plain fn if_nameindex() -> *mut libc::if_nameindex = Full "" {
        if init::inert() {
            // SAFETY: no arguments.
            unsafe { real::if_nameindex() }
        } else {
            match list() {
                Err(e) => {
                    fail(e);
                    core::ptr::null_mut()
                }
                Ok(all) => {
                    let all: Vec<_> = all.iter().filter(|(_, p)| p.is_none()).collect();
                    // SAFETY: if_freenameindex(3) frees each name and the array, all from malloc.
                    unsafe {
                        let array = libc::calloc(all.len() + 1, size_of::<libc::if_nameindex>()).cast::<libc::if_nameindex>();
                        if !array.is_null() {
                            for (n, (i, _)) in all.iter().enumerate() {
                                (*array.add(n)).if_index = i.index;
                                (*array.add(n)).if_name = libc::strdup(text(i).as_ptr().cast());
                            }
                        }
                        array
                    }
                }
            }
        }
    }
    /// if_nametoindex(3).
    plain fn if_nametoindex(name: *const c_char) -> c_uint = Full "" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::if_nametoindex(name) }
        } else {
            // SAFETY: as the application passed it: a string.
            let wanted = unsafe { core::ffi::CStr::from_ptr(name) }.to_bytes();
            match find(|i| i.name.as_bytes() == wanted) {
                Ok(i) => i.index,
                Err(e) => {
                    fail(e);
                    0
                }
            }
        }
    }
    /// if_indextoname(3).
    plain fn if_indextoname(index: c_uint, name: *mut c_char) -> *mut c_char = Full "" {
        if init::inert() {
            // SAFETY: as the application passed it.
            unsafe { real::if_indextoname(index, name) }
        } else {
            // if_indextoname(3) says ENXIO.
            match find(|i| i.index == index).map_err(|e| if e == Errno::ENODEV { Errno::ENXIO } else { e }).and_then(|i| user::put(name.cast(), &text(&i))) {
                Ok(()) => name,
                Err(e) => {
                    fail(e);
                    core::ptr::null_mut()
                }
            }
        }
    }
}
