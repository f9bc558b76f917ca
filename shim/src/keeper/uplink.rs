//! The uplink's descriptor: a TAP device, or passt's stream socket.
//!
//! # Theory of operation
//! **Purpose.** The keeper's end of [`csel_core::net::link::uplink`]: between the instance's rings and the kernel, with the [`Station`] in between.
//! **How it works.** [`Uplink::begin`] opens the device, or starts passt with one end of a socketpair (`--fd`), or connects to its socket. In each turn
//! ([`Source::tick`]) up to [`BATCH`] frames are read and drained into the instance at once (whoever has the data waits for it, not for the frames), then
//! the ring of what goes out is emptied, then the station does what is due. passt's frames follow each other on a stream with their length before
//! them (qemu's protocol): many are read and written with one system call. What passt does not take waits in a buffer; while that is full the ring
//! is left alone, and with it whoever fills it.
//! **Limits.** One descriptor. A TAP that cannot take a frame loses it, as a full queue of a device does. **Locks.** None.
//! **Failure.** What cannot be had is said in words ([`keeping::failed`]); the program that waits for it prints them. passt that ends later takes the
//! uplink with it: the instance goes on with its segment alone.
//! **See also.** passt(1), Linux Documentation/networking/tuntap.rst, netdevice(7).
use super::host::{Desk, Source};
use crate::enter::clock;
use csel_core::clock::{NEVER, Nanos, SEC};
use csel_core::config::uplink::Kind;
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::instance::{Cx, Instance};
use csel_core::net::link::pcap;
use csel_core::net::link::uplink::station::Station;
use csel_core::net::link::uplink::wire::{ETHERNET, Wire};
use csel_core::net::link::uplink::{Net, Sentence, State, keeping};
use libc::c_int;

/// Frames read, and frames written, in one turn.
const BATCH: usize = 64;
const OUT_BATCH: usize = 256;
/// The largest frame: 64 KiB of IP and the Ethernet header.
const MOST: usize = 65535 + ETHERNET;
/// Bytes of passt's stream that are read at once.
const STREAM: usize = 4 * MOST;
/// With so much unwritten the ring is left alone.
const ENOUGH: usize = 512 << 10;
/// How long a device that somebody has is waited for.
const BUSY: Nanos = 4 * SEC;
/// What passt's link carries until it says otherwise.
const PASST_MTU: u32 = 65520;

/// Why there is no uplink, in words with a remedy.
type Trouble = String;

/// The descriptor.
struct Pipe {
    fd: c_int,
    /// Frames have their length before them.
    stream: bool,
    /// What came of the stream and is not yet taken: from, to.
    input: Vec<u8>,
    from: usize,
    to: usize,
    /// What is to be written, and how much of it has been.
    output: Vec<u8>,
    written: usize,
    /// It may have something to read; it takes nothing just now; it has ended.
    readable: bool,
    blocked: bool,
    ended: bool,
}

impl Pipe {
    fn new(fd: c_int, stream: bool) -> Self {
        let input = vec![0; if stream { STREAM } else { MOST }];
        Self { fd, stream, input, from: 0, to: 0, output: Vec::new(), written: 0, readable: true, blocked: false, ended: false }
    }

    /// The next frame's place in `input`; `None`: there is none now.
    fn next(&mut self) -> Option<(usize, usize)> {
        if !self.stream {
            return match self.read(0) {
                0 => None,
                n => Some((0, n)),
            };
        }
        loop {
            let there = &self.input[self.from..self.to];
            if let Some((len, rest)) = there.split_first_chunk::<4>() {
                let len = u32::from_be_bytes(*len) as usize;
                if len > MOST {
                    // Out of step: nothing after this makes sense.
                    self.ended = true;
                    return None;
                }
                if rest.len() >= len {
                    let at = self.from + 4;
                    self.from = at + len;
                    return Some((at, len));
                }
            }
            self.input.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            let n = self.read(self.to);
            if n == 0 {
                return None;
            }
            self.to += n;
        }
    }

    fn read(&mut self, at: usize) -> usize {
        if !self.readable || self.ended {
            return 0;
        }
        match gate::read(self.fd, &mut self.input[at..]) {
            Ok(0) if self.stream => self.ended = true,
            Ok(n) => return n,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => self.readable = false,
            // A TAP that is down says EIO: later.
            Err(_) if !self.stream => self.readable = false,
            Err(_) => self.ended = true,
        }
        0
    }

