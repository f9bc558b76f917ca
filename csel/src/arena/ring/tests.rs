//! The ring under many writers, dead writers and garbage.
use super::*;
use crate::arena::map;
use crate::gate;
use std::time::{Duration, Instant};

const N: usize = 1 << 16;

fn ring() -> &'static Ring<N> {
    map::of_nothing().unwrap()
}

fn fill(frame: &mut [u8], seed: u64) {
    frame[..8].copy_from_slice(&seed.to_le_bytes());
    for (i, b) in frame[8..].iter_mut().enumerate() {
        *b = (seed as usize + i) as u8;
    }
}

fn is_whole(frame: &[u8]) -> bool {
    let seed = u64::from_le_bytes(*frame.first_chunk().unwrap());
    frame[8..].iter().enumerate().all(|(i, b)| *b == (seed as usize + i) as u8)
}

fn send(r: &Ring<N>, tid: u32, len: usize, seed: u64) -> bool {
    let Some(mut s) = r.reserve(tid, len, 7) else { return false };
    assert_eq!(s.bytes().len(), len);
    fill(s.bytes(), seed);
    s.commit();
    true
}

/// Takes what is there; the seeds.
fn take(r: &Ring<N>, head: &AtomicU64, seeds: &mut Vec<u64>) {
    loop {
        match r.peek(head) {
            Peek::Frame { frame, tag, span } => {
                assert_eq!(tag, 7);
                assert!(is_whole(frame), "a frame of {} bytes is not what was written", frame.len());
                seeds.push(u64::from_le_bytes(*frame.first_chunk().unwrap()));
                r.advance(head, span);
            }
            Peek::Busy { .. } | Peek::Empty => return,
            Peek::Bad => panic!("bad ring"),
        }
    }
}

#[test]
fn frames_come_in_order_and_whole_around_the_end() {
    let (r, head) = (ring(), AtomicU64::new(0));
    let (mut seeds, mut next) = (Vec::new(), 0);
    for round in 0..5_000u64 {
        let mut n = 0;
        while n < 1 + round % 7 && send(r, 1, 8 + (next * 131) as usize % 9_000, next) {
            next += 1;
            n += 1;
        }
        if round % 3 == 0 {
            take(r, &head, &mut seeds);
        }
    }
    take(r, &head, &mut seeds);
    assert_eq!(seeds, (0..next).collect::<Vec<_>>());
    assert!(!r.pending(head.load(Relaxed)));
    assert_eq!(r.used(), 0);
}

#[test]
fn an_empty_ring_starts_over() {
    let r: &'static Ring<{ 1 << 20 }> = map::of_nothing().unwrap();
    let head = AtomicU64::new(0);
    let mut far = 0;
    for _ in 0..20_000 {
        let mut s = r.reserve(1, 100, 0).unwrap();
        let at = s.bytes().as_ptr() as usize - core::ptr::from_ref(r) as usize;
        far = far.max(at);
        s.commit();
        let Peek::Frame { span, .. } = r.peek(&head) else { panic!() };
        r.advance(&head, span);
    }
    assert!(far < WARM as usize + 4096, "an idle ring reached byte {far}");
}

#[test]
fn full_is_full_and_room_comes_back() {
    let (r, head) = (ring(), AtomicU64::new(0));
    let mut n = 0;
    while send(r, 1, 1500, n) {
        n += 1;
    }
    assert!(n as usize >= N / 1600 - 1, "{n}");
    assert!(!r.has_room(1500) && r.reserve(1, Ring::<N>::MOST + 1, 0).is_none());
    let mut seeds = Vec::new();
    take(r, &head, &mut seeds);
    assert_eq!(seeds.len() as u64, n);
    assert!(r.has_room(1500) && send(r, 1, 1500, 1));
}

#[test]
fn a_cleared_ring_is_empty_and_takes_no_memory() {
    let r = ring();
    while send(r, 1, 1500, 1) {}
    let writing = r.reserve(gate::gettid(), 100, 7);
    assert_eq!(r.clear(gate::gettid()), writing.is_none());
    drop(writing);
    assert!(r.clear(gate::gettid()));
    assert_eq!(r.used(), 0);
    // SAFETY: the ring's own bytes, which nobody else uses now.
    let bytes = unsafe { &*r.data.0.get() };
    assert!(bytes[4096..N - 4096].iter().all(|b| *b == 0), "the pages were not given back");
    let head = AtomicU64::new(r.resume());
    assert!(send(r, 1, 1500, 9));
    let mut seeds = Vec::new();
    take(r, &head, &mut seeds);
    assert_eq!(seeds, [9]);
}

#[test]
fn discarded_frames_are_skipped() {
    let (r, head) = (ring(), AtomicU64::new(0));
    drop(r.reserve(1, 100, 7));
    assert!(send(r, 1, 100, 5));
    drop(r.reserve(1, 3000, 7));
    assert!(send(r, 1, 100, 6));
    let mut seeds = Vec::new();
    take(r, &head, &mut seeds);
    assert_eq!(seeds, [5, 6]);
}

/// A thread id that is nobody's.
fn dead_tid() -> u32 {
    (1..1 << 22).rev().find(|tid| !gate::thread_exists(*tid)).unwrap()
}

