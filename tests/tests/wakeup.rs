//! No wake-up is lost: the model of `csel/src/net/wait.rs` and every interleaving of it.
//!
//! # Theory of operation
//! Purpose: producers in other processes, threads that sleep, leave and come back, and the keeper agree on one word (the seat's leader) without a
//! lock. A lost wake-up shows as a hang once in a million waits, so it is looked for where it cannot hide.
//!
//! How it works: [`model`] is the protocol with one shared-memory access per step (all are SeqCst in the code, so interleavings are all there is): two
//! waiting threads, two producers (one of which may be killed anywhere after its frame is there; each may ring the leader or, by a hint, any other
//! thread) and the keeper. For each setting all reachable
//! states are visited; a state in which nobody can move must have nobody asleep on something that is there. A failure shows the way there.
//!
//! Limits: the settings are small, so that all is visited in a second; the model drains in one step (the receive token's own argument is in
//! `net/link/rx.rs`), and has one socket for each thread. See also: `net/wait.rs`, loom's idea.
use std::collections::HashMap;

mod model {
    use super::HashMap;

    /// Slots: the keeper's is 0 here, threads have 1 and 2.
    const KEEPER: usize = 0;
    const NOBODY: u8 = 0;

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub(super) struct Slot {
        /// The word: armed; or rung by a producer (which may die before the system call).
        armed: bool,
        rung: bool,
        asleep: bool,
        turn: u8,
        /// In futex(2).
        blocked: bool,
    }

    /// Where an actor is. The letters are those of the source: step, end, hand_over, ring, deep.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub(super) enum At {
        #[default]
        Disarm,
        DisarmAsleep,
        Drain,
        Rouse,
        Look,
        Turn,
        Arm,
        Asleep,
        Lead,
        Pending,
        LookAgain,
        Sleep,
        EndDisarm,
        EndAsleep,
        HandOver,
        HandCas,
        HandCheck,
        HandCheckNone,
        EndPending,
        EndDrain,
        EndRouse,
        EndRing,
        RingWord,
        RingWake,
        RingClear,
        Commit,
        RingLoad,
        HintWord,
        HintWake,
        DeepOn,
        DeepCas,
        DeepCheck,
        DeepUndo,
        Done,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub(super) struct Actor {
        at: At,
        /// What a read gave: the leader, the successor, whom to rouse.
        cur: u8,
        next: u8,
        me: u8,
        rouse: [bool; 3],
        /// It was rung and has not drained since.
        rung: bool,
        rounds: u8,
    }

    /// A leader as one byte: slot + 1 in the low two bits, turn above; 0 is nobody.
    fn claim(s: &State, slot: usize) -> u8 {
        (slot as u8 + 1) | (s.slots[slot].turn << 2)
    }
    fn slot_of(leader: u8) -> Option<usize> {
        (leader != NOBODY).then(|| (leader & 3) as usize - 1)
    }

    #[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
    pub(super) struct State {
        leader: u8,
        deep: bool,
        slots: [Slot; 3],
        /// Frames in the ring for each thread.
        frames: [u8; 3],
        /// Levels of each thread's socket.
        ready: [bool; 3],
        /// Keeper, two threads, two producers.
        actors: [Actor; 5],
        /// The first producer was killed.
        killed: bool,
        with_keeper: bool,
        /// The first thread may leave at any time and never come back.
        quits: bool,
    }

