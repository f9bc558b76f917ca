//! reach: what a program reaches, for the tests of `--route PREFIX=host`; one line `what: answer` each.
//!
//!   reach SECONDS TCP UDP NOBODY    127.0.0.1:TCP (says back what it hears), 127.0.0.1:UDP likewise, 127.0.0.1:NOBODY refuses;
//!                                   a datagram is waited for so many seconds
//!
//! An answer is what came back, or the errno's name in words. `inside` is a connection to the instance's own address.
use std::fmt::Display;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::time::Duration;

fn say<T: Display>(what: &str, answer: std::io::Result<T>) {
    match answer {
        Ok(v) => println!("{what}: {v}"),
        Err(e) => println!("{what}: {:?}", e.kind()),
    }
}

fn talk(mut s: TcpStream) -> std::io::Result<String> {
    s.set_read_timeout(Some(Duration::from_secs(20)))?;
    s.write_all(b"hello")?;
    let mut b = [0; 6];
    s.read_exact(&mut b)?;
    Ok(String::from_utf8_lossy(&b).into_owned())
}

fn datagram(u: &UdpSocket, to: SocketAddr) -> std::io::Result<String> {
    u.send_to(b"gram", to)?;
    let mut b = [0; 64];
    let (n, from) = u.recv_from(&mut b)?;
    Ok(format!("{} from {}", String::from_utf8_lossy(&b[..n]), from.ip()))
}

/// A non-blocking socket that is in an epoll set before it connects: what the set says, then a round trip.
fn in_a_set(to: SocketAddr) -> std::io::Result<String> {
    // SAFETY: plain libc calls on descriptors made here; the address lives.
    unsafe {
        let s = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
        let stream = TcpStream::from_raw_fd(s);
        let ep = libc::epoll_create1(0);
        let mut e = libc::epoll_event { events: libc::EPOLLOUT as u32, u64: 42 };
        assert_eq!(libc::epoll_ctl(ep, libc::EPOLL_CTL_ADD, s, &raw mut e), 0);
        let IpAddr::V4(ip) = to.ip() else { unreachable!() };
        let at = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: to.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
            sin_zero: [0; 8],
        };
        let r = libc::connect(s, (&raw const at).cast(), size_of_val(&at) as u32);
        if r != 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EINPROGRESS) {
            return Err(std::io::Error::last_os_error());
        }
        let mut got = MaybeUninit::<libc::epoll_event>::zeroed();
        let n = loop {
            let n = libc::epoll_wait(ep, got.as_mut_ptr(), 1, 20_000);
            // A socket that was fresh in the set hung up at once (EPOLLHUP): asked again after connect it says how it is.
            let events = got.assume_init().events;
            if n != 1 || events & libc::EPOLLHUP as u32 == 0 || events & libc::EPOLLERR as u32 != 0 {
                break n;
            }
        };
        let got = got.assume_init();
        let (data, events) = (got.u64, got.events);
        libc::close(ep);
        stream.set_nonblocking(false)?;
        Ok(format!("{n} event, {events:#x} of {data}, {}", talk(stream)?))
    }
}

fn main() {
    let ports: Vec<u16> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let [seconds, tcp, udp, nobody] = ports[..] else { panic!("usage: reach SECONDS TCP UDP NOBODY") };
    let patience = Some(Duration::from_secs(seconds.into()));
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    say("tcp", TcpStream::connect(at(tcp)).and_then(talk));
    say("epoll", in_a_set(at(tcp)));
    say("refused", TcpStream::connect(at(nobody)).map(|_| "connected"));
    say("elsewhere", TcpStream::connect("203.0.113.1:9").map(|_| "connected"));
    let u = UdpSocket::bind("0.0.0.0:0").expect("a datagram socket");
    u.set_read_timeout(patience).expect("a timeout");
    say("udp", datagram(&u, at(udp)));
    // The same socket to the instance's own address, and out again.
    let own: IpAddr = [10, 111, 9, 9].into();
    if let Ok(mine) = UdpSocket::bind((own, 0)) {
        mine.set_read_timeout(patience).expect("a timeout");
        let sent = u.send_to(b"gram", mine.local_addr().expect("an address"));
        let mut b = [0; 64];
        say("udp in", sent.and_then(|_| mine.recv_from(&mut b)).map(|(n, from)| format!("{n} from {}", from.ip())));
    }
    say("udp out", datagram(&u, at(udp)));
    say("udp elsewhere", u.send_to(b"x", "203.0.113.1:9"));
    let dup = u.try_clone().expect("a dup");
    say("dup", if dup.as_raw_fd() == u.as_raw_fd() { Ok("same") } else { datagram(&dup, at(udp)).map(|_| "moved too") });
    let l = TcpListener::bind("0.0.0.0:8080").expect("a port of our own");
    let inside = TcpStream::connect((own, 8080));
    say("inside", inside.and_then(|c| Ok((c, l.accept()?.1)).map(|(_c, from)| from.ip())));
}
