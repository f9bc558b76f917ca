//! Published ports (`-p`): the host's clients reach a port of the instance.
//!
//! # Theory of operation
//! **Purpose.** What docker-proxy(1) does: listen on the host and relay to the instance.
//! **How it works.** A TCP connection accepted on the host is a relay to a virtual connection made inside, to the instance's own address; if nothing
//! listens there, to its loopback. The application so sees its own address as the source; the true one goes to the trace (`CSEL_TRACE`) and, with
//! `--proxy-protocol`, into a PROXY protocol header (version 2) before the first byte. UDP has a session for each source: a kernel socket connected to
//! it (bound to the published port like the one that listens, so the kernel sorts the datagrams) and a virtual one; it ends after [`IDLE`].
//! **Limits.** [`SESSIONS`] sources for each UDP port: more are not heard. UDP goes to the instance's own address only, not to its loopback.
//! **Locks.** None. **Failure.** A port that is taken ends the keeper with a message before the program starts ([`super::ensure`]); with no
//! descriptor left connections wait in the kernel's queue.
//! **See also.** docker-run(1), the PROXY protocol's text (haproxy), [`super::relay`].
use super::host::{Desk, Source};
use super::inside::{self, Dial};
use super::kernel::{self, Fd};
use super::relay::{Plan, Relays};
use core::fmt::Write as _;
use csel_core::clock::{MS, NEVER, Nanos, SEC};
use csel_core::config::Publish;
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::instance::Facts;
use csel_core::net::addr::{Endpoint, Ip};
use libc::c_int;
use std::collections::HashMap;

/// A UDP session without a datagram ends after this.
const IDLE: Nanos = 120 * SEC;
/// UDP sessions of one port.
const SESSIONS: usize = 4096;
/// With no descriptor left, the listeners rest for so long.
const REST: Nanos = 100 * MS;

struct Port {
    option: Publish,
    socket: Fd,
    /// UDP: the session's descriptor by its source.
    sessions: HashMap<(Ip, u16), c_int>,
}

/// The published ports.
pub(crate) struct Published {
    ports: Vec<Port>,
    relays: Relays,
    /// The listeners rest until then; 0: they do not.
    rest: Nanos,
    trace: Option<Fd>,
    proxy: bool,
}

impl Published {
    /// Listens on the host. An error is the message for the user.
    pub(crate) fn begin(desk: &Desk<'_>, facts: &Facts) -> core::result::Result<Self, String> {
        let config = &facts.config;
        let mut ports = Vec::new();
        for option in &config.publish {
            let socket = listen(option).and_then(|s| desk.register(s.0, libc::EPOLLIN as u32).map(|()| s)).map_err(|e| why(option, e))?;
            ports.push(Port { option: *option, socket, sessions: HashMap::new() });
        }
        let path = config.trace.as_str();
        let trace = std::ffi::CString::new(path)
            .ok()
            .filter(|_| path.starts_with('/'))
            .and_then(|p| gate::open(&p, libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC, 0o600).ok().map(Fd));
        Ok(Self { ports, relays: Relays::default(), rest: 0, trace, proxy: config.proxy_protocol })
    }

    /// A line in the trace: who came.
    fn note(&self, port: usize, from: &Endpoint) {
        if let Some(fd) = &self.trace {
            let line = format!("csel-keeper: -p {}: from {} port {}\n", self.ports[port].option, from.ip.wire(), from.port);
            let _ = gate::write(fd.0, line.as_bytes());
        }
    }