    impl State {
        pub(super) fn new(with_keeper: bool, rounds: [u8; 2], producers: [bool; 2], quits: bool) -> Self {
            let mut s = Self { with_keeper, quits, ..Self::default() };
            for t in 1..3 {
                s.actors[t].rounds = rounds[t - 1];
                if rounds[t - 1] == 0 {
                    s.actors[t].at = At::Done;
                }
            }
            s.actors[0].at = if with_keeper { At::Disarm } else { At::Done };
            for p in 3..5 {
                s.actors[p].at = if producers[p - 3] { At::Commit } else { At::Done };
            }
            s
        }
        fn pending(&self) -> bool {
            self.frames.iter().any(|&n| n > 0)
        }
        fn successor(&self) -> u8 {
            for t in 1..3 {
                if self.slots[t].asleep {
                    return t as u8 + 1;
                }
            }
            u8::from(self.deep)
        }
        fn is_asleep(&self, slot: usize) -> bool {
            if slot == KEEPER { self.deep } else { self.slots[slot].asleep }
        }
        fn drain(&mut self, who: usize) {
            for t in 1..3 {
                if self.frames[t] > 0 {
                    self.frames[t] = 0;
                    self.ready[t] = true;
                    self.actors[who].rouse[t] = t != who;
                }
            }
        }
        /// The system calls that were noted while draining: one thread a step. True when all are done.
        fn rouse(&mut self, who: usize) -> bool {
            match (1..3).find(|&t| self.actors[who].rouse[t]) {
                Some(t) => {
                    self.actors[who].rouse[t] = false;
                    let slot = &mut self.slots[t];
                    // A producer's mark stays.
                    if std::mem::take(&mut slot.armed) | slot.rung {
                        slot.blocked = false;
                    }
                    false
                }
                None => true,
            }
        }

        /// Can actor `a` move?
        pub(super) fn can(&self, a: usize) -> bool {
            let at = self.actors[a].at;
            at != At::Done && !(at == At::Sleep && self.slots[a.min(2)].blocked)
        }

