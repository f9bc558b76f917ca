//! A stub resolver: names that nobody on the segment has, asked of a DNS server over the instance's own sockets.
//!
//! # Theory of operation
//! **Purpose.** A name server reached by a route to the host, by an uplink, or an instance on the segment answers for the rest of the world.
//! **How it works.** [`Resolver::of`] says whom to ask: `--dns`, else what an uplink was given, else those of the host's /etc/resolv.conf to which a route leads
//! (behind a local stub of systemd-resolved: its own list of servers), with its search list and options (ndots, timeout, attempts, use-vc, rotate).
//! With nobody to ask nothing is sent. A question goes out over UDP as glibc asks it, A and AAAA at once from one connected socket of the replica's
//! (which a route may make the kernel's: [`crate::home`]), with EDNS0; a truncated answer is asked for again over TCP. An answer counts if its id and
//! question are ours. CNAMEs are followed within the answer, as a recursive server gives them.
//! The format is `simple-dns`'s (the design names hickory-proto, which brings an asynchronous runtime's worth of crates into every program).
//! **Limits.** IN only; no DNSSEC; no cache, as in glibc. IDN names must be in their ASCII form. The C library's res_* functions do not come here.
//! **Locks.** None. **Failure.** EAI_NONAME: NXDOMAIN, or nobody to ask; EAI_NODATA; EAI_AGAIN: no server answered; EAI_FAIL: they refuse.
//! **See also.** resolv.conf(5), RFC 1034, 1035, 6891.
use crate::abi::{fd, io, poll, socket};
use crate::enter::{clock, with_cx};
use core::net::IpAddr;
use csel_core::errno::Errno;
use csel_core::gate;
use csel_core::instance::Env;
use csel_core::name::{Eai, HostName};
use csel_core::net::addr::{Endpoint, Ip};
use csel_core::net::link::route::leads_to_host;
use csel_core::net::link::uplink;
use libc::{c_int, pollfd};
use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE};

/// What resolv.conf(5) allows.
const SERVERS: usize = 4;
const SEARCH: usize = 6;
/// The largest UDP answer asked for (RFC 9715).
const EDNS: u16 = 1232;

/// Whom to ask, and how.
#[derive(Debug)]
pub(crate) struct Resolver {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout_ms: u64,
    attempts: usize,
    tcp: bool,
    rotate: bool,
}

/// What a question came to.
enum Reply {
    /// Records, and the name they belong to in the end.
    Found(Vec<RData<'static>>, String),
    /// The name is there, without such records.
    NoData,
    /// NXDOMAIN.
    NoName,
    /// The server refuses or fails: ask another.
    Next(Eai),
}

impl Resolver {
    fn none() -> Self {
        Self { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout_ms: 5000, attempts: 2, tcp: false, rotate: false }
    }

    /// The instance's; `None`: there is nobody to ask.
    pub(crate) fn of(env: &Env) -> Option<Self> {
        let mut r = Self::none();
        let config = &env.inst.facts.get().config;
        r.servers.extend(config.dns.iter().copied());
        if r.servers.is_empty() {
            // A link-local server would need a scope, which DHCP's and RDNSS's list has not.
            let given = with_cx(|cx| uplink::net(cx).dns).map_or_else(|_| Vec::new(), |all| all.as_slice().to_vec());
            r.servers.extend(given.iter().filter(|ip| !ip.is_link_local6()).map(|ip| IpAddr::from(ip.wire())));
        }
        if r.servers.is_empty() && !config.route.is_empty() {
            r.read(&super::abi::name::read(c"/etc/resolv.conf"));
            if !r.servers.is_empty() && r.servers.iter().all(IpAddr::is_loopback) {
                // A stub on the host's loopback; what it asks is in a file of the same form.
                let mut behind = Self::none();
                behind.read(&super::abi::name::read(c"/run/systemd/resolve/resolv.conf"));
                r.servers.extend(behind.servers);
            }
            r.servers.retain(|&s| with_cx(|cx| leads_to_host(cx, Ip::from(s))).unwrap_or(false));
        }
        r.servers.truncate(SERVERS);
        (!r.servers.is_empty()).then_some(r)
    }

