//! show: what a program sees of its network, one `key=value` a line, by libc's functions and the C API (c-headers/csel.h).
//!
//!   show            name, version, hostname, addresses, mtu, mac, sndbuf, rcvbuf; the name is `-` without csel
//!   show traffic    a TCP connection to itself over its first address, some bytes and a datagram; then `done`
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

/// A function of the C API, if the library is there.
///
/// # Safety
/// `F` is the function's type in csel.h.
unsafe fn api<F: Copy>(name: &CStr) -> Option<F> {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: a name; the type is the caller's word.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        (!found.is_null()).then(|| std::mem::transmute_copy::<*mut c_void, F>(&found))
    }
}

/// SIOCGIF* of eth0: sixteen bytes of the answer.
fn interface(request: libc::Ioctl) -> Option<[u8; 16]> {
    #[repr(C)]
    struct Req {
        name: [u8; 16],
        data: [u8; 24],
    }
    let mut req = Req { name: *b"eth0\0\0\0\0\0\0\0\0\0\0\0\0", data: [0; 24] };
    // SAFETY: a struct ifreq of the kernel's size; the socket is closed again.
    unsafe {
        let s = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let r = libc::ioctl(s, request, &raw mut req);
        libc::close(s);
        (r == 0).then(|| req.data[..16].try_into().expect("sixteen"))
    }
}

/// SO_SNDBUF and SO_RCVBUF of a fresh socket.
fn buffer(option: c_int) -> c_int {
    let (mut value, mut len) = (0, 4);
    // SAFETY: an int and its length; the socket is closed again.
    unsafe {
        let s = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let r = libc::getsockopt(s, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len);
        libc::close(s);
        if r == 0 { value } else { -1 }
    }
}

fn addresses() -> Vec<IpAddr> {
    let mut out = Vec::new();
    // SAFETY: libc's list, walked while it is there and freed once.
    unsafe {
        let mut list = std::ptr::null_mut();
        assert_eq!(libc::getifaddrs(&raw mut list), 0);
        let mut at: *mut libc::ifaddrs = list;
        while let Some(a) = at.as_ref() {
            if let Some(sa) = a.ifa_addr.as_ref().filter(|_| CStr::from_ptr(a.ifa_name) == c"eth0") {
                match c_int::from(sa.sa_family) {
                    libc::AF_INET => out.push(IpAddr::from((*a.ifa_addr.cast::<libc::sockaddr_in>()).sin_addr.s_addr.to_ne_bytes())),
                    libc::AF_INET6 => out.push(IpAddr::from((*a.ifa_addr.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr)),
                    _ => {}
                }
            }
            at = a.ifa_next;
        }
        libc::freeifaddrs(list);
    }
    out
}

fn main() {
    // SAFETY: the types of csel.h.
    let (name, version, count) = unsafe {
        (
            api::<unsafe extern "C" fn(*mut c_char, usize) -> c_int>(c"csel_name"),
            api::<unsafe extern "C" fn() -> *const c_char>(c"csel_version"),
            api::<unsafe extern "C" fn(*mut libc::sockaddr_storage, *mut u8, usize) -> c_int>(c"csel_addresses"),
        )
    };
    let own = addresses();
    if std::env::args().nth(1).as_deref() == Some("traffic") {
        let at = *own.iter().find(|a| a.is_ipv4()).expect("an IPv4 address");
        let listener = TcpListener::bind((at, 0)).expect("a listener");
        let mut there = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let (mut here, _) = listener.accept().expect("the connection");
        there.write_all(b"over the segment").expect("a write");
        let mut bytes = [0; 16];
        here.read_exact(&mut bytes).expect("a read");
        let (a, b) = (UdpSocket::bind((at, 0)).expect("a socket"), UdpSocket::bind((at, 0)).expect("a socket"));
        a.send_to(b"datagram", b.local_addr().expect("its address")).expect("a datagram");
        assert_eq!(b.recv(&mut bytes).expect("a datagram"), 8);
        println!("done");
        return;
    }
    let mut text = [0 as c_char; 64];
    // SAFETY: buffers as long as said; strings of the library end with zero.
    unsafe {
        let show = |key: &str, value: &dyn std::fmt::Display| println!("{key}={value}");
        match name {
            Some(name) if name(text.as_mut_ptr(), text.len()) > 0 => {
                show("name", &CStr::from_ptr(text.as_ptr()).to_string_lossy());
                assert_eq!(name(text.as_mut_ptr(), 1), -1);
                assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ERANGE));
                assert_eq!(name(std::ptr::null_mut(), 64), -1);
                assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
            }
            _ => show("name", &"-"),
        }
        if let (Some(version), Some(count)) = (version, count) {
            show("version", &CStr::from_ptr(version()).to_string_lossy());
            let (mut room, mut prefixes) = ([std::mem::zeroed::<libc::sockaddr_storage>(); 16], [0; 16]);
            show("count", &count(room.as_mut_ptr(), prefixes.as_mut_ptr(), 16));
            show("first", &format_args!("{}/{}", room[0].ss_family, prefixes[0]));
        }
        let mut host = [0 as c_char; 65];
        assert_eq!(libc::gethostname(host.as_mut_ptr(), 65), 0);
        show("hostname", &CStr::from_ptr(host.as_ptr()).to_string_lossy());
        // Without the link-local one, which goes by the port's number.
        let local = |a: &&IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        show("addresses", &own.iter().filter(|a| !local(a)).map(ToString::to_string).collect::<Vec<_>>().join(" "));
        if let Some(d) = interface(libc::SIOCGIFMTU) {
            show("mtu", &i32::from_ne_bytes([d[0], d[1], d[2], d[3]]));
        }
        if let Some(d) = interface(libc::SIOCGIFHWADDR) {
            show("mac", &d[2..8].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"));
        }
        show("sndbuf", &buffer(libc::SO_SNDBUF));
        show("rcvbuf", &buffer(libc::SO_RCVBUF));
    }
}
