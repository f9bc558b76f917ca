//! Numbers that are addresses: inet_aton(3)'s forms, IPv6 with a scope, strtoul's ports.
//!
//! Limits: as glibc 2.36: inet_aton in getaddrinfo takes the whole text (no trailing blank), an octal digit 8 is no number.
//! Failure: `None`. Locks: none.
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// inet_aton(3): `a`, `a.b`, `a.b.c`, `a.b.c.d`, each decimal, octal (0) or hexadecimal (0x).
#[must_use]
pub fn inet_aton(text: &[u8]) -> Option<Ipv4Addr> {
    let mut parts = [0u64; 4];
    let mut n = 0;
    for part in text.split(|b| *b == b'.') {
        *parts.get_mut(n)? = number(part)?;
        n += 1;
    }
    let mut value = 0u64;
    for part in &parts[..n - 1] {
        if *part > 255 {
            return None;
        }
        value = value << 8 | part;
    }
    // The last part fills what is left.
    let bits = 8 * (5 - n);
    let last = parts[n - 1];
    (last < 1 << bits).then(|| Ipv4Addr::from_bits((value << bits | last) as u32))
}

/// One part of inet_aton: C's notation, at most 32 bits.
fn number(text: &[u8]) -> Option<u64> {
    let (digits, base) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (rest, 16),
        [b'0', rest @ ..] if !rest.is_empty() => (rest, 8),
        _ => (text, 10),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, b| {
        let digit = (*b as char).to_digit(base)?;
        Some(n * u64::from(base) + u64::from(digit)).filter(|n| *n <= u64::from(u32::MAX))
    })
}

/// An IPv6 address with or without `%scope`. The scope is an index, or, for link-local addresses only, an interface's name.
#[must_use]
pub fn ipv6(text: &[u8], if_index: impl Fn(&[u8]) -> Option<u32>) -> Option<(Ipv6Addr, u32)> {
    let at = text.iter().position(|b| *b == b'%');
    let addr = Ipv6Addr::from_str(core::str::from_utf8(&text[..at.unwrap_or(text.len())]).ok()?).ok()?;
    let Some(at) = at else { return Some((addr, 0)) };
    let scope = &text[at + 1..];
    if link_local(addr)
        && let Some(index) = if_index(scope)
    {
        return Some((addr, index));
    }
    if scope.is_empty() || !scope.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some((addr, core::str::from_utf8(scope).ok()?.parse().ok()?))
}

/// Is it an IPv6 address, with or without a scope of whatever kind, that is no IPv4 one in disguise?
#[must_use]
pub fn ipv6_of_v6_only(text: &[u8]) -> bool {
    let bare = text.split(|b| *b == b'%').next().unwrap_or(text);
    core::str::from_utf8(bare).ok().and_then(|t| Ipv6Addr::from_str(t).ok()).is_some_and(|a| a.to_ipv4_mapped().is_none())
}

/// Whether a scope's name belongs to the address: unicast and multicast of the link.
#[must_use]
pub fn link_local(addr: Ipv6Addr) -> bool {
    addr.is_unicast_link_local() || (addr.is_multicast() && addr.octets()[1] & 0xf == 2)
}

/// A service that is a number, read as glibc does: strtoul(3) into an int, whose low half is the port. `None`: not a number at all.
#[must_use]
pub fn service(text: &[u8]) -> Option<i32> {
    let rest = &text[text.iter().take_while(|b| matches!(b, b' ' | b'\t'..=b'\r')).count()..];
    let (negative, digits) = match rest {
        [b'-', d @ ..] => (true, d),
        [b'+', d @ ..] => (false, d),
        _ => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = digits.iter().try_fold(0u64, |n, b| n.checked_mul(10)?.checked_add(u64::from(b - b'0')));
    // Overflow is ULONG_MAX.
    Some(n.map_or(u64::MAX, |n| if negative { n.wrapping_neg() } else { n }) as i32)
}

/// The port of a service that is a number. `None`: no number, or a negative int, which glibc takes for a name.
#[must_use]
pub fn port(text: &[u8]) -> Option<u16> {
    service(text).filter(|n| *n >= 0).map(|n| n as u16)
}
