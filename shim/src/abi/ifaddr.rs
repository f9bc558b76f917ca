//! Interfaces as libc tells of them. (First thread; see `csel_core::net::iface`.)
use csel_core::errno::{Errno, Result};
use libc::{c_int, c_void};

/// ioctl(2) SIOCGIFCONF.
pub(crate) fn gifconf(_fd: c_int, _arg: *mut c_void) -> Result<()> {
    Err(Errno::ENOTTY)
}