    /// Takes in the text of a resolv.conf(5).
    fn read(&mut self, text: &[u8]) {
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split([' ', '\t']).filter(|w| !w.is_empty());
            match words.next() {
                Some("nameserver") => {
                    // A scope (fe80::1%eth0) is the host's interface, which means nothing here.
                    self.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok()).filter(|_| self.servers.len() < SERVERS));
                }
                Some("domain" | "search") => self.search = words.take(SEARCH).map(|w| w.trim_end_matches('.').to_owned()).collect(),
                Some("options") => words.for_each(|w| self.option(w)),
                _ => {}
            }
        }
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let number = value.parse::<usize>().ok();
        match (name, number) {
            ("ndots", Some(n)) => self.ndots = n.min(15),
            ("timeout", Some(n)) => self.timeout_ms = 1000 * n.clamp(1, 30) as u64,
            ("attempts", Some(n)) => self.attempts = n.clamp(1, 5),
            ("use-vc", _) => self.tcp = true,
            ("rotate", _) => self.rotate = true,
            _ => {}
        }
    }

    /// The names to try for `name`, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().filter(|s| !s.is_empty()).map(|s| format!("{name}.{s}"));
        if name.bytes().filter(|b| *b == b'.').count() >= self.ndots {
            core::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain(core::iter::once(name.to_owned())).collect()
        }
    }

    /// Addresses of a name, and its canonical name.
    pub(crate) fn addresses(&self, name: &str, v4: bool, v6: bool, each: &mut dyn FnMut(IpAddr)) -> Result<HostName, Eai> {
        let types: Vec<TYPE> = [(v4, TYPE::A), (v6, TYPE::AAAA)].into_iter().filter_map(|(wanted, t)| wanted.then_some(t)).collect();
        let mut worst = Eai::NoName;
        for candidate in self.candidates(name) {
            let mut found = None;
            let mut failed = None;
            for reply in self.ask(&candidate, &types) {
                match reply {
                    Reply::Found(records, canon) => {
                        for record in records {
                            match record {
                                RData::A(a) => each(IpAddr::from(a.address.to_be_bytes())),
                                RData::AAAA(a) => each(IpAddr::from(a.address.to_be_bytes())),
                                _ => {}
                            }
                        }
                        found = Some(canon);
                    }
                    Reply::NoData => worst = Eai::NoData,
                    Reply::NoName => {}
                    Reply::Next(why) => failed = Some(why),
                }
            }
            if let Some(canon) = found {
                return Ok(HostName::cut(canon.as_bytes()));
            }
            if let Some(why) = failed {
                // Nobody knows whether the name exists: no other may stand in for it.
                return Err(why);
            }
        }
        Err(worst)
    }

    /// The name of an address.
    pub(crate) fn name_of(&self, addr: IpAddr) -> Option<HostName> {
        let name = match addr {
            IpAddr::V4(a) => {
                let [a, b, c, d] = a.octets();
                format!("{d}.{c}.{b}.{a}.in-addr.arpa")
            }
            IpAddr::V6(a) => {
                let mut text: String = a.octets().iter().rev().map(|b| format!("{:x}.{:x}.", b & 15, b >> 4)).collect();
                text.push_str("ip6.arpa");
                text
            }
        };
        match self.ask(&name, &[TYPE::PTR]).into_iter().next() {
            Some(Reply::Found(records, _)) => records.into_iter().find_map(|r| match r {
                RData::PTR(p) => Some(HostName::cut(p.0.to_string().as_bytes())),
                _ => None,
            }),
            _ => None,
        }
    }

    /// Asks all servers in turn until each question is answered.
    fn ask(&self, name: &str, types: &[TYPE]) -> Vec<Reply> {
        let mut replies: Vec<Option<Reply>> = types.iter().map(|_| None).collect();
        let Ok(owner) = Name::new(name) else { return vec![Reply::NoName] };
        let mut why = Eai::Again;
        let first = if self.rotate { usize::from(id()) } else { 0 };
        for _ in 0..self.attempts {
            for n in 0..self.servers.len() {
                let server = self.servers[(first + n) % self.servers.len()];
                self.exchange(server, &owner, types, &mut replies);
                for reply in &mut replies {
                    if let Some(Reply::Next(e)) = reply {
                        why = *e;
                        *reply = None;
                    }
                }
                if replies.iter().all(Option::is_some) {
                    return replies.into_iter().flatten().collect();
                }
            }
        }
        replies.into_iter().map(|r| r.unwrap_or(Reply::Next(why))).collect()
    }

    /// One server, once: the questions that have no reply yet.
    fn exchange(&self, server: IpAddr, name: &Name<'_>, types: &[TYPE], replies: &mut [Option<Reply>]) {
        let questions: Vec<(usize, u16, Vec<u8>)> = types
            .iter()
            .enumerate()
            .filter(|(n, _)| replies[*n].is_none())
            .filter_map(|(n, t)| {
                let id = id();
                query(id, name, *t).map(|bytes| (n, id, bytes))
            })
            .collect();
        let mut over_tcp = vec![self.tcp; questions.len()];
        if !self.tcp
            && let Some(s) = Wire::to(server, libc::SOCK_DGRAM)
        {
            // Nobody there (EHOSTUNREACH) is known at once.
            let mut sent = false;
            for (.., bytes) in &questions {
                sent |= s.send(bytes);
            }
            let until = if sent { clock() + self.timeout_ms * 1_000_000 } else { 0 };
            let mut room = [0; 4096];
            while questions.iter().zip(&over_tcp).any(|((n, ..), tcp)| replies[*n].is_none() && !tcp) {
                let Some(got) = s.receive(&mut room, until) else { break };
                for ((n, id, _), tcp) in questions.iter().zip(&mut over_tcp) {
                    match judge(&room[..got], *id, name, types[*n]) {
                        Some(None) => *tcp = true,
                        Some(reply) if replies[*n].is_none() => replies[*n] = reply,
                        _ => {}
                    }
                }
            }
        }
        for ((n, id, bytes), _) in questions.iter().zip(over_tcp).filter(|(_, tcp)| *tcp) {
            replies[*n] = self.by_tcp(server, bytes).and_then(|answer| judge(&answer, *id, name, types[*n]).flatten());
        }
    }

    /// One question over TCP (RFC 1035 4.2.2: two bytes of length first).
    fn by_tcp(&self, server: IpAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let s = Wire::to(server, libc::SOCK_STREAM)?;
        let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
        out.extend_from_slice(bytes);
        s.send(&out).then_some(())?;
        let until = clock() + self.timeout_ms * 1_000_000;
        let mut all = Vec::new();
        let mut room = [0; 4096];
        loop {
            if let Some(len) = all.first_chunk::<2>().map(|b| usize::from(u16::from_be_bytes(*b)))
                && all.len() >= 2 + len
            {
                return Some(all[2..2 + len].to_vec());
            }
            match s.receive(&mut room, until) {
                Some(n @ 1..) => all.extend_from_slice(&room[..n]),
                _ => return None,
            }
        }
    }
}

