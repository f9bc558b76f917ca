//! A published port: `[ADDRESS:]HOSTPORT:PORT[/tcp|/udp]`, docker's form.
//!
//! Limits: one port an entry; docker's ranges and its "choose a host port" are refused with words of their own. Failure: [`Problem`].
use super::value::{Entry, Problem};
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

/// One published port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish {
    /// The host's address to listen on; none: all of them.
    pub addr: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The instance's port.
    pub port: u16,
    /// UDP, not TCP.
    pub udp: bool,
}

impl Publish {
    /// What fills the unused places of a list.
    pub const NONE: Self = Self { addr: None, host: 0, port: 0, udp: false };

    /// The address to listen on.
    #[must_use]
    pub fn listens_on(&self) -> IpAddr {
        self.addr.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr {
            Some(IpAddr::V6(a)) => write!(f, "[{a}]:")?,
            Some(a) => write!(f, "{a}:")?,
            None => {}
        }
        write!(f, "{}:{}{}", self.host, self.port, if self.udp { "/udp" } else { "" })
    }
}

impl Entry for Publish {
    fn parse(text: &str) -> Result<Self, Problem> {
        const FORM: Problem =
            Problem::Form("must be [ADDRESS:]HOSTPORT:PORT with /udp or /tcp or nothing behind it, an IPv6 ADDRESS in [ ]");
        const RANGE: Problem = Problem::Form("port ranges are not known: name each port, as -p 8000:8000 -p 8001:8001");
        const PORT: Problem = Problem::Form("a port is a number from 1 to 65535");
        const ALONE: Problem = Problem::Form("one port alone (a host port chosen for you) is not known: name both, as 8080:80");
        let (ports, udp) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.split('/').next().unwrap_or(""), false),
            Some((ports, "udp")) => (ports, true),
            Some(_) => return Err(FORM),
        };
        let port = |t: &str| match t.parse::<u16>() {
            Ok(n) if n != 0 && t.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
            _ if t.contains('-') => Err(RANGE),
            _ if t.is_empty() => Err(ALONE),
            _ => Err(PORT),
        };
        let Some((before, inner)) = ports.rsplit_once(':') else {
            return Err(port(ports).err().unwrap_or(ALONE));
        };
        let (addr, host) = match before.rsplit_once(':') {
            None => (None, before),
            Some((addr, host)) => {
                let bare = addr.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                // An IPv6 address has colons of its own: only [ ] tell where it ends.
                let wrong = bare.is_none() && addr.contains(':');
                (Some(IpAddr::from_str(bare.unwrap_or(addr)).ok().filter(|_| !wrong).ok_or(FORM)?), host)
            }
        };
        Ok(Self { addr, host: port(host)?, port: port(inner)?, udp })
    }
}
