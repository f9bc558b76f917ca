//! Names as libc tells of them: getaddrinfo(3), getnameinfo(3), gethostbyname(3) and kin, over [`csel_core::name`].
//! (Being written by helper `cli`.)
use crate::table::interpose;

interpose! {
    family name;
}
