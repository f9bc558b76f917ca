//! ioctl(2) on sockets: queue lengths, flags, and the interface list.

use std::mem;

use crate::cases;
use crate::net::{fill, listener, pair, take, take_all, udp_pair, until};
use crate::sys::{Fd, Net, R, sys};
use libc::{FIONBIO, FIONREAD, TIOCOUTQ};

const SIOCOUTQNSD: libc::Ioctl = 0x894b;
const SIOCATMARK: libc::Ioctl = 0x8905;
const SIOCINQ: libc::Ioctl = 0x541b;

cases! {
    one: [
        bad_fd, lo_has_an_index, lo_flags, lo_address, lo_netmask, lo_mtu, lo_hwaddr, lo_name_by_index, unknown_interface, ifconf_lists_lo,
        ifconf_size_only, if_nametoindex_agrees, if_nameindex_lists_lo, getifaddrs_has_lo, txqlen_and_metric,
    ],
    net: [
        fionread_tcp, fionread_after_end, fionread_listener, siocinq_is_fionread, outq_empty, outq_holds_unread, outqnsd, fionbio, fionbio_off,
        fioasync, fioclex, atmark, unknown, null_argument, stamp, tcgets_is_enotty, pgrp,
    ],
}

fn bad_fd() {
    let mut v = 0;
    sys!(libc::ioctl(-1, FIONREAD, &raw mut v)).fails(libc::EBADF);
    sys!(libc::ioctl(777, FIONBIO, &raw mut v)).fails(libc::EBADF);
}

fn fionread_tcp(net: Net) {
    let (c, s) = pair(net);
    assert_eq!(s.ioctl_int(FIONREAD), 0);
    c.write(b"12345").is(5);
    until(|| s.ioctl_int(FIONREAD) == 5);
    c.write(b"678").is(3);
    until(|| s.ioctl_int(FIONREAD) == 8);
    take(&s, 2);
    assert_eq!(s.ioctl_int(FIONREAD), 6);
    take_all(&s, 6);
    assert_eq!(s.ioctl_int(FIONREAD), 0);
}

fn fionread_after_end(net: Net) {
    let (c, s) = pair(net);
    c.write(b"123").is(3);
    c.close().is(0);
    until(|| s.ready() & libc::POLLRDHUP != 0);
    // Without the FIN.
    assert_eq!(s.ioctl_int(FIONREAD), 3);
    take(&s, 9);
    assert_eq!(s.ioctl_int(FIONREAD), 0);
}

fn fionread_listener(net: Net) {
    let (l, _) = listener(net);
    let mut v = 0;
    sys!(libc::ioctl(l.raw(), FIONREAD, &raw mut v)).fails(libc::EINVAL);
    sys!(libc::ioctl(l.raw(), TIOCOUTQ, &raw mut v)).fails(libc::EINVAL);
}

fn siocinq_is_fionread(net: Net) {
    assert_eq!(SIOCINQ, FIONREAD);
    let (a, b) = udp_pair(net);
    a.write(b"1234").is(4);
    until(|| b.ioctl_int(SIOCINQ) == 4);
}

fn outq_empty(net: Net) {
    let (c, s) = pair(net);
    assert_eq!(c.ioctl_int(TIOCOUTQ), 0);
    c.write(b"12345").is(5);
    take_all(&s, 5);
    until(|| c.ioctl_int(TIOCOUTQ) == 0);
    assert_eq!(net.udp().ioctl_int(TIOCOUTQ), 0);
}

fn outq_holds_unread(net: Net) {
    let (c, s) = pair(net);
    let total = fill(&c);
    let out = c.ioctl_int(TIOCOUTQ) as usize;
    let there = s.ioctl_int(FIONREAD) as usize;
    assert!(out > 0 && there > 0, "{out} {there} of {total}");
    assert!(out + there <= total + 65_536 && out + there >= total, "{out} + {there} of {total}");
    take_all(&s, total);
    until(|| c.ioctl_int(TIOCOUTQ) == 0);
}

fn outqnsd(net: Net) {
    let (c, s) = pair(net);
    assert_eq!(c.ioctl_int(SIOCOUTQNSD), 0);
    let total = fill(&c);
    let unsent = c.ioctl_int(SIOCOUTQNSD);
    assert!(unsent >= 0 && unsent <= c.ioctl_int(TIOCOUTQ));
    take_all(&s, total);
    until(|| c.ioctl_int(SIOCOUTQNSD) == 0);
}

fn fionbio(net: Net) {
    let (c, _s) = pair(net);
    let one = 1i32;
    sys!(libc::ioctl(c.raw(), FIONBIO, &one)).is(0);
    c.read(&mut [0; 1]).fails(libc::EAGAIN);
    sys!(libc::fcntl(c.raw(), libc::F_GETFL)).is((libc::O_RDWR | libc::O_NONBLOCK) as isize);
}

