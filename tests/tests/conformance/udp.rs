//! Datagrams.

use crate::cases;
use crate::net::{bound_udp, udp_pair};
use crate::sys::{Addr, Net};

cases! {
    one: [],
    net: [sendto_and_recvfrom, connected_pair],
}

fn sendto_and_recvfrom(net: Net) {
    let ((a, at_a), (b, at_b)) = (bound_udp(net), bound_udp(net));
    a.sendto(b"dgram", 0, &at_b).is(5);
    let (mut room, mut from) = ([0; 32], Addr::room());
    b.recvfrom(&mut room, 0, &mut from).is(5);
    assert_eq!(&room[..5], b"dgram");
    assert_eq!(from, at_a);
    assert_eq!(from.len, if net == Net::V4 { 16 } else { 28 });
}

fn connected_pair(net: Net) {
    let (a, b) = udp_pair(net);
    a.write(b"one").is(3);
    b.write(b"two!").is(4);
    let mut room = [0; 32];
    a.read(&mut room).is(4);
    b.read(&mut room).is(3);
}
