//! RFC 6724: in which order the addresses of a name are tried, with glibc's default tables (gai.conf(5)).
//!
//! How it works: an insertion sort, stable, over pairs of destination and the source that would be used; the rules that
//! mean something on one interface: 1 (a source there is), 2 (scopes agree), 5 (labels agree), 6 (precedence), 8 (smaller
//! scope), 9 (longest prefix), 10 (as found). Limits: no gai.conf. Locks: none. Failure: none.
use core::cmp::Ordering;
use core::net::{IpAddr, Ipv6Addr};

/// A destination and the address that would be used to reach it.
type Pair = (IpAddr, Option<IpAddr>);

/// Sorts destinations; `source` says which address of ours would be used.
pub fn sort(addrs: &mut [IpAddr], source: impl Fn(IpAddr) -> Option<IpAddr>) {
    for i in 1..addrs.len() {
        let mut j = i;
        while j > 0 && compare((addrs[j - 1], source(addrs[j - 1])), (addrs[j], source(addrs[j]))) == Ordering::Greater {
            addrs.swap(j - 1, j);
            j -= 1;
        }
    }
}

fn mapped(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    }
}

/// Section 3.1 and 3.2: the scope of an address; IPv4 has three.
fn scope(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(a) if a.is_loopback() || a.is_link_local() => 2,
        IpAddr::V4(_) => 14,
        IpAddr::V6(a) if a.is_multicast() => a.octets()[1] & 0xf,
        IpAddr::V6(a) if a.is_loopback() || a.is_unicast_link_local() => 2,
        // fec0::/10, site-local.
        IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfec0 => 5,
        IpAddr::V6(_) => 14,
    }
}

/// glibc's tables: (network, bits, precedence, label), longest first.
const POLICY: &[(Ipv6Addr, u32, u8, u8)] = &[
    (Ipv6Addr::LOCALHOST, 128, 50, 0),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 10, 4),
    (Ipv6Addr::UNSPECIFIED, 96, 20, 3),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 40, 7),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 30, 2),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 40, 5),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 40, 6),
    (Ipv6Addr::UNSPECIFIED, 0, 40, 1),
];

fn policy(addr: IpAddr) -> (u8, u8) {
    let bits = mapped(addr).to_bits();
    let row = POLICY.iter().find(|(net, len, ..)| *len == 0 || (bits ^ net.to_bits()) >> (128 - len) == 0);
    row.map_or((40, 1), |(_, _, precedence, label)| (*precedence, *label))
}

/// How many leading bits two addresses of one family share.
fn shared(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        // glibc applies rule 9 to IPv4 only inside one network; all of a segment's addresses are.
        _ => 0,
    }
}

fn compare((a, a_from): Pair, (b, b_from): Pair) -> Ordering {
    // Rule 1: the better one is Less, that is, first.
    let (a_from, b_from) = match (a_from, b_from) {
        (Some(x), Some(y)) => (x, y),
        (Some(_), None) => return Ordering::Less,
        (None, Some(_)) => return Ordering::Greater,
        (None, None) => return Ordering::Equal,
    };
    let first = |x: bool, y: bool| y.cmp(&x);
    first(scope(a) == scope(a_from), scope(b) == scope(b_from))
        .then_with(|| first(policy(a).1 == policy(a_from).1, policy(b).1 == policy(b_from).1))
        .then_with(|| policy(b).0.cmp(&policy(a).0))
        .then_with(|| scope(a).cmp(&scope(b)))
        .then_with(|| if a.is_ipv4() == b.is_ipv4() { shared(b, b_from).cmp(&shared(a, a_from)) } else { Ordering::Equal })
}
