//! The order of locks: a thread takes them in rising rank only.
//!
//! ```text
//! RX        the receive token: who drains the port (try-lock only; nothing waits for it)
//! └ FRAG    reassembly (held while a whole packet goes on)
//! └ LISTENER a listener's queues
//!   └ FLOW    one TCP connection
//!     └ DGRAM   one datagram socket's queue
//!       └ SOCK    an open description's cold options
//!         └ TABLE   demux buckets, port tables (a few instructions)
//!           └ EPOLL   one epoll set
//!             └ QUEUE   a wait queue
//!               └ TIMER   the timer wheel
//!                 └ LEAF    neighbours, segment tables, pcap, free lists
//! ```
#![allow(missing_docs)]
pub const RX: u8 = 1;
pub const FRAG: u8 = 2;
pub const LISTENER: u8 = 4;
pub const FLOW: u8 = 8;
pub const DGRAM: u8 = 12;
pub const SOCK: u8 = 16;
pub const TABLE: u8 = 20;
pub const EPOLL: u8 = 24;
pub const QUEUE: u8 = 28;
pub const TIMER: u8 = 32;
pub const LEAF: u8 = 40;
