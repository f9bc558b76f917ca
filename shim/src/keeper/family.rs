//! The family's processes, watched by pidfd: a death is told at once, and an idle keeper need not look around.
use core::sync::atomic::Ordering::Relaxed;
use csel_core::clock::{NEVER, Nanos, SEC};
use csel_core::gate;
use csel_core::instance::Instance;
use libc::c_int;
use std::collections::BTreeMap;

/// Who is watched.
pub(crate) struct Family {
    /// The keeper's own pid.
    me: u32,
    /// pid -> pidfd.
    watched: BTreeMap<u32, c_int>,
    /// When to look around for those that cannot be watched.
    pub(crate) look: Nanos,
}

impl Family {
    /// Nobody yet.
    pub(crate) fn new(me: u32) -> Self {
        Self { me, watched: BTreeMap::new(), look: NEVER }
    }

    /// Follows the table of processes; `register` is called with each new pidfd.
    pub(crate) fn follow(&mut self, inst: &'static Instance, now: Nanos, mut register: impl FnMut(c_int)) {
        let pids = || inst.procs.table.iter().map(|(_, p)| p.pid.load(Relaxed)).filter(|&pid| pid != 0 && pid != self.me);
        let (mut there, mut unknown) = (0, false);
        for pid in pids() {
            if self.watched.contains_key(&pid) {
                there += 1;
                continue;
            }
            // SAFETY: no pointers.
            let opened = unsafe { gate::syscall(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0, 0]) };
            match opened {
                Ok(fd) if csel_core::fd::is_pid(pid) => {
                    self.watched.insert(pid, fd as c_int);
                    register(fd as c_int);
                    there += 1;
                }
                // Announced by fork and not here yet, or gone, or no descriptor to be had: once a second, then.
                _ => unknown = true,
            }
        }
        if there < self.watched.len() {
            self.watched.retain(|&pid, &mut fd| {
                let there = inst.procs.table.iter().any(|(_, p)| p.pid.load(Relaxed) == pid);
                if !there {
                    let _ = gate::close(fd);
                }
                there
            });
        }
        // Where another program may run, two processes share a table, or a message carries a socket, nobody knocks.
        let flying = inst.procs.flying.load(Relaxed) != 0;
        let strange = flying
            || inst.procs.forked_lately(now)
            || inst.procs.leaving().next().is_some()
            || inst.procs.table.iter().any(|(_, p)| p.partner.load(Relaxed) != 0);
        if !unknown && !strange {
            self.look = NEVER;
        } else if self.look == NEVER || self.look <= now {
            self.look = now + if strange { SEC / 4 } else { SEC };
        }
    }

    /// The process behind a pidfd has ended: it is not watched any more.
    pub(crate) fn gone(&mut self, fd: c_int) {
        self.watched.retain(|_, &mut f| f != fd);
        let _ = gate::close(fd);
    }
}
