//! Joining a segment: a port, a name, addresses.
//!
//! # Theory of operation
//! **Purpose.** An instance comes to its segment with what it was told (`--net`, `--name`, `--ip`...) and gets what it was not told.
//! **How it works.** The file is `NAME.seg` in the runtime directory: the directory is ours alone (0700), the file too (0600). Joining takes an OFD lock
//! on one byte of the file, so one joins at a time; who dies joining lets go of it. A port is held by an OFD lock on the byte of its number:
//! the kernel drops it when the last process of the family that inherited the mapping or the descriptor ([`Joined::fd`]) is gone, so a dead instance's port
//! is known for certain, even from another pid namespace, and whoever joins frees it. The header's magic is written last.
//! Without `--ip` port `n` gets `10.111.0.0/16 + n + 1` and `fdc5:e1::/64 + n + 1` (or, if somebody asked for that one, a later one); everyone
//! has an IPv6 link-local address made from the MAC.
//! **Limits.** [`PORTS`] instances. **Locks.** The file's join byte, at most [`PATIENCE_MS`] waited for.
//! **Failure.** [`JoinError`], whose text names the option, the value and the remedy.
//! **See also.** fcntl_locking(2), [`crate::config`].
// The errors carry the path for their message: there is no heap, and joining is done once.
#![allow(clippy::result_large_err)]

use super::segment::{MAGIC, PORT_ADDRS, PORTS, Port, Segment, layout};
use crate::arena::map;
use crate::config::{Config, LEASE_V4, LEASE_V6, Name, Path};
use crate::errno::Errno;
use crate::gate::{self, file};
use crate::instance::{ADDRS, Facts, Prefix};
use crate::net::addr::Ip;
use core::ffi::CStr;
use core::fmt;
use core::net::IpAddr;
use core::sync::atomic::Ordering::*;

/// How long another's joining is waited for, in milliseconds.
pub const PATIENCE_MS: u32 = 800;
/// The byte whose lock is held while joining. Port `n` is byte `n`.
const JOIN: u64 = 1 << 40;

/// What joining gives.
pub struct Joined {
    /// What is fixed of the instance from now on.
    pub facts: Facts,
    /// The segment, mapped in this process.
    pub seg: &'static Segment,
    /// The file, close-on-exec: as long as any process has this descriptor (or a copy) open, or its mapping, the port stays ours. A front end whose
    /// process may be the only one clears close-on-exec, so that exec(2) keeps it. -1 for an anonymous segment.
    pub fd: i32,
}

/// Why an instance cannot join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinError {
    /// The runtime directory cannot be made or opened.
    Dir(Path, Errno),
    /// The runtime directory is not the user's own, or others may enter it.
    DirForeign(Path),
    /// The segment's file cannot be opened.
    Unreadable(Path, Errno),
    /// The file is not the user's own, or others may open it.
    Foreign(Path),
    /// The file is no segment at all.
    NotASegment(Path),
    /// Another version of csel made the file.
    Version(Path),
    /// The file cannot be mapped (address space).
    Map(Path, Errno),
    /// Somebody else has been joining for too long.
    Busy(Path),
    /// All ports are taken.
    Full(Name),
    /// The name asked for is taken by this process.
    NameTaken(Name, u32),
    /// The address asked for is taken by this instance.
    AddressTaken(Ip, Name),
    /// The address asked for is no host's address.
    BadAddress(Ip),
    /// No address is left to lease.
    NoLease,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(p, e) => write!(f, "cannot use the directory of segments {p}: {e}; set CSEL_DIR to a directory of yours"),
            Self::DirForeign(p) => {
                write!(f, "the directory of segments {p} is not yours alone; chmod 700 it, or set CSEL_DIR to a directory of yours")
            }
            Self::Unreadable(p, e) => write!(f, "cannot open the segment file {p}: {e}; make it readable and writable, or remove it"),
            Self::Foreign(p) => {
                write!(f, "the segment file {p} is not yours alone; remove it, or choose another segment with --net (CSEL_NET)")
            }
            Self::NotASegment(p) => write!(f, "{p} is not a segment file; remove it, or choose another segment with --net (CSEL_NET)"),
            Self::Version(p) => {
                write!(f, "the segment file {p} is of another version of csel; end the programs that use it and remove it, ")?;
                f.write_str("or choose another segment with --net (CSEL_NET)")
            }
            Self::Map(p, e) => {
                write!(
                    f,
                    "cannot map the segment file {p}: {e}; {} MiB of address space are needed (ulimit -v)",
                    size_of::<Segment>() >> 20
                )
            }
            Self::Busy(p) => {
                write!(f, "the segment file {p} is locked by a program that is joining and does not finish; end it and try again")
            }
            Self::Full(n) => write!(f, "the segment {n} is full ({PORTS} instances); choose another with --net (CSEL_NET)"),
            Self::NameTaken(n, pid) => write!(f, "the name {n} is taken by process {pid}; choose another with --name (CSEL_NAME)"),
            Self::AddressTaken(a, n) => write!(f, "the address {a} is taken by {n}; choose another with --ip (CSEL_IP)"),
            Self::BadAddress(a) => write!(f, "{a} cannot be an instance's address; choose a host's address with --ip (CSEL_IP)"),
            Self::NoLease => f.write_str("no address is left to lease in 10.111.0.0/16; give one with --ip (CSEL_IP)"),
        }
    }
}

