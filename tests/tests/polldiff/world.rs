//! One sequence: descriptors, operations on them, and what is said of each.
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a level that must come may take, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(20);
const ET: u32 = libc::EPOLLET as u32;
const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;
const RDHUP: u32 = libc::EPOLLRDHUP as u32;
const PRI: u32 = libc::EPOLLPRI as u32;
const ONESHOT: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// A number from a number (splitmix64).
struct Dice(u64);
impl Dice {
    fn roll(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }
}

/// What is behind a descriptor; the number is that of the object, which dup shares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Tcp(usize),
    Listener(usize),
    Udp(usize),
    PipeRead,
    PipeWrite,
    Event,
    Epoll(usize),
}

#[derive(Clone, Copy)]
struct Slot {
    fd: i32,
    what: What,
}

/// One end of a connection, as the sequence knows it.
#[derive(Clone, Copy, Default)]
struct End {
    open: bool,
    /// Bytes the peer has sent and we have not read.
    unread: usize,
    sent_fin: bool,
    shut_read: bool,
    /// A reset has come, or must have.
    reset: bool,
    /// Our send buffer is full.
    full: bool,
    refs: usize,
}

pub(crate) struct World {
    dice: Dice,
    slots: Vec<Slot>,
    ends: Vec<End>,
    ports: Vec<(u16, usize)>,
    udp: Vec<(u16, usize, usize)>,
    epolls: Vec<(i32, usize)>,
    /// Kernel descriptors (or nested sets) have been registered in this set.
    mixed: Vec<bool>,
    family: i32,
    line: String,
    pipe: usize,
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn said(r: isize) -> String {
    if r >= 0 { r.to_string() } else { format!("E{}", errno()) }
}

pub(crate) fn child(from: u64, to: u64, times: u64) -> ExitCode {
    loopback_up();
    // SAFETY: a default disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let mut out = std::io::stdout().lock();
    for n in from..to {
        for _ in 0..times {
            let line = World::new(n).run(n);
            writeln!(out, "{line}").expect("stdout");
        }
    }
    ExitCode::SUCCESS
}

/// Brings `lo` up in a namespace of our own; where it is up already, or under csel, nothing happens.
fn loopback_up() {
    // SAFETY: plain calls; all-zero is a valid ifreq.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut req: libc::ifreq = std::mem::zeroed();
        req.ifr_name[0] = b'l' as libc::c_char;
        req.ifr_name[1] = b'o' as libc::c_char;
        req.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        libc::ioctl(fd, libc::SIOCSIFFLAGS, &req);
        libc::close(fd);
    }
    let begun = Instant::now();
    while std::net::TcpListener::bind("[::1]:0").is_err() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The level of a descriptor now.
fn level(fd: i32) -> i16 {
    let mut p = libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP | libc::POLLPRI, revents: 0 };
    // SAFETY: one pollfd.
    unsafe { libc::poll(&raw mut p, 1, 0) };
    p.revents
}

fn queued(fd: i32) -> i32 {
    let mut n = 0;
    // SAFETY: FIONREAD fills an int.
    unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut n) };
    n
}

fn shown(events: &[(u64, u32)]) -> String {
    events.iter().fold(String::new(), |mut text, (data, events)| {
        let _ = write!(text, " s{data}:{events:#x}");
        text
    })
}

/// TCP_QUICKACK: a delayed acknowledgement goes now.
fn acknowledge(fd: i32) {
    let on = 1i32;
    // SAFETY: an int.
    unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK, (&raw const on).cast(), 4) };
}

/// tcpi_state.
fn state(fd: i32) -> u8 {
    let mut info = [0u8; 104];
    let mut len = 104;
    // SAFETY: room for what is asked.
    unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len) };
    info[0]
}

impl World {
    pub(crate) fn new(n: u64) -> Self {
        let mut dice = Dice(n.wrapping_mul(0x0123_4567_89ab_cdef) ^ 0x5eed);
        let family = if dice.chance(50) { libc::AF_INET } else { libc::AF_INET6 };
        Self {
            dice,
            slots: Vec::new(),
            ends: Vec::new(),
            ports: Vec::new(),
            udp: Vec::new(),
            epolls: Vec::new(),
            mixed: Vec::new(),
            family,
            line: String::new(),
            pipe: 0,
        }
    }