#[test]
fn a_writer_killed_between_reserve_and_commit_holds_up_nothing_for_ever() {
    let (r, head) = (ring(), AtomicU64::new(0));
    let dead = dead_tid();
    core::mem::forget(r.reserve(dead, 200, 7));
    assert!(!r.pending(0), "a frame being written is nothing to wake up for");
    assert!(send(r, 1, 100, 9));
    let Peek::Busy { tid, span, more: true } = r.peek(&head) else { panic!("the dead writer's record was not seen") };
    assert_eq!(tid, dead);
    assert!(!gate::thread_exists(tid));
    r.advance(&head, span);
    let mut seeds = Vec::new();
    take(r, &head, &mut seeds);
    assert_eq!(seeds, [9]);
}

#[test]
fn a_writer_killed_inside_the_lock_is_succeeded() {
    let (r, head) = (ring(), AtomicU64::new(0));
    r.writers.lock.store(sealed(dead_tid()), Relaxed);
    assert!(send(r, gate::gettid(), 100, 3));
    let mut seeds = Vec::new();
    take(r, &head, &mut seeds);
    assert_eq!(seeds, [3]);
    // One that lives and keeps the lock costs a writer a moment, and no more.
    r.writers.lock.store(sealed(gate::getpid()), Relaxed);
    let other = std::thread::spawn(move || send(r, gate::gettid(), 100, 4));
    assert!(!other.join().unwrap());
    r.writers.lock.store(0, Relaxed);
    assert!(send(r, gate::gettid(), 100, 4));
}

#[test]
fn many_writers_one_reader() {
    const EACH: u64 = 20_000;
    let r = ring();
    let head = AtomicU64::new(0);
    let mut got = [0u64; 4];
    std::thread::scope(|s| {
        for w in 0..4u64 {
            s.spawn(move || {
                let tid = gate::gettid();
                for i in 0..EACH {
                    let len = 8 + (i * 37 + w * 11) as usize % 700;
                    while !send(r, tid, len, w << 32 | i) {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut seeds = Vec::new();
        while got.iter().sum::<u64>() < 4 * EACH {
            seeds.clear();
            take(r, &head, &mut seeds);
            for s in &seeds {
                let (w, i) = ((s >> 32) as usize, s & 0xffff_ffff);
                assert_eq!(got[w], i, "writer {w}'s frames are out of order");
                got[w] += 1;
            }
            if seeds.is_empty() {
                assert!(Instant::now() < deadline, "stalled at {got:?}");
                std::thread::yield_now();
            }
        }
    });
}

#[test]
fn garbage_costs_frames_and_nothing_else() {
    let (r, head) = (ring(), AtomicU64::new(0));
    let mut rng = 0x1234_5678_9abc_def1u64;
    let mut random = move || {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        rng
    };
    for round in 0..20_000u64 {
        if let Some(mut s) = r.reserve(1, (random() % 3000) as usize, 0) {
            s.bytes().fill(random() as u8);
            s.commit();
        }
        match random() % 12 {
            0 => r.writers.tail.store(random(), Relaxed),
            1 => r.writers.base.store(random(), Relaxed),
            2 => r.reader.head.store(random(), Relaxed),
            3 => r.header(random() as usize % N / LINE * LINE).len.store(random() as u32, Relaxed),
            4 => r.header(random() as usize % N / LINE * LINE).state.store(RESERVED + random() as u32 % 4, Relaxed),
            5 => r.writers.tail.store(r.writers.tail.load(Relaxed).wrapping_add(random() % 256), Relaxed),
            _ => {}
        }
        for _ in 0..64 {
            match r.peek(&head) {
                Peek::Empty => break,
                Peek::Bad => {}
                Peek::Busy { span, .. } => r.advance(&head, span),
                Peek::Frame { frame, span, .. } => {
                    assert!(frame.len() <= N);
                    std::hint::black_box(frame.iter().fold(0u8, |a, b| a ^ b));
                    r.advance(&head, span);
                }
            }
        }
        if round % 100 == 0 {
            let resumed = r.resume();
            assert_eq!(resumed % LINE as u64, 0);
        }
    }
    // And it works again once the garbage stops.
    let mut drained = 0;
    while !matches!(r.peek(&head), Peek::Empty) && drained < 100_000 {
        drained += 1;
        if let Peek::Busy { span, .. } | Peek::Frame { span, .. } = r.peek(&head) {
            r.advance(&head, span);
        }
    }
    head.store(r.resume(), Relaxed);
    r.reader.head.store(head.load(Relaxed), Relaxed);
    assert!(send(r, 1, 100, 1));
}

/// Not a test of speed (machines differ): prints what a hand-off costs. `cargo test --release -p csel-core -- --ignored --nocapture cost`
#[test]
#[ignore = "prints a figure"]
fn cost() {
    let r: &'static Ring<{ 4 << 20 }> = map::of_nothing().unwrap();
    let head = AtomicU64::new(0);
    for len in [78usize, 1514, 65549] {
        let begun = Instant::now();
        let n = 1_000_000;
        for i in 0..n {
            let mut s = r.reserve(1, len, 0).unwrap();
            s.bytes()[0] = i as u8;
            s.commit();
            let Peek::Frame { frame, span, .. } = r.peek(&head) else { panic!() };
            std::hint::black_box(frame[0]);
            r.advance(&head, span);
        }
        println!("{len} bytes: {:.1} ns for reserve, commit, peek, advance", begun.elapsed().as_nanos() as f64 / f64::from(n));
    }
}
