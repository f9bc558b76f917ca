//! Relays: bytes between a virtual socket and a descriptor of the kernel's.
//!
//! # Theory of operation
//! **Purpose.** The one engine under pumped sockets, published ports and the way to the host: both directions, half closes, resets, back-pressure,
//! thousands at once.
//! **How it works.** The virtual sockets are in a core epoll set, the kernel's in the keeper's, both edge-triggered; a relay notes what it was told and
//! turns when it is *runnable*. A turn moves at most [`TURN`] bytes each way, through one buffer that all relays share; what the other side does not take
//! is kept by the relay ([`Half::left`], at most one buffer), and nothing more is read until that has gone: so is memory bounded and a slow reader felt by
//! the writer. An end of stream is passed on as a half close when all before it has gone; a reset as a reset, where the other side knows one.
//! *Pumped* relays ([`Plan::pumped`]) have a socketpair whose other end a program has in place of the virtual socket. While others hold the same open
//! description, what the program has not read must stay theirs: bytes are then only *lent* (peeked, sent, and taken from the virtual socket when
//! the pair says that they were read), by the line at first and by more the longer the program goes on reading.
//! **Limits.** A program that reads part of what it was lent and goes leaves all of it to the next reader. A reset reaches a pumped program as an end of
//! stream (EPIPE when it writes). **Locks.** None. **Failure.** A relay whose socket fails ends alone; both its sides are closed or reset.
//! **See also.** socketpair(2), unix(7); [`super::door`], [`super::publish`].
use super::host::Desk;
use super::inside::{self, Dial};
use super::kernel::{self, Fd};
use crate::enter::clock;
use core::sync::atomic::Ordering::Relaxed;
use csel_core::call::epoll::{self as virtual_epoll, Event};
use csel_core::call::socket;
use csel_core::clock::{MS, NEVER, Nanos};
use csel_core::errno::{Errno, Result};
use csel_core::fd::Held;
use csel_core::instance::Cx;
use csel_core::net::wait;
use libc::c_int;
use std::collections::{HashMap, VecDeque};

/// Bytes that go through the shared buffer at once.
const CHUNK: usize = 256 << 10;
/// Bytes each way in one turn of a relay.
const TURN: usize = 1 << 20;
/// What is lent at first, and while a program reads by the line.
const LOAN: usize = 4096;
/// A relay that moved something so recently is carrying.
const RECENT: Nanos = 100 * MS;

/// How a relay begins.
pub(crate) struct Plan {
    /// The number of the virtual socket in the keeper's table.
    pub(crate) inside: c_int,
    /// The connect(2) of the virtual socket under way.
    pub(crate) dial: Option<Dial>,
    /// The kernel's socket.
    pub(crate) outside: Fd,
    /// Whole datagrams, not a stream.
    pub(crate) datagrams: bool,
    /// The kernel's socket is half of a socketpair: see the head of this file.
    pub(crate) pumped: bool,
    /// What the virtual socket is sent before anything else.
    pub(crate) greeting: Vec<u8>,
    /// Ends after so long without a byte; [`NEVER`]: does not.
    pub(crate) idle: Nanos,
}

/// One direction.
#[derive(Default)]
struct Half {
    /// Read, and not taken by the other side yet, from `at` on.
    left: Vec<u8>,
    at: usize,
    /// The source has ended.
    ended: bool,
    /// The other side has been told so.
    told: bool,
}

struct Relay {
    plan: Plan,
    /// Which one of those that had this place.
    turn: u32,
    /// Edges seen and not used up: may be read, may be written.
    can: [bool; 4],
    down: Half,
    up: Half,
    /// Peeked and sent to the program, not known to be read.
    lent: usize,
    loan: usize,
    queued: bool,
    /// When it last moved something.
    moved: Nanos,
}

/// An event's data when it is a listener's.
const NOBODY: u64 = u64::MAX;

/// In [`Relay::can`].
const IN_READ: usize = 0;
const IN_WRITE: usize = 1;
const OUT_READ: usize = 2;
const OUT_WRITE: usize = 3;

/// What a turn came to.
#[derive(PartialEq, Eq)]
enum Turned {
    /// Nothing more can be done until something is ready.
    Idle,
    /// There is more.
    More,
    /// It is over.
    Over,
}

/// The relays of one source.
pub(crate) struct Relays {
    /// The core epoll set's number; 0: none yet.
    set: c_int,
    all: Vec<Option<Relay>>,
    turns: u32,
    free: Vec<usize>,
    by_fd: HashMap<c_int, usize>,
    runnable: VecDeque<usize>,
    buffer: Vec<u8>,
    moved: Nanos,
    /// Kernel descriptors of those that have ended, until somebody asks.
    ended: Vec<c_int>,
    /// When to look for idle ones.
    sweep: Nanos,
}

