//! Private descriptors: the library's own, out of the application's way.
//!
//! # Theory of operation
//! **Purpose.** The arena, the segment's file and the bells are descriptors in the application's table. It may close everything it does not know
//! (close_range(2), closefrom(3), a loop), or put something of its own on their numbers; neither may hit ours.
//! **How it works.** Private descriptors are registered here, on high numbers. The hooks of close(2) and its kin ask [`is_private`] and steer around;
//! dup2(2) onto one moves it first ([`make_way`]). The arena and the segment's file lie on one of [`PLACES`], so that a program started by exec finds
//! them without an environment variable: fork and exec of whatever kind inherit them.
//! **Limits.** Raw system calls are not seen: a private descriptor closed behind our back is noticed by the next exec (a new instance) only.
//! **Locks.** None. **Failure.** With all numbers taken the descriptor stays where it is. **See also.** close_range(2).
use core::sync::atomic::{AtomicI32, Ordering::*};
use csel_core::gate;
use libc::c_int;

/// Pairs of numbers for the arena and the segment's file: below every usual limit, above what programs use.
pub(crate) const PLACES: [(c_int, c_int); 3] = [(1021, 1020), (253, 252), (61, 60)];

/// The registered numbers; -1 is a free entry. The first two are the arena's and the segment's.
static PRIVATE: [AtomicI32; 64] = [const { AtomicI32::new(-1) }; 64];

/// Which of the private descriptors.
#[derive(Clone, Copy)]
pub(crate) enum Which {
    /// The arena.
    Arena = 0,
    /// The segment's file.
    Segment = 1,
}

/// The number of the arena's or the segment's descriptor, -1 if there is none.
pub(crate) fn get(which: Which) -> c_int {
    PRIVATE[which as usize].load(Relaxed)
}

/// Says what the number is.
pub(crate) fn set(which: Which, fd: c_int) {
    PRIVATE[which as usize].store(fd, Relaxed);
}

/// The arena's and the segment's numbers.
pub(crate) fn places() -> [c_int; 2] {
    [get(Which::Arena), get(Which::Segment)]
}

/// What a child of vfork(2) has moved lies in this process where it did.
pub(crate) fn put_back(places: [c_int; 2]) {
    set(Which::Arena, places[0]);
    set(Which::Segment, places[1]);
}

/// Is it one of ours?
#[inline]
pub(crate) fn is_private(fd: c_int) -> bool {
    fd >= 0 && PRIVATE.iter().any(|p| p.load(Relaxed) == fd)
}

/// Registers a private descriptor, moved to a high number (close-on-exec); its number from now on.
#[allow(dead_code)]
pub(crate) fn adopt(fd: c_int) -> c_int {
    let high = match gate::fcntl(fd, libc::F_DUPFD_CLOEXEC, 960).or_else(|_| gate::fcntl(fd, libc::F_DUPFD_CLOEXEC, 200)) {
        Ok(n) => {
            let _ = gate::close(fd);
            n as c_int
        }
        Err(_) => fd,
    };
    for p in &PRIVATE[2..] {
        if p.compare_exchange(-1, high, AcqRel, Relaxed).is_ok() {
            break;
        }
    }
    high
}

/// Lets a private descriptor go.
#[allow(dead_code)]
pub(crate) fn disown(fd: c_int) {
    for p in &PRIVATE[2..] {
        let _ = p.compare_exchange(fd, -1, AcqRel, Relaxed);
    }
    let _ = gate::close(fd);
}

/// The application puts something on a private number: ours moves to the other places, or anywhere.
pub(crate) fn make_way(fd: c_int) {
    for (n, p) in PRIVATE.iter().enumerate() {
        if p.load(Relaxed) != fd {
            continue;
        }
        let keep = n < 2;
        if !keep && crate::enter::thread().vforked.get() {
            // A bell of the parent's: the child has no use for it.
            continue;
        }
        let spots = PLACES.iter().map(|&(a, s)| if n == 0 { a } else { s });
        let to = spots.filter(|&to| keep && to != fd && gate::fcntl(to, libc::F_GETFD, 0).is_err()).find_map(|to| place(fd, to));
        let to = to.or_else(|| {
            let cmd = if keep { libc::F_DUPFD } else { libc::F_DUPFD_CLOEXEC };
            gate::fcntl(fd, cmd, 300).or_else(|_| gate::fcntl(fd, cmd, 3)).ok().map(|n| n as c_int)
        });
        p.store(to.unwrap_or(-1), Relaxed);
        if !keep {
            crate::bells::moved(fd, to.unwrap_or(-1));
        }
    }
}

/// Puts a copy of `fd` on number `to`, inherited by exec.
pub(crate) fn place(fd: c_int, to: c_int) -> Option<c_int> {
    // SAFETY: no pointers.
    unsafe { gate::syscall(libc::SYS_dup3, [fd as usize, to as usize, 0, 0, 0, 0]) }.ok().map(|n| n as c_int)
}

/// Calls `each` with the stretches of `first..=last` that hold no private number.
pub(crate) fn around(first: u32, last: u32, mut each: impl FnMut(u32, u32)) {
    let mut from = first;
    loop {
        let next = PRIVATE.iter().map(|p| p.load(Relaxed)).filter(|&p| p >= 0 && p as u32 >= from && p as u32 <= last).min();
        match next {
            None => break each(from, last),
            Some(p) => {
                let p = p as u32;
                if p > from {
                    each(from, p - 1);
                }
                if p == last {
                    break;
                }
                from = p + 1;
            }
        }
    }
}
