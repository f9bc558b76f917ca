//! Published ports: a client of the host's kernel reaches a program in an instance, by the keeper.
//!
//! The clients are sockets of this test program's (the kernel's loopback); the servers are Python under csel, by `csel run` and by LD_PRELOAD alone. Host
//! ports are found by binding port 0 and letting go; if somebody else takes one meanwhile the start says so, and is repeated with another.
use csel_tests::launch::{Running, World, wait_for};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// A server that answers each connection: echoes until the end of the stream, then says "end".
const ECHO: &str = r#"
import socket, threading
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('0.0.0.0', 80)); s.listen(64)
def one(c):
    while True:
        b = c.recv(65536)
        if not b: break
        c.sendall(b)
    c.sendall(b'end'); c.close()
while True:
    c, _ = s.accept(); threading.Thread(target=one, args=(c,), daemon=True).start()
"#;

fn free_port(udp: bool) -> u16 {
    let at = ("127.0.0.1", 0);
    let found = if udp { UdpSocket::bind(at).and_then(|s| s.local_addr()) } else { TcpListener::bind(at).and_then(|s| s.local_addr()) };
    found.expect("a port of the loopback").port()
}

/// How the program is started.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Run,
    Preload,
}

/// Python with published port `port`; its host port.
fn serve(w: &World, way: Way, udp: bool, options: &[(&str, &str)], code: &str) -> (Running, u16) {
    for _ in 0..10 {
        let host = free_port(udp);
        let publish = format!("127.0.0.1:{host}:80{}", if udp { "/udp" } else { "" });
        let code = format!("print('up', flush=True)\n{code}");
        let mut c = match way {
            Way::Run => w.csel_command(["run", "-p", &publish, "--", "python3", "-c", &code]),
            Way::Preload => w.preload_command(&[("CSEL_PUBLISH", &publish)], ["python3", "-c", &code]),
        };
        c.envs(options.iter().copied());
        let mut server = w.start(c);
        assert!(wait_for(|| server.so_far().contains("up") || server.has_ended()), "neither up nor ended");
        if !server.has_ended() {
            server.until("up");
            return (server, host);
        }
    }
    panic!("no host port to be had");
}

/// Connects and asks until something inside answers.
fn dial(port: u16) -> TcpStream {
    let mut got = None;
    let there = wait_for(|| {
        let Ok(mut c) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        c.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut b = [0; 1];
        let up = c.write_all(b"?").is_ok() && c.read_exact(&mut b).is_ok();
        if up {
            got = Some(c);
        }
        up
    });
    assert!(there, "nobody answered on port {port}");
    got.expect("just put there")
}

fn echoes(way: Way) {
    let w = World::new();
    let (server, port) = serve(&w, way, false, &[], ECHO);
    let c = dial(port);
    let data: Vec<u8> = (0..4 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut to, sent) = (c.try_clone().expect("a clone"), data.clone());
    let writer = std::thread::spawn(move || to.write_all(&sent).and_then(|()| to.shutdown(Shutdown::Write)));
    let mut got = Vec::new();
    (&c).read_to_end(&mut got).expect("all of it");
    writer.join().expect("the writer").expect("is heard");
    assert_eq!(got.len(), data.len() + 3);
    assert!(got[..data.len()] == data[..] && &got[data.len()..] == b"end");
    server.kill();
}

#[test]
fn bytes_and_half_close_by_run() {
    echoes(Way::Run);
}

#[test]
fn bytes_and_half_close_by_preload() {
    echoes(Way::Preload);
}

#[test]
fn many_at_once() {
    let w = World::new();
    let (server, port) = serve(&w, Way::Run, false, &[], ECHO);
    drop(dial(port));
    let mut all: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("a connection")).collect();
    for (i, c) in all.iter_mut().enumerate() {
        c.write_all(format!("number {i:03}").as_bytes()).expect("sent");
    }
    for (i, c) in all.iter_mut().enumerate() {
        let mut b = [0; 10];
        c.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        c.read_exact(&mut b).expect("echoed");
        assert_eq!(b, *format!("number {i:03}").as_bytes());
    }
    server.kill();
}

#[test]
fn a_taken_port_ends_it_before_the_program_starts() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let publish = format!("127.0.0.1:{}:80", taken.local_addr().expect("its address").port());
    let w = World::new();
    let words = ["-p", &publish, "CSEL_PUBLISH", "EADDRINUSE", "choose another host port"];
    let said = w.run(["-p", &publish, "--", "sh", "-c", "echo started"]);
    said.fails(125, &words);
    assert_eq!(said.out, "");
    let said = w.preload(&[("CSEL_PUBLISH", &publish)], ["sh", "-c", "echo started"]);
    said.fails(125, &words);
    assert_eq!(said.out, "");
    w.run(["-p", "8000-8010:8000-8010", "--", "true"]).fails(125, &["--publish", "8000-8010", "port ranges are not known"]);
    w.run(["-p", "80", "--", "true"]).fails(125, &["name both, as 8080:80"]);
}

