//! config: the options of an instance, declared once.
//!
//! Purpose: one table, [`OPTIONS`], says of every option its flag (`csel run --net`), its variable (`CSEL_NET`), its
//! kind, default, range and help. From the same rows come the struct [`Config`], the launcher's flags, the keys of a
//! `--config` file, the man page and the messages. An option cannot exist in one of these places only.
//!
//! How it works: the `options!` macro makes the struct, its default and `set`. [`Config::from_env`] is given a
//! function that looks a variable up (the core has no environment of its own); the launcher checks its flags with
//! [`Config::set`] and hands them to the program as variables, so what the launcher accepted the library accepts.
//! A list option may be repeated as a flag and is a comma list in its variable.
//!
//! With `LD_PRELOAD` and no option at all: the instance is named after the program (base name of argv[0]; if taken,
//! `-2`, `-3`...: [`Name::attempt`]), sits on the segment `default` and leases one address of [`LEASE_V4`]
//! (10.111.0.0/16) and one of [`LEASE_V6`] (fdc5:e1::/64) from it.
//!
//! Limits: 8 addresses, 32 hosts lines, names of 63 bytes, paths of 255. `Config` is `Copy` and has no pointer: it is
//! stored in shared memory. Locks: none. Failure: [`ConfigError`] names option, value, problem and remedy.
//! See also: `loader/src/options.rs` (flags), `csel/src/name` (hosts), style.md (ripgrep's flag table).
pub mod publish;
pub mod uplink;
pub mod value;

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use publish::Publish;
pub use uplink::Uplink;
pub use value::{Cidr, Entry, Host, Impair, List, Mac, Name, Problem, Size, Str, ToHost, Value};

/// IPv4 addresses are leased from here when none is given.
pub const LEASE_V4: Cidr = Cidr { addr: IpAddr::V4(Ipv4Addr::new(10, 111, 0, 0)), len: 16 };
/// IPv6 addresses are leased from here when none is given.
pub const LEASE_V6: Cidr = Cidr { addr: IpAddr::V6(Ipv6Addr::new(0xfdc5, 0xe1, 0, 0, 0, 0, 0, 0)), len: 64 };

/// A path of an option.
pub type Path = Str<255>;

/// One row of the table.
#[derive(Debug, PartialEq)]
pub struct Opt {
    /// The flag of `csel run`, without dashes; also the key in a `--config` file. Empty: a variable only.
    pub flag: &'static str,
    /// The variable.
    pub env: &'static str,
    /// What stands for the value in help: `NAME`, `A[/len]`.
    pub value: &'static str,
    /// What holds when it is not given, as shown in help.
    pub default: &'static str,
    /// Smallest number (kinds that are numbers).
    pub low: u64,
    /// Largest number.
    pub high: u64,
    /// Whether the flag may be repeated.
    pub many: bool,
    /// A value that is right, for messages.
    pub example: &'static str,
    /// What it does.
    pub help: &'static str,
}