        /// All that actor `a` can do next.
        pub(super) fn next(&self, a: usize) -> Vec<Self> {
            let mut out = Vec::new();
            let mut s = self.clone();
            let x = s.actors[a];
            let keeper = a == KEEPER;
            let mut go = |mut s: Self, at: At| {
                s.actors[a].at = at;
                out.push(s);
            };
            match x.at {
                // Waiting::step; the keeper's turn.
                At::Disarm => {
                    (s.slots[a].armed, s.slots[a].rung) = (false, false);
                    go(s, At::DisarmAsleep);
                }
                At::DisarmAsleep => {
                    if keeper {
                        s.deep = false;
                    } else {
                        s.slots[a].asleep = false;
                    }
                    go(s, At::Drain);
                }
                At::Drain => {
                    s.actors[a].rung = false;
                    s.drain(a);
                    go(s, At::Rouse);
                }
                At::Rouse => {
                    let done = s.rouse(a);
                    go(s, if done { At::Look } else { At::Rouse });
                }
                At::Look => {
                    if keeper || !s.ready[a] {
                        go(s, At::Turn);
                    } else {
                        s.ready[a] = false;
                        go(s, At::EndDisarm);
                    }
                }
                At::Turn => {
                    s.slots[a].turn = (s.slots[a].turn + 1) & 3;
                    go(s, At::Arm);
                }
                At::Arm => {
                    (s.slots[a].armed, s.slots[a].rung) = (true, false);
                    go(s, if keeper { At::DeepOn } else { At::Asleep });
                }
                At::Asleep => {
                    s.slots[a].asleep = true;
                    go(s, At::Lead);
                }
                At::Lead => {
                    s.leader = claim(&s, a);
                    go(s, At::Pending);
                }
                At::Pending => {
                    let again = s.pending();
                    go(s, if again { At::Disarm } else { At::LookAgain });
                }
                At::LookAgain => {
                    if s.ready[a] {
                        s.ready[a] = false;
                        go(s, At::EndDisarm);
                    } else {
                        go(s, At::Sleep);
                    }
                }
                At::Sleep => {
                    // FUTEX_WAIT compares and blocks in one; a wake-up makes it step again; a signal makes it leave.
                    if s.slots[a].armed && !s.slots[a].blocked {
                        if !keeper && (x.rounds > 1 || a == 1 && s.quits) {
                            go(s.clone(), At::EndDisarm);
                        }
                        s.slots[a].blocked = true;
                        go(s, At::Sleep);
                    } else {
                        // Woken, and a handler ran: it may leave all the same.
                        if !keeper && (x.rounds > 1 || a == 1 && s.quits) {
                            go(s.clone(), At::EndDisarm);
                        }
                        go(s, At::Disarm);
                    }
                }
                // Waiting::end and hand_over.
                At::EndDisarm => {
                    s.actors[a].rung |= s.slots[a].rung;
                    (s.slots[a].armed, s.slots[a].rung) = (false, false);
                    go(s, At::EndAsleep);
                }
                At::EndAsleep => {
                    s.slots[a].asleep = false;
                    s.actors[a].me = a as u8 + 1;
                    go(s, At::HandOver);
                }
                At::HandOver => {
                    let (cur, me) = (s.leader, x.me);
                    s.actors[a].cur = cur;
                    s.actors[a].next = s.successor();
                    let leads = cur & 3;
                    let next = s.actors[a].next;
                    if leads != me && cur != NOBODY && leads != 1 {
                        go(s, if x.rung { At::EndPending } else { At::Done });
                    } else if next == 1 && leads == 1 {
                        go(s, At::EndPending);
                    } else if next != 0 || cur != 0 {
                        go(s, At::HandCas);
                    } else {
                        go(s, At::EndPending);
                    }
                }
                At::HandCas => {
                    if s.leader != x.cur {
                        go(s, At::HandOver);
                    } else {
                        s.leader = if x.next == 0 { NOBODY } else { claim(&s, x.next as usize - 1) };
                        go(s, if x.next != 0 { At::HandCheck } else { At::HandCheckNone });
                    }
                }
                At::HandCheck => {
                    if s.is_asleep(x.next as usize - 1) {
                        go(s, At::EndPending);
                    } else {
                        s.actors[a].me = x.next;
                        go(s, At::HandOver);
                    }
                }
                At::HandCheckNone => {
                    let again = s.successor() != 0;
                    go(s, if again { At::HandOver } else { At::EndPending });
                }
                At::EndPending => {
                    let again = s.pending();
                    go(s, if again { At::EndDrain } else { At::Done });
                }
                At::EndDrain => {
                    s.drain(a);
                    go(s, At::EndRouse);
                }
                At::EndRouse => {
                    let done = s.rouse(a);
                    go(s, if done { At::EndRing } else { At::EndRouse });
                }
                At::EndRing => {
                    let again = s.pending();
                    go(s, if again { At::RingLoad } else { At::Done });
                }
                // ring(): a producer, or a leaver with frames left.
                At::Commit => {
                    s.frames[a - 2] += 1;
                    go(s, At::RingLoad);
                }
                At::RingLoad => {
                    s.actors[a].cur = s.leader;
                    let leads = slot_of(s.leader);
                    let at = if s.leader == NOBODY { At::Done } else { At::RingWord };
                    // A hint of any thread, right or wrong; a leaver has none.
                    for hint in (1..3).filter(|&h| a > 2 && leads.is_some_and(|l| l != h)) {
                        let mut s = s.clone();
                        s.actors[a].next = hint as u8;
                        go(s, At::HintWord);
                    }
                    go(s, at);
                }
                At::HintWord => {
                    let slot = &mut s.slots[usize::from(x.next)];
                    if std::mem::take(&mut slot.armed) {
                        slot.rung = true;
                        go(s, At::HintWake);
                    } else {
                        go(s, At::RingWord);
                    }
                }
                At::HintWake => {
                    s.slots[usize::from(x.next)].blocked = false;
                    go(s, At::Done);
                }
                At::RingWord => {
                    if let Some(l) = slot_of(x.cur) {
                        (s.slots[l].armed, s.slots[l].rung) = (false, true);
                    }
                    go(s, At::RingWake);
                }
                At::RingWake => {
                    if let Some(l) = slot_of(x.cur) {
                        s.slots[l].blocked = false;
                    }
                    go(s, At::RingClear);
                }
                At::RingClear => {
                    if s.leader == x.cur {
                        s.leader = NOBODY;
                    }
                    go(s, At::Done);
                }
                // keeping::deep.
                At::DeepOn => {
                    s.deep = true;
                    go(s, At::DeepCas);
                }
                At::DeepCas => {
                    // Its own older claim as well: the ringer who took it up may clear that one only now.
                    if s.leader == NOBODY || s.leader & 3 == 1 {
                        s.leader = claim(&s, KEEPER);
                    }
                    go(s, At::DeepCheck);
                }
                At::DeepCheck => {
                    let unattended = s.pending() && s.successor() == 1;
                    go(s, if unattended { At::DeepUndo } else { At::Sleep });
                }
                At::DeepUndo => {
                    if s.leader == claim(&s, KEEPER) {
                        s.leader = NOBODY;
                    }
                    go(s, At::Disarm);
                }
                At::Done => {}
            }
            // The application computes and calls again.
            for s in &mut out {
                let x = &mut s.actors[a];
                if (1..3).contains(&a) && x.at == At::Done && x.rounds > 1 {
                    x.rounds -= 1;
                    x.at = At::Disarm;
                    (x.cur, x.next, x.me, x.rung) = (0, 0, 0, false);
                }
            }
            // The first producer may be killed after its frame is there.
            if a == 3 && !matches!(x.at, At::Commit | At::Done) {
                let mut s = self.clone();
                s.actors[a].at = At::Done;
                s.killed = true;
                out.push(s);
            }
            out
        }

