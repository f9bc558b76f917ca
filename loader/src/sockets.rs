//! sockets: what the instances' arenas say of their sockets.
//!
//! # Theory of operation
//! Purpose: the rows of `csel ss`. How it works: an instance's arena is a memfd that its processes (and its keeper) hold open, on the numbers
//! the library chooses. Each of this user's processes is looked at in /proc; an arena found there is opened through
//! /proc/PID/fd, mapped (the core checks that this very build made it), read, and unmapped. One that several processes hold is read once.
//!
//! Limits: connections in TIME-WAIT are not shown; a socket that is being used at that moment may be left out.
//! Locks: the sockets' own, one at a time, never waited for. Failure: what cannot be opened is not listed; an arena of another build is
//! counted and said by the caller. See also: `csel::arena::found`, `shim::fdguard`, proc(5).
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use csel_core::arena::found;
use csel_core::call::Kind;
use csel_core::instance::Instance;
use csel_core::net::addr::Endpoint;
use csel_core::net::{dgram, tcp};
use csel_core::sync::Me;

/// Who has a socket open.
#[derive(Clone, serde::Serialize)]
pub(crate) struct Holder {
    pub(crate) program: String,
    pub(crate) pid: u32,
    pub(crate) fd: usize,
}

/// One socket.
#[derive(Clone, serde::Serialize)]
pub(crate) struct Socket {
    pub(crate) netid: &'static str,
    pub(crate) state: &'static str,
    pub(crate) recv_q: u32,
    pub(crate) send_q: u32,
    pub(crate) local_address: String,
    pub(crate) local_port: u16,
    pub(crate) peer_address: String,
    pub(crate) peer_port: u16,
    pub(crate) ipv6: bool,
    pub(crate) segment: String,
    pub(crate) instance: String,
    pub(crate) processes: Vec<Holder>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rtt_us: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retransmits: Option<u32>,
}

/// The numbers an arena and its segment's file lie on: the library's places, and the keeper's.
const PLACES: [(i32, i32); 4] = [(1021, 1020), (253, 252), (61, 60), (3, 4)];

/// Every socket of every instance on a segment in `dir`, and how many arenas could not be read.
pub(crate) fn all(dir: &Path) -> (Vec<Socket>, usize) {
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let (mut out, mut unread, mut seen) = (Vec::new(), 0, HashSet::new());
    let Ok(entries) = std::fs::read_dir("/proc") else { return (out, unread) };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        for (place, segment) in PLACES {
            let path = format!("/proc/{pid}/fd/{place}");
            let Ok(target) = std::fs::read_link(&path) else { continue };
            if !target.as_os_str().as_bytes().starts_with(b"/memfd:csel-arena") {
                continue;
            }
            let Ok(file) = File::options().read(true).write(true).open(&path) else { continue };
            let Ok(meta) = file.metadata() else { continue };
            // An arena nobody has founded yet is empty: a program without sockets.
            if meta.size() == 0 || !seen.insert((meta.dev(), meta.ino())) {
                continue;
            }
            if std::fs::read_link(format!("/proc/{pid}/fd/{segment}")).is_ok_and(|at| at.parent() != Some(&dir)) {
                continue;
            }
            match found::visit(file.as_raw_fd(), |inst| read(inst, meta.ino())) {
                Some(mut sockets) => out.append(&mut sockets),
                None => unread += 1,
            }
        }
    }
    (out, unread)
}

/// The names of TCP_* in ss(8)'s words.
const STATES: [&str; 13] = [
    "UNKNOWN",
    "ESTAB",
    "SYN-SENT",
    "SYN-RECV",
    "FIN-WAIT-1",
    "FIN-WAIT-2",
    "TIME-WAIT",
    "UNCONN",
    "CLOSE-WAIT",
    "LAST-ACK",
    "LISTEN",
    "CLOSING",
    "SYN-RECV",
];

/// The process's program, if it is one of the family: a number of another pid namespace names somebody else here, or nobody.
fn member(pid: u32, arena: u64) -> Option<String> {
    let holds = |place: i32| std::fs::metadata(format!("/proc/{pid}/fd/{place}")).is_ok_and(|m| m.ino() == arena);
    PLACES.iter().any(|(place, _)| holds(*place)).then(|| crate::segment::program_of(pid))
}

/// The sockets of one instance, whose arena has this inode.
fn read(inst: &Instance, arena: u64) -> Vec<Socket> {
    let me = Me::ask();
    let facts = inst.facts.get();
    let mut holders: BTreeMap<u32, Vec<Holder>> = BTreeMap::new();
    for (_, process) in inst.procs.table.iter() {
        let (pid, high) = (process.pid.load(Relaxed), process.high.load(Relaxed) as usize);
        let program = member(pid, arena).unwrap_or_else(|| "-".to_owned());
        for (fd, word) in process.fds.iter().enumerate().take(high) {
            let sock = word.load(Relaxed);
            if sock != 0 {
                holders.entry(sock).or_default().push(Holder { program: program.clone(), pid, fd });
            }
        }
    }
    let base = |local: &Endpoint, remote: &Endpoint, sock: u32| Socket {
        netid: "tcp",
        state: "UNCONN",
        recv_q: 0,
        send_q: 0,
        local_address: address(local),
        local_port: local.port,
        peer_address: address(remote),
        peer_port: remote.port,
        ipv6: !local.ip.is_v4(),
        segment: facts.config.net.to_string(),
        instance: facts.name.to_string(),
        processes: holders.get(&sock).cloned().unwrap_or_default(),
        rtt_us: None,
        retransmits: None,
    };
    let mut out = Vec::new();
    tcp::each(inst, &me, |r| {
        let mut remote = r.tuple.remote;
        if remote.port == 0 && r.tuple.local.ip.is_v4() {
            remote.ip = csel_core::net::addr::Ip::ANY4;
        }
        out.push(Socket {
            state: STATES.get(usize::from(r.state)).copied().unwrap_or(STATES[0]),
            recv_q: r.recv_q,
            send_q: r.send_q,
            rtt_us: (r.rtt_us > 0).then_some(r.rtt_us),
            retransmits: (r.retrans > 0).then_some(r.retrans),
            ..base(&r.tuple.local, &remote, r.sock)
        });
    });
    dgram::info::each(inst, &me, |r| {
        let none = Endpoint::new(if r.local.ip.is_v4() { csel_core::net::addr::Ip::ANY4 } else { csel_core::net::addr::Ip::ANY6 }, 0);
        let netid = match r.kind {
            Kind::Udp => "udp",
            Kind::Ping => "icmp",
            _ => "raw",
        };
        let state = if r.remote.is_some() { "ESTAB" } else { "UNCONN" };
        out.push(Socket { netid, state, recv_q: r.recv_q, ipv6: r.v6, ..base(&r.local, r.remote.as_ref().unwrap_or(&none), r.sock) });
    });
    out
}

/// An address as ss(8) shows it: IPv6 in brackets, `*` for `::`.
fn address(at: &Endpoint) -> String {
    let text = at.ip.to_string();
    match (at.ip.is_v4(), text.as_str()) {
        (true, _) => text,
        (false, "::") => "*".to_owned(),
        (false, _) => format!("[{text}]"),
    }
}
