//! segment: who is on the segments of a runtime directory.
//!
//! Limits: what is read may be a moment old. Locks: none. Failure: [`Failure`].
use std::path::Path;

use crate::Failure;
use crate::options::Options;

/// One instance on a segment.
#[derive(serde::Serialize)]
pub(crate) struct Instance {
    pub(crate) segment: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) pid: u32,
    pub(crate) program: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
}

/// Everybody on the segments of `dir` (or on one), and what could not be read.
pub(crate) fn instances(_dir: &Path, _net: Option<&str>) -> Result<(Vec<Instance>, Vec<String>), Failure> {
    Ok((Vec::new(), Vec::new()))
}

/// Whether an instance with these options may join.
pub(crate) fn admit(_options: &Options, _dir: &Path) -> Result<(), Failure> {
    Ok(())
}
