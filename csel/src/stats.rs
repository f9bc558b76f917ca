//! stats: the counters of an instance, declared once.
//!
//! Purpose: what an operator asks first ("does it drop, retransmit, sleep, pass calls to the kernel?") is a row here
//! with its meaning; the struct that lives in shared memory, `csel ps -v` and the docs come from the same rows.
//!
//! How it works: one `AtomicU64` per row, added to with relaxed order by whoever does the work. A snapshot is the rows
//! read one after the other: each is right, together they may be a moment apart.
//!
//! Limits: counters wrap after 2^64. Locks: none. Failure: none. See also: netstat(8), nstat(8), `call` (reasons).
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident;)+) => {
        /// Every counter's name and meaning, in the order of [`Stats`]'s fields.
        pub static COUNTERS: &[(&str, &str)] = &[$((stringify!($name), concat!($($help),+))),+];

        /// The counters of one instance. All zero bytes is a valid start.
        #[derive(Debug, Default, crate::arena::Shared)]
        #[repr(C)]
        pub struct Stats {
            $($(#[doc = $help])+ pub $name: AtomicU64,)+
        }

        impl Stats {
            /// All zero.
            #[must_use]
            pub const fn new() -> Self {
                Self { $($name: AtomicU64::new(0)),+ }
            }

            /// Calls `each` with name and value of every counter, in the order of [`COUNTERS`].
            pub fn each(&self, mut each: impl FnMut(&'static str, u64)) {
                $(each(stringify!($name), self.$name.load(Relaxed));)+
            }
        }
    };
}

counters! {
    /// sockets made
    sockets;
    /// sockets that became the kernel's, by a route to the host
    sockets_to_host;
    /// functions of libc's that ran unseen, because the kernel has no Syscall User Dispatch
    inward_unseen;
    /// TCP connections begun by this side
    tcp_active_opens;
    /// TCP connections taken from a listener's queue
    tcp_passive_opens;
    /// TCP segments received
    tcp_in_segs;
    /// TCP segments sent
    tcp_out_segs;
    /// TCP segments sent again
    tcp_retrans_segs;
    /// TCP resets sent
    tcp_out_rsts;
    /// TCP connections that ended by a reset or a timeout
    tcp_estab_resets;
    /// connections refused or dropped because a listener's queue was full
    tcp_listen_overflows;
    /// TCP segments that belong to no socket
    tcp_no_socket;
    /// UDP datagrams received and queued
    udp_in_datagrams;
    /// UDP datagrams sent
    udp_out_datagrams;
    /// UDP datagrams for a port nobody has
    udp_no_ports;
    /// UDP datagrams dropped because the socket's buffer was full
    udp_rcvbuf_errors;
    /// ICMP messages received
    icmp_in_msgs;
    /// ICMP messages sent
    icmp_out_msgs;
    /// packets with a bad header or checksum
    ip_in_errors;
    /// packets for an address that is not ours
    ip_in_addr_errors;
    /// packets with no route to their destination
    ip_out_no_routes;
    /// fragments received
    ip_reasm_reqds;
    /// packets put together from fragments
    ip_reasm_oks;
    /// packets given up because a fragment was missing
    ip_reasm_fails;
    /// frames received from the link
    frames_in;
    /// frames sent to the link
    frames_out;
    /// bytes received from the link
    bytes_in;
    /// bytes sent to the link
    bytes_out;
    /// frames not sent because the receiver's ring was full
    frames_ring_full;
    /// frames dropped on receipt because they made no sense
    frames_bad;
    /// frames spoilt on purpose (CSEL_IMPAIR)
    frames_impaired;
    /// frames that could not be written to the tap (CSEL_PCAP)
    frames_untapped;
    /// waits ended while spinning
    waits_spun;
    /// waits that slept
    waits_slept;
    /// doorbells rung for a sleeping peer
    doorbells;
    /// calls answered by the replica
    calls;
    /// calls passed to the kernel because the descriptor or family is not ours
    calls_passed;
    /// calls refused because the replica does not do what was asked
    calls_refused;
    /// allocations the arena could not satisfy
    arena_full;
    /// times the keeper worked because no thread of the application did
    keeper_turns;
    /// times the tables were put right after a death inside a call
    repairs;
    /// panics caught at the edge: each is a bug of csel
    panics;
}

/// Adds one.
pub fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Adds `n`.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

/// Reads.
#[must_use]
pub fn read(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_visits_the_table_in_order() {
        let stats = Stats::new();
        bump(&stats.sockets);
        add(&stats.panics, 3);
        let mut i = 0;
        stats.each(|name, value| {
            assert_eq!(name, COUNTERS[i].0);
            assert!(!COUNTERS[i].1.trim().is_empty());
            assert_eq!(
                value,
                if name == "sockets" {
                    1
                } else if name == "panics" {
                    3
                } else {
                    0
                }
            );
            i += 1;
        });
        assert_eq!(i, COUNTERS.len());
        assert_eq!(size_of::<Stats>(), 8 * COUNTERS.len());
        assert_eq!(read(&stats.panics), 3);
    }
}
