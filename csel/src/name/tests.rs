//! Tests of name resolution: a small world, and what glibc 2.36 answered to the same questions.
extern crate std;
use core::net::{IpAddr, SocketAddr};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

use super::*;
use crate::config::{Entry, Name, Str};

const SERVICES: &[u8] = b"# services\ndiscard\t9/tcp\tsink null\ndiscard 9/udp\nhttp\t80/tcp\twww # WorldWideWeb\nntp 123/udp\nshell 514/tcp cmd syslog\nsyslog 514/udp\nbad line\nx y/z\n";

struct Lab;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const PEERS: &[(&str, &str)] = &[("Web", "10.111.0.2"), ("Web", "fdc5:e1::2"), ("old", "10.111.0.3"), ("other", "10.111.0.4")];

impl World for Lab {
    fn dns(&self, name: &str, v4: bool, v6: bool, each: &mut dyn FnMut(IpAddr)) -> Result<HostName, Eai> {
        match name {
            "far.example" => {
                if v4 {
                    each("192.0.2.7".parse().expect("an address"));
                }
                if v6 {
                    each("2001:db8::7".parse().expect("an address"));
                }
                Ok(HostName::cut(b"really.far.example"))
            }
            "empty.example" => Err(Eai::NoData),
            "slow.example" => Err(Eai::Again),
            _ => Err(Eai::NoName),
        }
    }
    fn dns_name(&self, addr: IpAddr) -> Option<HostName> {
        (addr == "192.0.2.7".parse::<IpAddr>().expect("an address")).then(|| HostName::cut(b"really.far.example"))
    }

    fn peer(&self, name: &str, each: &mut dyn FnMut(IpAddr)) {
        PEERS.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).for_each(|(_, a)| each(ip(a)));
    }
    fn peer_of(&self, addr: IpAddr) -> Option<Name> {
        PEERS.iter().find(|(_, a)| ip(a) == addr).map(|(n, _)| Name::new(n).unwrap())
    }
    fn peers(&self, each: &mut dyn FnMut(&Name, IpAddr)) {
        PEERS.iter().for_each(|(n, a)| each(&Name::new(n).unwrap(), ip(a)));
    }
    fn services(&self) -> &[u8] {
        SERVICES
    }
    fn if_index(&self, name: &[u8]) -> Option<u32> {
        (name == b"lo").then_some(1)
    }
    fn if_name(&self, index: u32) -> Option<Str<15>> {
        (index == 1).then_some(Str::literal("lo"))
    }
}