impl Default for Relays {
    fn default() -> Self {
        Self {
            set: 0,
            all: Vec::new(),
            turns: 0,
            free: Vec::new(),
            by_fd: HashMap::new(),
            runnable: VecDeque::new(),
            buffer: Vec::new(),
            moved: 0,
            ended: Vec::new(),
            sweep: NEVER,
        }
    }
}

impl Relays {
    /// Begins a relay. An error: it could not be, and both its ends are closed.
    pub(crate) fn begin(&mut self, desk: &Desk<'_>, plan: Plan) -> Result<()> {
        let cx = desk.cx();
        let (n, inside, fd, idle) = (self.free.pop().unwrap_or(self.all.len()), plan.inside, plan.outside.0, plan.idle);
        self.turns = self.turns.wrapping_add(1);
        let up = Half { left: plan.greeting.clone(), ..Half::default() };
        let relay = Relay {
            plan,
            turn: self.turns,
            can: [true; 4],
            down: Half::default(),
            up,
            lent: 0,
            loan: LOAN,
            queued: false,
            moved: cx.now(),
        };
        if n == self.all.len() {
            self.all.push(None);
        }
        self.all[n] = Some(relay);
        if idle != NEVER {
            self.sweep = self.sweep.min(cx.now() + idle);
        }
        self.by_fd.insert(fd, n);
        let both = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let begun = self.watch(&cx, n, inside).and_then(|()| desk.register(fd, both));
        if begun.is_err() {
            self.end(&cx, n);
        } else {
            self.wake(n);
        }
        begun
    }

    /// Puts the virtual socket of relay `n` into the set.
    fn watch(&mut self, cx: &Cx<'_>, n: usize, inside: c_int) -> Result<()> {
        self.ensure_set(cx)?;
        let turn = self.all[n].as_ref().map_or(0, |r| r.turn);
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let event = Event { events, data: u64::from(turn) << 32 | n as u64, nested: false };
        inside::with(cx, self.set, |set| inside::with(cx, inside, |s| virtual_epoll::ctl(cx, set, libc::EPOLL_CTL_ADD, s, inside, event)))
    }

