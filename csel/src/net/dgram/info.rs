//! What datagram, ping and raw sockets tell of themselves: the rows of ss(8).
use super::Kind;
use crate::instance::Instance;
use crate::net::addr::Endpoint;
use crate::sync::Me;

/// A row of ss(8) or /proc/net/udp.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What kind of socket it is.
    pub kind: Kind,
    /// An AF_INET6 socket?
    pub v6: bool,
    /// Our end; a raw socket's port is its protocol.
    pub local: Endpoint,
    /// The other end, if connect(2) was called.
    pub remote: Option<Endpoint>,
    /// Bytes queued for reading, as SO_RCVBUF counts them.
    pub recv_q: u32,
    /// The open description's number.
    pub sock: u32,
}

/// Every datagram, ping and raw socket of an instance. One that is being used just now is left out.
pub fn each(inst: &Instance, me: &Me, mut row: impl FnMut(&Row)) {
    for (_, body) in inst.net.dgram.bodies.iter() {
        let Some(b) = body.try_lock(me) else { continue };
        if b.sock == 0 {
            continue;
        }
        let remote = b.connected.then_some(b.remote);
        let r = Row { kind: b.kind(), v6: b.v6, local: b.local, remote, recv_q: b.queue.charged(), sock: b.sock };
        drop(b);
        row(&r);
    }
}