    pub(crate) fn run(mut self, n: u64) -> String {
        let _ = write!(self.line, "{n}");
        self.epoll();
        self.connection();
        if self.dice.chance(50) {
            self.epoll();
        }
        for _ in 0..10 + self.dice.roll(30) {
            self.step();
            if self.line.ends_with('!') {
                break;
            }
        }
        for s in &self.slots {
            // SAFETY: our descriptors.
            unsafe { libc::close(s.fd) };
        }
        self.line
    }

    fn say(&mut self, what: std::fmt::Arguments<'_>) {
        let _ = write!(self.line, "; {what}");
    }

    fn push(&mut self, fd: i32, what: What) -> usize {
        self.slots.push(Slot { fd, what });
        self.slots.len() - 1
    }

    fn any(&mut self, f: impl Fn(&Slot) -> bool) -> Option<(usize, Slot)> {
        let fits: Vec<_> = self.slots.iter().copied().enumerate().filter(|(_, s)| s.fd >= 0 && f(s)).collect();
        if fits.is_empty() { None } else { Some(fits[self.dice.roll(fits.len())]) }
    }

    /// Waits for a level that must come.
    fn until(&mut self, what: &str, f: impl Fn() -> bool) {
        let begun = Instant::now();
        let mut turns = 0;
        while !f() {
            turns += 1;
            if begun.elapsed() > PATIENCE {
                self.say(format_args!("{what} never came!"));
                return;
            }
            if turns > 20 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Any descriptor of an end.
    fn fd_of(&self, end: usize) -> Option<i32> {
        self.slots.iter().find(|s| s.fd >= 0 && s.what == What::Tcp(end)).map(|s| s.fd)
    }

    fn epoll(&mut self) {
        // SAFETY: no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let n = self.epolls.len();
        self.epolls.push((fd, 0));
        self.mixed.push(false);
        let s = self.push(fd, What::Epoll(n));
        self.say(format_args!("s{s}=epoll"));
    }

    fn loopback(&self, port: u16) -> (libc::sockaddr_storage, u32) {
        // SAFETY: all-zero is a sockaddr; the casts stay inside it.
        unsafe {
            let mut a: libc::sockaddr_storage = std::mem::zeroed();
            if self.family == libc::AF_INET {
                let sin = (&raw mut a).cast::<libc::sockaddr_in>();
                (*sin).sin_family = libc::AF_INET as u16;
                (*sin).sin_port = port.to_be();
                (*sin).sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
                (a, size_of::<libc::sockaddr_in>() as u32)
            } else {
                let sin = (&raw mut a).cast::<libc::sockaddr_in6>();
                (*sin).sin6_family = libc::AF_INET6 as u16;
                (*sin).sin6_port = port.to_be();
                (*sin).sin6_addr.s6_addr[15] = 1;
                (a, size_of::<libc::sockaddr_in6>() as u32)
            }
        }
    }

    fn bound(&mut self, ty: i32) -> (i32, u16) {
        // SAFETY: valid addresses and lengths.
        unsafe {
            let fd = libc::socket(self.family, ty | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
            let (a, len) = self.loopback(0);
            assert_eq!(libc::bind(fd, (&raw const a).cast(), len), 0, "bind: E{}", errno());
            let (mut b, mut blen) = (a, len);
            assert_eq!(libc::getsockname(fd, (&raw mut b).cast(), &raw mut blen), 0);
            let port = (*(&raw const b).cast::<libc::sockaddr_in>()).sin_port;
            (fd, u16::from_be(port))
        }
    }

    fn listener(&mut self) -> usize {
        let (fd, port) = self.bound(libc::SOCK_STREAM);
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::listen(fd, 16) }, 0);
        self.ports.push((port, 0));
        let n = self.ports.len() - 1;
        let s = self.push(fd, What::Listener(n));
        self.say(format_args!("s{s}=listener"));
        s
    }

    /// connect(2) to a listener; the connection waits in its queue.
    fn connect(&mut self, l: usize) {
        let What::Listener(n) = self.slots[l].what else { return };
        if self.ports[n].1 >= 8 {
            return;
        }
        let (a, len) = self.loopback(self.ports[n].0);
        // SAFETY: a valid address.
        let (fd, r) = unsafe {
            let fd = libc::socket(self.family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
            (fd, libc::connect(fd, (&raw const a).cast(), len))
        };
        let _ = r;
        let lfd = self.slots[l].fd;
        self.until("connection", || level(fd) & libc::POLLOUT != 0);
        self.until("connection", || level(lfd) & libc::POLLIN != 0);
        self.ports[n].1 += 1;
        self.ends.push(End { open: true, refs: 1, ..End::default() });
        self.ends.push(End { open: true, refs: 1, ..End::default() });
        let s = self.push(fd, What::Tcp(self.ends.len() - 2));
        self.say(format_args!("s{s}=connect(s{l})"));
        // Taken at once, so that both ends of a connection are known by their numbers.
        // SAFETY: no addresses asked for.
        let got = unsafe { libc::accept4(lfd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
        self.ports[n].1 -= 1;
        let s = self.push(got, What::Tcp(self.ends.len() - 1));
        self.say(format_args!("s{s}=accept(s{l})"));
    }

    fn connection(&mut self) {
        let l = match self.any(|s| matches!(s.what, What::Listener(_))) {
            Some((l, _)) => l,
            None => self.listener(),
        };
        self.connect(l);
    }

    /// Waits until what the ends of a connection must see has come.
    fn settle(&mut self, end: usize) {
        for x in [end, end ^ 1] {
            let (e, p) = (self.ends[x], self.ends[x ^ 1]);
            let Some(fd) = self.fd_of(x).filter(|_| e.open) else { continue };
            if e.reset {
                self.until("reset", || level(fd) & libc::POLLHUP != 0);
                continue;
            }
            let fin = p.sent_fin;
            if let Some(peer) = self.fd_of(x ^ 1).filter(|_| p.open && e.sent_fin) {
                // Its acknowledgement is an event too (FIN-WAIT-1 to FIN-WAIT-2): it must not come late.
                self.until("acknowledgement", || {
                    acknowledge(peer);
                    !matches!(state(fd), 4 | 9 | 11)
                });
            }
            self.until("data", || queued(fd) as usize == e.unread);
            self.until("fin", || !fin || level(fd) & libc::POLLRDHUP != 0);
            self.until("hang-up", || !(fin && e.sent_fin) || level(fd) & libc::POLLHUP != 0);
            self.until("room", || e.full || level(fd) & libc::POLLOUT != 0);
        }
    }

    fn write(&mut self, i: usize, s: Slot, end: usize) {
        let (e, p) = (self.ends[end], self.ends[end ^ 1]);
        // Data for an end that was shut down for reading: when the reset comes depends on its state.
        if e.reset || e.sent_fin || e.full || p.shut_read {
            return;
        }
        let data = [7u8; 4096];
        let n = [1, 10, 100, 1000, 4096][self.dice.roll(5)];
        // SAFETY: a readable buffer.
        let r = unsafe { libc::send(s.fd, data.as_ptr().cast(), n, libc::MSG_NOSIGNAL) };
        let text = said(r);
        self.say(format_args!("send(s{i},{n})={text}"));
        if r > 0 {
            if !p.open {
                // Nobody reads any more: the answer is a reset.
                self.ends[end].reset = true;
            } else {
                self.ends[end ^ 1].unread += r as usize;
            }
        }
        self.settle(end);
    }

    fn read(&mut self, i: usize, s: Slot, end: usize) {
        let mut room = [0u8; 8192];
        let n = [1, 10, 8192, 8192][self.dice.roll(4)];
        // SAFETY: a writable buffer.
        let r = unsafe { libc::recv(s.fd, room.as_mut_ptr().cast(), n, 0) };
        let text = said(r);
        self.say(format_args!("recv(s{i},{n})={text}"));
        if r > 0 {
            self.ends[end].unread -= (r as usize).min(self.ends[end].unread);
        }
        self.settle(end);
    }

    /// Writes until no more fits; then the peer reads all of it.
    fn fill(&mut self, i: usize, s: Slot, end: usize) {
        let (e, p) = (self.ends[end], self.ends[end ^ 1]);
        if e.reset || e.sent_fin || e.full || !p.open || p.shut_read {
            return;
        }
        let data = vec![7u8; 65536];
        let mut total = 0;
        let begun = Instant::now();
        loop {
            // SAFETY: a readable buffer.
            let r = unsafe { libc::send(s.fd, data.as_ptr().cast(), data.len(), libc::MSG_NOSIGNAL) };
            if r > 0 {
                total += r as usize;
            } else if level(s.fd) & libc::POLLOUT == 0 || begun.elapsed() > PATIENCE {
                break;
            }
        }
        self.say(format_args!("fill(s{i})"));
        self.look();
        let mut left = self.ends[end ^ 1].unread + total;
        let Some(fd) = self.fd_of(end ^ 1) else { return };
        let mut room = vec![0u8; 65536];
        while left > 0 && begun.elapsed() < PATIENCE {
            // SAFETY: a writable buffer.
            let r = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), 0) };
            if r > 0 {
                left -= r as usize;
            } else {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        self.ends[end ^ 1].unread = 0;
        self.say(format_args!("drained {left}"));
        self.settle(end);
    }

    fn shut(&mut self, i: usize, s: Slot, end: usize) {
        let how = if self.dice.chance(80) { libc::SHUT_WR } else { libc::SHUT_RDWR };
        let e = self.ends[end];
        if e.full {
            return;
        }
        // SAFETY: no pointers.
        let r = unsafe { libc::shutdown(s.fd, how) };
        let text = said(r as isize);
        self.say(format_args!("shutdown(s{i},{how})={text}"));
        if r == 0 {
            self.ends[end].sent_fin = true;
            if how == libc::SHUT_RDWR {
                self.ends[end].shut_read = true;
            }
        }
        self.settle(end);
    }

    fn close(&mut self, i: usize, s: Slot) {
        // SAFETY: our descriptor.
        let r = unsafe { libc::close(s.fd) };
        self.slots[i].fd = -1;
        let text = said(r as isize);
        self.say(format_args!("close(s{i})={text}"));
        if let What::Tcp(end) = s.what {
            self.ends[end].refs -= 1;
            if self.ends[end].refs == 0 {
                let e = self.ends[end];
                self.ends[end].open = false;
                if e.unread > 0 && !e.reset {
                    // Data nobody has read: the peer is told by a reset.
                    self.ends[end ^ 1].reset = true;
                }
                self.ends[end].sent_fin = true;
                self.settle(end);
            }
        }
    }

    fn duplicate(&mut self, i: usize, s: Slot) {
        // SAFETY: no pointers.
        let fd = unsafe { libc::fcntl(s.fd, libc::F_DUPFD_CLOEXEC, 0) };
        if let What::Tcp(end) = s.what {
            self.ends[end].refs += 1;
        }
        let n = self.push(fd, s.what);
        self.say(format_args!("s{n}=dup(s{i})"));
    }

    fn events(&mut self) -> u32 {
        let mut ev = [IN, OUT, IN | OUT, IN | RDHUP, IN | OUT | RDHUP, PRI, 0, RDHUP, IN | libc::EPOLLRDNORM as u32][self.dice.roll(9)];
        if self.dice.chance(40) {
            ev |= ET;
        }
        if self.dice.chance(15) {
            ev |= ONESHOT;
        }
        if self.dice.chance(8) {
            ev |= EXCLUSIVE;
        }
        ev
    }

    fn ctl(&mut self) {
        let Some((e, es)) = self.any(|s| matches!(s.what, What::Epoll(_))) else { return };
        let What::Epoll(set) = es.what else { return };
        let Some((i, s)) = self.any(|_| true) else { return };
        // Closed numbers are somebody else's soon: only open ones.
        let op =
            [libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_ADD, libc::EPOLL_CTL_MOD, libc::EPOLL_CTL_DEL][self.dice.roll(5)];
        let ev = self.events();
        if matches!(s.what, What::Epoll(_)) && ev & ONESHOT != 0 {
            return;
        }
        let mut event = libc::epoll_event { events: ev, u64: i as u64 };
        // SAFETY: a valid event.
        let r = unsafe { libc::epoll_ctl(es.fd, op, s.fd, &raw mut event) };
        let text = said(r as isize);
        self.say(format_args!("ctl(s{e},{op},s{i},{ev:#x})={text}"));
        if r == 0 && !matches!(s.what, What::Tcp(_) | What::Listener(_) | What::Udp(_)) {
            self.mixed[set] = true;
        }
    }

    /// epoll_wait(2) without waiting. Which of several events of one operation comes first is a matter of softirqs: they are compared as a set.
    fn take(fd: i32, max: usize) -> (i32, Vec<(u64, u32)>) {
        let mut out = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: room for max events.
        let n = unsafe { libc::epoll_wait(fd, out.as_mut_ptr(), max as i32, 0) };
        (n, out[..n.max(0) as usize].iter().map(|e| (e.u64, e.events)).collect())
    }

    fn wait(&mut self, e: usize, es: Slot) {
        let (n, mut got) = Self::take(es.fd, 64);
        got.sort_unstable();
        let n = said(n as isize);
        self.say(format_args!("wait(s{e})={n}{}", shown(&got)));
        if self.dice.chance(20) && !got.is_empty() {
            // What is ready takes turns: as many waits for one as there are, and each has had its turn.
            let What::Epoll(set) = es.what else { return };
            if self.mixed[set] {
                return;
            }
            let mut turns: Vec<_> = (0..got.len()).flat_map(|_| Self::take(es.fd, 1).1).collect();
            turns.sort_unstable();
            self.say(format_args!("turns(s{e}){}", shown(&turns)));
        }
    }

    /// Every set is asked.
    fn look(&mut self) {
        for i in 0..self.slots.len() {
            let s = self.slots[i];
            if s.fd >= 0 && matches!(s.what, What::Epoll(_)) {
                self.wait(i, s);
            }
        }
    }

    fn poll(&mut self) {
        let mut fds = Vec::new();
        for i in 0..self.slots.len() {
            let s = self.slots[i];
            if s.fd >= 0 && self.dice.chance(60) {
                let events =
                    [libc::POLLIN, libc::POLLOUT, libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP, 0, libc::POLLRDNORM | libc::POLLWRNORM]
                        [self.dice.roll(5)];
                fds.push((i, libc::pollfd { fd: s.fd, events, revents: 0 }));
            }
        }
        let mut p: Vec<_> = fds.iter().map(|f| f.1).collect();
        // SAFETY: as many pollfds as said.
        let n = unsafe { libc::poll(p.as_mut_ptr(), p.len() as libc::nfds_t, 0) };
        let text: String = fds.iter().zip(&p).map(|((i, _), p)| format!(" s{i}:{:#x}", p.revents)).collect();
        let n = said(n as isize);
        self.say(format_args!("poll={n}{text}"));
    }

    fn select(&mut self) {
        // SAFETY: all-zero sets are empty; descriptors are below FD_SETSIZE here.
        let (n, r, w, x, top) = unsafe {
            let mut sets: [libc::fd_set; 3] = std::mem::zeroed();
            let mut top = -1;
            for i in 0..self.slots.len() {
                let s = self.slots[i];
                for set in &mut sets {
                    if s.fd >= 0 && s.fd < 1024 && self.dice.chance(50) {
                        libc::FD_SET(s.fd, set);
                        top = top.max(s.fd);
                    }
                }
            }
            let mut tv = libc::timeval { tv_sec: 0, tv_usec: 0 };
            let [mut r, mut w, mut x] = sets;
            let n = libc::select(top + 1, &raw mut r, &raw mut w, &raw mut x, &raw mut tv);
            (n, r, w, x, top)
        };
        let mut text = String::new();
        for i in 0..self.slots.len() {
            let fd = self.slots[i].fd;
            if fd >= 0 && fd <= top {
                // SAFETY: as above.
                let bits =
                    unsafe { [libc::FD_ISSET(fd, &raw const r), libc::FD_ISSET(fd, &raw const w), libc::FD_ISSET(fd, &raw const x)] };
                if bits.contains(&true) {
                    let _ = write!(text, " s{i}:{}{}{}", i32::from(bits[0]), i32::from(bits[1]), i32::from(bits[2]));
                }
            }
        }
        let n = said(n as isize);
        self.say(format_args!("select={n}{text}"));
    }

    fn udp(&mut self) {
        let (a, pa) = self.bound(libc::SOCK_DGRAM);
        let n = self.udp.len();
        self.udp.push((pa, n, 0));
        let s = self.push(a, What::Udp(n));
        self.say(format_args!("s{s}=udp"));
    }

    fn datagram(&mut self) {
        let Some((i, s)) = self.any(|s| matches!(s.what, What::Udp(_))) else { return self.udp() };
        let What::Udp(n) = s.what else { return };
        if self.udp[n].2 == 0 {
            let (a, len) = self.loopback(self.udp[n].0);
            // SAFETY: a valid buffer and address: to itself.
            let r = unsafe { libc::sendto(s.fd, b"x".as_ptr().cast(), 1, 0, (&raw const a).cast(), len) };
            let text = said(r);
            self.say(format_args!("sendto(s{i})={text}"));
            self.udp[n].2 = 1;
            self.until("datagram", || level(s.fd) & libc::POLLIN != 0);
        } else {
            let mut b = [0u8; 4];
            // SAFETY: a writable buffer.
            let r = unsafe { libc::recv(s.fd, b.as_mut_ptr().cast(), 4, 0) };
            let text = said(r);
            self.say(format_args!("recv(s{i})={text}"));
            self.udp[n].2 = 0;
        }
    }

    fn kernel(&mut self) {
        let Some((i, s)) = self.any(|s| matches!(s.what, What::PipeRead | What::PipeWrite | What::Event)) else {
            let mut p = [0; 2];
            // SAFETY: room for two numbers.
            unsafe { libc::pipe2(p.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
            let a = self.push(p[0], What::PipeRead);
            let b = self.push(p[1], What::PipeWrite);
            // SAFETY: no pointers.
            let e = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
            let c = self.push(e, What::Event);
            return self.say(format_args!("s{a},s{b}=pipe s{c}=eventfd"));
        };
        let mut b = [0u8; 8];
        // SAFETY: eight bytes either way.
        let r = unsafe {
            match s.what {
                What::PipeRead => libc::read(s.fd, b.as_mut_ptr().cast(), 1),
                What::PipeWrite => libc::write(s.fd, b.as_ptr().cast(), 1),
                _ if self.dice.chance(50) => libc::read(s.fd, b.as_mut_ptr().cast(), 8),
                _ => libc::write(s.fd, 1u64.to_ne_bytes().as_ptr().cast(), 8),
            }
        };
        self.pipe += 1;
        let text = said(r);
        self.say(format_args!("io(s{i})={text}"));
    }

    fn step(&mut self) {
        let tcp = |s: &Slot| matches!(s.what, What::Tcp(_));
        match self.dice.roll(100) {
            0..20 => self.ctl(),
            20..45 => {
                if let Some((e, es)) = self.any(|s| matches!(s.what, What::Epoll(_))) {
                    self.wait(e, es);
                }
            }
            45..50 => self.poll(),
            50..53 => self.select(),
            53..65 => {
                if let Some((i, s)) = self.any(tcp)
                    && let What::Tcp(end) = s.what
                {
                    self.write(i, s, end);
                }
            }
            65..76 => {
                if let Some((i, s)) = self.any(tcp)
                    && let What::Tcp(end) = s.what
                {
                    self.read(i, s, end);
                }
            }
            76..78 => {
                if let Some((i, s)) = self.any(tcp)
                    && let What::Tcp(end) = s.what
                {
                    self.fill(i, s, end);
                }
            }
            78..81 => {
                if let Some((i, s)) = self.any(tcp)
                    && let What::Tcp(end) = s.what
                {
                    self.shut(i, s, end);
                }
            }
            81..84 => {
                if let Some((i, s)) = self.any(|s| !matches!(s.what, What::Listener(_))) {
                    self.close(i, s);
                }
            }
            84..87 => {
                if let Some((i, s)) = self.any(|s| !matches!(s.what, What::Udp(_))) {
                    self.duplicate(i, s);
                }
            }
            87..90 => self.connection(),
            90..94 => self.datagram(),
            94..97 => self.kernel(),
            97..98 => self.epoll(),
            _ => self.look(),
        }
    }
}