macro_rules! options {
    ($($(#[doc = $help:literal])+ $field:ident: $ty:ty = $init:expr, $flag:literal $env:literal $value:literal
        default $default:literal $(range $low:literal..=$high:literal)? $(many $many:literal)? example $example:literal;)+) => {
        /// Every option, in the order help shows them.
        pub static OPTIONS: &[Opt] = &[$(Opt {
            flag: $flag,
            env: $env,
            value: $value,
            default: $default,
            low: options!(@or 0 $($low)?),
            high: options!(@or 0 $($high)?),
            many: options!(@or false $($many)?),
            example: $example,
            help: concat!($($help),+),
        }),+];

        /// The options of one instance.
        #[derive(Clone, Copy, PartialEq, Debug)]
        #[repr(C)]
        pub struct Config {
            $($(#[doc = $help])+ pub $field: $ty,)+
        }

        impl Config {
            /// Every option at its default.
            pub const DEFAULT: Self = Self { $($field: $init),+ };

            /// Reads `text` into the option of this row.
            fn read(&mut self, opt: &'static Opt, text: &str) -> Result<(), Problem> {
                $(if opt.env == $env { return self.$field.read(text, opt.low, opt.high); })+
                Ok(())
            }
        }
    };
    (@or $default:literal) => { $default };
    (@or $default:literal $given:literal) => { $given };
}

options! {
    /// name of the instance; peers find it by this name
    name: Name = Name::EMPTY, "name" "CSEL_NAME" "NAME"
        default "the program's name, made unique by -2, -3" example "web";
    /// segment (virtual Ethernet) the instance is on
    net: Name = Name(Str::literal("default")), "net" "CSEL_NET" "SEGMENT"
        default "default" example "lab";
    /// address on the segment, IPv4 or IPv6; up to 8
    ip: List<Cidr, 8> = List::empty(Cidr::UNSPECIFIED), "ip" "CSEL_IP" "A[/len]"
        default "one leased from 10.111.0.0/16 and one from fdc5:e1::/64" many true example "10.111.0.5/16";
    /// Ethernet address on the segment
    mac: Mac = Mac([0; 6]), "mac" "CSEL_MAC" "MAC"
        default "made from the port" example "02:00:00:00:00:05";
    /// what gethostname and uname say
    hostname: Name = Name::EMPTY, "hostname" "CSEL_HOSTNAME" "HOST"
        default "the instance's name" example "web.example";
    /// largest IP packet on the segment
    mtu: u32 = 65535, "mtu" "CSEL_MTU" "BYTES"
        default "65535" range 68..=65535 example "1500";
    /// write every frame to a pcapng file
    pcap: Path = Str::EMPTY, "pcap" "CSEL_PCAP" "FILE"
        default "none" example "/tmp/web.pcapng";
    /// write a strace-like line for every call; 1 is standard error
    trace: Path = Str::EMPTY, "trace" "CSEL_TRACE" "FILE"
        default "none" example "1";
    /// a name for an address in this instance, like a line of /etc/hosts; up to 32
    hosts: List<Host, 32> = List::empty(Host::NONE), "add-host" "CSEL_HOSTS" "NAME:IP"
        default "none" many true example "db:10.111.0.7";
    /// a network reached through the kernel's stack, natively: connections and datagrams to it leave the instance; up to 16
    route: List<ToHost, 16> = List::empty(ToHost::NONE), "route" "CSEL_ROUTE" "PREFIX=host"
        default "none: nothing leaves the instance" many true example "203.0.113.0/24=host";
    /// a DNS server; up to 4. It is asked over the instance's own sockets, for names that the instance and its segment do not know
    dns: List<IpAddr, 4> = List::empty(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), "dns" "CSEL_DNS" "ADDR"
        default "the host's, of /etc/resolv.conf, if a route leads to them; else none" many true example "10.111.0.53";
    /// longest time a wait spins before it sleeps, in microseconds; adaptive below that; 0 is never
    spin_us: u32 = 50, "spin-us" "CSEL_SPIN_US" "US"
        default "50" range 0..=1000000 example "20";
    /// send buffer of a new stream socket, as if it had set SO_SNDBUF
    sndbuf: Size = Size(0), "sndbuf" "CSEL_SNDBUF" "SIZE"
        default "as large as is useful" range 2304..=4194304 example "256K";
    /// receive buffer of a new stream socket, as if it had set SO_RCVBUF
    rcvbuf: Size = Size(0), "rcvbuf" "CSEL_RCVBUF" "SIZE"
        default "as large as is useful" range 1152..=4194304 example "256K";
    /// a small process that answers for the instance when no thread of it does
    keeper: bool = true, "keeper" "CSEL_KEEPER" "on|off"
        default "on" example "off";
    /// spoil frames on the link: drop, dup, reorder, corrupt in percent, delay, seed
    impair: Impair = Impair::NONE, "impair" "CSEL_IMPAIR" "LIST"
        default "none" example "drop=1%,dup=1%,reorder=1%,delay=200us";
    /// a port of the host that leads to one of the instance, as docker's -p; up to 16
    publish: List<Publish, 16> = List::empty(Publish::NONE), "publish" "CSEL_PUBLISH" "[A:]HOSTPORT:PORT[/udp]"
        default "none" many true example "127.0.0.1:8080:80";
    /// send a PROXY protocol (version 2) header with the true source before a published TCP connection's bytes
    proxy_protocol: bool = false, "proxy-protocol" "CSEL_PROXY_PROTOCOL" "on|off"
        default "off" example "on";
    /// way out of the host: passt (started by csel, needs no privilege), passt:SOCKET, or tap:DEVICE; then ,ip=A/LEN ,gw=A ,mtu=N if DHCP is not to say them
    uplink: Uplink = Uplink::NONE, "uplink" "CSEL_UPLINK" "passt[:PATH]|tap:NAME"
        default "none" example "passt";
    /// more arguments for the passt that csel starts, such as ports to forward
    passt_args: Path = Str::EMPTY, "passt-args" "CSEL_PASST_ARGS" "ARGS"
        default "none" example "-t 8080";
    /// where segments are kept
    dir: Path = Str::EMPTY, "dir" "CSEL_DIR" "DIR"
        default "$XDG_RUNTIME_DIR/csel, or /dev/shm/csel-UID" example "/run/user/1000/csel";
    /// switch csel off in a process that has it preloaded
    disable: bool = false, "" "CSEL_DISABLE" "on|off"
        default "off" example "1";
}

/// Variables of the launcher and of tools that are no option of an instance.
pub const OTHER_VARIABLES: &[&str] = &["CSEL_LIB", "CSEL_LAUNCHED", "CSEL_EXEC", "CSEL_BIN", "CSEL_TESTBIN", "CSEL_CASE", "CSEL_MODE"];

/// An option's text that is not a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConfigError {
    /// The row in [`OPTIONS`].
    opt: &'static Opt,
    /// The text, cut for the message.
    value: Str<64>,
    /// What is wrong with it.
    problem: Problem,
}

impl ConfigError {
    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> Problem {
        self.problem
    }

    /// The variable of the option.
    #[must_use]
    pub fn env(&self) -> &'static str {
        self.opt.env
    }

    /// The message for someone who gave a flag, not a variable.
    pub fn write_as_flag(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        let Opt { flag, example, .. } = self.opt;
        write!(f, "--{flag}: bad value \"{}\": {}; for example --{flag} {example}", self.value, self.problem)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Opt { env, example, .. } = self.opt;
        write!(f, "{env}: bad value \"{}\": {}; for example {env}={example}", self.value, self.problem)
    }
}

/// The row of a flag (`net`).
#[must_use]
pub fn by_flag(flag: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|o| !o.flag.is_empty() && o.flag == flag)
}

