//! After a death inside: the waiters of an instance. The instance is halted ([`crate::desk`]).
use super::{AWAKE, KEEPER, SLOTS, State, rouse, seat};
use crate::arena::Id;
use crate::instance::Cx;
use crate::poll::queue::Hook;
use crate::{gate, stats};
use core::sync::atomic::Ordering::*;

/// Frees the slots of threads that are dead, and calls `each` with every hook that a living thread has.
pub(crate) fn repair(cx: &Cx<'_>, mut each: impl FnMut(u32, &'static Hook)) {
    let st: &'static State = &cx.inst.net.wait;
    for (n, s) in st.sleepers.iter().enumerate().skip(KEEPER as usize) {
        if st.used[n / 64].load(Relaxed) >> (n % 64) & 1 == 0 {
            continue;
        }
        let owner = s.owner.load(Relaxed);
        let proc = cx.inst.procs.table.get(Id::new((owner >> 32) as u32));
        if owner == 0 || proc.is_none() || !gate::thread_exists(owner as u32) {
            s.first.store(0, Relaxed);
            s.only.store(0, Relaxed);
            seat(cx).slots[n].word.store(AWAKE, SeqCst);
            st.mark(n as u32 + 1, false);
            let _ = st.spinner.compare_exchange(owner as u32, 0, AcqRel, Relaxed);
            st.give(n as u32 + 1);
            continue;
        }
        let mut at = Id::new(s.first.load(Relaxed));
        // Each hook is in one chain, once.
        for _ in 0..crate::poll::HOOKS {
            let Some(h) = cx.inst.poll.hooks.get(at) else { break };
            each(at.0, h);
            at = Id::new(h.sibling.load(Relaxed));
        }
    }
    let spinner = st.spinner.load(Relaxed);
    if spinner != 0 && !gate::thread_exists(spinner) {
        let _ = st.spinner.compare_exchange(spinner, 0, AcqRel, Relaxed);
    }
}

/// Is `sock` the one for which the thread in `slot` is hooked on as the only one?
pub(crate) fn is_only(cx: &Cx<'_>, slot: u32, sock: u32) -> bool {
    let st: &'static State = &cx.inst.net.wait;
    (slot as usize)
        .checked_sub(1)
        .and_then(|n| st.sleepers.get(n))
        .is_some_and(|s| s.owner.load(Relaxed) != 0 && s.only.load(Relaxed) == sock)
}

/// Calls `each` with the sockets that waiting threads hold.
pub(crate) fn each_held(cx: &Cx<'_>, mut each: impl FnMut(u32)) {
    let st: &'static State = &cx.inst.net.wait;
    for s in st.sleepers.iter().filter(|s| s.owner.load(Relaxed) != 0) {
        let only = s.only.load(Relaxed);
        if only != 0 {
            each(only);
        }
        let mut at = Id::new(s.first.load(Relaxed));
        for _ in 0..crate::poll::HOOKS {
            let Some(h) = cx.inst.poll.hooks.get(at) else { break };
            each(h.sock.load(Relaxed));
            at = Id::new(h.sibling.load(Relaxed));
        }
    }
}

/// Wakes everybody: whom the dead were about to wake is not known.
pub(crate) fn wake_all(cx: &Cx<'_>) {
    for n in 1..=SLOTS as u32 {
        if n != KEEPER && cx.inst.net.wait.is_asleep(n) {
            rouse(cx, seat(cx), n, true);
        }
    }
    stats::bump(&cx.inst.stats.repairs);
}
