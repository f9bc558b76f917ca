//! Time as the core knows it: nanoseconds of CLOCK_MONOTONIC, passed in.
//!
//! The core never reads a clock: a [`Clock`] is part of every [`crate::instance::Cx`]. Tests pass a virtual one.

/// Nanoseconds since some epoch (CLOCK_MONOTONIC's in real life).
pub type Nanos = u64;
/// Never.
pub const NEVER: Nanos = Nanos::MAX;
/// One millisecond.
pub const MS: Nanos = 1_000_000;
/// One second.
pub const SEC: Nanos = 1_000 * MS;
/// A function that tells the time.
pub type Clock = fn() -> Nanos;
