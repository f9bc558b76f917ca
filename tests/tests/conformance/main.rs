//! Conformance: every socket call, natively and under csel, with the same assertions. Linux is the oracle.
//!
//! # Theory of operation
//! Purpose: a case is a plain function that makes system calls and asserts what they did. It is listed twice, as
//! `native::family::case` and `csel::family::case`; nothing in it knows which of the two it is, except through [`deviation`],
//! which states what csel does otherwise and asserts both.
//!
//! How it works: this program is run by `cargo test` as the parent. Each trial runs it again as a child, with the case's name in
//! the environment, in an own process group, with its output in a file, and a deadline ([`DEADLINE`]) after which the group is
//! killed and the output shown. The native child gets a network namespace of its own with `lo` up (where we may: as root), so that
//! ports and lingering connections of other cases do not disturb; else it runs in ours. The csel child gets a network namespace
//! in which `lo` is *down*, so that whatever leaks to the kernel fails, LD_PRELOAD of libcsel.so, a segment and a runtime directory of its
//! own. Before its case it asserts that the library is live: mapped, and an AF_INET socket of ours is an AF_UNIX socket of the
//! kernel's; so no case passes by not being preloaded.
//!
//! Limits: loopback addresses only. A missing libcsel.so fails the csel half with the remedy, it never skips it.
//!
//! Use: `cargo test -p csel-tests --test conformance -- csel::tcp_io` (any part of a name); `CSEL_LIB=/path/libcsel.so` to name the
//! library (default: target/release/libcsel.so beside this program, else target/debug); `--test-threads N` (default 4).
//! One case by hand: `CSEL_CASE=tcp_io::peek CSEL_MODE=native target/debug/deps/conformance-...`.
//!
//! What a case executes is this program again, in another role: after.rs.
//!
//! See also: sys.rs (calls as values), net.rs (addresses, pairs, waiting), run.rs (parent and child).

#[allow(dead_code)]
mod msg;
mod net;
mod run;
#[allow(dead_code)]
mod sys;

mod after;
mod cancel;
mod cancel_more;
mod epoll;
mod epoll_ctl;
mod epoll_fork;
mod epoll_nested;
mod epoll_wait;
mod exec;
mod fd;
mod fork;
mod icmp;
mod ioctl;
mod ipv6;
mod jump;
mod libc_api;
mod netlink;
mod poll;
mod process;
mod rights;
mod sandbox;
mod signal;
mod signal_handler;
mod signal_io;
mod signal_timer;
mod socket;
mod splice;
mod stated;
mod tcp_close;
mod tcp_connect;
mod tcp_io;
mod tcp_listen;
mod tcp_msg;
mod tcp_options;
mod udp;
mod udp_msg;
mod vfork;
mod ways;

use sys::Net;

/// One case: run once, or once for each IP version.
pub(crate) enum Run {
    One(fn()),
    Net(fn(Net)),
}

/// A row of a family's table.
pub(crate) struct Case {
    pub(crate) family: &'static str,
    pub(crate) name: &'static str,
    pub(crate) run: Run,
}

/// The table of a family: `cases! { one: [a, b], net: [c] }`; those under `net` run as `c_v4` and `c_v6`.
#[macro_export]
macro_rules! cases {
    (one: [$($one:ident),* $(,)?], net: [$($net:ident),* $(,)?] $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[
            $($crate::Case { family: module_path!(), name: stringify!($one), run: $crate::Run::One($one) },)*
            $($crate::Case { family: module_path!(), name: stringify!($net), run: $crate::Run::Net($net) },)*
        ];
    };
}

/// Every family.
const FAMILIES: &[&[Case]] = &[
    cancel::CASES,
    cancel_more::CASES,
    epoll::CASES,
    epoll_ctl::CASES,
    epoll_fork::CASES,
    epoll_nested::CASES,
    epoll_wait::CASES,
    exec::CASES,
    fd::CASES,
    fork::CASES,
    icmp::CASES,
    ioctl::CASES,
    ipv6::CASES,
    jump::CASES,
    libc_api::CASES,
    netlink::CASES,
    poll::CASES,
    process::CASES,
    rights::CASES,
    sandbox::CASES,
    signal::CASES,
    signal_handler::CASES,
    signal_io::CASES,
    signal_timer::CASES,
    socket::CASES,
    splice::CASES,
    stated::CASES,
    tcp_close::CASES,
    tcp_connect::CASES,
    tcp_io::CASES,
    tcp_listen::CASES,
    tcp_msg::CASES,
    tcp_options::CASES,
    udp::CASES,
    udp_msg::CASES,
    vfork::CASES,
];

fn main() -> std::process::ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == after::AFTER) {
        after::main(&args[2..]);
        return std::process::ExitCode::SUCCESS;
    }
    let families: Vec<&'static [Case]> = FAMILIES.iter().chain(ways::WAYS).copied().collect();
    run::main(&families)
}
