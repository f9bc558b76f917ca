//! What the tests of csel share. Linux is the oracle.
//!
//! The tests themselves: `tests/` (one file for each subject), `apps/` (real programs), `src/bin/` (the programs they start).
pub mod launch;
