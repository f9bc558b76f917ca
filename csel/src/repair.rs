//! Death inside a call: what it may leave behind, and how it is put right.
use crate::instance::Instance;
use crate::net::{port, tcp};
use crate::sync::Me;

/// How much of everything that can be taken is taken, by name: what a family leaves when it has gone must be what it found.
pub fn census(inst: &Instance) -> [(&'static str, u64); 12] {
    let [flows, listeners, resting, orphans] = tcp::census(&inst.net.tcp);
    let [ports, tickets] = port::census(&inst.net.port, &Me::ask());
    [
        ("sockets", inst.socks.used() as u64),
        ("flows", flows),
        ("listeners", listeners),
        ("orphans", orphans),
        ("datagram sockets", inst.net.dgram.bodies.used() as u64),
        ("ports", ports),
        ("ports of orphans", tickets.saturating_sub(resting)),
        ("epoll sets", inst.poll.sets.used() as u64),
        ("epoll items", inst.poll.items.used() as u64),
        ("hooks", inst.poll.hooks.used() as u64),
        ("waiters", inst.net.wait.census()),
        ("processes", inst.procs.table.used() as u64),
    ]
}
