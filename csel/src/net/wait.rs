//! Waiting: leader and followers, spinning, sleeping. (Interface; helper `poll` writes theory, model and body; the futex call itself is the
//! front end's, which must be cancellable.)
use crate::arena::Shared;
/// Who waits, who leads, who spins.
#[repr(C)]
#[derive(Shared)]
pub struct State {
    todo: u64,
}
