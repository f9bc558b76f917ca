//! The keeper: the small process that looks after an instance when no thread of the application does. (First thread.)

/// Makes sure that the instance has a keeper.
pub(crate) fn ensure() {}