    fn send(&mut self, header: &[u8; ETHERNET], rest: &[u8]) {
        if self.stream {
            self.output.extend_from_slice(&((ETHERNET + rest.len()) as u32).to_be_bytes());
            self.output.extend_from_slice(header);
            self.output.extend_from_slice(rest);
            if self.output.len() - self.written >= STREAM && !self.blocked {
                self.write();
            }
        } else {
            let _ = gate::file::writev(self.fd, [header, rest, &[]]);
        }
    }

    fn write(&mut self) {
        while self.written < self.output.len() {
            match gate::write(self.fd, &self.output[self.written..]) {
                Ok(n) => self.written += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.blocked = true;
                    return;
                }
                Err(_) => {
                    self.ended = true;
                    break;
                }
            }
        }
        self.output.clear();
        (self.written, self.blocked) = (0, false);
    }

    fn is_full(&self) -> bool {
        self.blocked && self.output.len() - self.written >= ENOUGH
    }
}

/// The wire as the station sees it during one turn.
struct Line<'a, 'c> {
    cx: &'a Cx<'c>,
    pipe: &'a mut Pipe,
    tapped: bool,
}

impl Wire for Line<'_, '_> {
    fn send(&mut self, header: &[u8; ETHERNET], rest: &[u8]) {
        if self.tapped {
            let mut frame = header.to_vec();
            frame.extend_from_slice(rest);
            pcap::tap(self.cx, pcap::UP, pcap::OUT, &frame);
        }
        self.pipe.send(header, rest);
    }
    fn deliver(&mut self, ip: &[u8]) {
        let mut frame = vec![0; ETHERNET];
        frame.extend_from_slice(ip);
        keeping::deliver(self.cx, &frame);
    }
}

/// The uplink as a source of the keeper's loop.
pub(super) struct Uplink {
    inst: &'static Instance,
    pipe: Pipe,
    station: Box<Station>,
    told: Option<Net>,
    up: bool,
    /// We wait for room to write.
    watching: bool,
    passt: Option<Passt>,
}