#[test]
fn nobody_inside_is_a_reset_until_somebody_is() {
    let w = World::new();
    let code = format!("import sys\nsys.stdin.readline()\n{ECHO}");
    let host = free_port(false);
    let mut c = w.csel_command(["run", "-p", &format!("127.0.0.1:{host}:80"), "--", "python3", "-c", &code]);
    let mut server = w.start({
        c.stdin(std::process::Stdio::piped());
        c
    });
    // The keeper listens before the program runs; nothing listens inside.
    let mut ended = None;
    assert!(wait_for(|| {
        let Ok(mut c) = TcpStream::connect(("127.0.0.1", host)) else { return false };
        c.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        ended = Some(c.read(&mut [0; 1]));
        true
    }));
    assert!(matches!(&ended, Some(Err(e)) if e.kind() == ErrorKind::ConnectionReset), "{ended:?}");
    server.input().expect("its input").write_all(b"go\n").expect("told");
    drop(dial(host));
    server.kill();
}

#[test]
fn ipv6_and_a_program_that_listens_on_its_loopback_only() {
    let w = World::new();
    let probe = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
    let Ok(probe) = probe else {
        println!("this host has no IPv6 loopback: nothing to publish on");
        return;
    };
    let host = probe.local_addr().expect("its address").port();
    drop(probe);
    let code = ECHO.replace("0.0.0.0", "127.0.0.1");
    let server = w.start(w.csel_command(["run", "-p", &format!("[::1]:{host}:80"), "--", "python3", "-c", &code]));
    assert!(wait_for(|| {
        let Ok(mut c) = TcpStream::connect((Ipv6Addr::LOCALHOST, host)) else { return false };
        c.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut b = [0; 2];
        c.write_all(b"hi").is_ok() && c.read_exact(&mut b).is_ok() && &b == b"hi"
    }));
    server.kill();
}

#[test]
fn the_true_source_goes_ahead_and_into_the_trace() {
    let w = World::new();
    let trace = w.dir.join("trace");
    let options = [("CSEL_PROXY_PROTOCOL", "on"), ("CSEL_TRACE", trace.to_str().expect("a path"))];
    let (server, port) = serve(&w, Way::Run, false, &options, ECHO);
    let mut head = [0; 28];
    let mut from = 0;
    assert!(wait_for(|| {
        let Ok(mut c) = TcpStream::connect(("127.0.0.1", port)) else { return false };
        c.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        from = c.local_addr().expect("its address").port();
        c.read_exact(&mut head).is_ok()
    }));
    assert_eq!(&head[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!(&head[16..24], &[127, 0, 0, 1, 127, 0, 0, 1]);
    assert_eq!(head[24..], [from.to_be_bytes(), port.to_be_bytes()].concat()[..]);
    let line = format!("-p 127.0.0.1:{port}:80: from 127.0.0.1 port {from}");
    assert!(wait_for(|| std::fs::read_to_string(&trace).is_ok_and(|t| t.contains(&line))), "no line for the source in the trace");
    server.kill();
}

#[test]
fn datagrams_of_several_sources() {
    let w = World::new();
    let code = "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('0.0.0.0', 80))\nwhile True:\n  b, a = s.recvfrom(65536)\n  s.sendto(b'%d ' % len(b) + b, a)";
    let (server, port) = serve(&w, Way::Preload, true, &[], code);
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let clients: Vec<UdpSocket> = (0..5).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket")).collect();
    for (i, c) in clients.iter().enumerate() {
        c.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        for size in [1usize, 100, 9000] {
            let data = vec![b'a' + i as u8; size];
            let mut b = [0; 10000];
            // Datagrams may be lost (at first nobody listens inside): asked again.
            assert!(
                wait_for(|| {
                    c.send_to(&data, to).expect("sent");
                    matches!(c.recv_from(&mut b), Ok((n, from)) if from == to && b[..n] == [format!("{size} ").as_bytes(), &data].concat())
                }),
                "source {i}, {size} bytes"
            );
        }
    }
    server.kill();
}

#[test]
fn a_killed_keeper_is_replaced_and_listens_again() {
    let w = World::new();
    // A child that opens a socket now and then, as programs do.
    let code = format!(
        "import os, time, socket\nme = os.getpid()\nif os.fork() == 0:\n  while os.getppid() == me:\n    time.sleep(0.2); socket.socket().close()\n  os._exit(0)\n{ECHO}"
    );
    let (server, port) = serve(&w, Way::Run, false, &[], &code);
    let mut c = dial(port);
    let keeper = keeper_of(server.pid()).expect("a keeper");
    // SAFETY: a process of this test's own.
    unsafe { libc::kill(keeper, libc::SIGKILL) };
    // Connections that it relayed are lost, and their ends are told.
    assert!(matches!(c.read(&mut [0; 1]), Ok(0)) || c.write_all(b"x").is_err() || c.read(&mut [0; 1]).is_err());
    drop(dial(port));
    assert_ne!(keeper_of(server.pid()), Some(keeper));
    server.kill();
}

/// The keeper of the instance that process `pid` is of: they have one arena.
fn keeper_of(pid: u32) -> Option<i32> {
    use std::os::unix::fs::MetadataExt as _;
    let arena = |pid: &str, fd: &str| std::fs::metadata(format!("/proc/{pid}/fd/{fd}")).ok().map(|m| m.ino());
    let ours: Vec<u64> = ["1021", "253", "61"].iter().filter_map(|fd| arena(&pid.to_string(), fd)).collect();
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|e| {
        let name = e.file_name().into_string().ok()?;
        let pid: i32 = name.parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (command.starts_with(b"csel-keeper\0") && ours.contains(&arena(&name, "3")?)).then_some(pid)
    })
}
