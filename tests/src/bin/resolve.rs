//! resolve: asks libc for names and prints the answers, natively or under csel.
//!
//!   resolve gai NODE SERVICE FAMILY SOCKTYPE PROTOCOL FLAGS     getaddrinfo(3); `-` is a null pointer, `-h` as FAMILY: no hints at all
//!   resolve ni ADDRESS PORT FLAGS [hostlen servlen]            getnameinfo(3); an IPv6 scope as %N
//!   resolve name NAME FAMILY | addr ADDRESS                    gethostbyname2(3), gethostbyaddr(3)
//!   resolve name_r NAME FAMILY BUFLEN                          gethostbyname2_r(3)
//!   resolve host                                               gethostname(2), uname(2)
//!   resolve file PATH                                          each line of the file is a question of the kinds above
//!   resolve sit                                                opens a socket, says `sitting`, and waits for the end of its input
//!
//! Every answer is one line: the question's words and what came. Failure: the EAI_ or h_errno number is the answer.
use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::net::SocketAddr;
use std::ptr;

fn c(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

fn number(text: &str) -> i32 {
    text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| i32::from_str_radix(hex, 16)).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// An address as text; family and bytes as they are.
///
/// # Safety
/// `sa` is an AF_INET or AF_INET6 address.
unsafe fn text(sa: *const libc::sockaddr) -> String {
    // SAFETY: the caller vouches.
    unsafe {
        if i32::from((*sa).sa_family) == libc::AF_INET {
            let a = &*sa.cast::<libc::sockaddr_in>();
            let [w, x, y, z] = a.sin_addr.s_addr.to_ne_bytes();
            format!("{w}.{x}.{y}.{z}:{}", u16::from_be(a.sin_port))
        } else {
            let a = &*sa.cast::<libc::sockaddr_in6>();
            let ip = std::net::Ipv6Addr::from(a.sin6_addr.s6_addr);
            format!("[{ip}%{}]:{}", a.sin6_scope_id, u16::from_be(a.sin6_port))
        }
    }
}

fn gai(args: &[&str]) -> String {
    let [node, service, family, ..] = args else { panic!("gai {args:?}") };
    let (node, service) = (c(node), c(service));
    let pointer = |t: &CString| if t.as_bytes() == b"-" { ptr::null() } else { t.as_ptr() };
    // SAFETY: zeros are a valid addrinfo; libc's list is walked while it is there and freed once.
    unsafe {
        let mut hints: libc::addrinfo = std::mem::zeroed();
        if *family != "-h" {
            (hints.ai_family, hints.ai_socktype, hints.ai_protocol, hints.ai_flags) =
                (number(family), number(args[3]), number(args[4]), number(args[5]));
        }
        let mut list = ptr::null_mut();
        let hints = if *family == "-h" { ptr::null() } else { &raw const hints };
        let r = libc::getaddrinfo(pointer(&node), pointer(&service), hints, &raw mut list);
        if r != 0 {
            return format!("error {r}");
        }
        let mut out = Vec::new();
        let mut at = list;
        while let Some(a) = at.as_ref() {
            let canon =
                if a.ai_canonname.is_null() { String::new() } else { format!(" {}", CStr::from_ptr(a.ai_canonname).to_string_lossy()) };
            assert_eq!(a.ai_addrlen as usize, if a.ai_family == libc::AF_INET { 16 } else { 28 });
            out.push(format!("{}/{}/{:#x} {}{canon}", a.ai_socktype, a.ai_protocol, a.ai_flags, text(a.ai_addr)));
            at = a.ai_next;
        }
        libc::freeaddrinfo(list);
        out.join("; ")
    }
}

fn ni(args: &[&str]) -> String {
    let (ip, scope) = args[0].split_once('%').unwrap_or((args[0], "0"));
    let mut sa: libc::sockaddr_in6 = unsafe_zeroed();
    let at = SocketAddr::new(ip.parse().unwrap_or_else(|e| panic!("{ip}: {e}")), args[1].parse().expect("a port"));
    let mut v4 = unsafe_zeroed::<libc::sockaddr_in>();
    let (pointer, len) = match at {
        SocketAddr::V4(a) => {
            v4.sin_family = libc::AF_INET as u16;
            v4.sin_port = a.port().to_be();
            v4.sin_addr.s_addr = u32::from_ne_bytes(a.ip().octets());
            ((&raw const v4).cast(), 16)
        }
        SocketAddr::V6(a) => {
            sa.sin6_family = libc::AF_INET6 as u16;
            sa.sin6_port = a.port().to_be();
            sa.sin6_addr.s6_addr = a.ip().octets();
            sa.sin6_scope_id = scope.parse().expect("a scope");
            ((&raw const sa).cast(), 28)
        }
    };
    let (hostlen, servlen) = (args.get(3).map_or(1025, |t| number(t)) as u32, args.get(4).map_or(32, |t| number(t)) as u32);
    let (mut host, mut serv) = ([0 as libc::c_char; 1025], [0 as libc::c_char; 1025]);
    // SAFETY: the address is as long as said, the buffers at least so.
    unsafe {
        let to = |b: &mut [libc::c_char; 1025], len| if len == 0 { ptr::null_mut() } else { b.as_mut_ptr() };
        let r = libc::getnameinfo(pointer, len, to(&mut host, hostlen), hostlen, to(&mut serv, servlen), servlen, number(args[2]));
        if r != 0 {
            return format!("error {r}");
        }
        format!("{} {}", CStr::from_ptr(host.as_ptr()).to_string_lossy(), CStr::from_ptr(serv.as_ptr()).to_string_lossy())
    }
}

/// Zeros.
fn unsafe_zeroed<T: Copy>() -> T {
    // SAFETY: used for plain C structures only.
    unsafe { std::mem::zeroed() }
}

unsafe extern "C" {
    fn gethostbyname2(name: *const libc::c_char, family: i32) -> *mut libc::hostent;
    fn gethostbyaddr(addr: *const libc::c_void, len: u32, family: i32) -> *mut libc::hostent;
    fn gethostbyname2_r(
        name: *const libc::c_char,
        family: i32,
        out: *mut libc::hostent,
        buf: *mut libc::c_char,
        len: usize,
        result: *mut *mut libc::hostent,
        h: *mut i32,
    ) -> i32;
    fn __h_errno_location() -> *mut i32;
}

/// A hostent as text, or h_errno.
///
/// # Safety
/// Null, or what libc gave.
unsafe fn entry(h: *const libc::hostent) -> String {
    // SAFETY: the caller vouches; h_errno is this thread's.
    unsafe {
        let Some(h) = h.as_ref() else { return format!("h_errno {}", *__h_errno_location()) };
        let mut out = format!("{} {}/{}", CStr::from_ptr(h.h_name).to_string_lossy(), h.h_addrtype, h.h_length);
        let mut at = h.h_addr_list;
        while !(*at).is_null() {
            let bytes = std::slice::from_raw_parts((*at).cast::<u8>(), h.h_length as usize);
            let ip: std::net::IpAddr = match bytes.len() {
                4 => <[u8; 4]>::try_from(bytes).expect("four").into(),
                _ => <[u8; 16]>::try_from(bytes).expect("sixteen").into(),
            };
            out += &format!(" {ip}");
            at = at.add(1);
        }
        assert!((*h.h_aliases).is_null() || !CStr::from_ptr(*h.h_aliases).is_empty());
        out
    }
}

fn ask(words: &[&str]) -> String {
    // SAFETY: strings and buffers as the man pages want them.
    unsafe {
        match words {
            ["gai", rest @ ..] => gai(rest),
            ["ni", rest @ ..] => ni(rest),
            ["name", name, family] => entry(gethostbyname2(c(name).as_ptr(), number(family))),
            ["addr", ip] => match ip.parse().expect("an address") {
                std::net::IpAddr::V4(a) => entry(gethostbyaddr(a.octets().as_ptr().cast(), 4, libc::AF_INET)),
                std::net::IpAddr::V6(a) => entry(gethostbyaddr(a.octets().as_ptr().cast(), 16, libc::AF_INET6)),
            },
            ["name_r", name, family, len] => {
                let mut buffer = vec![0 as libc::c_char; number(len) as usize];
                let (mut out, mut result, mut h) = (unsafe_zeroed::<libc::hostent>(), ptr::null_mut(), 0);
                let (to, room) = (buffer.as_mut_ptr(), buffer.len());
                let r = gethostbyname2_r(c(name).as_ptr(), number(family), &raw mut out, to, room, &raw mut result, &raw mut h);
                if result.is_null() { format!("returned {r}, h_errno {h}") } else { entry(result) }
            }
            ["host"] => {
                let mut name = [0 as libc::c_char; 100];
                assert_eq!(libc::gethostname(name.as_mut_ptr(), name.len()), 0);
                let mut u: libc::utsname = std::mem::zeroed();
                assert_eq!(libc::uname(&raw mut u), 0);
                let text = |t: *const libc::c_char| CStr::from_ptr(t).to_string_lossy().into_owned();
                format!("{} {}", text(name.as_ptr()), text(u.nodename.as_ptr()))
            }
            _ => panic!("{words:?}: see the head of resolve.rs"),
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["file", path] => {
            for line in std::fs::read_to_string(path).expect("the file").lines().filter(|l| !l.is_empty()) {
                // `''` stands for the empty string.
                let words: Vec<&str> = line.split(' ').map(|w| if w == "''" { "" } else { w }).collect();
                println!("{line} -> {}", ask(&words));
            }
        }
        ["sit"] => {
            let _socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            println!("sitting");
            let _ = std::io::stdin().read(&mut [0]);
        }
        _ => println!("{}", ask(&words)),
    }
}
