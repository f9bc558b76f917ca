//! The board: memory that all processes of a family share, natively (MAP_SHARED), so that nothing of csel is needed to see who hangs.
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

/// Members of a family that live at once, and threads of each that report.
pub(crate) const MEMBERS: usize = 8;
pub(crate) const THREADS: usize = 5;

/// What a thread is at.
#[repr(C)]
pub(crate) struct Desk {
    /// CLOCK_MONOTONIC milliseconds at which the operation began; 0: none, or one that may last.
    since: AtomicU64,
    /// What: index into [`OPS`].
    op: AtomicU32,
    /// The descriptor, or whatever helps.
    what: AtomicU32,
}

/// What operations are called.
pub(crate) const OPS: [&str; 12] =
    ["idle", "accept", "serve-read", "serve-write", "connect", "write", "read", "poll", "udp", "shutdown", "close", "epoll_wait"];

macro_rules! counters {
    ($($name:ident)*) => {
        /// What happened, for the report.
        #[repr(C)]
        pub(crate) struct Board {
            pub(crate) desks: [[Desk; THREADS]; MEMBERS],
            /// The members' main threads call exit(3).
            pub(crate) leave: [AtomicBool; MEMBERS],
            /// Nobody begins anything any more.
            pub(crate) stop: AtomicBool,
            /// A check failed; the one that saw it has said what.
            pub(crate) failed: AtomicBool,
            $(pub(crate) $name: AtomicU64,)*
        }
        impl Board {
            /// The counters in words.
            pub(crate) fn counts(&self) -> String {
                [$((stringify!($name), &self.$name),)*].iter().map(|(n, c)| format!("{n} {}", c.load(Relaxed))).collect::<Vec<_>>().join(", ")
            }
        }
    };
}
counters! { echoes bytes broken refused served churned halves datagrams lost kills stops exits }

/// Milliseconds of CLOCK_MONOTONIC.
pub(crate) fn now() -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: ts is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut ts) };
    ts.tv_sec as u64 * 1000 + ts.tv_nsec as u64 / 1_000_000
}

impl Board {
    /// A fresh one, shared by all processes forked from here on.
    pub(crate) fn make() -> &'static Self {
        // SAFETY: an anonymous shared mapping that stays; all-zero bytes are a Board.
        unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(at, libc::MAP_FAILED, "mmap");
            &*at.cast::<Self>()
        }
    }
    /// Says that something is wrong: the whole run fails.
    pub(crate) fn fail(&self, what: &str) {
        eprintln!("soak: WRONG: pid {}: {what}", std::process::id());
        self.failed.store(true, SeqCst);
    }
    /// Forgets what a dead member was at.
    pub(crate) fn clear(&self, member: usize) {
        self.leave[member].store(false, SeqCst);
        for d in &self.desks[member] {
            d.since.store(0, Relaxed);
        }
    }
    /// The operations that have lasted longer than `limit` milliseconds: (member, thread, what).
    pub(crate) fn late(&self, limit: u64) -> Vec<(usize, usize, String)> {
        let now = now();
        let mut out = Vec::new();
        for (m, desks) in self.desks.iter().enumerate() {
            for (t, d) in desks.iter().enumerate() {
                let since = d.since.load(Relaxed);
                if since != 0 && now.saturating_sub(since) > limit {
                    let op = OPS[d.op.load(Relaxed) as usize % OPS.len()];
                    out.push((m, t, format!("{op} (fd {}) for {} ms", d.what.load(Relaxed) as i32, now - since)));
                }
            }
        }
        out
    }
}

/// One thread's view of the board.
#[derive(Clone, Copy)]
pub(crate) struct Me {
    pub(crate) board: &'static Board,
    pub(crate) member: usize,
    thread: usize,
}

impl Me {
    pub(crate) fn new(board: &'static Board, member: usize, thread: usize) -> Self {
        Self { board, member, thread }
    }
    /// Runs one operation under the watchdog. `bounded`: it must end; else it may last (an accept of an idle listener).
    pub(crate) fn op<R>(&self, op: usize, what: i32, bounded: bool, f: impl FnOnce() -> R) -> R {
        let d = &self.board.desks[self.member][self.thread];
        d.op.store(op as u32, Relaxed);
        d.what.store(what as u32, Relaxed);
        d.since.store(if bounded { now() } else { 0 }, Relaxed);
        let r = f();
        d.since.store(0, Relaxed);
        r
    }
}

/// A seeded generator (xorshift).
pub(crate) struct Rng(u64);
impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        let mut r = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            r.next();
        }
        r
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}