/// A path with its NUL.
pub(super) struct CPath([u8; 400]);

impl CPath {
    /// `dir/name` + `end`.
    pub(super) fn new(dir: &Path, name: &[u8], end: &[u8]) -> Self {
        let mut b = [0; 400];
        let mut at = 0;
        for part in [dir.as_bytes(), if name.is_empty() { b"" } else { b"/" }, name, end] {
            let n = part.len().min(b.len() - 1 - at);
            b[at..at + n].copy_from_slice(&part[..n]);
            at += n;
        }
        Self(b)
    }
    pub(super) fn get(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
    fn text(&self) -> Path {
        Path::cut(self.get().to_bytes())
    }
}

/// A descriptor that is closed unless it is kept.
struct Fd(i32);
impl Fd {
    fn keep(self) -> i32 {
        let fd = self.0;
        core::mem::forget(self);
        fd
    }
}
impl Drop for Fd {
    fn drop(&mut self) {
        let _ = gate::close(self.0);
    }
}

/// The segment's file, its directory made if need be.
pub fn path(dir: &Path, net: &Name) -> Path {
    CPath::new(dir, net.as_bytes(), b".seg").text()
}

/// Opens and maps the segment `net` in `dir`; makes it if `create`. The descriptor (close-on-exec) comes with it.
pub fn open(dir: &Path, net: &Name, create: bool) -> Result<(&'static Segment, i32), JoinError> {
    let here = CPath::new(dir, b"", b"");
    if create {
        match file::mkdir(here.get(), 0o700) {
            Ok(_) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(JoinError::Dir(*dir, e)),
        }
    }
    let uid = file::geteuid();
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_RDONLY;
    let d = Fd(gate::open(here.get(), flags, 0).map_err(|e| JoinError::Dir(*dir, e))?);
    let st = file::fstat(d.0).map_err(|e| JoinError::Dir(*dir, e))?;
    if st.uid != uid || st.mode & 0o077 != 0 {
        return Err(JoinError::DirForeign(*dir));
    }
    let name = CPath::new(dir, net.as_bytes(), b".seg");
    let at = name.text();
    let flags = libc::O_RDWR | libc::O_CLOEXEC | libc::O_NOFOLLOW | if create { libc::O_CREAT } else { 0 };
    let fd = Fd(gate::open(name.get(), flags, 0o600).map_err(|e| JoinError::Unreadable(at, e))?);
    let st = file::fstat(fd.0).map_err(|e| JoinError::Unreadable(at, e))?;
    if st.mode & libc::S_IFMT != libc::S_IFREG {
        return Err(JoinError::NotASegment(at));
    }
    if st.uid != uid || st.mode & 0o077 != 0 {
        return Err(JoinError::Foreign(at));
    }
    let held = JoinLock::take(fd.0).ok_or(JoinError::Busy(at))?;
    let size = file::fstat(fd.0).map_err(|e| JoinError::Unreadable(at, e))?.size;
    if size == 0 && create {
        gate::ftruncate(fd.0, size_of::<Segment>() as u64).map_err(|e| JoinError::Unreadable(at, e))?;
    } else if size < 16 {
        return Err(JoinError::NotASegment(at));
    }
    let mut head = [0; 16];
    if gate::read(fd.0, &mut head) != Ok(16) {
        return Err(JoinError::NotASegment(at));
    }
    let (magic, made_by) =
        (u64::from_ne_bytes(*head.first_chunk().unwrap_or(&[0; 8])), u64::from_ne_bytes(*head.last_chunk().unwrap_or(&[0; 8])));
    if magic != 0 && magic << 8 != MAGIC << 8 {
        return Err(JoinError::NotASegment(at));
    }
    let size = file::fstat(fd.0).map_err(|e| JoinError::Unreadable(at, e))?.size;
    if magic != 0 && (magic != MAGIC || made_by != layout()) || size != size_of::<Segment>() as u64 {
        return Err(JoinError::Version(at));
    }
    let seg = map::of_file::<Segment>(fd.0).map_err(|e| JoinError::Map(at, e))?;
    map::scattered(seg);
    if magic == 0 {
        seg.header.layout.store(layout(), Relaxed);
        seg.header.magic.store(MAGIC, Release);
    }
    drop(held);
    Ok((seg, fd.keep()))
}

/// Maps the segment that a process of the family opened, by the descriptor inherited from it: an environment that was cleared or a root that was
/// changed does not matter. `None`: it is no segment of this build.
pub fn inherited(fd: i32) -> Option<&'static Segment> {
    let st = file::fstat(fd).ok()?;
    if st.mode & libc::S_IFMT != libc::S_IFREG || st.size != size_of::<Segment>() as u64 {
        return None;
    }
    let seg = map::of_file::<Segment>(fd).ok()?;
    if seg.header.magic.load(Acquire) != MAGIC || seg.header.layout.load(Relaxed) != layout() {
        map::forget(seg);
        return None;
    }
    map::scattered(seg);
    Some(seg)
}