    /// Has the keeper woken for a virtual listener too: whoever accepts from it looks in each turn.
    pub(crate) fn attend(&mut self, cx: &Cx<'_>, inside: c_int) -> Result<()> {
        self.ensure_set(cx)?;
        let event = Event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, data: NOBODY, nested: false };
        inside::with(cx, self.set, |set| inside::with(cx, inside, |s| virtual_epoll::ctl(cx, set, libc::EPOLL_CTL_ADD, s, inside, event)))
    }

    /// Listens to a virtual socket no more, and lets go of it. (An interest goes by itself only with the last reference, and others may have one.)
    pub(crate) fn leave(&self, cx: &Cx<'_>, inside: c_int) {
        let _ = inside::with(cx, self.set, |set| {
            inside::with(cx, inside, |s| virtual_epoll::ctl(cx, set, libc::EPOLL_CTL_DEL, s, inside, Event::default()))
        });
        inside::close(cx, inside);
    }

    fn ensure_set(&mut self, cx: &Cx<'_>) -> Result<()> {
        if self.set == 0 {
            let set = virtual_epoll::create(cx)?;
            wait::attend(&set);
            self.set = inside::keep(cx, set)?;
        }
        Ok(())
    }

    fn wake(&mut self, n: usize) {
        if let Some(r) = self.all.get_mut(n).and_then(Option::as_mut)
            && !core::mem::replace(&mut r.queued, true)
        {
            self.runnable.push_back(n);
        }
    }

    /// The kernel says that `fd` has `events`; false if it is no relay's.
    pub(crate) fn ready(&mut self, fd: c_int, events: u32) -> bool {
        let Some(&n) = self.by_fd.get(&fd) else { return false };
        if let Some(r) = self.all[n].as_mut() {
            let ended = (libc::EPOLLHUP | libc::EPOLLERR) as u32;
            r.can[OUT_READ] |= events & (libc::EPOLLIN as u32 | libc::EPOLLRDHUP as u32 | ended) != 0;
            r.can[OUT_WRITE] |= events & (libc::EPOLLOUT as u32 | ended) != 0;
        }
        self.wake(n);
        true
    }

    /// Goes on with all that can; as [`super::host::Source::tick`].
    pub(crate) fn tick(&mut self, desk: &Desk<'_>, now: Nanos) -> Nanos {
        if self.set == 0 {
            return NEVER;
        }
        let cx = desk.cx();
        if now >= self.sweep {
            self.sweep(&cx, now);
        }
        self.listen(&cx);
        // Those that are runnable now; who has more goes to the end.
        for _ in 0..self.runnable.len().min(256) {
            let Some(n) = self.runnable.pop_front() else { break };
            let Some(r) = self.all[n].as_mut() else { continue };
            r.queued = false;
            if self.buffer.is_empty() {
                self.buffer = vec![0; CHUNK];
            }
            let turned = r.run(&cx, &mut self.buffer);
            self.moved = self.moved.max(r.moved);
            let redialled = r.plan.dial.is_some().then_some(r.plan.inside);
            match turned {
                Turned::Idle => {}
                Turned::More => self.wake(n),
                Turned::Over => self.end(&cx, n),
            }
            if let Some(inside) = redialled
                && self.all[n].is_some()
            {
                // A new attempt is a new socket: EEXIST if it is the same.
                let _ = self.watch(&cx, n, inside);
            }
            cx.flush();
        }
        if self.runnable.is_empty() { self.sweep } else { 0 }
    }

    /// Hears from the virtual sockets.
    fn listen(&mut self, cx: &Cx<'_>) {
        let mut events = [Event::default(); 64];
        loop {
            let n = inside::with(cx, self.set, |set| virtual_epoll::take(cx, set, &mut events)).unwrap_or(0);
            for e in &events[..n] {
                let at = e.data as u32 as usize;
                if let Some(r) = self.all.get_mut(at).and_then(Option::as_mut)
                    && r.turn == (e.data >> 32) as u32
                {
                    let ended = (libc::EPOLLHUP | libc::EPOLLERR) as u32;
                    r.can[IN_READ] |= e.events & (libc::EPOLLIN as u32 | libc::EPOLLRDHUP as u32 | ended) != 0;
                    r.can[IN_WRITE] |= e.events & (libc::EPOLLOUT as u32 | ended) != 0;
                    self.wake(at);
                }
            }
            if n < events.len() {
                break;
            }
        }
    }

    /// Ends those that have been idle for too long.
    fn sweep(&mut self, cx: &Cx<'_>, now: Nanos) {
        self.sweep = NEVER;
        for n in 0..self.all.len() {
            let due = self.all[n].as_ref().map_or(NEVER, |r| r.moved.saturating_add(r.plan.idle));
            if due <= now {
                self.end(cx, n);
            } else {
                self.sweep = self.sweep.min(due);
            }
        }
    }

    /// A datagram for the virtual socket of the relay with kernel descriptor `fd`, besides what comes through that.
    pub(crate) fn push(&mut self, desk: &Desk<'_>, fd: c_int, data: &[u8]) {
        if let Some(r) = self.by_fd.get(&fd).and_then(|&n| self.all[n].as_mut()) {
            let cx = desk.cx();
            r.moved = cx.now();
            let _ = inside::with(&cx, r.plan.inside, |s| inside::send(&cx, s, data, None));
        }
    }

    /// The kernel descriptors of the relays that have ended since this was last asked.
    pub(crate) fn ended(&mut self) -> Vec<c_int> {
        core::mem::take(&mut self.ended)
    }

    fn end(&mut self, cx: &Cx<'_>, n: usize) {
        if let Some(r) = self.all[n].take() {
            if r.plan.idle != NEVER {
                self.ended.push(r.plan.outside.0);
            }
            self.by_fd.remove(&r.plan.outside.0);
            self.leave(cx, r.plan.inside);
            self.free.push(n);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Has any of them moved something just now?
    pub(crate) fn is_carrying(&self) -> bool {
        self.len() != 0 && clock().saturating_sub(self.moved) < RECENT
    }
}

impl Relay {
    fn run(&mut self, cx: &Cx<'_>, buffer: &mut [u8]) -> Turned {
        if let Some(dial) = self.plan.dial.as_mut() {
            match dial.step(cx, self.plan.inside) {
                Ok(()) => self.plan.dial = None,
                Err(Errno::EINPROGRESS | Errno::EALREADY) => return Turned::Idle,
                Err(_) => {
                    inside::close(cx, self.plan.inside);
                    let Some(n) = dial.next(cx) else {
                        kernel::reset_on_close(self.plan.outside.0);
                        self.plan.inside = -1;
                        return Turned::Over;
                    };
                    self.plan.inside = n;
                    return Turned::More;
                }
            }
        }
        let r = inside::with(cx, self.plan.inside, |s| {
            let up = self.up(cx, s, buffer);
            let down = up.and_then(|u| self.down(cx, s, buffer).map(|d| u || d));
            let over = self.up.told && self.down.told;
            if over || down.is_err() {
                self.part(cx, s, down.err());
                return Ok(Turned::Over);
            }
            Ok(if down == Ok(true) { Turned::More } else { Turned::Idle })
        });
        r.unwrap_or(Turned::Over)
    }

    /// The end of it: an error is passed on as a reset, where it was not an ordinary end.
    fn part(&self, cx: &Cx<'_>, s: &Held, why: Option<Errno>) {
        if why.is_none() {
            return;
        }
        if self.plan.pumped {
            // The program went with bytes unread, or wrote after the end: if nobody else has the socket its peer is told, as when it closed it itself.
            let last = s.refs.load(Relaxed) <= OURS;
            if last && why == Some(Errno::ECONNRESET) && self.lent == 0 {
                inside::reset_on_close(cx, s);
            }
            return;
        }
        if !self.plan.datagrams {
            inside::reset_on_close(cx, s);
            kernel::reset_on_close(self.plan.outside.0);
        }
    }

    /// From the kernel's socket to the virtual one. True: there is more.
    fn up(&mut self, cx: &Cx<'_>, s: &Held, buffer: &mut [u8]) -> Result<bool> {
        let fd = self.plan.outside.0;
        let mut room = TURN;
        loop {
            if self.up.at < self.up.left.len() {
                if !self.can[IN_WRITE] {
                    return Ok(false);
                }
                match inside::send(cx, s, &self.up.left[self.up.at..], None) {
                    Ok(n) => {
                        self.up.took(n, self.plan.datagrams);
                        continue;
                    }
                    Err(Errno::EAGAIN) => {
                        self.can[IN_WRITE] = false;
                        return Ok(false);
                    }
                    // A datagram that cannot be sent is a lost one.
                    Err(_) if self.plan.datagrams => self.up.clear(),
                    Err(e) => return Err(e),
                }
            }
            if self.up.ended {
                if !self.up.told {
                    self.up.told = true;
                    if self.plan.pumped && kernel::has_hung_up(fd) {
                        // The program is gone: what it had not read stays, and its half of the description with it.
                        self.settle_loan(cx, s, buffer);
                        self.down.told = true;
                    } else if !self.plan.datagrams {
                        socket::shutdown(cx, s, libc::SHUT_WR)?;
                    }
                }
                if self.plan.pumped && !self.down.told && self.can[OUT_READ] {
                    // After a half close only the hang-up is news.
                    self.can[OUT_READ] = false;
                    self.down.told = kernel::has_hung_up(fd);
                    if self.down.told {
                        self.settle_loan(cx, s, buffer);
                    }
                }
                return Ok(false);
            }
            if !self.can[OUT_READ] {
                return Ok(false);
            }
            if room == 0 {
                return Ok(true);
            }
            match kernel::recv(fd, buffer) {
                Ok(0) if !self.plan.datagrams || kernel::has_hung_up(fd) => self.up.ended = true,
                Ok(n) => {
                    self.moved = cx.fresh_now();
                    room = room.saturating_sub(n.max(1));
                    match inside::send(cx, s, &buffer[..n], None) {
                        Ok(sent) if sent == n || self.plan.datagrams => {}
                        Ok(sent) => self.up.keep(&buffer[sent..n]),
                        Err(Errno::EAGAIN) => {
                            self.can[IN_WRITE] = false;
                            self.up.keep(&buffer[..n]);
                        }
                        Err(_) if self.plan.datagrams => {}
                        Err(e) => return Err(e),
                    }
                }
                Err(Errno::EAGAIN) => {
                    self.can[OUT_READ] = false;
                    return Ok(false);
                }
                Err(Errno::EINTR) => {}
                Err(_) if self.plan.datagrams && !kernel::has_hung_up(fd) => {}
                Err(e) => {
                    if self.plan.pumped {
                        self.settle_loan(cx, s, &mut []);
                    }
                    return Err(e);
                }
            }
        }
    }

    /// From the virtual socket to the kernel's. True: there is more.
    fn down(&mut self, cx: &Cx<'_>, s: &Held, buffer: &mut [u8]) -> Result<bool> {
        let fd = self.plan.outside.0;
        let mut room = TURN;
        while !self.down.told {
            if self.down.at < self.down.left.len() {
                if !self.can[OUT_WRITE] {
                    return Ok(false);
                }
                match kernel::send(fd, &self.down.left[self.down.at..]) {
                    Ok(n) => {
                        self.down.took(n, self.plan.datagrams);
                        continue;
                    }
                    Err(Errno::EAGAIN) => {
                        self.can[OUT_WRITE] = false;
                        return Ok(false);
                    }
                    Err(Errno::EINTR) => continue,
                    Err(e) => return self.unwanted(e),
                }
            }
            if self.lent != 0 && !self.returned(cx, s, buffer) {
                return Ok(false);
            }
            if self.down.ended {
                if !self.plan.datagrams {
                    kernel::shutdown(fd, libc::SHUT_WR);
                }
                self.down.told = true;
                break;
            }
            if !self.can[IN_READ] {
                return Ok(false);
            }
            if room == 0 {
                return Ok(true);
            }
            let lend = self.plan.pumped && s.refs.load(Relaxed) > OURS;
            let most = if lend && !self.plan.datagrams { self.loan } else { buffer.len() };
            match inside::recv(cx, s, &mut buffer[..most], if lend { libc::MSG_PEEK } else { 0 }) {
                Ok(0) if !self.plan.datagrams => self.down.ended = true,
                Ok(mut n) => {
                    self.moved = cx.fresh_now();
                    room = room.saturating_sub(n.max(1));
                    if lend && !self.plan.datagrams && self.loan < 4 * LOAN {
                        n = buffer[..n].iter().position(|&b| b == b'\n').map_or(n, |at| at + 1);
                    }
                    let sent = match kernel::send(fd, &buffer[..n]) {
                        Err(Errno::EAGAIN | Errno::EINTR) => {
                            self.can[OUT_WRITE] = false;
                            if lend {
                                return Ok(false);
                            }
                            0
                        }
                        Ok(sent) => sent,
                        Err(e) => return self.unwanted(e),
                    };
                    if lend {
                        self.lent = sent.max(1);
                    } else if sent < n && !(self.plan.datagrams && sent > 0) {
                        self.down.keep(&buffer[sent..n]);
                    }
                }
                Err(Errno::EAGAIN) => {
                    self.can[IN_READ] = false;
                    self.loan = LOAN;
                    return Ok(false);
                }
                // An ICMP error's, taken with this; or none at all that a datagram's reader would wait for.
                Err(_) if self.plan.datagrams => {
                    self.can[IN_READ] = false;
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// The kernel's side takes no more: for a program that has closed, what it wrote before still goes up.
    fn unwanted(&mut self, e: Errno) -> Result<bool> {
        if self.plan.datagrams && !self.plan.pumped {
            self.down.clear();
            return Ok(false);
        }
        if self.plan.pumped && !self.up.ended {
            self.down.clear();
            self.down.told = true;
            self.can[OUT_READ] = true;
            return Ok(true);
        }
        Err(e)
    }

    /// Has the program read what it was lent? Then it is taken from the virtual socket.
    fn returned(&mut self, cx: &Cx<'_>, s: &Held, buffer: &mut [u8]) -> bool {
        if kernel::has_hung_up(self.plan.outside.0) {
            // What came of it is seen when the other direction ends.
            return false;
        }
        // (Linux tells while one byte of what was freed still counts: sock_wfree(). A message weighs more.)
        if kernel::unread(self.plan.outside.0) > 1 {
            return false;
        }
        self.take_back(cx, s, buffer);
        self.loan = (self.loan * 2).min(buffer.len());
        true
    }

    fn take_back(&mut self, cx: &Cx<'_>, s: &Held, buffer: &mut [u8]) {
        if self.plan.datagrams {
            let _ = inside::recv(cx, s, buffer, 0);
        }
        while !self.plan.datagrams && self.lent != 0 {
            let most = self.lent.min(buffer.len());
            match inside::recv(cx, s, &mut buffer[..most], 0) {
                Ok(n) if n > 0 => self.lent -= n,
                _ => break,
            }
        }
        self.lent = 0;
    }

    /// The program has gone: bytes that it was lent and has read are taken; the others (`buffer` empty) stay for the next reader.
    fn settle_loan(&mut self, cx: &Cx<'_>, s: &Held, buffer: &mut [u8]) {
        if self.lent != 0 && !buffer.is_empty() {
            self.take_back(cx, s, buffer);
        }
    }
}

/// References to a virtual socket that are the keeper's: its table's, and the operation's own.
const OURS: u32 = 2;

impl Half {
    fn keep(&mut self, data: &[u8]) {
        self.left.clear();
        self.left.extend_from_slice(data);
        self.at = 0;
    }
    fn took(&mut self, n: usize, whole: bool) {
        self.at += n;
        if whole || self.at >= self.left.len() {
            self.clear();
        }
    }
    fn clear(&mut self) {
        // The room goes: thousands of relays would each keep a buffer.
        self.left = Vec::new();
        self.at = 0;
    }
}
