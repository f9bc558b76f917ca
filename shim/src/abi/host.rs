//! The host's name: gethostname(2), uname(2).
//!
//! It is `CSEL_HOSTNAME`, else `CSEL_NAME`, else the name that the instance got on its segment. A program that has none of them and no socket
//! yet (a shell that shows a prompt) is told the kernel's: an instance is not made for that.
use crate::init;
use crate::ret::{IntoC, fail};
use crate::table::interpose;
use crate::user;
use csel_core::config::Name;
use csel_core::errno::Errno;
use libc::{c_char, c_int, size_t};

interpose! {
    family host;

    /// gethostname(2).
    plain fn gethostname(name: *mut c_char, len: size_t) -> c_int = Full "" {
        match init::hostname() {
            None => {
                // SAFETY: as the application passed it.
                unsafe { real::gethostname(name, len) }
            }
            Some(host) => {
                let bytes = host.as_bytes();
                let mut text = [0u8; 65];
                text[..bytes.len().min(64)].copy_from_slice(&bytes[..bytes.len().min(64)]);
                let whole = bytes.len() + 1;
                // glibc fills what fits and says ENAMETOOLONG if the NUL does not.
                match user::put_bytes(name.cast(), &text[..whole.min(len).min(65)]) {
                    Err(e) => fail(e),
                    Ok(()) if whole > len => fail(Errno::ENAMETOOLONG),
                    Ok(()) => 0,
                }
            }
        }
    }
    /// uname(2): the kernel's, with the instance's node name.
    plain fn uname(out: *mut libc::utsname) -> c_int = Full "" {
        // SAFETY: as the application passed it.
        let r = unsafe { real::uname(out) };
        match init::hostname() {
            Some(host) if r == 0 => user::get(out)
                .and_then(|mut u| {
                    u.nodename = [0; 65];
                    for (to, from) in u.nodename.iter_mut().zip(Name::as_bytes(&host)) {
                        *to = *from as c_char;
                    }
                    user::put(out, &u)
                })
                .into_c(),
            _ => r,
        }
    }
}
