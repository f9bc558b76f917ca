//! The keeper's loop, and what it is host of.
//!
//! # Theory of operation
//! **Purpose.** Besides [`csel_core::keeper`]'s own work the keeper moves bytes between the instance and the kernel's world: published ports,
//! pumped sockets, uplinks. Each of these is a [`Source`]; this is the loop that they share.
//! **How it works.** A source registers kernel descriptors with the [`Desk`] and is called ([`Source::ready`]) when they are ready; in every turn it is
//! asked to go on with what it has ([`Source::tick`]), and says until when it has nothing to do. The loop sleeps in epoll_wait(2) on all of them, the
//! family's pidfds and the keeper's bell, until the earliest of the deadlines. A deadline that has passed means "call me again at once": then the loop
//! only looks (and lets the core work now and then) instead of sleeping. The order "arm the slot's word, tick, sleep while the word is armed" is that of
//! [`csel_core::net::wait`]: a virtual socket that becomes ready after its source has looked rings the bell.
//! **Limits.** One thread: a source's turn is short (tens of kilobytes for each connection). **Locks.** None.
//! **Failure.** A source that cannot begin says why, and the program that asked for it does not start ([`super::ensure`]).
//! **See also.** epoll(7); [`super::family`].
use super::family::Family;
use crate::enter::clock;
use core::sync::atomic::Ordering::*;
use csel_core::clock::{NEVER, Nanos, SEC};
use csel_core::errno::Result;
use csel_core::gate::{self, bell};
use csel_core::instance::{Cx, Env};
use csel_core::keeper::{Keeper, Rest};
use csel_core::sync::Me;
use libc::{c_int, epoll_event};

/// Something with kernel descriptors that the keeper looks after.
pub(crate) trait Source {
    /// Descriptor `fd`, registered by this source, has `events` (EPOLL* bits).
    fn ready(&mut self, desk: &mut Desk<'_>, fd: c_int, events: u32);
    /// Goes on with what it has. Until when there is nothing more to do unless a descriptor becomes ready; a time that has passed (0): call again
    /// at once, there is more.
    fn tick(&mut self, desk: &mut Desk<'_>, now: Nanos) -> Nanos;
    /// Must the keeper stay for it although no process of the instance is left (bytes are under way)?
    fn is_busy(&self) -> bool {
        false
    }
    /// Does it carry packets or bytes just now? Then the keeper is rung for every frame that nobody else would see, instead of looking around now
    /// and then.
    fn is_carrying(&self) -> bool {
        false
    }
}

/// What the loop gives to a source in its turn.
pub(crate) struct Desk<'a> {
    /// The keeper's view of the instance.
    pub(crate) env: &'a Env,
    me: &'a Me,
    epfd: c_int,
    source: u32,
}

impl Desk<'_> {
    /// A call of the core.
    pub(crate) fn cx(&self) -> Cx<'_> {
        Cx::new(self.env, self.me)
    }
    /// Calls the source when `fd` has `events` (EPOLL* bits, EPOLLET as well). Closing the descriptor ends it.
    pub(crate) fn register(&self, fd: c_int, events: u32) -> Result<()> {
        self.ctl(libc::EPOLL_CTL_ADD, fd, events)
    }
    /// From now on for these events.
    pub(crate) fn change(&self, fd: c_int, events: u32) -> Result<()> {
        self.ctl(libc::EPOLL_CTL_MOD, fd, events)
    }
    fn ctl(&self, op: c_int, fd: c_int, events: u32) -> Result<()> {
        register(self.epfd, op, fd, events, self.source)
    }
}

fn register(epfd: c_int, op: c_int, fd: c_int, events: u32, source: u32) -> Result<()> {
    let e = epoll_event { events, u64: u64::from(source) << 32 | u64::from(fd as u32) };
    // SAFETY: the event is readable.
    unsafe { gate::syscall(libc::SYS_epoll_ctl, [epfd as usize, op as usize, fd as usize, &raw const e as usize, 0, 0]) }.map(drop)
}

/// In an event's data, instead of a source's number: the loop's own descriptors.
const BELL: u32 = u32::MAX;
const FAMILY: u32 = u32::MAX - 1;

/// Turns of the loop without the core's own work, while sources are busy.
const STRETCH: u32 = 16;

/// The loop.
pub(crate) struct Host<'a> {
    env: &'a Env,
    me: &'a Me,
    epfd: c_int,
    ear: c_int,
    keeper: Keeper,
    family: Family,
    sources: Vec<Box<dyn Source>>,
}

