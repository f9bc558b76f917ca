//! What the keeper asks and says of the seat; see [`crate::keeper`].
use super::*;

/// The keeper is awake: nobody need ring it.
pub(crate) fn awake(cx: &Cx<'_>) {
    let st = &cx.inst.net.wait;
    st.alarm.store(0, SeqCst);
    st.deep.store(0, SeqCst);
    slot(cx).word.store(AWAKE, SeqCst);
}

fn slot(cx: &Cx<'_>) -> &'static Slot {
    &seat(cx).slots[KEEPER as usize - 1]
}

/// How to sleep until `until`, or until a process asks for it ([`knock`]): the seat stays as it is.
pub(crate) fn nap(cx: &Cx<'_>, bell: u64, until: Nanos) -> Sleep {
    let slot = slot(cx);
    slot.bell.store(bell, Relaxed);
    slot.word.store(ARMED, SeqCst);
    Sleep { word: &slot.word, expected: ARMED, until }
}

/// Takes the seat if nobody sits there and says how to sleep until rung; `None`: there is something to do first.
pub(crate) fn deep(cx: &Cx<'_>, bell: u64) -> Option<Sleep> {
    let (st, seat, slot) = (&cx.inst.net.wait, seat(cx), slot(cx));
    slot.bell.store(bell, Relaxed);
    slot.turn.fetch_add(1, Relaxed);
    slot.word.store(ARMED, SeqCst);
    st.deep.store(1, SeqCst);
    // Our own claim of an earlier sleep is renewed as well: its ringer has woken us, and may clear the seat of it only now, when we sleep again.
    let claimed = claim(seat, KEEPER);
    let _ = seat.leader.fetch_update(SeqCst, SeqCst, |who| (who == 0 || who & 0xffff == KEEPER).then_some(claimed));
    let until = timer::next(cx);
    st.alarm.store(until, SeqCst);
    fence(SeqCst);
    // A leader that sleeps drains by itself; a frame that nobody was rung for is ours.
    let unattended = link::rx::pending(cx) && st.successor() == KEEPER;
    if unattended || timer::next(cx) < until {
        awake(cx);
        let _ = seat.leader.compare_exchange(claimed, 0, SeqCst, Relaxed);
        return None;
    }
    Some(Sleep { word: &slot.word, expected: ARMED, until })
}