    fn accept(&mut self, desk: &Desk<'_>, n: usize) {
        for _ in 0..64 {
            let (new, from) = match kernel::accept(self.ports[n].socket.0) {
                Ok(new) => new,
                Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => return self.pause(desk),
                Err(Errno::EAGAIN) => return,
                // One that was given up before we came to it.
                Err(_) => continue,
            };
            self.note(n, &from);
            let _ = kernel::set(new.0, libc::IPPROTO_TCP, libc::TCP_NODELAY, &[1]);
            let option = self.ports[n].option;
            let greeting = if self.proxy { header(&from, &option) } else { Vec::new() };
            let cx = desk.cx();
            match Dial::begin(&cx, candidates(cx.facts(), option.port)) {
                Ok((dial, inside)) => {
                    let plan = Plan { inside, dial: Some(dial), outside: new, datagrams: false, pumped: false, greeting, idle: NEVER };
                    let _ = self.relays.begin(desk, plan);
                }
                Err(_) => kernel::reset_on_close(new.0),
            }
        }
    }

    /// No descriptor is left: the listeners are not looked at for a while.
    fn pause(&mut self, desk: &Desk<'_>) {
        self.rest = crate::enter::clock() + REST;
        for p in &self.ports {
            let _ = desk.change(p.socket.0, 0);
        }
    }

    /// Datagrams of sources that have no session yet.
    fn datagrams(&mut self, desk: &Desk<'_>, n: usize) {
        let mut room = vec![0u8; 65536];
        for _ in 0..256 {
            let Ok((len, from)) = kernel::recvfrom(self.ports[n].socket.0, &mut room) else { return };
            let key = (from.ip, from.port);
            // It came before the session's own socket was there.
            if let Some(&fd) = self.ports[n].sessions.get(&key) {
                self.relays.push(desk, fd, &room[..len]);
                continue;
            }
            if self.ports[n].sessions.len() >= SESSIONS {
                continue;
            }
            self.note(n, &from);
            if let Ok(fd) = self.session(desk, n, &from, &room[..len]) {
                self.ports[n].sessions.insert(key, fd);
            }
        }
    }

    fn session(&mut self, desk: &Desk<'_>, n: usize, from: &Endpoint, first: &[u8]) -> Result<c_int> {
        let port = &self.ports[n];
        let listener = port.socket.0;
        let mine = socket(&port.option)?;
        // The listener shares the port for this one moment: nobody else finds the door open.
        let share = |fd: c_int, on: c_int| {
            let _ = kernel::set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &[on]);
        };
        share(mine.0, 1);
        share(listener, 1);
        let bound = kernel::bind(mine.0, &endpoint(&port.option)).and_then(|()| kernel::connect(mine.0, from));
        share(listener, 0);
        bound?;
        let fd = mine.0;
        let cx = desk.cx();
        let to = candidates(cx.facts(), port.option.port)[0];
        let inside = inside::open(&cx, if to.ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 }, libc::SOCK_DGRAM)?;
        let connected = inside::connect(&cx, inside, &to);
        if let Err(e) = connected {
            inside::close(&cx, inside);
            return Err(e);
        }
        let plan = Plan { inside, dial: None, outside: mine, datagrams: true, pumped: false, greeting: Vec::new(), idle: IDLE };
        self.relays.begin(desk, plan)?;
        self.relays.push(desk, fd, first);
        Ok(fd)
    }
}

/// Where a published port leads, in the order of trying.
fn candidates(facts: &Facts, port: u16) -> Vec<Endpoint> {
    let own = facts.addrs().iter().map(|p| p.ip);
    own.chain([Ip::LOOPBACK4, Ip::LOOPBACK6]).map(|ip| Endpoint::new(ip, port)).collect()
}

fn endpoint(option: &Publish) -> Endpoint {
    let ip = match option.listens_on() {
        core::net::IpAddr::V4(a) => Ip::v4(a.octets()),
        core::net::IpAddr::V6(a) => Ip(a.octets()),
    };
    Endpoint::new(ip, option.host)
}

fn socket(option: &Publish) -> Result<Fd> {
    let ty = if option.udp { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
    let at = endpoint(option);
    let s = kernel::socket(if at.ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 }, ty)?;
    if !at.ip.is_v4() {
        let _ = kernel::set(s.0, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &[c_int::from(!at.ip.is_unspecified())]);
    }
    Ok(s)
}

