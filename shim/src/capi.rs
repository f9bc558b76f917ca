//! The C API: c-headers/csel.h.
//!
//! # Theory of operation
//! **Purpose.** A program may ask where it is; sockets it makes by their usual names. **How it works.** The header says what each function
//! does; `make headers` compares its names with what is exported. An instance that is not there yet is made, as by a first socket(2).
//! **Limits.** One instance. **Locks.** None. **Failure.** errno, as the header says.
use crate::{enter, init, ret, user};
use core::ffi::CStr;
use csel_core::errno::{Errno, Result};
use csel_core::instance::Facts;
use csel_core::net::addr::Endpoint;
use libc::{c_char, c_int, c_uchar, size_t, sockaddr_storage};

/// The version, for C.
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version with a zero byte"),
};

/// The instance's facts.
fn facts() -> Result<&'static Facts> {
    if init::inert() || init::instance().is_err() {
        return Err(Errno::ENOTCONN);
    }
    enter::env().map(|env| env.inst.facts.get()).ok_or(Errno::ENOTCONN)
}

/// `csel_version`.
#[unsafe(no_mangle)]
extern "C" fn csel_version() -> *const c_char {
    VERSION.as_ptr()
}

/// `csel_active`.
#[unsafe(no_mangle)]
extern "C" fn csel_active() -> c_int {
    c_int::from(facts().is_ok())
}

/// `csel_name`.
///
/// # Safety
/// As the header says; a bad pointer is EFAULT.
#[unsafe(no_mangle)]
unsafe extern "C" fn csel_name(buf: *mut c_char, size: size_t) -> c_int {
    let put = || {
        let name = facts()?.name;
        let mut text = [0u8; 64];
        let n = name.as_bytes().len();
        text[..n].copy_from_slice(name.as_bytes());
        if buf.is_null() {
            return Err(Errno::EFAULT);
        }
        if size <= n {
            return Err(Errno::ERANGE);
        }
        user::put_bytes(buf.cast(), &text[..=n])?;
        Ok(n as c_int)
    };
    put().unwrap_or_else(ret::fail)
}

/// `csel_addresses`.
///
/// # Safety
/// As the header says; a bad pointer is EFAULT.
#[unsafe(no_mangle)]
unsafe extern "C" fn csel_addresses(addresses: *mut sockaddr_storage, prefixes: *mut c_uchar, max: size_t) -> c_int {
    let put = || {
        let all = facts()?.addrs();
        for (i, prefix) in all.iter().enumerate().take(max) {
            let family = if prefix.ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 };
            let mut bytes = [0u8; 28];
            let n = Endpoint::new(prefix.ip, 0).emit(family as u16, &mut bytes);
            if addresses.is_null() {
                return Err(Errno::EFAULT);
            }
            user::put_bytes(addresses.wrapping_add(i).cast(), &bytes[..n])?;
            if !prefixes.is_null() {
                user::put_bytes(prefixes.wrapping_add(i), &[prefix.len])?;
            }
        }
        Ok(all.len() as c_int)
    };
    put().unwrap_or_else(ret::fail)
}
