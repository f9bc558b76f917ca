//! The hooks, one file for each family of calls. Each is a table ([`crate::table`]) whose rows are short: pass, or make slices and call the core.
use crate::table::Row;

pub(crate) mod copy;
pub(crate) mod epoll;
pub(crate) mod fd;
pub(crate) mod host;
pub(crate) mod ifaddr;
pub(crate) mod io;
pub(crate) mod linger;
pub(crate) mod msg;
pub(crate) mod name;
pub(crate) mod poll;
pub(crate) mod process;
pub(crate) mod procnet;
pub(crate) mod signal;
pub(crate) mod socket;
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
    name::ROWS,
    process::ROWS,
    procnet::ROWS,
    signal::ROWS,
    syscall::ROWS,
    poll::ROWS,
    epoll::ROWS,
];
