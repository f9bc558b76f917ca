//! The host's name: gethostname(2), sethostname(2), uname(2).
//!
//! It is `CSEL_HOSTNAME`, else `CSEL_NAME`, else the name that the instance got on its segment. A program that has none of them and no socket
//! yet (a shell that shows a prompt) is told the kernel's: an instance is not made for that. sethostname(2) never reaches the host: what root sets
//! holds for its own process and those it forks, and peers go on seeing the name on the segment.
use crate::init;
use crate::ret::{IntoC, fail};
use crate::table::interpose;
use crate::user;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering::*};
use csel_core::config::Name;
use csel_core::errno::Errno;
use libc::{c_char, c_int, size_t};

/// What sethostname(2) set in this process: odd while it is being written, 0 if never.
static TURN: AtomicU32 = AtomicU32::new(0);
static CHOSEN: [AtomicU8; 64] = [const { AtomicU8::new(0) }; 64];

/// Sets the process's own name. A second setter at the same time loses, as the earlier of two does.
fn choose(name: &[u8]) {
    let turn = TURN.load(Acquire);
    if turn & 1 == 0 && TURN.compare_exchange(turn, turn + 1, AcqRel, Relaxed).is_ok() {
        for (i, to) in CHOSEN.iter().enumerate() {
            to.store(name.get(i).copied().unwrap_or(0), Relaxed);
        }
        TURN.store(turn + 2, Release);
    }
}

/// What sethostname(2) set, or what the instance says.
fn hostname() -> Option<Name> {
    for _ in 0..64 {
        let turn = TURN.load(Acquire);
        if turn == 0 {
            break;
        }
        let text: [u8; 64] = core::array::from_fn(|i| CHOSEN[i].load(Acquire));
        if turn & 1 == 0 && TURN.load(Acquire) == turn {
            let n = text.iter().position(|&b| b == 0).unwrap_or(64);
            return core::str::from_utf8(&text[..n]).ok().and_then(|t| Name::new(t).ok());
        }
    }
    init::hostname()
}

interpose! {
    family host;

    /// gethostname(2).
    plain fn gethostname(name: *mut c_char, len: size_t) -> c_int = Full "" {
        match hostname() {
            None => {
                // SAFETY: as the application passed it.
                unsafe { real::gethostname(name, len) }
            }
            Some(host) => {
                let bytes = host.as_bytes();
                let mut text = [0u8; 65];
                text[..bytes.len().min(64)].copy_from_slice(&bytes[..bytes.len().min(64)]);
                let whole = bytes.len() + 1;
                // glibc fills what fits and says ENAMETOOLONG if the NUL does not.
                match user::put_bytes(name.cast(), &text[..whole.min(len).min(65)]) {
                    Err(e) => fail(e),
                    Ok(()) if whole > len => fail(Errno::ENAMETOOLONG),
                    Ok(()) => 0,
                }
            }
        }
    }
    /// uname(2): the kernel's, with the instance's node name.
    plain fn uname(out: *mut libc::utsname) -> c_int = Full "" {
        // SAFETY: as the application passed it.
        let r = unsafe { real::uname(out) };
        match hostname() {
            Some(host) if r == 0 => user::get(out)
                .and_then(|mut u| {
                    u.nodename = [0; 65];
                    for (to, from) in u.nodename.iter_mut().zip(Name::as_bytes(&host)) {
                        *to = *from as c_char;
                    }
                    user::put(out, &u)
                })
                .into_c(),
            _ => r,
        }
    }
    /// sethostname(2): the process's own; the host's stays as it is.
    plain fn sethostname(name: *const c_char, len: size_t) -> c_int = Partial "the process's own and its children's; letters, digits, '.', '_' and '-' only" {
        if init::hostname().is_none() {
            // SAFETY: as the application passed it.
            return unsafe { real::sethostname(name, len) };
        }
        let mut text = [0u8; 63];
        let Some(room) = text.get_mut(..len) else { return fail(Errno::EINVAL) };
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            return fail(Errno::EPERM);
        }
        if let Err(e) = user::get_bytes(name.cast(), room) {
            return fail(e);
        }
        match core::str::from_utf8(room).ok().and_then(|t| Name::new(t).ok()) {
            None => fail(Errno::EINVAL),
            Some(_) => {
                choose(room);
                0
            }
        }
    }
}
