//! The tap: every frame of an instance in a pcapng file.
//!
//! # Theory of operation
//! **Purpose.** `--pcap FILE` shows what tcpdump would show on the instance's `eth0` and `lo`, for tshark and Wireshark.
//! **How it works.** The first process that has a frame to write makes the file: a section header and two interface descriptions, Ethernet both (on
//! `lo` the Ethernet addresses are zero, as on Linux). Every process of the instance opens the file for itself, for appending, and writes each
//! frame with one writev(2), so blocks of several writers never mix. Descriptors are kept for each process in the arena, on high numbers; before each
//! write fstat(2) says whether the number still means the file (the application may have closed or reused it): if not it is opened again.
//! Sent frames are taken when they are sent, before any impairment; received ones when they are drained.
//! **Limits.** A system call or two for each frame, under a lock maybe: a tap is for looking, not for speed. Two instances may share a file: the later
//! one starts it anew, and both go on appending.
//! **Locks.** None. **Failure.** A file that cannot be opened or written loses frames; nobody is told but the counter `frames_untapped`.
//! **See also.** draft-ietf-opsawg-pcapng; tshark(1).
use super::join::CPath;
use crate::arena::Shared;
use crate::fd::PROCS;
use crate::gate::{self, file};
use crate::instance::Cx;
use crate::stats::bump;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// `eth0` in the file.
pub const ETH: u32 = 0;
/// `lo` in the file.
pub const LO: u32 = 1;
/// `eth1` in the file, if there is an uplink.
pub const UP: u32 = 2;
/// Seen coming in.
pub const IN: u32 = 1;
/// Seen going out.
pub const OUT: u32 = 2;

/// The file of the instance, as its processes have it.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    /// 0: not made; the maker's pid while it is made; [`READY`].
    made: AtomicU32,
    dev: AtomicU64,
    ino: AtomicU64,
    /// Descriptor plus one of each process.
    fds: [AtomicU32; PROCS + 1],
}

const READY: u32 = u32::MAX;
/// Descriptors are put here or above, if the limit allows.
const HIGH: usize = 900;

/// Writes one frame. `interface`: [`ETH`] or [`LO`]; `direction`: [`IN`] or [`OUT`].
#[cold]
pub fn tap(cx: &Cx<'_>, interface: u32, direction: u32, frame: &[u8]) {
    let Some(fd) = descriptor(cx) else {
        bump(&cx.inst.stats.frames_untapped);
        return;
    };
    let now = gate::clock_gettime(libc::CLOCK_REALTIME);
    let padded = frame.len().next_multiple_of(4);
    let total = (28 + padded + 12 + 4) as u32;
    let mut head = [0; 28];
    let words = [6, total, interface, (now >> 32) as u32, now as u32, frame.len() as u32, frame.len() as u32];
    put(&mut head, &words);
    // Padding, then the option epb_flags, the end of options, and the length again.
    let mut tail = [0; 3 + 16];
    let pad = padded - frame.len();
    put(&mut tail[pad..], &[word(2, 4), direction, 0, total]);
    let wrote = file::writev(fd, [&head, frame, &tail[..pad + 16]]);
    if wrote != Ok(total as usize) {
        bump(&cx.inst.stats.frames_untapped);
    }
}

/// 32-bit words in our own byte order, which pcapng allows and states.
fn put(to: &mut [u8], words: &[u32]) {
    for (b, w) in to.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *b = w.to_ne_bytes();
    }
}

/// Two 16-bit numbers as they lie in memory.
fn word(first: u16, second: u16) -> u32 {
    let (a, b) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a[0], a[1], b[0], b[1]])
}

/// This process's descriptor of the file.
fn descriptor(cx: &Cx<'_>) -> Option<i32> {
    let st = &cx.inst.net.link.pcap;
    let word = st.fds.get(cx.proc as usize)?;
    let is_ours = |fd: i32| file::fstat(fd).is_ok_and(|s| s.ino == st.ino.load(Relaxed) && s.dev == st.dev.load(Relaxed));
    let fd = word.load(Relaxed) as i32 - 1;
    if st.made.load(Acquire) == READY && fd >= 0 && is_ours(fd) {
        return Some(fd);
    }
    make(cx, st);
    let path = CPath::new(&cx.config().pcap, b"", b"");
    let low = gate::open(path.get(), libc::O_WRONLY | libc::O_APPEND | libc::O_CLOEXEC, 0).ok()?;
    let fd = match gate::fcntl(low, libc::F_DUPFD_CLOEXEC, HIGH) {
        Ok(high) => {
            let _ = gate::close(low);
            high as i32
        }
        Err(_) => low,
    };
    let s = file::fstat(fd).ok()?;
    // Somebody may have moved the file away: what is there now is the file.
    st.dev.store(s.dev, Relaxed);
    st.ino.store(s.ino, Relaxed);
    word.store(fd as u32 + 1, Relaxed);
    Some(fd)
}

/// Makes the file, once in the instance's life.
fn make(cx: &Cx<'_>, st: &State) {
    for _ in 0..100 {
        let made = st.made.load(Acquire);
        if made == READY {
            return;
        }
        if made != 0 && made != cx.me.pid && gate::process_exists(made) {
            file::nap(1_000_000);
            continue;
        }
        if st.made.compare_exchange(made, cx.me.pid, AcqRel, Relaxed).is_err() {
            continue;
        }
        let path = CPath::new(&cx.config().pcap, b"", b"");
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | libc::O_CLOEXEC;
        if let Ok(fd) = gate::open(path.get(), flags, 0o644) {
            let mut b = [0; 28 + 3 * 40];
            let all = if cx.inst.net.link.uplink.is_on() { 3 } else { 2 };
            put(&mut b, &[0x0a0d_0d0a, 28, 0x1a2b_3c4d, word(1, 0), u32::MAX, u32::MAX, 28]);
            for (i, name) in [*b"eth0", *b"lo\0\0", *b"eth1"].iter().enumerate().take(all) {
                // Link type 1 (Ethernet), no snap length; if_name, if_tsresol (nanoseconds), the end.
                let len = if i == 1 { 2 } else { 4 };
                let words =
                    [1, 40, word(1, 0), 0, word(2, len), u32::from_ne_bytes(*name), word(9, 1), u32::from_ne_bytes([9, 0, 0, 0]), 0, 40];
                put(&mut b[28 + i * 40..], &words);
            }
            let _ = gate::write(fd, &b[..28 + all * 40]);
            let _ = gate::close(fd);
        }
        st.made.store(READY, Release);
        return;
    }
}
