//! The keeper's door: where a process of the family asks for a kernel's socket in place of a virtual one (pumped mode).
//!
//! # Theory of operation
//! **Purpose.** A program that cannot be hooked (static, setuid, of another libc; a stranger who got a socket by SCM_RIGHTS) must find a descriptor that
//! plain read(2), write(2), poll(2) and accept(2) work on.
//! **How it works.** The door is an abstract SOCK_SEQPACKET socket whose name's key is in the arena's header. Who comes sends an open description's
//! number ([`ask`]) and gets a descriptor back by SCM_RIGHTS: for a stream half of a SOCK_STREAM pair, for datagrams half of a SOCK_SEQPACKET pair (which,
//! unlike SOCK_DGRAM, tells when the other side is gone); the keeper relays to its own half ([`super::relay`]). For a listener it is a listening
//! Unix socket, to which the keeper makes a connection for each that it accepts; the socket's path is unlinked at once and lives on in a descriptor
//! (O_PATH) of the keeper's, so nobody else can connect. That the program has closed it shows in a connect(2) of another type: EPROTOTYPE while it is
//! there, ECONNREFUSED when not; that is asked every [`PROBE`].
//! Let in are processes of the family, and of the keeper's own user; the asker looks whether the door is the keeper's.
//! **Limits.** A socket that is not connected, bound or listening cannot be pumped: the answer has no descriptor. A datagram socket that is not
//! connected sends to whoever it has heard last. Addresses and options are not to be had from a pumped socket.
//! **Locks.** None. **Failure.** No answer: the asker leaves the shadow in place, on which every operation fails. If the keeper is killed, pumped
//! sockets end as if their peers had gone. **See also.** unix(7), [`crate::pump`].
use super::host::{Desk, Source};
use super::inside;
use super::kernel::{self, Fd};
use super::relay::{Plan, Relays};
use core::ffi::CStr;
use core::sync::atomic::Ordering::*;
use csel_core::arena::Id;
use csel_core::call::{Kind, socket};
use csel_core::clock::{MS, NEVER, Nanos};
use csel_core::config::Path;
use csel_core::errno::{Errno, Result};
use csel_core::fd::Held;
use csel_core::gate;
use csel_core::instance::Cx;
use csel_core::net::{dgram, option};
use libc::c_int;

/// How often it is looked whether the program with a pumped listener is still there.
const PROBE: Nanos = 500 * MS;
/// With a full backlog the next connection is tried again after this.
const FULL: Nanos = 10 * MS;
/// Visitors at once.
const VISITORS: usize = 256;

/// A listener that is pumped.
struct Listener {
    inside: c_int,
    /// The Unix socket's inode, and its path by way of /proc.
    _place: Fd,
    path: String,
    /// Accepted, and not taken by the program's full backlog yet: the number inside.
    waits: Option<c_int>,
}

/// The door and what came of it.
pub(crate) struct Door {
    socket: Fd,
    visitors: Vec<Fd>,
    relays: Relays,
    listeners: Vec<Listener>,
    /// Where Unix sockets are made for a moment.
    dir: Path,
    count: u32,
    probe: Nanos,
}

/// "csel-door:" and the key.
pub(crate) fn name(key: u64) -> [u8; 27] {
    let mut out = *b"\0csel-door:0000000000000000";
    for (i, d) in out[11..].iter_mut().enumerate() {
        *d = b"0123456789abcdef"[(key >> (60 - 4 * i) & 15) as usize];
    }
    out
}