        /// Nobody can move: is anybody asleep on something that is there?
        pub(super) fn lost(&self) -> bool {
            let waiting = |t: usize| self.actors[t].at == At::Sleep;
            let somebody = (1..3).any(waiting) || self.with_keeper;
            // What only a killed producer knew of is the next producer's to ring for; there may be none.
            let owed = if self.killed { self.frames[2] > 0 } else { self.pending() };
            (1..3).any(|t| waiting(t) && self.ready[t]) || (somebody && owed)
        }
    }

    /// Visits every state; the number of them, or how one gets to a state in which somebody sleeps for ever.
    pub(super) fn explore(start: State) -> Result<usize, String> {
        // Each state with the one it was first reached from.
        let mut seen: HashMap<State, Option<(State, usize)>> = HashMap::new();
        let mut todo = vec![start.clone()];
        seen.insert(start, None);
        while let Some(s) = todo.pop() {
            let mut stuck = true;
            for a in 0..5 {
                if s.can(a) {
                    stuck = false;
                    for n in s.next(a) {
                        if !seen.contains_key(&n) {
                            seen.insert(n.clone(), Some((s.clone(), a)));
                            todo.push(n);
                        }
                    }
                }
            }
            if stuck && s.lost() {
                let mut path = vec![format!("{s:?}")];
                let mut at = s;
                while let Some(Some((from, a))) = seen.get(&at) {
                    path.push(format!("actor {a} at {:?}, leader {}", from.actors[*a].at, from.leader));
                    at = from.clone();
                }
                path.reverse();
                return Err(path.join("\n"));
            }
        }
        Ok(seen.len())
    }
}

/// Visits all states of one setting.
fn holds(with_keeper: bool, rounds: [u8; 2], producers: [bool; 2]) {
    explore(with_keeper, rounds, producers, false);
}

fn explore(with_keeper: bool, rounds: [u8; 2], producers: [bool; 2], quits: bool) {
    let n = model::explore(model::State::new(with_keeper, rounds, producers, quits)).unwrap_or_else(|s| panic!("asleep for ever:\n{s}"));
    println!("keeper {with_keeper}, rounds {rounds:?}, producers {producers:?}: {n} states");
    assert!(n > 100);
}

#[test]
fn one_thread_that_comes_back_and_a_killed_producer() {
    holds(false, [0, 2], [true, true]);
}

#[test]
fn two_threads_and_a_producer() {
    holds(false, [1, 1], [false, true]);
}

#[test]
fn two_threads_and_a_killed_producer() {
    holds(false, [1, 1], [true, false]);
}

#[test]
fn a_thread_that_leaves_beside_one_that_sleeps() {
    explore(false, [1, 1], [false, true], true);
}

#[test]
fn a_thread_that_leaves_and_the_keeper() {
    explore(true, [1, 0], [false, true], true);
}

#[test]
fn a_thread_and_the_keeper() {
    holds(true, [0, 1], [false, true]);
}

/// All programs of the instance are outside (pumped): only the keeper drains, for one producer while the other has not done with the seat yet.
#[test]
fn the_keeper_alone() {
    holds(true, [0, 0], [true, true]);
}
