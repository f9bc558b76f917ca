//! The value of `--uplink`: which way out of the host, and what is fixed about it.
//!
//! `passt` (csel starts one), `passt:/path/of/its/socket`, `tap:NAME`; then, if wanted, `,ip=ADDRESS/LEN` (up to four), `,gw=ADDRESS` (one for each
//! family) and `,mtu=BYTES`. An IPv4 address given here switches DHCP off; IPv6 routers are heard in any case. A value is read whole or refused
//! with the words that say which form it must have. See also: `net::link::uplink`, passt(1).
use super::value::{Cidr, Entry, List, Problem, Str, Value};
use core::net::IpAddr;

/// What carries the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    /// There is no uplink.
    #[default]
    None,
    /// passt's stream socket.
    Passt,
    /// A TAP device.
    Tap,
}

/// See the file's head.
#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C)]
pub struct Uplink {
    /// Which.
    pub kind: Kind,
    /// passt's socket (empty: csel starts passt), or the device's name.
    pub at: Str<107>,
    /// Addresses that are fixed.
    pub ip: List<Cidr, 4>,
    /// Default routers that are fixed.
    pub gateways: List<IpAddr, 2>,
    /// The MTU that is fixed; 0: what the link says.
    pub mtu: u32,
}

impl Uplink {
    /// No uplink.
    pub const NONE: Self = Self {
        kind: Kind::None,
        at: Str::EMPTY,
        ip: List::empty(Cidr::UNSPECIFIED),
        gateways: List::empty(IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED)),
        mtu: 0,
    };
}

const FORM: Problem = Problem::Form("must be passt, passt:/PATH of its socket, or tap:NAME; then ,ip=A/LEN ,gw=A ,mtu=BYTES if wanted");

impl Value for Uplink {
    fn read(&mut self, text: &str, _low: u64, _high: u64) -> Result<(), Problem> {
        let mut parts = text.split(',').map(str::trim);
        let mut new = Self::NONE;
        let (kind, at) = match parts.next().unwrap_or("").split_once(':') {
            None => (text.split(',').next().unwrap_or("").trim(), ""),
            Some((_, "")) => return Err(FORM),
            Some(pair) => pair,
        };
        new.kind = match kind {
            "passt" => Kind::Passt,
            "tap" if !at.is_empty() => Kind::Tap,
            "none" | "off" if at.is_empty() => Kind::None,
            _ => return Err(FORM),
        };
        if new.kind == Kind::Passt && !at.is_empty() && !at.starts_with('/') {
            return Err(Problem::Form("the path of passt's socket must begin with /"));
        }
        // IFNAMSIZ, dev_valid_name.
        if new.kind == Kind::Tap && (at.len() > 15 || at.bytes().any(|b| b == b'/' || b == b':' || b.is_ascii_whitespace())) {
            return Err(Problem::Form("the name of a device has at most 15 letters, none of them '/', ':' or a blank"));
        }
        new.at = Str::new(at.as_bytes())?;
        for part in parts {
            match part.split_once('=') {
                Some(("ip", a)) => new.ip.push(Cidr::parse(a)?)?,
                Some(("gw", a)) => {
                    let a: IpAddr = a.parse().map_err(|_| Problem::Form("gw= takes an IPv4 or IPv6 address"))?;
                    if new.gateways.iter().any(|g| g.is_ipv4() == a.is_ipv4()) {
                        return Err(Problem::Form("has two gateways of one family"));
                    }
                    new.gateways.push(a)?;
                }
                Some(("mtu", n)) => {
                    let n = n.parse().map_err(|_| FORM)?;
                    if !(576..=65535).contains(&n) {
                        return Err(Problem::Range(576, 65535));
                    }
                    new.mtu = n;
                }
                _ => return Err(FORM),
            }
        }
        *self = new;
        Ok(())
    }
}