fn listen(option: &Publish) -> Result<Fd> {
    let open = |option: &Publish| {
        let s = socket(option)?;
        if !option.udp {
            let _ = kernel::set(s.0, libc::SOL_SOCKET, libc::SO_REUSEADDR, &[1]);
        }
        kernel::bind(s.0, &endpoint(option))?;
        if !option.udp {
            kernel::listen(s.0)?;
        }
        Ok(s)
    };
    match open(option) {
        // A host without IPv6.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) if option.addr.is_none() => {
            open(&Publish { addr: Some(core::net::Ipv4Addr::UNSPECIFIED.into()), ..*option })
        }
        other => other,
    }
}

/// Why a port cannot be published: option, value, remedy.
fn why(option: &Publish, e: Errno) -> String {
    let remedy = match e {
        Errno::EADDRINUSE => "choose another host port, or end the program that has it (ss -lntup names it)",
        Errno::EACCES => "ports below 1024 are the superuser's (net.ipv4.ip_unprivileged_port_start): choose a higher host port",
        Errno::EADDRNOTAVAIL => "the host has no such address: name one that it has, or none for all of them",
        _ => "choose another address or port",
    };
    let mut text = String::new();
    let _ = write!(text, "-p {option} (CSEL_PUBLISH): cannot listen on the host's port {}: {e}; {remedy}", option.host);
    text
}

/// The PROXY protocol's header, version 2: who connected to what.
fn header(from: &Endpoint, option: &Publish) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let to = endpoint(option);
    let both = (from.ip.as_v4(), to.ip.as_v4().or_else(|| to.ip.is_unspecified().then_some([0; 4])));
    if let (Some(from4), Some(to4)) = both {
        out.extend_from_slice(&[0x11, 0, 12]);
        out.extend_from_slice(&from4);
        out.extend_from_slice(&to4);
    } else {
        out.extend_from_slice(&[0x21, 0, 36]);
        out.extend_from_slice(&from.ip.0);
        out.extend_from_slice(&to.ip.0);
    }
    out.extend_from_slice(&from.port.to_be_bytes());
    out.extend_from_slice(&option.host.to_be_bytes());
    out
}

impl Source for Published {
    fn ready(&mut self, desk: &mut Desk<'_>, fd: c_int, events: u32) {
        if self.relays.ready(fd, events) {
            return;
        }
        if let Some(n) = self.ports.iter().position(|p| p.socket.0 == fd) {
            if self.ports[n].option.udp {
                self.datagrams(desk, n);
            } else {
                self.accept(desk, n);
            }
        }
    }

    fn tick(&mut self, desk: &mut Desk<'_>, now: Nanos) -> Nanos {
        if self.rest != 0 && now >= self.rest {
            self.rest = 0;
            for p in &self.ports {
                let _ = desk.change(p.socket.0, libc::EPOLLIN as u32);
            }
        }
        let next = self.relays.tick(desk, now);
        for fd in self.relays.ended() {
            for p in &mut self.ports {
                p.sessions.retain(|_, &mut f| f != fd);
            }
        }
        next.min(if self.rest != 0 { self.rest } else { NEVER })
    }

    fn is_busy(&self) -> bool {
        self.relays.is_carrying()
    }

    fn is_carrying(&self) -> bool {
        self.relays.is_carrying()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_header_is_what_the_protocol_says() {
        let option = Publish { addr: Some(core::net::Ipv4Addr::new(127, 0, 0, 1).into()), host: 8080, port: 80, udp: false };
        let h = header(&Endpoint::new(Ip::v4([192, 0, 2, 9]), 1234), &option);
        assert_eq!(&h[..12], b"\r\n\r\n\0\r\nQUIT\n");
        assert_eq!(&h[12..16], &[0x21, 0x11, 0, 12]);
        assert_eq!(&h[16..], &[192, 0, 2, 9, 127, 0, 0, 1, 0x04, 0xd2, 0x1f, 0x90]);
        let h = header(&Endpoint::new(Ip::LOOPBACK6, 1), &Publish { addr: None, ..option });
        assert_eq!((h.len(), &h[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
    }
}
