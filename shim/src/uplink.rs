//! Waiting for the uplink: a program starts with its address, or hears why not.
//!
//! The keeper has the uplink; whoever establishes the instance in a process waits until it has the addresses it could get, at most [`PATIENCE`]. An uplink
//! that cannot be had ends the program as a wrong option does (it must not run with another network than it was told to); one that is slow is warned
//! of, once, and goes on trying: the program runs, with IPv6's link-local address at first.
use crate::enter::{self, clock};
use crate::{init, ret};
use csel_core::clock::SEC;
use csel_core::config::uplink::Kind;
use csel_core::config::{Config, Path, Str};
use csel_core::gate::file;
use csel_core::net::link::uplink::Phase;

/// How long a program waits for its address.
const PATIENCE: u64 = 5 * SEC;

/// passt's path, if csel is to start it; empty: it is not in PATH.
pub(crate) fn find_passt(config: &Config, path: Option<&[u8]>) -> Path {
    if config.uplink.kind != Kind::Passt || !config.uplink.at.is_empty() {
        return Str::EMPTY;
    }
    let default = b"/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
    for dir in path.unwrap_or(default).split(|b| *b == b':').filter(|d| d.starts_with(b"/")) {
        let mut at = [0u8; 256];
        let Some(room) = at.get_mut(..dir.len() + 6) else { continue };
        room[..dir.len()].copy_from_slice(dir);
        room[dir.len()..].copy_from_slice(b"/passt");
        // SAFETY: a path with its NUL, since one byte of the array is left at least.
        let there = dir.len() + 6 < 256
            && unsafe { csel_core::gate::syscall(libc::SYS_access, [at.as_ptr() as usize, libc::X_OK as usize, 0, 0, 0, 0]) }.is_ok();
        if there {
            return Path::cut(&at[..dir.len() + 6]);
        }
    }
    Str::EMPTY
}

/// What tells this host and this directory of segments from others: machine-id(5), and the path.
pub(crate) fn place(dir: &Path) -> Vec<u8> {
    let mut text = crate::abi::name::read(c"/etc/machine-id");
    text.extend_from_slice(dir.as_bytes());
    text
}

/// Waits for it, if there is one. Ends the program if it cannot be had.
pub(crate) fn await_it() {
    let Some(env) = enter::env() else { return };
    let up = &env.inst.net.link.uplink;
    if up.phase() == Phase::Asking && !env.inst.facts.get().config.keeper {
        init::refuse(format_args!(
            "CSEL_UPLINK: an uplink needs the keeper, which CSEL_KEEPER=off has switched off; leave one of the two out"
        ));
    }
    let until = clock() + PATIENCE;
    let mut nap = 500_000;
    while up.phase() == Phase::Asking {
        if clock() >= until {
            ret::say(&[
                "csel: CSEL_UPLINK: no address yet after 5 s: is there a DHCP server or an IPv6 router on the link? The program starts with \
                 IPv6's link-local address; one that comes later is used; or give one: CSEL_UPLINK=...,ip=A/LEN,gw=A",
            ]);
            return;
        }
        file::nap(nap);
        nap = (nap * 2).min(10_000_000);
    }
    if up.phase() == Phase::Failed {
        let why = enter::with_cx(|cx| cx.inst.net.link.uplink.trouble(cx.me)).unwrap_or_default();
        init::refuse(format_args!("{why}"));
    }
}
