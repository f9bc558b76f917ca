//! The hooks, one file for each family of calls.
//!
//! # Theory of operation
//! **Purpose.** Where libc's names become calls of the core.
//! **How it works.** Each file is a table ([`crate::table`]) of rows that are short: a descriptor that is not virtual is passed to libc; else pointers
//! become slices ([`crate::user`]), the core is called ([`crate::enter`]), what would block waits ([`crate::wait`]), and the result becomes C's
//! ([`crate::ret`]). **Limits.** What libc does inside itself is not seen: `docs/support.md` says where that matters.
//! **Locks.** None is held in a hook while it blocks. **Failure.** errno. **See also.** the man page of each name.
//!
//! # Theory of operation
//! **Purpose.** Each file is a table ([`crate::table`]) of a family's symbols; a row is short: pass, or make slices and call the core.
//! **How it works.** [`FAMILIES`] joins the tables. Where a symbol has several names (`__read`, `read64`), each has a row. What libc does inside itself
//! is reached otherwise: streams by their function tables ([`stdio`]). **Limits.** The words of the rows; docs/support.md is made of them.
//! **Locks.** None. **Failure.** errno, by [`crate::ret`]. **See also.** the man page of the name.
use crate::table::Row;

pub(crate) mod copy;
pub(crate) mod epoll;
pub(crate) mod fd;
pub(crate) mod host;
pub(crate) mod ifaddr;
pub(crate) mod inward;
pub(crate) mod io;
pub(crate) mod jump;
pub(crate) mod linger;
pub(crate) mod msg;
pub(crate) mod name;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod procnet;
pub(crate) mod rights;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod stdio;
pub(crate) mod syscall;

/// Every family's rows.
pub(crate) static FAMILIES: &[&[Row]] = &[
    socket::ROWS,
    io::ROWS,
    msg::ROWS,
    copy::ROWS,
    fd::ROWS,
    host::ROWS,
    ifaddr::ROWS,
    jump::ROWS,
    inward::ROWS,
    name::ROWS,
    process::ROWS,
    process::BY_HAND,
    spawn::ROWS,
    procnet::ROWS,
    signal::ROWS,
    syscall::ROWS,
    poll::ROWS,
    epoll::ROWS,
];
