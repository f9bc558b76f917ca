//! Values of options: plain data of fixed size, and how each is read from text.
//!
//! Purpose: a `Config` is copied into shared memory and read by processes that did not parse it, so nothing here
//! points anywhere: strings are arrays with a length, lists are arrays with a count.
//!
//! How it works: every kind of value implements [`Value`]: `read` takes the option's text and its range and either
//! stores the value or says what is wrong with it in words that fit after "bad value X: ". Lists read a comma
//! separated text and append, so a repeated flag and a comma list mean the same.
//!
//! Limits: texts longer than their array are an error, never cut. Locks: none. Failure: [`Problem`], no panic.
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// Why a text is not a value. The words complete "bad value X: ...".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The text does not have the form; the words say which form it must have.
    Form(&'static str),
    /// A number outside `low..=high`.
    Range(u64, u64),
    /// Longer than this many bytes.
    TooLong(usize),
    /// More entries than this.
    TooMany(usize),
    /// The empty text where a value is needed.
    Empty,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Form(words) => f.write_str(words),
            Self::Range(low, high) => write!(f, "must be from {low} to {high}"),
            Self::TooLong(most) => write!(f, "longer than {most} bytes"),
            Self::TooMany(most) => write!(f, "more than {most} entries"),
            Self::Empty => f.write_str("is empty"),
        }
    }
}

/// A value that can be read from an option's text.
pub trait Value {
    /// Reads `text`; `low..=high` bounds numbers. Lists append.
    fn read(&mut self, text: &str, low: u64, high: u64) -> Result<(), Problem>;
}

/// A string of at most `N` bytes, held in place.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Str<const N: usize> {
    len: u16,
    bytes: [u8; N],
}

impl<const N: usize> Str<N> {
    /// The empty string.
    pub const EMPTY: Self = Self { len: 0, bytes: [0; N] };

    /// A literal; does not compile (or panics at start) when it does not fit.
    #[must_use]
    pub const fn literal(text: &str) -> Self {
        let from = text.as_bytes();
        assert!(from.len() <= N, "a literal longer than its Str");
        let mut bytes = [0; N];
        let mut i = 0;
        while i < from.len() {
            bytes[i] = from[i];
            i += 1;
        }
        Self { len: from.len() as u16, bytes }
    }

    /// A copy of `text`, or `TooLong`.
    pub fn new(text: &[u8]) -> Result<Self, Problem> {
        let mut out = Self::EMPTY;
        if text.len() > N {
            return Err(Problem::TooLong(N));
        }
        out.bytes[..text.len()].copy_from_slice(text);
        out.len = text.len() as u16;
        Ok(out)
    }

    /// As much of `text` as fits, for messages.
    #[must_use]
    pub fn cut(text: &[u8]) -> Self {
        Self::new(&text[..text.len().min(N)]).unwrap_or(Self::EMPTY)
    }

    /// The bytes. The length is clamped: another process may have written it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len).min(N)]
    }

    /// The text up to the first byte that is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match core::str::from_utf8(self.as_bytes()) {
            Ok(text) => text,
            Err(e) => core::str::from_utf8(&self.as_bytes()[..e.valid_up_to()]).unwrap_or(""),
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// Appends what fits and says whether all of it did.
    pub fn push(&mut self, text: &[u8]) -> bool {
        let at = self.as_bytes().len();
        let n = text.len().min(N - at);
        self.bytes[at..at + n].copy_from_slice(&text[..n]);
        self.len = (at + n) as u16;
        n == text.len()
    }
}

impl<const N: usize> fmt::Write for Str<N> {
    /// Text beyond the end is dropped, and the write reports an error.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.push(text.as_bytes()) { Ok(()) } else { Err(fmt::Error) }
    }
}

impl<const N: usize> Default for Str<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> PartialEq for Str<N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> Eq for Str<N> {}

impl<const N: usize> PartialEq<str> for Str<N> {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const N: usize> fmt::Display for Str<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Str<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A free text: a path.
impl<const N: usize> Value for Str<N> {
    fn read(&mut self, text: &str, _low: u64, _high: u64) -> Result<(), Problem> {
        *self = Self::new(text.as_bytes())?;
        Ok(())
    }
}

/// The longest name of an instance, host or segment (a DNS label).
pub const NAME_MAX: usize = 63;

/// The name of an instance, a host or a segment: letters, digits, `.`, `_`, `-`; begins with a letter or digit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Name(pub Str<NAME_MAX>);

impl Name {
    /// No name.
    pub const EMPTY: Self = Self(Str::EMPTY);

