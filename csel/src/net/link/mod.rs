//! Links: what carries an instance's packets. (Interface; helper `link` writes theory and body.)
use crate::arena::Shared;
use crate::instance::Cx;

pub mod rx;
pub mod segment;
pub mod tx;

/// Link state of the instance.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    todo: u64,
}

/// Rings the bells of the ports we sent to, and drains our own ring if we sent to ourselves and nobody else is at it.
pub fn settle(_cx: &Cx<'_>) {}