/// Undoes [`open`] for one who only looked.
pub fn close(seg: &'static Segment, fd: i32) {
    map::forget(seg);
    let _ = gate::close(fd);
}

/// The right to join; let go of at drop.
struct JoinLock(i32);
impl JoinLock {
    fn take(fd: i32) -> Option<Self> {
        if fd < 0 {
            return Some(Self(fd));
        }
        for _ in 0..PATIENCE_MS {
            match file::ofd_lock(fd, JOIN, true) {
                Ok(()) => return Some(Self(fd)),
                Err(Errno::EAGAIN) => file::nap(1_000_000),
                Err(_) => return None,
            }
        }
        None
    }
}
impl Drop for JoinLock {
    fn drop(&mut self) {
        if self.0 >= 0 {
            let _ = file::ofd_lock(self.0, JOIN, false);
        }
    }
}

/// Joins the segment `config.net` in `dir`. `program` names the instance if the configuration does not.
/// `spare` is the segment's file if the family has it open already (or -1): for one who has given up the right to open it by its name.
pub fn join(dir: &Path, config: &Config, program: &Name, spare: i32) -> Result<Joined, JoinError> {
    let (seg, fd) = match open(dir, &config.net, true) {
        Ok((seg, fd)) => (seg, Fd(fd)),
        Err(e) => match inherited(spare).zip(gate::fcntl(spare, libc::F_DUPFD_CLOEXEC, 0).ok()) {
            Some((seg, fd)) => (seg, Fd(fd as i32)),
            None => return Err(e),
        },
    };
    let at = Some(path(dir, &config.net));
    let mut tries = PATIENCE_MS;
    loop {
        match plug(seg, fd.0, config, program, at) {
            Ok(facts) => return Ok(Joined { facts, seg, fd: fd.keep() }),
            // A program that has just ended is started again: its keeper is about to leave.
            Err(e) if tries > 0 && is_leaving(seg, &e) => file::nap(1_000_000),
            Err(e) => {
                map::forget(seg);
                return Err(e);
            }
        }
        tries -= 1;
    }
}

