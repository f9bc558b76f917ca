//! libcsel.so: the libc front end of csel.
//!
//! # Theory of operation
//! **Purpose.** Preloaded (or linked), it stands before libc: an application's socket calls become calls of the replica; what is not the
//! replica's goes on to libc unchanged.
//! **How it works.** [`table`] declares each symbol once; the rows live in [`abi`], one file for each family of calls. A hook asks
//! [`enter::is_virtual`] (two loads); if the descriptor is the kernel's it calls the next definition ([`real`]). Otherwise it makes slices of
//! pointers ([`user`]), steps a call of the core ([`enter::with_cx`]), waits outside every lock if it would block ([`wait`]), and returns
//! C's way ([`ret`]). [`init`] runs first: it reads the options and looks for the family's arena; an instance is made only when the first virtual socket
//! is. [`fork`] and [`exec`] carry it over; [`keeper`] starts the process that looks after it.
//! **Limits.** What libc does inside itself and raw system calls are not seen: the support table says so.
//! **Locks.** None of its own is held over a call of the core, a wait, or libc. **Failure.** A panic of the core becomes EIO and a line on standard error.
//! **Signals.** A handler that comes while the core is at work is put off until it has left ([`signal`]).
//! **See also.** design sections 3, 4, 7, 8; `reference/interposers.md`.
mod abi;
mod bells;
mod capi;
mod dns;
mod enter;
mod exec;
mod fdguard;
mod fork;
mod home;
mod init;
mod inward;
mod keeper;
#[allow(dead_code)] // Until exec calls it.
mod pump;
mod real;
mod ret;
mod shadow;
mod signal;
mod table;
mod trace;
mod uplink;
mod user;
mod wait;
mod watches;
