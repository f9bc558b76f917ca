//! csel's replicas: the pure core.
//!
//! # Theory of operation
//! **Purpose.** Each application gets its own user-mode replica of the operating system's critical elements; this crate is those replicas,
//! without a way in: no C symbol, no libc call, no thread-local, no clock and no environment of its own, so that the same code serves the
//! preloaded library, a static loader and tests under a virtual clock.
//! **How it works.** Read in this order: [`instance`] (the root and a call's context), [`fd`] (open descriptions), [`call`] (one function per
//! system call), [`net`] (the TCP/IP replica), [`poll`] (readiness and waiting), [`name`] (names). Below them: [`arena`], [`sync`],
//! [`gate`], [`errno`], [`clock`], [`config`], [`stats`], [`trace`].
//! **Limits.** Linux on x86-64 and aarch64. **Locks.** [`sync::rank`]. **Failure.** [`errno::Errno`].
//! **See also.** The README's map; `../shared/design.md`.
#![cfg_attr(not(any(test, feature = "testing")), no_std)]
#![deny(unsafe_code)]

pub mod arena;
pub mod call;
pub mod clock;
pub mod config;
pub mod desk;
pub mod errno;
pub mod fd;
pub mod gate;
pub mod instance;
pub mod keeper;
pub mod name;
pub mod net;
pub mod poll;
pub mod repair;
pub mod stats;
pub mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