/// Is what is taken held by an instance whose first process is gone, so that waiting may help?
pub fn is_leaving(seg: &Segment, e: &JoinError) -> bool {
    let holder = match e {
        JoinError::NameTaken(name, _) => seg.named(name.as_str()),
        JoinError::AddressTaken(ip, _) => seg.holder(*ip),
        _ => return false,
    };
    holder.is_none_or(|(_, p)| !gate::process_exists(p.pid.load(Relaxed)))
}

/// A segment that only this process and its children can see: tests, and instances with no segment.
pub fn anonymous() -> Result<&'static Segment, Errno> {
    let seg = map::of_nothing::<Segment>()?;
    seg.header.layout.store(layout(), Relaxed);
    seg.header.magic.store(MAGIC, Release);
    Ok(seg)
}

/// Takes a port of `seg`. `fd` is its file (-1: anonymous, then the caller sees to it that one joins at a time).
pub fn plug(seg: &Segment, fd: i32, config: &Config, program: &Name, at: Option<Path>) -> Result<Facts, JoinError> {
    let _held = JoinLock::take(fd).ok_or_else(|| JoinError::Busy(at.unwrap_or_default()))?;
    reclaim(seg, fd);
    let is_marked = |n: usize| seg.header.taken[n / 64].load(Acquire) >> (n % 64) & 1 == 1;
    // One who has left a port may hold its byte a moment longer, until its last process is gone: then the next port is ours.
    let lock = |n: usize| fd < 0 || file::ofd_lock(fd, n as u64, true).is_ok();
    let free = |n: &usize| !is_marked(*n) || !seg.ports[*n].is_taken();
    let n = (0..PORTS).filter(free).find(|n| lock(*n)).ok_or(JoinError::Full(config.net))?;
    let take = || {
        let name = name(seg, config, program)?;
        let mac = if config.mac.is_unset() { [2, 0xc5, 0xe1, 0, (n >> 8) as u8, n as u8] } else { config.mac.0 };
        let mut facts = Facts {
            config: *config,
            name,
            addrs: [Prefix::default(); ADDRS],
            addr_count: 0,
            mac,
            port: n as u16,
            joined: 0,
            mtu: config.mtu,
        };
        addresses(seg, config, n, &mut facts)?;
        facts.joined = write(seg, &seg.ports[n], &facts);
        Ok(facts)
    };
    take().inspect_err(|_| {
        if fd >= 0 {
            let _ = file::ofd_lock(fd, n as u64, false);
        }
    })
}

/// Frees the ports of the dead.
fn reclaim(seg: &Segment, fd: i32) {
    for (n, p) in seg.taken() {
        if fd >= 0 && file::ofd_is_locked(fd, u64::from(n)) == Ok(false) {
            free(seg, n, p);
        }
    }
}

fn free(seg: &Segment, n: u16, p: &Port) {
    let life = p.life.load(Relaxed);
    if life & 1 == 1 {
        p.life.store(life.wrapping_add(1), Release);
        seg.mark(usize::from(n), false);
        seg.header.changes.fetch_add(1, AcqRel);
        p.ring.clear(gate::gettid());
    }
}

/// The instance leaves its port (its last process ends in good order).
pub fn leave(seg: &Segment, port: u16) {
    if let Some(p) = seg.port(port) {
        free(seg, port, p);
    }
}