impl Door {
    /// Opens the door.
    pub(crate) fn begin(desk: &Desk<'_>, dir: &Path) -> Result<Self> {
        let socket = kernel::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET)?;
        let key = gate::random() | 1;
        kernel::bind_unix(socket.0, &name(key))?;
        kernel::listen(socket.0)?;
        desk.register(socket.0, libc::EPOLLIN as u32)?;
        desk.env.inst.header.door.store(key, Release);
        Ok(Self { socket, visitors: Vec::new(), relays: Relays::default(), listeners: Vec::new(), dir: *dir, count: 0, probe: NEVER })
    }

    fn admit(&mut self, desk: &Desk<'_>) {
        while let Ok((visitor, _)) = kernel::accept(self.socket.0) {
            let known = kernel::peer(visitor.0).is_some_and(|who| {
                let of_family = || desk.env.inst.procs.table.iter().any(|(_, p)| p.pid.load(Relaxed) == who.pid as u32);
                who.uid == gate::file::geteuid() || of_family()
            });
            if known && self.visitors.len() < VISITORS && desk.register(visitor.0, libc::EPOLLIN as u32).is_ok() {
                self.visitors.push(visitor);
            }
        }
    }

    /// A visitor's wish.
    fn serve(&mut self, desk: &Desk<'_>, n: usize) {
        let mut wish = [0u8; 8];
        let visitor = self.visitors[n].0;
        match kernel::recv(visitor, &mut wish) {
            Ok(8) => {
                let id = u32::from_ne_bytes([wish[0], wish[1], wish[2], wish[3]]);
                let cx = desk.cx();
                let given = match Held::take(desk.env.inst, Id::new(id)) {
                    Some(held) => self.pump(desk, &cx, held),
                    None => Err(Errno::EBADF),
                };
                let _ = kernel::send_fd(visitor, given.as_ref().map_or(-1, |f| f.0));
            }
            Err(Errno::EAGAIN) => {}
            _ => drop(self.visitors.swap_remove(n)),
        }
    }

    /// What the program gets in place of `held`.
    fn pump(&mut self, desk: &Desk<'_>, cx: &Cx<'_>, held: Held) -> Result<Fd> {
        let ty = match held.kind() {
            Kind::Tcp => {
                // struct tcp_info begins with the state.
                let mut info = [0u8; 8];
                option::get(cx, &held, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
                const LISTEN: u8 = 10;
                const CLOSE: u8 = 7;
                match info[0] {
                    LISTEN => return self.listener(cx, held),
                    CLOSE => Err(Errno::ENOTCONN),
                    _ => Ok(libc::SOCK_STREAM),
                }
            }
            Kind::Epoll | Kind::None => Err(Errno::ENOTSOCK),
            _ => match dgram::local(cx, &held) {
                Ok(at) if at.port != 0 || held.kind() != Kind::Udp => Ok(libc::SOCK_SEQPACKET),
                _ => Err(Errno::ENOTCONN),
            },
        };
        let pair = ty.and_then(|ty| kernel::pair(ty).map(|pair| (ty, pair)));
        let (ty, [ours, theirs]) = match pair {
            Ok(made) => made,
            Err(e) => {
                held.release(cx);
                return Err(e);
            }
        };
        // O_NONBLOCK belongs to the open description: the program finds it as it was.
        let nonblocking = if held.nonblocking() { libc::O_NONBLOCK } else { 0 };
        let _ = gate::fcntl(theirs.0, libc::F_SETFL, nonblocking as usize);
        let inside = inside::keep(cx, held)?;
        let plan = Plan {
            inside,
            dial: None,
            outside: ours,
            datagrams: ty == libc::SOCK_SEQPACKET,
            pumped: true,
            greeting: Vec::new(),
            idle: NEVER,
        };
        self.relays.begin(desk, plan)?;
        Ok(theirs)
    }

    fn listener(&mut self, cx: &Cx<'_>, held: Held) -> Result<Fd> {
        let nonblocking = held.nonblocking();
        let inside = inside::keep(cx, held)?;
        let made = self.hidden_socket();
        let (theirs, place) = match made {
            Ok(made) => made,
            Err(e) => {
                inside::close(cx, inside);
                return Err(e);
            }
        };
        if !nonblocking {
            let _ = gate::fcntl(theirs.0, libc::F_SETFL, 0);
        }
        self.relays.attend(cx, inside)?;
        let path = format!("/proc/self/fd/{}", place.0);
        self.listeners.push(Listener { inside, _place: place, path, waits: None });
        self.probe = crate::enter::clock() + PROBE;
        Ok(theirs)
    }

    /// A listening Unix socket that only we can connect to: the socket, and a descriptor of its place in the file system, which has no name any more.
    fn hidden_socket(&mut self) -> Result<(Fd, Fd)> {
        self.count += 1;
        let path = format!("{}/.pump-{}-{}\0", self.dir, gate::getpid(), self.count);
        let name = CStr::from_bytes_with_nul(path.as_bytes()).map_err(|_| Errno::EINVAL)?;
        let s = kernel::socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
        kernel::bind_unix(s.0, path.as_bytes())?;
        let place = gate::open(name, libc::O_PATH | libc::O_CLOEXEC, 0).map(Fd);
        let _ = gate::file::unlink(name);
        kernel::listen(s.0)?;
        Ok((s, place?))
    }

    /// Accepts what has come to a pumped listener, and hands it to the program. When to try again, if its backlog is full.
    fn accept(&mut self, desk: &Desk<'_>, n: usize) -> Nanos {
        let cx = desk.cx();
        for _ in 0..64 {
            let l = &mut self.listeners[n];
            let new = match l.waits.take() {
                Some(new) => new,
                None => {
                    let got = inside::with(&cx, l.inside, |s| {
                        socket::Accept::default().step(&cx, s, libc::SOCK_NONBLOCK, false).map_err(|_| Errno::EAGAIN)
                    });
                    match got.and_then(|(held, _)| inside::keep(&cx, held)) {
                        Ok(new) => new,
                        Err(_) => return NEVER,
                    }
                }
            };
            let begun = kernel::socket(libc::AF_UNIX, libc::SOCK_STREAM)
                .and_then(|ours| kernel::connect_unix(ours.0, l.path.as_bytes()).map(|()| ours));
            match begun {
                Ok(ours) => {
                    let plan =
                        Plan { inside: new, dial: None, outside: ours, datagrams: false, pumped: true, greeting: Vec::new(), idle: NEVER };
                    let _ = self.relays.begin(desk, plan);
                }
                Err(Errno::EAGAIN | Errno::EMFILE | Errno::ENFILE) => {
                    l.waits = Some(new);
                    return crate::enter::clock() + FULL;
                }
                Err(_) => {
                    inside::close(&cx, new);
                    return 0;
                }
            }
        }
        0
    }

    /// Lets go of the listeners whose programs have gone.
    fn look_around(&mut self, desk: &Desk<'_>) {
        let Ok(probe) = kernel::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET) else { return };
        let cx = desk.cx();
        self.listeners.retain(|l| {
            let there = kernel::connect_unix(probe.0, l.path.as_bytes()) != Err(Errno::ECONNREFUSED);
            if !there {
                l.waits.into_iter().for_each(|n| inside::close(&cx, n));
                self.relays.leave(&cx, l.inside);
            }
            there
        });
    }
}

impl Source for Door {
    fn ready(&mut self, desk: &mut Desk<'_>, fd: c_int, events: u32) {
        if self.relays.ready(fd, events) {
            return;
        }
        if fd == self.socket.0 {
            self.admit(desk);
        } else if let Some(n) = self.visitors.iter().position(|v| v.0 == fd) {
            self.serve(desk, n);
        }
    }

    fn tick(&mut self, desk: &mut Desk<'_>, now: Nanos) -> Nanos {
        let mut next = self.relays.tick(desk, now);
        if self.listeners.is_empty() {
            return next;
        }
        for n in 0..self.listeners.len() {
            next = next.min(self.accept(desk, n));
        }
        if now >= self.probe {
            self.look_around(desk);
            self.probe = now + PROBE;
        }
        next.min(self.probe)
    }

    fn is_busy(&self) -> bool {
        self.relays.len() != 0 || !self.listeners.is_empty()
    }

    fn is_carrying(&self) -> bool {
        self.relays.is_carrying()
    }
}
