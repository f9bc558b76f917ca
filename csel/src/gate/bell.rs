//! Bells: what rings a thread that sleeps in the kernel's poll and not on a futex.
//!
//! # Theory of operation
//! **Purpose.** A thread that waits for virtual and kernel descriptors at once sleeps in ppoll(2); another process must be able to end that.
//! **How it works.** A bell is a bound AF_UNIX datagram socket in the abstract namespace, named by a random 64-bit key that the sleeper shows in
//! shared memory; whoever rings sends it one byte. A full queue is a bell that rings already.
//! A process that may not send any more ([`crate::gate::sandbox`]) writes the key to the bell that its socket was connected to ([`connect`]): the
//! keeper's, which rings for it ([`hear`]).
//! **Limits.** Abstract names end at a network namespace: across one the ring fails and says so ([`ring`]), and the caller takes the long way.
//! **Locks.** None. **Failure.** An [`Errno`]; the caller falls back to short naps. **See also.** unix(7), [`crate::net::wait`].
use crate::errno::{Errno, Result};
use crate::gate;

const NAME: &[u8; 6] = b"\0csel:";

/// `sockaddr_un` of a key: the family, a NUL, "csel:" and sixteen hexadecimal digits.
fn address(key: u64) -> [u8; 24] {
    let mut a = [0; 24];
    a[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    a[2..8].copy_from_slice(NAME);
    for (i, d) in a[8..].iter_mut().enumerate() {
        *d = b"0123456789abcdef"[(key >> (60 - 4 * i) & 15) as usize];
    }
    a
}

/// A socket that can ring bells.
pub fn clapper() -> Result<i32> {
    let ty = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers.
    unsafe { gate::syscall(libc::SYS_socket, [libc::AF_UNIX as usize, ty as usize, 0, 0, 0, 0]) }.map(|fd| fd as i32)
}

/// A new bell: its descriptor (close-on-exec, the caller's to move to a private number) and its key.
pub fn make() -> Result<(i32, u64)> {
    let fd = clapper()?;
    loop {
        let key = gate::random() | 1;
        let a = address(key);
        // SAFETY: the address is readable for its length.
        match unsafe { gate::syscall(libc::SYS_bind, [fd as usize, a.as_ptr() as usize, a.len(), 0, 0, 0]) } {
            Ok(_) => return Ok((fd, key)),
            Err(Errno::EADDRINUSE) => {}
            Err(e) => {
                let _ = gate::close(fd);
                return Err(e);
            }
        }
    }
}

/// Connects a socket that rings bells to the bell `key`; it rings others as before.
pub fn connect(clapper_fd: i32, key: u64) -> Result<()> {
    let a = address(key);
    // SAFETY: the address is readable for its length.
    unsafe { gate::syscall(libc::SYS_connect, [clapper_fd as usize, a.as_ptr() as usize, a.len(), 0, 0, 0]) }.map(|_| ())
}

/// [`ring`] with write(2) and poll(2) only, through the bell that the socket is connected to.
#[cold]
fn ask(clapper_fd: i32, key: u64) -> Result<()> {
    for _ in 0..3 {
        match gate::write(clapper_fd, &key.to_ne_bytes()) {
            Err(Errno::EAGAIN) => {
                // Its queue is full: it wakes, and there is room soon.
                let mut p = libc::pollfd { fd: clapper_fd, events: libc::POLLOUT, revents: 0 };
                let soon = libc::timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                // SAFETY: one pollfd and a timeout that live; no mask.
                if unsafe { gate::syscall(libc::SYS_ppoll, [&raw mut p as usize, 1, &raw const soon as usize, 0, 8, 0]) }.is_err() {
                    gate::sandbox::nap(1_000_000);
                }
            }
            r => return r.map(|_| ()),
        }
    }
    Err(Errno::EAGAIN)
}

/// Rings the bell `key` with `clapper` (below 0: with one made for this ring).
pub fn ring(clapper_fd: i32, key: u64) -> Result<()> {
    if gate::sandbox::is_confined() {
        return ask(gate::sandbox::rope(), key);
    }
    let a = address(key);
    let send = |fd: i32| {
        let byte = 1u8;
        // SAFETY: one readable byte, an address readable for its length.
        let r = unsafe {
            gate::syscall(
                libc::SYS_sendto,
                [
                    fd as usize,
                    &raw const byte as usize,
                    1,
                    (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as usize,
                    a.as_ptr() as usize,
                    a.len(),
                ],
            )
        };
        // It rings already.
        if matches!(r, Err(Errno::EAGAIN)) { Ok(0) } else { r }
    };
    if clapper_fd >= 0 && send(clapper_fd).is_ok() {
        return Ok(());
    }
    let fd = clapper()?;
    let r = send(fd);
    let _ = gate::close(fd);
    r.map(|_| ())
}

/// Stills a bell: takes all that is queued.
pub fn still(fd: i32) {
    hear(fd, |_| {});
}

/// Stills a bell, the keeper's, and calls `ask` with each key that somebody asks it to ring.
pub fn hear(fd: i32, mut ask: impl FnMut(u64)) {
    let mut word = [0u8; 8];
    // Not for ever: whoever may know its name may ring it.
    for _ in 0..1024 {
        match gate::read(fd, &mut word) {
            Ok(8) => ask(u64::from_ne_bytes(word)),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
