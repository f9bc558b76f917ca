//! What csel states not to have: urgent data (MSG_OOB) and TCP Fast Open. Each case asserts what Linux does and what csel answers instead.
//! (The families it refuses are in socket.rs.)

use crate::cases;
use crate::net::{listener, pair, quiet, take, wait};
use crate::sys::{Net, deviation};
use libc::{EINVAL, EOPNOTSUPP, MSG_FASTOPEN, MSG_NOSIGNAL, MSG_OOB, POLLIN, POLLPRI};

cases! {
    one: [],
    net: [oob_sending, oob_nothing_urgent, oob_nothing_is_sent, fastopen],
}

const WHY: &str = "MSG_OOB: urgent data cannot be sent, EOPNOTSUPP";

fn oob_sending(net: Net) {
    let (c, s) = pair(net);
    deviation(
        WHY,
        || {
            c.send(b"ab!", MSG_OOB).is(3);
            assert_eq!(wait(&s, POLLPRI), POLLPRI);
            let mut urgent = [0; 4];
            s.recv(&mut urgent, MSG_OOB).is(1);
            assert_eq!(urgent[0], b'!');
            assert_eq!(take(&s, 9), b"ab");
        },
        || c.send(b"ab!", MSG_OOB).fails(EOPNOTSUPP),
    );
    // The stream goes on either way.
    c.write(b"plain").is(5);
    assert_eq!(crate::net::take_all(&s, 5), b"plain");
}

fn oob_nothing_urgent(net: Net) {
    // The same on both: there is none.
    let (c, s) = pair(net);
    s.recv(&mut [0; 4], MSG_OOB).fails(EINVAL);
    c.write(b"x").is(1);
    crate::net::wait_in(&s);
    s.recv(&mut [0; 4], MSG_OOB).fails(EINVAL);
    assert_eq!(s.poll(POLLPRI, 0), 0);
}

fn oob_nothing_is_sent(net: Net) {
    let (c, s) = pair(net);
    deviation(WHY, || c.send(b"", MSG_OOB).is(0), || c.send(b"", MSG_OOB).fails(EOPNOTSUPP));
    quiet(&s, POLLIN | POLLPRI);
}

fn fastopen(net: Net) {
    let (l, at) = listener(net);
    let c = net.tcp();
    deviation(
        "MSG_FASTOPEN: no TCP Fast Open, EOPNOTSUPP",
        || {
            // Without a cookie: a plain handshake, then the data.
            c.sendto(b"first", MSG_FASTOPEN | MSG_NOSIGNAL, &at).is(5);
        },
        || {
            c.sendto(b"first", MSG_FASTOPEN | MSG_NOSIGNAL, &at).fails(EOPNOTSUPP);
            c.connect(&at).is(0);
            c.write(b"first").is(5);
        },
    );
    assert_eq!(crate::net::take_all(&l.accept().fd(), 5), b"first");
}