    /// Reads a name.
    pub fn new(text: &str) -> Result<Self, Problem> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let bytes = text.as_bytes();
        match bytes.first() {
            None => Err(Problem::Empty),
            Some(first) if first.is_ascii_alphanumeric() && bytes.iter().all(|&b| ok(b)) => Ok(Self(Str::new(bytes)?)),
            Some(_) => Err(Problem::Form("a name has letters, digits, '.', '_' and '-', and begins with a letter or digit")),
        }
    }

    /// The name an instance gets when none was given: the program's base name, with every byte a name cannot have
    /// made a `-`. `argv0` may be a path, a login shell's `-sh`, or nothing.
    #[must_use]
    pub fn of_program(argv0: &[u8]) -> Self {
        let base = argv0.rsplit(|&b| b == b'/').next().unwrap_or(argv0);
        let mut out = Str::EMPTY;
        for &b in base.iter().skip_while(|b| !b.is_ascii_alphanumeric()) {
            let b = if b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') { b } else { b'-' };
            // Four bytes stay free for the "-2" of a taken name.
            if out.as_bytes().len() < NAME_MAX - 4 {
                out.push(&[b]);
            }
        }
        if out.is_empty() { Self(Str::literal("app")) } else { Self(out) }
    }

    /// The `n`th name to try when this one is taken: itself, then `-2`, `-3`...
    #[must_use]
    pub fn attempt(&self, n: u32) -> Self {
        use fmt::Write as _;
        if n <= 1 {
            return *self;
        }
        let mut tail = Str::<12>::EMPTY;
        let _ = write!(tail, "-{n}");
        let room = NAME_MAX - tail.as_bytes().len();
        let mut out = Str::cut(&self.0.as_bytes()[..self.0.as_bytes().len().min(room)]);
        out.push(tail.as_bytes());
        Self(out)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether it is no name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Value for Name {
    fn read(&mut self, text: &str, _low: u64, _high: u64) -> Result<(), Problem> {
        *self = Self::new(text)?;
        Ok(())
    }
}

/// At most `N` values, held in place.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct List<T, const N: usize> {
    len: u16,
    items: [T; N],
}

impl<T: Copy, const N: usize> List<T, N> {
    /// No entries; `fill` stands in the places not used.
    pub const fn empty(fill: T) -> Self {
        Self { len: 0, items: [fill; N] }
    }

    /// The entries.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        &self.items[..usize::from(self.len).min(N)]
    }

    /// Appends one, or `TooMany`.
    pub fn push(&mut self, item: T) -> Result<(), Problem> {
        let at = self.as_slice().len();
        *self.items.get_mut(at).ok_or(Problem::TooMany(N))? = item;
        self.len = (at + 1) as u16;
        Ok(())
    }

    /// Appends as many as fit.
    pub fn take(&mut self, items: impl Iterator<Item = T>) {
        for item in items {
            if self.push(item).is_err() {
                break;
            }
        }
    }

    /// The entries, one by one.
    pub fn iter(&self) -> core::slice::Iter<'_, T> {
        self.as_slice().iter()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T: Copy + PartialEq, const N: usize> PartialEq for List<T, N> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<'a, T: Copy, const N: usize> IntoIterator for &'a List<T, N> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Copy + Entry, const N: usize> Value for List<T, N> {
    fn read(&mut self, text: &str, _low: u64, _high: u64) -> Result<(), Problem> {
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            self.push(T::parse(part)?)?;
        }
        Ok(())
    }
}

/// One entry of a [`List`].
pub trait Entry: Sized {
    /// Reads one entry.
    fn parse(text: &str) -> Result<Self, Problem>;
}

/// An address with the length of its network: `10.0.0.2/24`, `fd00::2/64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    /// The address.
    pub addr: IpAddr,
    /// Bits of the network part.
    pub len: u8,
}

impl Cidr {
    /// `0.0.0.0/0`, what fills the unused places of a list.
    pub const UNSPECIFIED: Self = Self { addr: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 };

