//! Open descriptions in flight: sent over AF_UNIX (SCM_RIGHTS), and not received yet.
//!
//! # Theory of operation
//! **Purpose.** In Linux a message that carries a descriptor holds a reference to its open description, however many of the processes close theirs or end.
//! **How it works.** The sender takes a reference for each virtual descriptor it sends ([`depart`]), and whoever receives it lets that go when its own
//! table has one ([`arrive`]). What is never received (the message is thrown away, the control buffer was too small, the receiver died) is found by the
//! keeper: a description of which only such references are left lives as long as its shadow, and the kernel lists the shadows that there are in
//! `/proc/net/unix` by their inodes ([`stray`]).
//! **Limits.** A thrown-away message so closes within a second, not at once. Without /proc the description stays until the instance ends. An epoll set has
//! no shadow with an inode and does not fly. **Locks.** None. **Failure.** None. **See also.** unix(7), proc_net(5).
use super::{Held, Sock};
use crate::arena::Id;
use crate::call::Kind;
use crate::gate;
use crate::instance::Cx;
use core::sync::atomic::Ordering::*;

/// Looked for in one reading of the list.
const BATCH: usize = 64;

/// A descriptor of `held` is about to be sent. True if a reference was taken ([`arrive`] undoes it).
pub fn depart(cx: &Cx<'_>, held: &Held) -> bool {
    if held.kind() == Kind::Epoll || held.inode.load(Relaxed) == 0 {
        return false;
    }
    let _ = held.share().into_id();
    held.flights.fetch_add(1, AcqRel);
    if cx.inst.procs.flying.fetch_add(1, AcqRel) == 0 {
        // The keeper looks for strays from now on.
        crate::net::wait::knock(cx);
    }
    true
}

/// It was received (or not sent): one reference less in flight.
pub fn arrive(cx: &Cx<'_>, sock: &Sock, id: Id<Sock>) {
    if sock.flights.fetch_update(AcqRel, Relaxed, |n| n.checked_sub(1)).is_ok() {
        cx.inst.procs.flying.fetch_sub(1, AcqRel);
        Held::from_id(cx.inst, id).release(cx);
    }
}

/// Lets go of what is in flight to nobody. The keeper does it now and then while something flies.
pub fn stray(cx: &Cx<'_>) {
    if cx.inst.procs.flying.load(Acquire) == 0 {
        return;
    }
    let mut some = [(Id::NONE, 0u64, false); BATCH];
    let mut n = 0;
    let only_flying = |s: &Sock| {
        let flights = s.flights.load(Acquire);
        flights != 0 && s.refs.load(Acquire) <= flights
    };
    for (id, s) in cx.inst.socks.iter().filter(|(_, s)| only_flying(s)) {
        if n == BATCH {
            break;
        }
        some[n] = (id, s.inode.load(Relaxed), false);
        n += 1;
    }
    if n == 0 || !mark(&mut some[..n]) {
        return;
    }
    for &(id, _, alive) in &some[..n] {
        let Some(s) = cx.inst.socks.get(id).filter(|s| !alive && only_flying(s)) else { continue };
        while s.flights.load(Acquire) != 0 {
            arrive(cx, s, id);
        }
        cx.flush();
    }
}

/// Marks those whose shadow exists. False: the list cannot be had.
fn mark(some: &mut [(Id<Sock>, u64, bool)]) -> bool {
    let Ok(fd) = gate::open(c"/proc/net/unix", libc::O_RDONLY | libc::O_CLOEXEC, 0) else { return false };
    let mut bytes = [0u8; 4096];
    let mut line = Line::default();
    let mut lines = 0u32;
    let whole = loop {
        match gate::read(fd, &mut bytes) {
            Ok(0) => break true,
            Ok(n) => {
                for &b in &bytes[..n] {
                    if let Some(inode) = line.take(b) {
                        lines += 1;
                        for s in some.iter_mut().filter(|s| s.1 == inode) {
                            s.2 = true;
                        }
                    }
                }
            }
            Err(_) => break false,
        }
    };
    let _ = gate::close(fd);
    // The keeper's own bell is one at least.
    whole && lines > 0
}

/// A line of /proc/net/unix being read: `Num RefCount Protocol Flags Type St Inode Path`.
#[derive(Default)]
struct Line {
    field: u32,
    blank: bool,
    number: u64,
    bad: bool,
}

impl Line {
    /// The next byte; the inode at the end of a line.
    fn take(&mut self, b: u8) -> Option<u64> {
        const INODE: u32 = 6;
        if b == b'\n' {
            let was = core::mem::take(self);
            return (was.field >= INODE && !was.bad).then_some(was.number);
        }
        if b == b' ' {
            self.blank = true;
            return None;
        }
        if core::mem::take(&mut self.blank) {
            self.field += 1;
        }
        if self.field == INODE {
            match b {
                b'0'..=b'9' => self.number = self.number.wrapping_mul(10).wrapping_add(u64::from(b - b'0')),
                _ => self.bad = true,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_are_read() {
        let text = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 23456 /run/a socket\n\
            0000000000000000: 00000003 00000000 00000000 0001 03    77\n";
        let mut line = Line::default();
        let got: Vec<u64> = text.bytes().filter_map(|b| line.take(b)).collect();
        assert_eq!(got, [23456, 77]);
    }
}