fn name(seg: &Segment, config: &Config, program: &Name) -> Result<Name, JoinError> {
    if !config.name.is_empty() {
        return match seg.named(config.name.as_str()) {
            Some((_, p)) => Err(JoinError::NameTaken(config.name, p.pid.load(Relaxed))),
            None => Ok(config.name),
        };
    }
    // With PORTS ports at most, one of PORTS + 1 names is free.
    (1..=PORTS as u32 + 1).map(|i| program.attempt(i)).find(|n| seg.named(n.as_str()).is_none()).ok_or(JoinError::Full(config.net))
}

fn addresses(seg: &Segment, config: &Config, n: usize, facts: &mut Facts) -> Result<(), JoinError> {
    let mut push = |ip: Ip, len: u8| {
        if facts.addr_count < ADDRS {
            facts.addrs[facts.addr_count] = Prefix { ip, len };
            facts.addr_count += 1;
        }
    };
    for c in &config.ip {
        let ip = of(c.addr);
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip == Ip::BROADCAST {
            return Err(JoinError::BadAddress(ip));
        }
        if let Some((_, p)) = seg.holder(ip) {
            return Err(JoinError::AddressTaken(ip, p.name()));
        }
        push(ip, c.len);
    }
    if config.ip.is_empty() {
        for net in [LEASE_V4, LEASE_V6] {
            // 65534 hosts fit the IPv4 net; PORTS * ADDRS of them can be taken.
            let ip = (0..64).map(|turn| host(of(net.addr), turn * PORTS + n + 1)).find(|ip| seg.holder(*ip).is_none());
            push(ip.ok_or(JoinError::NoLease)?, net.len);
        }
    }
    let m = facts.mac;
    let local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]];
    if facts.addr_count < ADDRS {
        facts.addrs[facts.addr_count] = Prefix { ip: Ip(local), len: 64 };
        facts.addr_count += 1;
    }
    Ok(())
}

/// An address of std's kind as ours.
pub fn of(a: IpAddr) -> Ip {
    match a {
        IpAddr::V4(a) => Ip::v4(a.octets()),
        IpAddr::V6(a) => Ip(a.octets()),
    }
}

/// Host `n` of a network.
fn host(net: Ip, n: usize) -> Ip {
    Ip((u128::from_be_bytes(net.0) | n as u128).to_be_bytes())
}

/// Writes the port's record; the number of this join.
fn write(seg: &Segment, port: &Port, facts: &Facts) -> u64 {
    let m = facts.mac;
    port.pid.store(gate::getpid(), Relaxed);
    port.uid.store(file::geteuid(), Relaxed);
    port.mtu.store(facts.mtu, Relaxed);
    port.mac.store(u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]]), Relaxed);
    port.set_names(&facts.name, facts.config.hostname_or(&facts.name));
    for i in 0..PORT_ADDRS {
        match facts.addrs().get(i) {
            Some(a) => port.addrs[i].set(a.ip, a.len),
            None => port.addrs[i].set(Ip::ANY6, 0),
        }
    }
    // Whoever waited for room in our predecessor's ring keeps its bit: it is rung when we drain, and finds out then.
    port.seat.reset();
    let joined = seg.header.joins.fetch_add(1, AcqRel) + 1;
    port.joined.store(joined, Relaxed);
    let life = port.life.load(Relaxed);
    port.life.store(life.wrapping_add(1) | 1, Release);
    seg.mark(usize::from(facts.port), true);
    seg.header.changes.fetch_add(1, AcqRel);
    joined
}

/// Does the instance still have its port? Takes the port's lock with `fd` if nobody has it any more (all who had are dead) but its record still stands.
pub fn holds(seg: &Segment, fd: i32, facts: &Facts) -> bool {
    let Some(_held) = JoinLock::take(fd) else { return true };
    if fd >= 0 {
        let _ = file::ofd_lock(fd, u64::from(facts.port), true);
    }
    seg.port(facts.port).is_some_and(|p| p.is_taken() && p.joined.load(Relaxed) == facts.joined)
}

#[cfg(test)]
mod tests;
