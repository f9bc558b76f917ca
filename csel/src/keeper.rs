//! The keeper: what the kernel would do when nobody calls.
//!
//! # Theory of operation
//! **Purpose.** Between two calls of an application its sockets must still answer, retransmit and time out; after its exit what it has written must
//! still arrive; and when a member of the family is killed somebody must close what it had open. No thread is ever added to the application: a
//! process of its own, or the launcher, runs [`Keeper::turn`] and sleeps as it says.
//! **How it works.** The keeper's slot is the first of the port's seat ([`crate::net::wait`]). While no thread of the application sleeps there and
//! frames come, the keeper *naps*: 1 ms at first, doubling to 10 ms while the application drains by itself, back to 1 ms when the keeper found work. When
//! nothing has come for [`QUIET`] it sleeps *deeply*: with no timeout but the next timer's, rung by producers if nobody else leads, and by
//! threads that arm an earlier timer. An idle instance's keeper so does not wake at all.
//! A killed process: the provider watches pidfds (or looks each second while it must wake anyway) and says so with [`Keeper::died`]; a process
//! that leaves in good order calls [`crate::net::wait::knock`]. Its descriptors are closed as the kernel would ([`crate::fd::Procs::bury`]); if one of its
//! threads died inside a call, the tables are put right first ([`crate::repair`]).
//! A process that runs another program, which has not come (yet), has its table compared with `/proc/PID/fd` ([`crate::fd::Procs::compare`]).
//! When no process is left the keeper stays until nothing is left to deliver, [`LINGER`] at most, and then gives the port back: [`Rest::Leave`]. The arena is
//! emptied then: the next program of a family that lives on (a shell's) founds the instance anew.
//! **Limits.** A stopped (SIGSTOP) leader is not relieved: the frames wait, as for a host that is suspended.
//! **Locks.** None of its own. **Failure.** If the keeper dies the next process that starts or forks, or next virtual socket, brings up another.
//! **See also.** design section 4; `shim/src/keeper.rs` and the launcher, which provide the process.
use crate::arena::found;
use crate::clock::{MS, Nanos, SEC};
use crate::fd::is_pid;
use crate::instance::{Cx, Instance};
use crate::net::link;
use crate::net::wait::{self, Sleep, keeping};
use crate::net::{self, timer};
use crate::{gate, repair, stats};
use core::sync::atomic::Ordering::*;

/// The shortest nap.
const NAP: Nanos = MS;
/// The longest.
const LONG_NAP: Nanos = 10 * MS;
/// So long without a frame, and the keeper sleeps deeply.
const QUIET: Nanos = 50 * MS;
/// How long the port is kept for connections that outlive the last process.
pub const LINGER: Nanos = 120 * SEC;
/// A process that was announced by fork and never came.
const STILLBORN: Nanos = 10 * SEC;

/// How the provider spends the time until the next turn.
#[derive(Debug)]
pub enum Rest {
    /// On the slot's word (or, with a bell, in ppoll(2) with the bell and the pidfds) until `until`.
    Sleep(Sleep),
    /// Nobody is left: the port has been given back. The keeper's process calls [`crate::arena::found::vacate`] and ends.
    Leave,
}

/// The keeper of one instance.
#[derive(Debug)]
pub struct Keeper {
    /// Key of the provider's bell; 0: it sleeps on the word.
    bell: u64,
    nap: Nanos,
    /// Frames counted when last looked.
    frames: u64,
    /// Since when nothing has come.
    quiet_since: Nanos,
    /// Since when no process is left.
    alone_since: Nanos,
    /// Since when only announced processes are left.
    expecting_since: Nanos,
    /// Somebody may have died.
    died: bool,
    /// Sources carry bytes: the keeper is on the data path ([`Keeper::sources`]).
    carrying: bool,
    /// Sources have bytes that somebody outside waits for.
    busy: bool,
    /// Somebody died inside, and it could not be put right yet.
    broken: bool,
}

impl Keeper {
    /// A keeper that begins now. `bell`: see [`wait::How::bell`].
    pub fn new(cx: &Cx<'_>, bell: u64) -> Self {
        let now = cx.fresh_now();
        Self {
            bell,
            nap: NAP,
            frames: 0,
            quiet_since: now,
            alone_since: 0,
            expecting_since: 0,
            died: true,
            carrying: false,
            busy: false,
            broken: false,
        }
    }

    /// A process of the family may have died: look at the next turn.
    pub fn died(&mut self) {
        self.died = true;
    }

    /// What the provider's sources (relays, uplinks) are doing: do they carry bytes just now, and must the keeper stay for them?
    pub fn sources(&mut self, carrying: bool, busy: bool) {
        (self.carrying, self.busy) = (carrying, busy);
    }

