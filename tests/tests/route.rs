//! `--route PREFIX=host`: that traffic is the kernel's, everything else stays inside, and without a route nothing leaves.
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use csel_tests::launch::{Said, World};

const REACH: &str = env!("CARGO_BIN_EXE_reach");

/// Servers of the host's, on its loopback, for as long as the test runs; and a port where nobody is.
fn host() -> [String; 3] {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let ports = [tcp.local_addr().expect("bound").port(), udp.local_addr().expect("bound").port()];
    thread::spawn(move || {
        for s in tcp.incoming() {
            let Ok(mut s) = s else { return };
            let _ = s.set_read_timeout(Some(Duration::from_secs(20)));
            let mut b = [0; 5];
            if s.read_exact(&mut b).is_ok() {
                let _ = s.write_all(&b).and_then(|()| s.write_all(b"!"));
            }
        }
    });
    thread::spawn(move || {
        let mut b = [0; 64];
        while let Ok((n, from)) = udp.recv_from(&mut b) {
            let _ = udp.send_to(&b[..n], from);
        }
    });
    [ports[0].to_string(), ports[1].to_string(), port_that_refuses().to_string()]
}

/// Bound and not listening: it refuses, and nobody else gets it.
fn port_that_refuses() -> u16 {
    // SAFETY: plain libc calls; the descriptor stays open for the life of the test process.
    unsafe {
        let s = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let mut at: libc::sockaddr_in = std::mem::zeroed();
        at.sin_family = libc::AF_INET as u16;
        at.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let mut len = size_of_val(&at) as u32;
        assert_eq!(libc::bind(s, (&raw const at).cast(), len), 0);
        assert_eq!(libc::getsockname(s, (&raw mut at).cast(), &raw mut len), 0);
        u16::from_be(at.sin_port)
    }
}

#[track_caller]
fn answer<'a>(said: &'a Said, what: &str) -> &'a str {
    said.ok().lines().find_map(|l| l.strip_prefix(what)?.strip_prefix(": ")).unwrap_or_else(|| panic!("no {what} in {said:?}"))
}

#[track_caller]
fn reaches_the_host(said: &Said) {
    assert_eq!(answer(said, "tcp"), "hello!");
    assert_eq!(answer(said, "epoll"), "1 event, 0x4 of 42, hello!");
    assert_eq!(answer(said, "refused"), "ConnectionRefused");
    assert_eq!(answer(said, "elsewhere"), "NetworkUnreachable");
    assert_eq!(answer(said, "udp"), "gram from 127.0.0.1");
    assert_eq!(answer(said, "udp in"), "4 from 10.111.9.9");
    assert_eq!(answer(said, "udp out"), "gram from 127.0.0.1");
    assert_eq!(answer(said, "udp elsewhere"), "NetworkUnreachable");
    assert_eq!(answer(said, "dup"), "moved too");
    assert_eq!(answer(said, "inside"), "10.111.9.9");
}

#[test]
fn a_route_leads_to_the_host_by_run() {
    let (w, ports) = (World::new(), host());
    let mut args = vec!["--ip", "10.111.9.9", "--route", "127.0.0.0/8=host", "--", REACH, "20"];
    args.extend(ports.iter().map(String::as_str));
    reaches_the_host(&w.run(args));
}

#[test]
fn a_route_leads_to_the_host_by_preload() {
    let (w, ports) = (World::new(), host());
    let mut args = vec![REACH, "20"];
    args.extend(ports.iter().map(String::as_str));
    reaches_the_host(&w.preload(&[("CSEL_IP", "10.111.9.9"), ("CSEL_ROUTE", "10.0.0.0/8=host,127.0.0.0/8=host")], args));
}

#[test]
fn without_a_route_nothing_leaves() {
    let (w, ports) = (World::new(), host());
    let mut args = vec![REACH, "1"];
    args.extend(ports.iter().map(String::as_str));
    let said = w.preload(&[("CSEL_IP", "10.111.9.9")], args);
    assert_eq!(answer(&said, "tcp"), "ConnectionRefused");
    assert_eq!(answer(&said, "epoll"), "ConnectionRefused");
    assert_eq!(answer(&said, "elsewhere"), "NetworkUnreachable");
    assert_ne!(answer(&said, "udp"), "gram from 127.0.0.1");
    assert_eq!(answer(&said, "inside"), "10.111.9.9");
}

#[test]
fn wrong_routes_are_explained() {
    let w = World::new();
    w.run(["--route", "127.0.0.0/8", "--", "true"]).fails(125, &["--route", "127.0.0.0/8", "PREFIX=host"]);
    w.run(["--route", "127.0.0.0/33=host", "--", "true"]).fails(125, &["--route", "127.0.0.0/33=host", "from 0 to 32"]);
    w.run(["--route", "::/0=eth0", "--", "true"]).fails(125, &["--route", "::/0=eth0", "host"]);
}