fn fionbio_off(net: Net) {
    let (c, _s) = pair(net);
    c.nonblock(true);
    let zero = 0i32;
    sys!(libc::ioctl(c.raw(), FIONBIO, &zero)).is(0);
    sys!(libc::fcntl(c.raw(), libc::F_GETFL)).is(libc::O_RDWR as isize);
}

fn fioasync(net: Net) {
    let (c, _s) = pair(net);
    let one = 1i32;
    sys!(libc::ioctl(c.raw(), libc::FIOASYNC, &one)).is(0);
    sys!(libc::fcntl(c.raw(), libc::F_GETFL)).is((libc::O_RDWR | libc::O_ASYNC) as isize);
    let zero = 0i32;
    sys!(libc::ioctl(c.raw(), libc::FIOASYNC, &zero)).is(0);
    sys!(libc::fcntl(c.raw(), libc::F_GETFL)).is(libc::O_RDWR as isize);
}

fn fioclex(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::ioctl(c.raw(), libc::FIOCLEX)).is(0);
    sys!(libc::fcntl(c.raw(), libc::F_GETFD)).is(1);
    sys!(libc::ioctl(c.raw(), libc::FIONCLEX)).is(0);
    sys!(libc::fcntl(c.raw(), libc::F_GETFD)).is(0);
}

unsafe extern "C" {
    fn sockatmark(fd: i32) -> i32;
}

fn atmark(net: Net) {
    let (c, s) = pair(net);
    assert_eq!(s.ioctl_int(SIOCATMARK), 0);
    c.write(b"x").is(1);
    until(|| s.ioctl_int(FIONREAD) == 1);
    assert_eq!(s.ioctl_int(SIOCATMARK), 0);
    sys!(sockatmark(s.raw())).is(0);
}

fn unknown(net: Net) {
    let (c, _s) = pair(net);
    let mut v = 0;
    sys!(libc::ioctl(c.raw(), 0x1234_5678, &raw mut v)).fails(libc::ENOTTY);
    sys!(libc::ioctl(net.udp().raw(), 0x1234_5678, &raw mut v)).fails(libc::ENOTTY);
}

fn null_argument(net: Net) {
    let (c, _s) = pair(net);
    sys!(libc::ioctl(c.raw(), FIONREAD, 0usize)).fails(libc::EFAULT);
    sys!(libc::ioctl(c.raw(), FIONBIO, 0usize)).fails(libc::EFAULT);
}

fn stamp(net: Net) {
    const SIOCGSTAMP: libc::Ioctl = 0x8906;
    let u = net.udp();
    let mut tv = libc::timeval { tv_sec: 0, tv_usec: 0 };
    // Nothing has come in yet.
    sys!(libc::ioctl(u.raw(), SIOCGSTAMP, &raw mut tv)).fails(libc::ENOENT);
}

fn tcgets_is_enotty(net: Net) {
    let (c, _s) = pair(net);
    let mut room = [0u8; 64];
    sys!(libc::ioctl(c.raw(), libc::TCGETS, room.as_mut_ptr())).fails(libc::ENOTTY);
    sys!(libc::ioctl(c.raw(), libc::TIOCGWINSZ, room.as_mut_ptr())).fails(libc::ENOTTY);
}

fn pgrp(net: Net) {
    const SIOCGPGRP: libc::Ioctl = 0x8904;
    const SIOCSPGRP: libc::Ioctl = 0x8902;
    let (c, _s) = pair(net);
    assert_eq!(c.ioctl_int(SIOCGPGRP), 0);
    let me = sys!(libc::getpid()).ok() as i32;
    sys!(libc::ioctl(c.raw(), SIOCSPGRP, &me)).is(0);
    assert_eq!(c.ioctl_int(SIOCGPGRP), me);
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid ifreq.
    let mut req: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    req
}

fn ask(what: libc::Ioctl, req: &mut libc::ifreq) -> R {
    let fd = Net::V4.udp();
    sys!(libc::ioctl(fd.raw(), what, std::ptr::from_mut(req)))
}

/// The union of an ifreq, as bytes.
fn answer(what: libc::Ioctl, name: &str) -> [u8; 24] {
    let mut req = request(name);
    ask(what, &mut req).is(0);
    // SAFETY: the union is 24 bytes of plain data on 64-bit Linux.
    unsafe { (&raw const req.ifr_ifru).cast::<[u8; 24]>().read() }
}

fn int(bytes: [u8; 24]) -> i32 {
    i32::from_ne_bytes(bytes[..4].try_into().expect("4"))
}

fn lo_has_an_index() {
    assert!(int(answer(libc::SIOCGIFINDEX, "lo")) > 0);
}

fn lo_flags() {
    let flags = int(answer(libc::SIOCGIFFLAGS, "lo")) & 0xffff;
    for bit in [libc::IFF_UP, libc::IFF_LOOPBACK, libc::IFF_RUNNING] {
        assert_ne!(flags & bit, 0, "{flags:#x}");
    }
    assert_eq!(flags & libc::IFF_BROADCAST, 0, "{flags:#x}");
}