fn ask<T>(f: impl FnOnce(&Zone<'_, Lab>) -> T) -> T {
    let hosts = ["db:10.111.9.9", "db:10.111.9.10", "web6:fd00::7"].map(|t| Host::parse(t).unwrap());
    let addrs = [Cidr { addr: ip("10.111.0.1"), len: 16 }, Cidr { addr: ip("fdc5:e1::1"), len: 64 }];
    let (name, hostname) = (Name::new("me").unwrap(), Name::new("me.example").unwrap());
    f(&Zone { hosts: &hosts, name: &name, hostname: &hostname, addrs: &addrs, world: &Lab })
}

/// One question, the answer as text: "type/proto address; ..." or the error.
fn gai(node: Option<&str>, service: Option<&str>, family: i32, socktype: i32, protocol: i32, flags: i32) -> String {
    let hints = Hints { flags, family, socktype, protocol };
    let answer = ask(|z| getaddrinfo(z, node.map(str::as_bytes), service.map(str::as_bytes), Some(&hints)));
    match answer {
        Err(e) => format!("{}", e as i32),
        Ok(a) => {
            let mut all: Vec<String> = a.entries().map(|(k, s)| format!("{}/{} {s}", k.socktype, k.protocol)).collect();
            if !a.canon.is_empty() {
                all.insert(0, a.canon.to_string());
            }
            all.join("; ")
        }
    }
}

fn tcp(node: &str, service: &str) -> String {
    gai(Some(node), Some(service), 0, 1, 0, 0)
}

const ANY: i32 = libc::AF_UNSPEC;
const V4: i32 = libc::AF_INET;
const V6: i32 = libc::AF_INET6;

#[test]
fn no_node() {
    let passive = gai(None, Some("80"), ANY, 0, 0, libc::AI_PASSIVE);
    assert_eq!(passive, "1/6 0.0.0.0:80; 2/17 0.0.0.0:80; 3/0 0.0.0.0:80; 1/6 [::]:80; 2/17 [::]:80; 3/0 [::]:80");
    assert_eq!(gai(None, Some("80"), ANY, 1, 0, 0), "1/6 [::1]:80; 1/6 127.0.0.1:80");
    assert_eq!(gai(None, None, ANY, 0, 0, 0), "-2");
    assert_eq!(gai(Some("*"), Some("0"), ANY, 1, 0, 0), "1/6 [::1]:0; 1/6 127.0.0.1:0");
    assert_eq!(gai(None, Some("0"), ANY, 1, 0, libc::AI_CANONNAME), "-1");
}

#[test]
fn peers_own_names_and_hosts() {
    assert_eq!(tcp("web", "80"), "1/6 [fdc5:e1::2]:80; 1/6 10.111.0.2:80");
    assert_eq!(tcp("WEB.csel", "80"), tcp("web", "80"));
    assert_eq!(tcp("me", "0"), "1/6 [fdc5:e1::1]:0; 1/6 10.111.0.1:0");
    assert_eq!(tcp("me.csel", "0"), tcp("me", "0"));
    assert_eq!(tcp("me.example", "0"), tcp("me", "0"));
    assert_eq!(tcp("db", "1"), "1/6 10.111.9.9:1; 1/6 10.111.9.10:1");
    assert_eq!(tcp("localhost", "1"), "1/6 [::1]:1; 1/6 127.0.0.1:1");
    assert_eq!(tcp("ip6-localhost", "1"), "1/6 [::1]:1");
    for unknown in ["nosuch", "nosuch.csel", ".csel", "csel", "", "web.example.org", "\u{fc}"] {
        assert_eq!(tcp(unknown, "1"), "-2", "{unknown}");
    }
    assert_eq!(gai(Some("web"), None, ANY, 1, 0, libc::AI_CANONNAME), "Web; 1/6 [fdc5:e1::2]:0; 1/6 10.111.0.2:0");
    assert_eq!(gai(Some("me"), None, V4, 1, 0, libc::AI_CANONNAME), "me; 1/6 10.111.0.1:0");
}

#[test]
fn families_and_mapping() {
    assert_eq!(gai(Some("old"), None, V6, 1, 0, 0), "-2");
    assert_eq!(gai(Some("old"), None, V6, 1, 0, libc::AI_V4MAPPED), "1/6 [::ffff:10.111.0.3]:0");
    assert_eq!(gai(Some("web"), None, V6, 1, 0, libc::AI_V4MAPPED), "1/6 [fdc5:e1::2]:0");
    assert_eq!(gai(Some("web"), None, V6, 1, 0, libc::AI_V4MAPPED | libc::AI_ALL), "1/6 [fdc5:e1::2]:0; 1/6 [::ffff:10.111.0.2]:0");
    assert_eq!(gai(Some("127.0.0.1"), None, V6, 1, 0, libc::AI_V4MAPPED), "1/6 [::ffff:127.0.0.1]:0");
    assert_eq!(gai(Some("127.0.0.1"), None, V6, 0, 0, 0), "-9");
    assert_eq!(gai(Some("::1"), None, V4, 0, 0, 0), "-9");
    assert_eq!(gai(Some("::ffff:1.2.3.4"), None, V4, 1, 0, 0), "1/6 1.2.3.4:0");
    assert_eq!(gai(Some("me"), None, 99, 0, 0, 0), "-6");
}

#[test]
fn numbers() {
    assert_eq!(tcp("127.1", "0"), "1/6 127.0.0.1:0");
    assert_eq!(tcp("0x7f.1", "0"), "1/6 127.0.0.1:0");
    assert_eq!(tcp("017700000001", "0"), "1/6 127.0.0.1:0");
    for bad in ["1.2.3.4 ", "1.2.3.4.", "08.1", "256.1.1.1", "1.2.3.4.5", "4294967296", "1..2", "0x", "fe80::1%zz", "::1%lo", "1::2::3"] {
        assert_eq!(tcp(bad, "0"), "-2", "{bad}");
    }
    assert_eq!(tcp("fe80::1%lo", "0"), "1/6 [fe80::1%1]:0");
    assert_eq!(tcp("fe80::1%7", "0"), "1/6 [fe80::1%7]:0");
    assert_eq!(tcp("::1%1", "0"), "1/6 [::1%1]:0");
    assert_eq!(tcp("ff02::1%lo", "0"), "1/6 [ff02::1%1]:0");
    assert_eq!(gai(Some("127.1"), None, ANY, 1, 0, libc::AI_CANONNAME), "127.1; 1/6 127.0.0.1:0");
    assert_eq!(gai(Some("me"), None, ANY, 0, 0, libc::AI_NUMERICHOST), "-2");
}

#[test]
fn service_rules() {
    assert_eq!(gai(Some("old"), Some("http"), ANY, 0, 0, 0), "1/6 10.111.0.3:80");
    assert_eq!(gai(Some("old"), Some("www"), ANY, 0, 0, 0), "1/6 10.111.0.3:80");
    assert_eq!(gai(Some("old"), Some("ntp"), ANY, 0, 0, 0), "2/17 10.111.0.3:123");
    assert_eq!(gai(Some("old"), Some("discard"), ANY, 0, 0, 0), "1/6 10.111.0.3:9; 2/17 10.111.0.3:9");
    assert_eq!(gai(Some("old"), Some("http"), ANY, 2, 0, 0), "-8");
    assert_eq!(gai(Some("old"), Some("http"), ANY, 3, 0, 0), "-8");
    assert_eq!(gai(Some("old"), Some("nosuch"), ANY, 0, 0, 0), "-8");
    assert_eq!(gai(Some("old"), Some("http"), ANY, 0, 0, libc::AI_NUMERICSERV), "-2");
    assert_eq!(gai(Some("old"), None, ANY, 3, 0, 0), "3/0 10.111.0.3:0");
    assert_eq!(gai(Some("old"), Some("0"), ANY, 3, 0, 0), "-8");
    assert_eq!(gai(Some("old"), None, ANY, 99, 0, 0), "-7");
    assert_eq!(gai(Some("old"), None, ANY, 1, 17, 0), "-7");
    assert_eq!(gai(Some("old"), Some("0"), ANY, 0, 99, 0), "-8");
    assert_eq!(gai(Some("old"), None, ANY, 0, 6, 0), "1/6 10.111.0.3:0");
    assert_eq!(gai(Some("old"), None, ANY, 0, 132, 0), "1/132 10.111.0.3:0");
    assert_eq!(gai(Some("old"), None, ANY, 5, 0, 0), "5/132 10.111.0.3:0");
    assert_eq!(tcp("old", "65537"), "1/6 10.111.0.3:1");
    assert_eq!(tcp("old", " 80"), "1/6 10.111.0.3:80");
    assert_eq!(tcp("old", ""), "1/6 10.111.0.3:0");
    assert_eq!(tcp("old", "*"), "1/6 10.111.0.3:0");
    for bad in ["-1", "99999999999999999999", "80x"] {
        assert_eq!(tcp("old", bad), "-8", "{bad}");
    }
}

#[test]
fn flags_and_addrconfig() {
    assert_eq!(gai(Some("me"), None, ANY, 0, 0, 0x10000), "-1");
    let one = |family| {
        let addrs = [Cidr { addr: ip("10.0.0.1"), len: 8 }];
        let name = Name::new("me").unwrap();
        let zone = Zone { hosts: &[], name: &name, hostname: &name, addrs: &addrs, world: &Lab };
        let hints = Hints { flags: libc::AI_ADDRCONFIG, family, socktype: 1, protocol: 0 };
        getaddrinfo(&zone, Some(b"web"), None, Some(&hints)).map(|a| a.entries().map(|e| e.1.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(one(ANY).unwrap(), ["10.111.0.2:0"]);
    assert_eq!(one(V6), Err(Eai::NoName));
    let defaults = ask(|z| getaddrinfo(z, Some(b"web"), None, None)).unwrap();
    assert_eq!(defaults.entries().count(), 6);
}

#[test]
fn nameinfo() {
    let ni = |text: &str, flags| {
        let address: SocketAddr = text.parse().unwrap();
        ask(|z| getnameinfo(z, address, true, true, flags))
            .map_or_else(|e| format!("{}", e as i32), |n| format!("{} {}", n.host, n.service))
    };
    assert_eq!(ni("127.0.0.1:80", 0), "localhost http");
    assert_eq!(ni("127.0.0.1:80", libc::NI_NUMERICSERV), "localhost 80");
    assert_eq!(ni("127.0.0.1:80", libc::NI_NUMERICHOST), "127.0.0.1 http");
    assert_eq!(ni("1.2.3.4:80", libc::NI_NAMEREQD), "-2");
    assert_eq!(ni("1.2.3.4:80", libc::NI_NAMEREQD | libc::NI_NUMERICHOST), "-2");
    assert_eq!(ni("[fe80::1%1]:9", 0), "fe80::1%lo discard");
    assert_eq!(ni("[fe80::1%77]:9", 0), "fe80::1%77 discard");
    assert_eq!(ni("[::1%1]:9", 1), "::1%1 discard");
    assert_eq!(ni("127.0.0.1:514", 0), "localhost shell");
    assert_eq!(ni("127.0.0.1:514", libc::NI_DGRAM), "localhost syslog");
    assert_eq!(ni("127.0.0.1:64999", 0), "localhost 64999");
    assert_eq!(ni("127.0.0.1:80", 0x100), "-1");
    assert_eq!(ni("[::ffff:127.0.0.1]:80", 0), "::ffff:127.0.0.1 http");
    assert_eq!(ni("10.111.0.2:80", 0), "Web http");
    assert_eq!(ni("10.111.0.1:80", 0), "me.example http");
    assert_eq!(ni("10.111.9.10:1", 0), "db 1");
    assert_eq!(ni("127.0.0.9:1", 0), "127.0.0.9 1");
    let nothing = |flags| ask(|z| getnameinfo(z, "1.2.3.4:5".parse().unwrap(), false, false, flags)).map(|_| ());
    assert_eq!((nothing(0), nothing(libc::NI_NAMEREQD)), (Ok(()), Err(Eai::NoName)));
}

#[test]
fn hostents() {
    let by = |name: &str, v6| ask(|z| gethostbyname(z, name.as_bytes(), v6)).map(|h| (h.name.to_string(), h.addrs.as_slice().to_vec()));
    assert_eq!(by("web", false), Some(("Web".into(), [ip("10.111.0.2")].into())));
    assert_eq!(by("localhost", true), Some(("localhost".into(), [ip("::1")].into())));
    assert_eq!(by("127.1", false), Some(("127.1".into(), [ip("127.0.0.1")].into())));
    assert_eq!(by("old", true), Some(("old".into(), Vec::new())));
    assert_eq!(by("nosuch", false), None);
    assert_eq!(by("", false), None);
    assert_eq!(ask(|z| gethostbyaddr(z, ip("fdc5:e1::2"))).unwrap().name.as_str(), "Web");
    assert!(ask(|z| gethostbyaddr(z, ip("9.9.9.9"))).is_none());
}

#[test]
fn the_hosts_file_says_the_same() {
    let mut text = String::new();
    ask(|z| write_hosts(z, &mut text)).unwrap();
    for line in ["127.0.0.1\tlocalhost\n", "10.111.9.9\tdb\n", "10.111.0.1\tme.example me me.csel\n", "fdc5:e1::2\tWeb Web.csel\n"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn order_of_destinations() {
    let from = |to: IpAddr| match to {
        IpAddr::V4(_) => Some(ip("10.0.0.1")),
        IpAddr::V6(a) if a.segments()[0] == 0x2001 => None,
        IpAddr::V6(_) => Some(ip("fd00::1")),
    };
    let mut all = [ip("2001:db8::1"), ip("10.0.0.2"), ip("fd00:0:0:1::2"), ip("fd00::2")];
    order::sort(&mut all, from);
    assert_eq!(all, [ip("fd00::2"), ip("fd00:0:0:1::2"), ip("10.0.0.2"), ip("2001:db8::1")]);
}