/// Two random bytes.
fn id() -> u16 {
    let mut b = [0u8; 2];
    // SAFETY: two writable bytes.
    let _ = unsafe { gate::syscall(libc::SYS_getrandom, [b.as_mut_ptr() as usize, 2, 0, 0, 0, 0]) };
    u16::from_ne_bytes(b)
}

fn query(id: u16, name: &Name<'_>, ty: TYPE) -> Option<Vec<u8>> {
    let mut p = Packet::new_query(id);
    p.set_flags(PacketFlag::RECURSION_DESIRED);
    p.questions.push(Question::new(name.clone(), QTYPE::TYPE(ty), CLASS::IN.into(), false));
    *p.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: EDNS, version: 0 });
    p.build_bytes_vec().ok()
}

fn same(a: &Name<'_>, b: &Name<'_>) -> bool {
    a.to_string().eq_ignore_ascii_case(&b.to_string())
}

/// Is it the answer to question `id`, and which? `None`: not ours. `Some(None)`: cut off, ask over TCP.
#[allow(clippy::option_option)]
fn judge(bytes: &[u8], id: u16, name: &Name<'_>, ty: TYPE) -> Option<Option<Reply>> {
    let p = Packet::parse(bytes).ok()?;
    let q = p.questions.first()?;
    if p.id() != id || !p.has_flags(PacketFlag::RESPONSE) || q.qtype != QTYPE::TYPE(ty) || !same(&q.qname, name) {
        return None;
    }
    if p.has_flags(PacketFlag::TRUNCATION) {
        return Some(None);
    }
    Some(Some(match p.rcode() {
        RCODE::NoError => {
            // The chain of CNAMEs, in whatever order they come; as long as there are records at most.
            let mut at = name.clone();
            for _ in 0..p.answers.len() {
                let next = p.answers.iter().find_map(|r| match &r.rdata {
                    RData::CNAME(c) if same(&r.name, &at) => Some(c.0.clone()),
                    _ => None,
                });
                match next {
                    Some(name) => at = name,
                    None => break,
                }
            }
            let records: Vec<_> = p
                .answers
                .iter()
                .filter(|r| same(&r.name, &at) && r.rdata.type_code() == ty)
                .map(|r| r.rdata.clone().into_owned())
                .collect();
            if records.is_empty() { Reply::NoData } else { Reply::Found(records, at.to_string()) }
        }
        RCODE::NameError => Reply::NoName,
        RCODE::ServerFailure => Reply::Next(Eai::Again),
        _ => Reply::Next(Eai::Fail),
    }))
}

/// A connected socket, closed when dropped (also when the thread is cancelled).
struct Wire(c_int);

impl Wire {
    fn to(server: IpAddr, ty: c_int) -> Option<Self> {
        let family = if server.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let mut at = [0; 28];
        let n = Endpoint::new(Ip::from(server), 53).emit(family as u16, &mut at);
        // SAFETY: our own hooks, called as an application calls them; the address lives.
        unsafe {
            let s = Self(socket::socket(family, ty | libc::SOCK_CLOEXEC, 0));
            (s.0 >= 0 && socket::connect(s.0, at.as_ptr().cast(), n as u32) == 0).then_some(s)
        }
    }
    fn send(&self, bytes: &[u8]) -> bool {
        // SAFETY: readable bytes.
        unsafe { io::send(self.0, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) == bytes.len() as isize }
    }
    /// `None`: nothing came in time, or an error did.
    fn receive(&self, room: &mut [u8], until: u64) -> Option<usize> {
        loop {
            let left = until.saturating_sub(clock()) / 1_000_000;
            let mut p = pollfd { fd: self.0, events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd; writable room.
            unsafe {
                match poll::poll(&raw mut p, 1, left.min(60_000) as c_int) {
                    1 => return usize::try_from(io::recv(self.0, room.as_mut_ptr().cast(), room.len(), 0)).ok(),
                    -1 if crate::ret::errno() == Errno::EINTR => {}
                    _ => return None,
                }
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.0 >= 0 {
            // SAFETY: ours.
            unsafe { fd::close(self.0) };
        }
    }
}