    /// Whether `addr` is in this network.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        match (self.addr, addr) {
            (IpAddr::V4(net), IpAddr::V4(a)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0);
                (net.to_bits() ^ a.to_bits()) & mask == 0
            }
            (IpAddr::V6(net), IpAddr::V6(a)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len.min(128))).unwrap_or(0);
                (net.to_bits() ^ a.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl Entry for Cidr {
    fn parse(text: &str) -> Result<Self, Problem> {
        const FORM: Problem = Problem::Form("must be an IPv4 or IPv6 address, with or without /length");
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr = IpAddr::from_str(addr).map_err(|_| FORM)?;
        let (most, usual) = match addr {
            // The usual length is that of the range addresses are leased from, so that a bare address reaches the leased ones.
            IpAddr::V4(_) => (32, super::LEASE_V4.len),
            IpAddr::V6(_) => (128, super::LEASE_V6.len),
        };
        let len = match len {
            None => usual,
            Some(text) => text.parse::<u8>().ok().filter(|n| *n >= 1 && *n <= most).ok_or(Problem::Form(if most == 32 {
                "the length after / must be from 1 to 32"
            } else {
                "the length after / must be from 1 to 128"
            }))?,
        };
        let bad = match addr {
            IpAddr::V4(a) => a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_broadcast() || a.octets()[0] == 0,
            IpAddr::V6(a) => a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.to_ipv4_mapped().is_some(),
        };
        if bad {
            return Err(Problem::Form("must be a unicast address, not loopback, unspecified, multicast or broadcast"));
        }
        if let (IpAddr::V4(a), true) = (addr, len < 31) {
            let host = a.to_bits() & (u32::MAX >> len);
            if host == 0 || host == u32::MAX >> len {
                return Err(Problem::Form("is the network's own or its broadcast address: choose one between"));
            }
        }
        Ok(Self { addr, len })
    }
}

/// A line of the hosts list: a name and an address, `NAME:ADDRESS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host {
    /// The name, as given (compared without case).
    pub name: Name,
    /// What it stands for.
    pub addr: IpAddr,
}

impl Host {
    /// What fills the unused places of a list.
    pub const NONE: Self = Self { name: Name::EMPTY, addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
}

impl Entry for Host {
    fn parse(text: &str) -> Result<Self, Problem> {
        const FORM: Problem = Problem::Form("must be NAME:ADDRESS, for example db:10.111.0.7 or db:fd00::7");
        let (name, addr) = text.split_once([':', '=']).ok_or(FORM)?;
        let addr = addr.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(addr);
        Ok(Self { name: Name::new(name).map_err(|_| FORM)?, addr: IpAddr::from_str(addr).map_err(|_| FORM)? })
    }
}

impl Entry for IpAddr {
    fn parse(text: &str) -> Result<Self, Problem> {
        let text = text.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(text);
        let addr = Self::from_str(text).map_err(|_| Problem::Form("must be an IPv4 or IPv6 address"))?;
        if addr.is_unspecified() || addr.is_multicast() {
            return Err(Problem::Form("must be the address of one host"));
        }
        Ok(addr)
    }
}

/// A network whose traffic is the kernel's: `203.0.113.0/24=host`, `::/0=host`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ToHost {
    /// Any address of the network.
    pub net: IpAddr,
    /// Bits of the network part; 0 is everything of that family.
    pub len: u8,
}

impl ToHost {
    /// What fills the unused places of a list.
    pub const NONE: Self = Self { net: IpAddr::V4(Ipv4Addr::UNSPECIFIED), len: 0 };
}

impl fmt::Display for ToHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}=host", self.net, self.len)
    }
}

impl Entry for ToHost {
    fn parse(text: &str) -> Result<Self, Problem> {
        const FORM: Problem = Problem::Form("must be PREFIX=host, where PREFIX is an IPv4 or IPv6 network");
        let (prefix, via) = text.split_once('=').ok_or(FORM)?;
        if via != "host" {
            return Err(Problem::Form("the only way a route can lead is host: PREFIX=host"));
        }
        let (addr, len) = prefix.split_once('/').map_or((prefix, None), |(a, l)| (a, Some(l)));
        let addr = addr.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(addr);
        let net = IpAddr::from_str(addr).map_err(|_| FORM)?;
        let most = if net.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => most,
            Some(text) => text.parse::<u8>().ok().filter(|n| *n <= most).ok_or(Problem::Form(if most == 32 {
                "the length after / must be from 0 to 32"
            } else {
                "the length after / must be from 0 to 128"
            }))?,
        };
        Ok(Self { net, len })
    }
}

/// An Ethernet address; all zero means "choose one".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether none was given.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl Value for Mac {
    fn read(&mut self, text: &str, _low: u64, _high: u64) -> Result<(), Problem> {
        const FORM: Problem = Problem::Form("must be six hexadecimal bytes, for example 02:00:00:00:00:01");
        let mut out = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut out {
            let part = parts.next().filter(|p| matches!(p.len(), 1 | 2) && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(FORM)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| FORM)?;
        }
        if parts.next().is_some() {
            return Err(FORM);
        }
        if out[0] & 1 != 0 {
            return Err(Problem::Form("is a multicast address: the first byte must be even"));
        }
        if out == [0; 6] {
            return Err(Problem::Form("must not be all zero"));
        }
        *self = Self(out);
        Ok(())
    }
}