fn lo_address() {
    let a = answer(libc::SIOCGIFADDR, "lo");
    assert_eq!(u16::from_ne_bytes([a[0], a[1]]), libc::AF_INET as u16);
    assert_eq!(a[4..8], [127, 0, 0, 1]);
}

fn lo_netmask() {
    assert_eq!(answer(libc::SIOCGIFNETMASK, "lo")[4..8], [255, 0, 0, 0]);
}

fn lo_mtu() {
    assert_eq!(int(answer(libc::SIOCGIFMTU, "lo")), 65_536);
}

fn lo_hwaddr() {
    let a = answer(libc::SIOCGIFHWADDR, "lo");
    assert_eq!(u16::from_ne_bytes([a[0], a[1]]), libc::ARPHRD_LOOPBACK);
    assert_eq!(a[2..8], [0; 6]);
}

fn txqlen_and_metric() {
    assert!(int(answer(libc::SIOCGIFTXQLEN, "lo")) >= 0);
    assert_eq!(int(answer(libc::SIOCGIFMETRIC, "lo")), 0);
}

fn lo_name_by_index() {
    let index = int(answer(libc::SIOCGIFINDEX, "lo"));
    let mut req = request("");
    req.ifr_ifru.ifru_ifindex = index;
    ask(libc::SIOCGIFNAME, &mut req).is(0);
    assert_eq!((req.ifr_name[0], req.ifr_name[1], req.ifr_name[2]), (b'l' as _, b'o' as _, 0));
    req.ifr_ifru.ifru_ifindex = 54_321;
    ask(libc::SIOCGIFNAME, &mut req).fails(libc::ENODEV);
}

fn unknown_interface() {
    for what in [libc::SIOCGIFINDEX, libc::SIOCGIFFLAGS, libc::SIOCGIFADDR, libc::SIOCGIFMTU] {
        ask(what, &mut request("nodevice0")).fails(libc::ENODEV);
    }
}

fn ifconf(fd: &Fd, room: &mut [u8]) -> usize {
    let mut conf = [room.len() as u64, room.as_mut_ptr() as u64];
    sys!(libc::ioctl(fd.raw(), libc::SIOCGIFCONF, conf.as_mut_ptr())).is(0);
    (conf[0] & 0xffff_ffff) as usize
}

fn ifconf_lists_lo() {
    let mut room = [0u8; 4096];
    let n = ifconf(&Net::V4.udp(), &mut room);
    assert!(n > 0 && n.is_multiple_of(40), "{n}");
    let lo = room[..n].chunks(40).find(|r| &r[..3] == b"lo\0").expect("lo");
    assert_eq!(lo[20..24], [127, 0, 0, 1]);
}

fn ifconf_size_only() {
    let mut room = [0u8; 4096];
    let fd = Net::V4.udp();
    let n = ifconf(&fd, &mut room);
    let mut conf = [0u64, 0];
    sys!(libc::ioctl(fd.raw(), libc::SIOCGIFCONF, conf.as_mut_ptr())).is(0);
    assert_eq!((conf[0] & 0xffff_ffff) as usize, n);
}

fn if_nametoindex_agrees() {
    assert_eq!(sys!(libc::if_nametoindex(c"lo".as_ptr())).ok() as i32, int(answer(libc::SIOCGIFINDEX, "lo")));
    assert_eq!(sys!(libc::if_nametoindex(c"nodevice0".as_ptr())).ok(), 0);
}

fn if_nameindex_lists_lo() {
    // SAFETY: the list is ours until it is freed; it ends with an index of 0.
    unsafe {
        let list = libc::if_nameindex();
        assert!(!list.is_null());
        let mut at = list;
        let mut found = false;
        while (*at).if_index != 0 {
            found |= std::ffi::CStr::from_ptr((*at).if_name) == c"lo";
            at = at.add(1);
        }
        libc::if_freenameindex(list);
        assert!(found);
    }
}

fn getifaddrs_has_lo() {
    let mut v4 = false;
    let mut v6 = false;
    // SAFETY: the list is ours until it is freed.
    unsafe {
        let mut list = std::ptr::null_mut();
        sys!(libc::getifaddrs(&raw mut list)).is(0);
        let mut at = list;
        while !at.is_null() {
            if std::ffi::CStr::from_ptr((*at).ifa_name) == c"lo" && !(*at).ifa_addr.is_null() {
                match i32::from((*(*at).ifa_addr).sa_family) {
                    libc::AF_INET => {
                        let a = (*at).ifa_addr.cast::<libc::sockaddr_in>().read();
                        v4 |= a.sin_addr.s_addr.to_ne_bytes() == [127, 0, 0, 1];
                    }
                    libc::AF_INET6 => {
                        let a = (*at).ifa_addr.cast::<libc::sockaddr_in6>().read();
                        v6 |= a.sin6_addr.s6_addr == std::net::Ipv6Addr::LOCALHOST.octets();
                    }
                    _ => {}
                }
            }
            at = (*at).ifa_next;
        }
        libc::freeifaddrs(list);
    }
    assert!(v4 && v6, "127.0.0.1 {v4}, ::1 {v6}");
}