    /// Does what is due, and says how to rest. The provider calls it again when the rest ends, for whatever reason.
    pub fn turn(&mut self, cx: &Cx<'_>) -> Rest {
        keeping::awake(cx);
        loop {
            let now = cx.fresh_now();
            let worked = self.work(cx);
            if core::mem::take(&mut self.died) || worked || cx.inst.desks.any_ended() {
                self.broken = !bury(cx);
            }
            cx.flush();
            let (alive, expected) = self.family(cx);
            if alive != 0 {
                self.alone_since = 0;
            }
            if alive == 0 && self.may_leave(cx, now, expected) && found::leaving(cx.inst) {
                // Nobody can come any more; has somebody come just before, or is somebody who has no table any more not out yet?
                if self.family(cx) == (0, expected) && cx.inst.desks.all_out(cx.me) {
                    cx.inst.header.keeper.store(0, SeqCst);
                    link::join::leave(cx.seg, cx.facts().port);
                    return Rest::Leave;
                }
                found::stay(cx.inst);
                return Rest::Sleep(keeping::nap(cx, self.bell, now + LONG_NAP));
            }
            let frames = stats::read(&cx.inst.stats.frames_in);
            let came = core::mem::replace(&mut self.frames, frames) != frames;
            if worked {
                stats::bump(&cx.inst.stats.keeper_turns);
                self.nap = NAP;
            }
            if worked || came {
                self.quiet_since = now;
            }
            if self.broken {
                // Who would not come out may be stopped: again soon.
                self.died = true;
                return Rest::Sleep(keeping::nap(cx, self.bell, now + LONG_NAP));
            }
            if now.saturating_sub(self.quiet_since) >= QUIET || self.alone_since != 0 || self.carrying {
                // Left alone, or carrying, there is nobody to drain but us: always rung, and awake for the timers.
                match keeping::deep(cx, self.bell) {
                    Some(mut sleep) => {
                        self.nap = NAP;
                        if alive == 0 {
                            sleep.until = sleep.until.min(now + SEC);
                        }
                        return Rest::Sleep(sleep);
                    }
                    None => continue,
                }
            }
            let until = timer::next(cx).max(now + MS / 4).min(now + self.nap);
            self.nap = (self.nap * 2).min(LONG_NAP);
            return Rest::Sleep(keeping::nap(cx, self.bell, until));
        }
    }

    /// Drains and runs timers, for as long as there is anything to do (bounded: the application may be at it as well).
    fn work(&self, cx: &Cx<'_>) -> bool {
        let mut worked = false;
        for _ in 0..64 {
            if !net::progress(cx) {
                break;
            }
            worked = true;
            cx.flush();
        }
        worked
    }

    /// How many processes live, and how many have only been announced.
    fn family(&self, cx: &Cx<'_>) -> (usize, usize) {
        let me = cx.me.pid;
        let (mut alive, mut expected) = (0, 0);
        for (_, p) in cx.inst.procs.table.iter() {
            match p.pid.load(Relaxed) {
                pid if pid != 0 && !is_pid(pid) => expected += 1,
                pid if pid != 0 && pid != me => alive += 1,
                _ => {}
            }
        }
        (alive, expected)
    }

    /// No process is left: is there nothing more to deliver either?
    fn may_leave(&mut self, cx: &Cx<'_>, now: Nanos, expected: usize) -> bool {
        if expected == 0 {
            self.expecting_since = 0;
        } else {
            if self.expecting_since == 0 {
                self.expecting_since = now;
            }
            if now.saturating_sub(self.expecting_since) < STILLBORN {
                return false;
            }
        }
        if self.alone_since == 0 {
            self.alone_since = now;
        }
        if self.busy {
            // A program without the library lives by what we pump for it.
            return false;
        }
        !net::tcp::undelivered(cx) && !link::rx::pending(cx) || now.saturating_sub(self.alone_since) >= LINGER
    }
}

/// Closes what dead processes had open, and puts right what they left half done. False: that is still to be done.
pub fn bury(cx: &Cx<'_>) -> bool {
    // First: a table is closed through tables that are whole.
    let whole = repair::run(cx);
    let procs = &cx.inst.procs;
    // Which ones first: burying changes the table.
    let mut dead = [0u32; 64];
    let mut n = 0;
    for p in procs.dead(cx.now()).take(dead.len()) {
        dead[n] = p;
        n += 1;
    }
    for &p in &dead[..n] {
        let pid = procs.get(p).pid.load(Relaxed);
        wait::bury(cx, p);
        procs.bury(cx, p);
        cx.inst.desks.bury(pid);
        cx.flush();
    }
    n = 0;
    for p in procs.leaving().take(dead.len()) {
        dead[n] = p;
        n += 1;
    }
    for &p in &dead[..n] {
        procs.compare(cx, p);
        cx.flush();
    }
    crate::fd::flight::stray(cx);
    whole
}

/// Is there a keeper, as far as one load tells? The kernel marks the word of one that dies (a robust futex).
#[inline]
pub fn seems_kept(inst: &Instance) -> bool {
    let pid = inst.header.keeper.load(Relaxed);
    pid != 0 && pid & libc::FUTEX_OWNER_DIED == 0
}

/// Is there a keeper, and does it live? If not, the seat of one that died is cleared, so that another may come.
pub fn is_kept(cx: &Cx<'_>) -> bool {
    let word = &cx.inst.header.keeper;
    let pid = word.load(SeqCst);
    if pid == 0 {
        return false;
    }
    if pid & libc::FUTEX_OWNER_DIED == 0 && gate::process_exists(pid) {
        return true;
    }
    if word.compare_exchange(pid, 0, SeqCst, Relaxed).is_ok() {
        cx.inst.desks.bury(pid & libc::FUTEX_TID_MASK);
        keeping::awake(cx);
    }
    false
}

/// Claims the keeper's office for process `pid`; false if somebody has it.
pub fn claim(cx: &Cx<'_>, pid: u32) -> bool {
    !is_kept(cx) && cx.inst.header.keeper.compare_exchange(0, pid, SeqCst, Relaxed).is_ok()
}

/// The pids of the family's processes, for the provider's pidfds; how many. A process that comes later knocks ([`wait::knock`]).
pub fn pids(cx: &Cx<'_>, out: &mut [u32]) -> usize {
    let mut n = 0;
    for (_, p) in cx.inst.procs.table.iter() {
        let pid = p.pid.load(Relaxed);
        if is_pid(pid) && pid != cx.me.pid && n < out.len() {
            out[n] = pid;
            n += 1;
        }
    }
    n
}