/// A switch: on off yes no true false 1 0.
impl Value for bool {
    fn read(&mut self, text: &str, _low: u64, _high: u64) -> Result<(), Problem> {
        *self = match text {
            "1" | "on" | "yes" | "true" => true,
            "0" | "off" | "no" | "false" => false,
            _ => return Err(Problem::Form("must be on or off")),
        };
        Ok(())
    }
}

/// A plain number in its range: `mtu`, `spin-us`. The word `off` is 0 where 0 is allowed.
impl Value for u32 {
    fn read(&mut self, text: &str, low: u64, high: u64) -> Result<(), Problem> {
        let n = if text == "off" && low == 0 { 0 } else { text.parse().map_err(|_| Problem::Form("must be a whole number"))? };
        if n < low || n > high || n > u64::from(Self::MAX) {
            return Err(Problem::Range(low, high));
        }
        *self = n as Self;
        Ok(())
    }
}

/// A number of bytes, with K, M, G.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Size(pub u64);

impl Value for Size {
    fn read(&mut self, text: &str, low: u64, high: u64) -> Result<(), Problem> {
        let (digits, unit) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
            Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
            _ => (text, 1u64),
        };
        let n: u64 = digits.parse().map_err(|_| Problem::Form("must be a number of bytes, with or without K, M or G"))?;
        match n.checked_mul(unit) {
            Some(n) if n >= low && n <= high => *self = Self(n),
            _ => return Err(Problem::Range(low, high)),
        }
        Ok(())
    }
}

/// What the link does to frames, for tests: parts per million of frames, and a delay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Impair {
    /// Frames lost, in a million.
    pub drop_ppm: u32,
    /// Frames sent twice, in a million.
    pub dup_ppm: u32,
    /// Frames that change places with the next, in a million.
    pub reorder_ppm: u32,
    /// Frames with a flipped bit, in a million.
    pub corrupt_ppm: u32,
    /// Every frame waits this long.
    pub delay_us: u32,
    /// Seed of the choices, so that a run can be repeated.
    pub seed: u32,
}

impl Impair {
    /// A perfect link.
    pub const NONE: Self = Self { drop_ppm: 0, dup_ppm: 0, reorder_ppm: 0, corrupt_ppm: 0, delay_us: 0, seed: 1 };

    /// Whether the link is perfect.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.drop_ppm == 0 && self.dup_ppm == 0 && self.reorder_ppm == 0 && self.corrupt_ppm == 0 && self.delay_us == 0
    }
}

/// `1%`, `0.25%`, `2` (per cent): to parts per million.
fn ppm(text: &str) -> Option<u32> {
    let text = text.strip_suffix('%').unwrap_or(text);
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > 4 || whole.is_empty() {
        return None;
    }
    let mut n = whole.parse::<u32>().ok()?.checked_mul(10_000)?;
    let mut unit = 1_000;
    for b in part.bytes() {
        n += u32::from(b.checked_sub(b'0').filter(|d| *d <= 9)?) * unit;
        unit /= 10;
    }
    (n <= 1_000_000).then_some(n)
}

/// `200us`, `10ms`, `1s`, `50` (microseconds).
fn micros(text: &str) -> Option<u32> {
    let (digits, unit) = if let Some(d) = text.strip_suffix("us") {
        (d, 1)
    } else if let Some(d) = text.strip_suffix("ms") {
        (d, 1_000)
    } else if let Some(d) = text.strip_suffix('s') {
        (d, 1_000_000)
    } else {
        (text, 1)
    };
    digits.parse::<u32>().ok()?.checked_mul(unit).filter(|n| *n <= 10_000_000)
}

impl Value for Impair {
    fn read(&mut self, text: &str, _low: u64, _high: u64) -> Result<(), Problem> {
        const FORM: Problem =
            Problem::Form("must be like drop=1%,dup=1%,reorder=1%,corrupt=1%,delay=200us,seed=7 (percent 0 to 100, delay to 10s)");
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').ok_or(FORM)?;
            match key {
                "drop" => self.drop_ppm = ppm(value).ok_or(FORM)?,
                "dup" => self.dup_ppm = ppm(value).ok_or(FORM)?,
                "reorder" => self.reorder_ppm = ppm(value).ok_or(FORM)?,
                "corrupt" => self.corrupt_ppm = ppm(value).ok_or(FORM)?,
                "delay" => self.delay_us = micros(value).ok_or(FORM)?,
                "seed" => self.seed = value.parse().map_err(|_| FORM)?,
                _ => return Err(FORM),
            }
        }
        Ok(())
    }
}
