//! The segment: a virtual Ethernet in a shared-memory file. (Interface; helper `link`.)
use crate::arena::Shared;
/// The mapped file.
#[repr(C)]
#[derive(Shared)]
pub struct Segment {
    todo: u64,
}