/// The row of a variable (`CSEL_NET`).
#[must_use]
pub fn by_env(env: &[u8]) -> Option<&'static Opt> {
    OPTIONS.iter().find(|o| o.env.as_bytes() == env)
}

/// The option whose name a variable just misses: `CSEL_NETT` is `CSEL_NET` misspelt. `None` if it is right or something else.
#[must_use]
pub fn misspelt(env: &[u8]) -> Option<&'static Opt> {
    if !env.starts_with(b"CSEL_") || by_env(env).is_some() || OTHER_VARIABLES.iter().any(|o| o.as_bytes() == env) {
        return None;
    }
    OPTIONS.iter().map(|o| (distance(env, o.env.as_bytes()), o)).filter(|(d, _)| *d <= 2).min_by_key(|(d, _)| *d).map(|(_, o)| o)
}

/// How many bytes must change to make `a` of `b` (Levenshtein), for texts up to 32 bytes.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let (a, b) = (&a[..a.len().min(32)], &b[..b.len().min(32)]);
    let mut row = [0usize; 33];
    for (j, cell) in row.iter_mut().enumerate() {
        *cell = j;
    }
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

impl Config {
    /// Reads one option's text. A list appends.
    pub fn set(&mut self, opt: &'static Opt, text: &[u8]) -> Result<(), ConfigError> {
        let error = |problem| ConfigError { opt, value: Str::cut(text), problem };
        let text = core::str::from_utf8(text).map_err(|_| error(Problem::Form("is not UTF-8")))?;
        self.read(opt, text).map_err(error)
    }

    /// The options as `look_up` finds their variables. An empty variable counts as not given.
    pub fn from_env<'a>(look_up: impl Fn(&'static str) -> Option<&'a [u8]>) -> Result<Self, ConfigError> {
        let mut config = Self::DEFAULT;
        for opt in OPTIONS {
            if let Some(text) = look_up(opt.env).filter(|t| !t.is_empty()) {
                config.set(opt, text)?;
            }
        }
        Ok(config)
    }

    /// What gethostname says, once the instance has its name.
    #[must_use]
    pub fn hostname_or<'a>(&'a self, name: &'a Name) -> &'a Name {
        if self.hostname.is_empty() { name } else { &self.hostname }
    }

    /// The directory of segments: `CSEL_DIR`, or `csel` in `$XDG_RUNTIME_DIR`, or `/dev/shm/csel-UID` (/tmp is a disk on most machines, and a
    /// segment is memory). Made 0700 by its user.
    pub fn runtime_dir(&self, xdg_runtime_dir: Option<&[u8]>, uid: u32) -> Result<Path, Problem> {
        use fmt::Write as _;
        if !self.dir.is_empty() {
            return Ok(self.dir);
        }
        let mut dir = Path::EMPTY;
        let fits = match xdg_runtime_dir {
            Some(base) if base.starts_with(b"/") => dir.push(base) && dir.push(b"/csel"),
            _ => write!(dir, "/dev/shm/csel-{uid}").is_ok(),
        };
        if fits { Ok(dir) } else { Err(Problem::TooLong(255)) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The table as text: one paragraph per option, for `csel man` and README.
pub fn write_docs(f: &mut dyn fmt::Write) -> fmt::Result {
    for o in OPTIONS {
        if o.flag.is_empty() {
            writeln!(f, "{}={}", o.env, o.value)?;
        } else {
            writeln!(f, "--{} {}, {}", o.flag, o.value, o.env)?;
        }
        write!(f, "    {} (default: {}", o.help.trim(), o.default)?;
        if o.high > 0 {
            write!(f, "; {} to {}", o.low, o.high)?;
        }
        writeln!(f, ")")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