impl<'a> Host<'a> {
    /// A loop with no source yet. An error: there is no epoll descriptor or bell to be had.
    pub(crate) fn new(env: &'a Env, me: &'a Me) -> Result<Self> {
        // SAFETY: a plain number.
        let epfd = unsafe { gate::syscall(libc::SYS_epoll_create1, [libc::EPOLL_CLOEXEC as usize, 0, 0, 0, 0, 0]) }? as c_int;
        let (ear, key) = bell::make()?;
        register(epfd, libc::EPOLL_CTL_ADD, ear, libc::EPOLLIN as u32, BELL)?;
        let keeper = Keeper::new(&Cx::new(env, me), key);
        Ok(Self { env, me, epfd, ear, keeper, family: Family::new(me.pid), sources: Vec::new() })
    }

    /// What a source that is about to be added registers its descriptors with.
    pub(crate) fn desk(&self) -> Desk<'a> {
        Desk { env: self.env, me: self.me, epfd: self.epfd, source: self.sources.len() as u32 }
    }

    /// Adds the source that was begun with the last [`Self::desk`].
    pub(crate) fn add(&mut self, source: impl Source + 'static) {
        self.sources.push(Box::new(source));
    }

    /// Keeps the instance until nobody is left.
    pub(crate) fn run(&mut self) {
        let mut stretch = 0;
        loop {
            let mut next = self.tick();
            let mut armed = None;
            if next > clock() || stretch >= STRETCH {
                stretch = 0;
                self.keeper.sources(self.sources.iter().any(|s| s.is_carrying()), self.sources.iter().any(|s| s.is_busy()));
                match self.keeper.turn(&Cx::new(self.env, self.me)) {
                    Rest::Leave => return,
                    Rest::Sleep(s) => armed = Some(s),
                }
                // What became ready before the word was armed rang nothing: look again.
                next = self.tick();
            }
            stretch += 1;
            let mut until = next;
            if let Some(s) = &armed {
                self.family.follow(self.env.inst, clock(), |fd| {
                    let _ = register(self.epfd, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, FAMILY);
                });
                until = until.min(s.until).min(self.family.look);
                if s.word.load(SeqCst) != s.expected {
                    until = 0;
                }
            } else {
                until = 0;
            }
            self.sleep(until);
        }
    }

    /// Lets each source go on; until when they have nothing to do.
    fn tick(&mut self) -> Nanos {
        let now = clock();
        let mut next = NEVER;
        for (n, s) in self.sources.iter_mut().enumerate() {
            let mut desk = Desk { env: self.env, me: self.me, epfd: self.epfd, source: n as u32 };
            next = next.min(s.tick(&mut desk, now));
        }
        next
    }

    /// Sleeps until something is ready or the time is up, and says who it was.
    fn sleep(&mut self, until: Nanos) {
        let mut events = [epoll_event { events: 0, u64: 0 }; 64];
        let n = self.wait(until, &mut events);
        for e in &events[..n] {
            let (source, fd, what) = ((e.u64 >> 32) as u32, e.u64 as u32 as c_int, e.events);
            match source {
                // One that may not ring by itself asks us to.
                BELL => bell::hear(self.ear, |key| {
                    let _ = bell::ring(self.env.clapper(), key);
                }),
                FAMILY => {
                    self.family.gone(fd);
                    self.keeper.died();
                }
                n => {
                    let mut desk = Desk { env: self.env, me: self.me, epfd: self.epfd, source: n };
                    if let Some(s) = self.sources.get_mut(n as usize) {
                        s.ready(&mut desk, fd, what);
                    }
                }
            }
        }
        if self.family.look <= clock() {
            self.keeper.died();
        }
    }

    fn wait(&self, until: Nanos, events: &mut [epoll_event]) -> usize {
        let left = if until == 0 { 0 } else { until.saturating_sub(clock()) };
        let ts = crate::bells::spec(left.min(86_400 * SEC));
        let a = [self.epfd as usize, events.as_mut_ptr() as usize, events.len(), &raw const ts as usize, 0, 8];
        // SAFETY: the array and the timeout live; no mask.
        match unsafe { gate::syscall(libc::SYS_epoll_pwait2, a) } {
            Ok(n) => n,
            Err(csel_core::errno::Errno::ENOSYS) => {
                // Before Linux 5.11: milliseconds, rounded up so that the loop does not turn in circles.
                let a = [a[0], a[1], a[2], left.div_ceil(1_000_000).min(86_400_000) as usize, 0, 8];
                // SAFETY: as above.
                unsafe { gate::syscall(libc::SYS_epoll_pwait, a) }.unwrap_or(0)
            }
            Err(_) => 0,
        }
    }
}