fn state(cx: &Cx<'_>) -> &'static State {
    &cx.inst.net.link.uplink
}

impl Uplink {
    /// Opens it. `None`: none is wanted, or it cannot be had, which then has been said.
    pub(super) fn begin(desk: &Desk<'_>, now: Nanos) -> Option<Self> {
        let cx = desk.cx();
        if !state(&cx).is_on() {
            return None;
        }
        keeping::begin(&cx);
        match Self::open(desk, &cx, now) {
            Ok(it) => Some(it),
            Err(why) => {
                keeping::failed(&cx, &Sentence::cut(why.as_bytes()));
                None
            }
        }
    }

    fn open(desk: &Desk<'_>, cx: &Cx<'_>, now: Nanos) -> core::result::Result<Self, Trouble> {
        let option = &cx.config().uplink;
        let mut passt = None;
        let (fd, mtu) = match option.kind {
            Kind::Tap => tap(option.at.as_bytes())?,
            _ if option.at.is_empty() => {
                let it = Passt::start(state(cx).passt(cx.me).as_bytes(), cx.config().passt_args.as_str())?;
                let fd = it.fd;
                passt = Some(it);
                (fd, PASST_MTU)
            }
            _ => (connect(option.at.as_bytes())?, PASST_MTU),
        };
        desk.register(fd, libc::EPOLLIN as u32).map_err(|e| format!("CSEL_UPLINK: the descriptor cannot be watched: {e}"))?;
        let facts = cx.facts();
        let host = *facts.config.hostname_or(&facts.name);
        let station = Box::new(Station::new(state(cx).mac(), mtu, option, host, gate::random() as u32, now));
        let pipe = Pipe::new(fd, option.kind == Kind::Passt);
        Ok(Self { inst: desk.env.inst, pipe, station, told: None, up: false, watching: false, passt })
    }

    /// Reads what came, and has it taken in. True if there may be more.
    fn take_in(&mut self, cx: &Cx<'_>, now: Nanos, tapped: bool) -> bool {
        let mut any = false;
        for n in 0..=BATCH {
            if n == BATCH || !keeping::has_room(cx, MOST) {
                break;
            }
            let Some((at, len)) = self.pipe.next() else { break };
            any = true;
            // The station answers by the same pipe.
            let input = core::mem::take(&mut self.pipe.input);
            let frame = &input[at..at + len];
            if tapped {
                pcap::tap(cx, pcap::UP, pcap::IN, frame);
            }
            if self.station.inbound(now, frame, &mut Line { cx, pipe: &mut self.pipe, tapped }) {
                keeping::deliver(cx, frame);
            }
            self.pipe.input = input;
        }
        if any {
            csel_core::net::progress(cx);
            cx.flush();
        }
        any
    }

    /// Writes what goes out. True if there is more.
    fn put_out(&mut self, cx: &Cx<'_>, now: Nanos, tapped: bool) -> bool {
        let mut n = 0;
        while n < OUT_BATCH && !self.pipe.is_full() {
            let (station, pipe) = (&mut self.station, &mut self.pipe);
            let sent = keeping::next_out(cx, |ip| {
                station.outbound(now, ip, &mut Line { cx, pipe, tapped });
                true
            });
            if !sent {
                break;
            }
            n += 1;
        }
        if n > 0 {
            keeping::drained(cx);
        }
        n == OUT_BATCH
    }

    fn end(&mut self, cx: &Cx<'_>) {
        let said = self.passt.take().map(|p| p.last_words()).unwrap_or_default();
        let said = said.trim();
        let why = match (cx.config().uplink.at.is_empty(), said.is_empty()) {
            (true, true) => format!("CSEL_UPLINK: passt has ended; see what it says: passt --foreground {}", cx.config().passt_args),
            (true, false) => format!("CSEL_UPLINK: passt has ended: {said}"),
            _ => format!("CSEL_UPLINK: {} has been closed; is another program connected to it?", cx.config().uplink.at),
        };
        keeping::failed(cx, &Sentence::cut(why.as_bytes()));
        let _ = gate::close(self.pipe.fd);
        self.pipe.fd = -1;
    }
}

impl Source for Uplink {
    fn ready(&mut self, _desk: &mut Desk<'_>, _fd: c_int, events: u32) {
        if events & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 {
            self.pipe.readable = true;
        }
        if events & libc::EPOLLOUT as u32 != 0 {
            self.pipe.blocked = false;
        }
    }

    fn tick(&mut self, desk: &mut Desk<'_>, now: Nanos) -> Nanos {
        if self.pipe.fd < 0 {
            return NEVER;
        }
        let cx = desk.cx();
        let tapped = !cx.config().pcap.is_empty();
        if !self.pipe.blocked && !self.pipe.output.is_empty() {
            self.pipe.write();
        }
        let mut more = self.take_in(&cx, now, tapped);
        if self.station.next() <= now {
            self.station.tick(now, &mut Line { cx: &cx, pipe: &mut self.pipe, tapped });
            csel_core::net::progress(&cx);
            cx.flush();
        }
        let settled = self.up || self.station.is_settled(now);
        // One who takes over from a keeper that died does not forget what is known before it knows better.
        let publish = settled || state(&cx).phase() != csel_core::net::link::uplink::Phase::Up;
        if publish && self.told != Some(self.station.net) {
            keeping::learnt(&cx, &self.station.net);
            self.told = Some(self.station.net);
        }
        if settled && !self.up {
            self.up = true;
            keeping::is_up(&cx);
        }
        more |= self.put_out(&cx, now, tapped);
        if !self.pipe.blocked {
            self.pipe.write();
        }
        if self.pipe.ended {
            self.end(&cx);
            return NEVER;
        }
        if self.pipe.blocked != self.watching {
            self.watching = self.pipe.blocked;
            let out = if self.watching { libc::EPOLLOUT } else { 0 };
            let _ = desk.change(self.pipe.fd, (libc::EPOLLIN | out) as u32);
        }
        match () {
            () if more || self.pipe.readable || keeping::pending(self.inst) && !self.pipe.is_full() => 0,
            () if !self.up => self.station.next().min(now + 50_000_000),
            () => self.station.next(),
        }
    }

    fn is_busy(&self) -> bool {
        self.pipe.fd >= 0 && (keeping::pending(self.inst) || !self.pipe.output.is_empty())
    }

    fn is_carrying(&self) -> bool {
        self.pipe.fd >= 0
    }
}

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const TUNSETIFF: usize = 0x4004_54ca;
const SIOCGIFFLAGS: usize = 0x8913;
const SIOCGIFMTU: usize = 0x8921;

/// `struct ifreq`.
#[repr(C)]
struct Req {
    name: [u8; 16],
    value: [u8; 24],
}

impl Req {
    fn of(name: &[u8]) -> Self {
        let mut r = Self { name: [0; 16], value: [0; 24] };
        let n = name.len().min(15);
        r.name[..n].copy_from_slice(&name[..n]);
        r
    }
    fn ask(&mut self, fd: c_int, request: usize) -> Result<()> {
        // SAFETY: a whole struct ifreq, which the kernel reads and writes.
        unsafe { gate::syscall(libc::SYS_ioctl, [fd as usize, request, &raw mut *self as usize, 0, 0, 0]) }.map(drop)
    }
}

/// A TAP device that is there, and its MTU.
fn tap(name: &[u8]) -> core::result::Result<(c_int, u32), Trouble> {
    let shown = String::from_utf8_lossy(name);
    // netdevice(7)'s questions are asked of any socket; one of AF_INET might be refused.
    let ask = gate::bell::clapper().map_err(|e| format!("CSEL_UPLINK: no socket: {e}"))?;
    let mut req = Req::of(name);
    let there = req.ask(ask, SIOCGIFFLAGS);
    let mut mtu = Req::of(name);
    let _ = mtu.ask(ask, SIOCGIFMTU);
    let _ = gate::close(ask);
    if let Err(e) = there {
        return Err(format!(
            "CSEL_UPLINK: there is no device {shown}: {e}; make it: ip tuntap add dev {shown} mode tap user $USER, then ip link set {shown} up"
        ));
    }
    let fd = gate::open(c"/dev/net/tun", libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC, 0).map_err(|e| {
        format!("CSEL_UPLINK: cannot open /dev/net/tun: {e}; give yourself the right to, or use --uplink passt, which needs none")
    })?;
    let bind = || {
        let mut bound = Err(Errno::EINVAL);
        for more in [0, IFF_MULTI_QUEUE] {
            let mut req = Req::of(name);
            req.value[..2].copy_from_slice(&(IFF_TAP | IFF_NO_PI | more).to_ne_bytes());
            bound = req.ask(fd, TUNSETIFF);
            if bound != Err(Errno::EINVAL) {
                break;
            }
        }
        bound
    };
    let mut bound = bind();
    // A program that has just ended is started again: its keeper still sees to it that its last bytes arrive.
    let until = clock() + BUSY;
    while bound == Err(Errno::EBUSY) && clock() < until {
        gate::file::nap(10_000_000);
        bound = bind();
    }
    if let Err(e) = bound {
        let _ = gate::close(fd);
        let remedy = match e {
            Errno::EBUSY => "another program has it; give this instance a device of its own",
            Errno::EPERM => "it belongs to another user: ip tuntap add with user $USER, or use --uplink passt",
            _ => "it must be a TAP device: ip tuntap add dev NAME mode tap user $USER",
        };
        return Err(format!("CSEL_UPLINK: cannot use the device {shown}: {e}; {remedy}"));
    }
    let mtu = u32::from_ne_bytes([mtu.value[0], mtu.value[1], mtu.value[2], mtu.value[3]]);
    Ok((fd, if (68..=65535).contains(&mtu) { mtu } else { 1500 }))
}

/// A connection to passt's socket.
fn connect(path: &[u8]) -> core::result::Result<c_int, Trouble> {
    let shown = String::from_utf8_lossy(path);
    let mut address = [0u8; 110];
    address[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    address[2..2 + path.len()].copy_from_slice(path);
    let ty = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: plain numbers; then an address readable for its length.
    let fd = unsafe {
        gate::syscall(libc::SYS_socket, [libc::AF_UNIX as usize, ty as usize, 0, 0, 0, 0]).and_then(|fd| {
            gate::syscall(libc::SYS_connect, [fd, address.as_ptr() as usize, path.len() + 3, 0, 0, 0]).map(|_| fd as c_int).inspect_err(
                |_| {
                    let _ = gate::close(fd as c_int);
                },
            )
        })
    }
    .map_err(|e| format!("CSEL_UPLINK: cannot connect to passt's socket {shown}: {e}; is passt running with --socket {shown}?"))?;
    let _ = gate::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK as usize);
    Ok(fd)
}

/// A passt of our own.
struct Passt {
    fd: c_int,
    pid: usize,
    /// A file with what it says.
    says: c_int,
}

impl Passt {
    /// Starts it at one end of a socketpair.
    fn start(path: &[u8], args: &str) -> core::result::Result<Self, Trouble> {
        if path.is_empty() {
            return Err("CSEL_UPLINK: there is no passt in PATH; install it (Debian: apt install passt), or name the socket of one that runs: CSEL_UPLINK=passt:/PATH".to_string());
        }
        let failed = |e: Errno| format!("CSEL_UPLINK: cannot start passt: {e}; end other programs, or raise their limits (ulimit -a)");
        let mut pair = [0 as c_int; 2];
        // SAFETY: room for two descriptors.
        unsafe {
            gate::syscall(
                libc::SYS_socketpair,
                [libc::AF_UNIX as usize, (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as usize, 0, pair.as_mut_ptr() as usize, 0, 0],
            )
        }
        .map_err(failed)?;
        let says = gate::memfd_create(c"passt", libc::MFD_CLOEXEC).map_err(failed)?;
        let _ = gate::fcntl(pair[0], libc::F_SETFL, libc::O_NONBLOCK as usize);
        for fd in pair {
            // Room for some frames of 64 KiB, as far as the system allows.
            let size: c_int = 1 << 20;
            for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
                let a = [fd as usize, libc::SOL_SOCKET as usize, option as usize, &raw const size as usize, 4, 0];
                // SAFETY: an int.
                let _ = unsafe { gate::syscall(libc::SYS_setsockopt, a) };
            }
        }
        let mut words = vec![b"passt".to_vec(), b"--foreground".to_vec(), b"--quiet".to_vec(), b"--fd".to_vec(), b"3".to_vec()];
        words.extend(args.split_whitespace().map(|w| w.as_bytes().to_vec()));
        let mut program = path.to_vec();
        program.push(0);
        words.iter_mut().for_each(|w| w.push(0));
        let argv: Vec<*const u8> = words.iter().map(|w| w.as_ptr()).chain([core::ptr::null()]).collect();
        let envp = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin".as_ptr(), core::ptr::null()];
        // SAFETY: as fork(2), with the signal a child ends with; the child makes raw system calls only, on memory that is there.
        let pid = unsafe {
            match gate::syscall(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]) {
                Ok(0) => {
                    // It ends with us, even if we are killed.
                    let _ = gate::syscall(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as usize, libc::SIGTERM as usize, 0, 0, 0, 0]);
                    let high = gate::fcntl(pair[1], libc::F_DUPFD, 100).unwrap_or(0);
                    let _ = gate::syscall(libc::SYS_dup3, [says as usize, 2, 0, 0, 0, 0]);
                    let _ = gate::syscall(libc::SYS_dup3, [high, 3, 0, 0, 0, 0]);
                    let _ = gate::syscall(libc::SYS_close_range, [4, u32::MAX as usize, 0, 0, 0, 0]);
                    let a = [program.as_ptr() as usize, argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0, 0];
                    let _ = gate::syscall(libc::SYS_execve, a);
                    crate::init::exit_now(127)
                }
                other => other.map_err(failed)?,
            }
        };
        let _ = gate::close(pair[1]);
        Ok(Self { fd: pair[0], pid, says })
    }

    /// It has ended: the last line it said.
    fn last_words(self) -> String {
        // SAFETY: no status is asked for.
        let _ = unsafe { gate::syscall(libc::SYS_wait4, [self.pid, 0, libc::WNOHANG as usize, 0, 0, 0]) };
        let mut text = [0u8; 2000];
        // SAFETY: the slice is writable for its length.
        let n = unsafe { gate::syscall(libc::SYS_pread64, [self.says as usize, text.as_mut_ptr() as usize, text.len(), 0, 0, 0]) };
        let _ = gate::close(self.says);
        let text = String::from_utf8_lossy(&text[..n.unwrap_or(0)]);
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("Failed to send") && !l.trim().is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(3)..].join("; ");
        tail.chars().take(250).collect()
    }
}
