//! The station against frames made by hand, under a clock of the test's own.
extern crate std;
use super::dhcp;
use super::station::Station;
use super::wire::*;
use super::*;
use crate::clock::{MS, Nanos, SEC};
use crate::config::{Name, Uplink, Value};
use crate::net::dgram::output::{self, Sum};
use std::vec::Vec;

const OURS: Mac = [2, 0, 0, 0, 0, 1];
const THEIRS: Mac = [2, 0, 0, 0, 0, 9];
const T0: Nanos = 1000 * SEC;

/// A wire that remembers.
#[derive(Default)]
struct Tape {
    sent: Vec<(Mac, Mac, u16, Vec<u8>)>,
    delivered: Vec<Vec<u8>>,
}

impl Wire for Tape {
    fn send(&mut self, h: &[u8; ETHERNET], rest: &[u8]) {
        let mac = |at: usize| h[at..at + 6].try_into().unwrap();
        self.sent.push((mac(0), mac(6), u16::from_be_bytes([h[12], h[13]]), rest.to_vec()));
    }
    fn deliver(&mut self, ip: &[u8]) {
        self.delivered.push(ip.to_vec());
    }
}

impl Tape {
    fn take(&mut self) -> Vec<(Mac, Mac, u16, Vec<u8>)> {
        core::mem::take(&mut self.sent)
    }
}

fn at(text: &str) -> Ip {
    super::super::join::of(text.parse().unwrap())
}
fn option(text: &str) -> Uplink {
    let mut u = Uplink::NONE;
    u.read(text, 0, 0).unwrap_or_else(|e| panic!("{e}"));
    u
}
/// A station with fixed addresses, past its first words.
fn fixed() -> (Station, Tape) {
    let u = option("tap:t0,ip=10.0.0.2/24,ip=fd00::2/64,gw=10.0.0.1,gw=fd00::1");
    let (mut s, mut t) = (Station::new(OURS, 1500, &u, Name::EMPTY, 7, T0), Tape::default());
    s.tick(T0, &mut t);
    t.take();
    (s, t)
}
fn frame(to: Mac, kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut f = header(to, THEIRS, kind).to_vec();
    f.extend_from_slice(rest);
    f
}
fn packet(src: &str, dst: &str) -> Vec<u8> {
    Frame::udp((at(src), 1), (at(dst), 2), 4, |b| b.copy_from_slice(b"data")).get().to_vec()
}
fn arp(operation: u8, from: (Mac, &str), to: (Mac, &str)) -> Vec<u8> {
    let mut a = std::vec![0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, ip) in [from, to] {
        a.extend_from_slice(&mac);
        a.extend_from_slice(&at(ip).0[12..]);
    }
    a
}
fn icmp6(src: &str, dst: &str, hops: u8, message: &[u8]) -> Vec<u8> {
    Frame::ip(at(src), at(dst), 58, hops, Sum::Pseudo(2), message.len(), |b| b.copy_from_slice(message)).get().to_vec()
}
fn discovery(kind: u8, flags: u8, target: &str, option: Option<(u8, Mac)>) -> Vec<u8> {
    let mut m = std::vec![kind, 0, 0, 0, flags, 0, 0, 0];
    m.extend_from_slice(&at(target).0);
    if let Some((kind, mac)) = option {
        m.extend_from_slice(&[kind, 1]);
        m.extend_from_slice(&mac);
    }
    m
}

#[test]
fn a_packet_waits_for_its_neighbour() {
    let (mut s, mut t) = fixed();
    let p = packet("10.0.0.2", "10.0.0.7");
    s.outbound(T0, &p, &mut t);
    s.outbound(T0, &p, &mut t);
    let sent = t.take();
    assert_eq!(sent, [(EVERYBODY, OURS, ARP, arp(1, (OURS, "10.0.0.2"), ([0; 6], "10.0.0.7")))]);
    assert!(!s.inbound(T0, &frame(OURS, ARP, &arp(2, (THEIRS, "10.0.0.7"), (OURS, "10.0.0.2"))), &mut t));
    assert_eq!(t.take(), [(THEIRS, OURS, IPV4, p.clone()), (THEIRS, OURS, IPV4, p.clone())]);
    s.outbound(T0, &p, &mut t);
    assert_eq!(t.take(), [(THEIRS, OURS, IPV4, p.clone())]);
    // After half a minute it goes, and the neighbour is asked whether it is still there.
    s.outbound(T0 + 31 * SEC, &p, &mut t);
    assert_eq!(t.take(), [(THEIRS, OURS, IPV4, p), (THEIRS, OURS, ARP, arp(1, (OURS, "10.0.0.2"), (([0; 6]), "10.0.0.7")))]);
}

#[test]
fn what_is_not_on_the_link_goes_to_the_router() {
    let (mut s, mut t) = fixed();
    for (dst, router, kind) in [("192.0.2.1", "10.0.0.1", ARP), ("2001:db8::1", "fd00::1", IPV6)] {
        let src = if dst.contains(':') { "fd00::2" } else { "10.0.0.2" };
        s.outbound(T0, &packet(src, dst), &mut t);
        let sent = t.take();
        assert_eq!((sent.len(), sent[0].2), (1, kind));
        let target = if kind == ARP { &sent[0].3[24..28] } else { &sent[0].3[48..64] };
        assert!(at(router).0.ends_with(target), "{router}");
    }
    // Groups and everybody need no question.
    for (dst, mac) in [("224.0.0.251", [1, 0, 0x5e, 0, 0, 251]), ("10.0.0.255", EVERYBODY), ("255.255.255.255", EVERYBODY)] {
        s.outbound(T0, &packet("10.0.0.2", dst), &mut t);
        assert_eq!(t.take()[0].0, mac);
    }
    s.outbound(T0, &packet("fd00::2", "ff02::fb"), &mut t);
    assert_eq!(t.take()[0].0, [0x33, 0x33, 0, 0, 0, 0xfb]);
}

#[test]
fn a_neighbour_that_does_not_answer_is_unreachable() {
    for (src, dst, kind) in [("10.0.0.2", "10.0.0.9", [3, 1]), ("fd00::2", "fd00::9", [1, 3])] {
        let (mut s, mut t) = fixed();
        let p = packet(src, dst);
        s.outbound(T0, &p, &mut t);
        let mut asked = t.take().len();
        let mut now = T0;
        for _ in 0..20 {
            now += 500 * MS;
            s.tick(now, &mut t);
            asked += t.take().iter().filter(|f| f.2 == ARP || f.3[40] == 135).count();
        }
        assert_eq!(asked, 3);
        assert_eq!(t.delivered.len(), 1);
        let e = &t.delivered[0];
        let head = if src.contains(':') { 40 } else { 20 };
        assert_eq!((&e[head..head + 2], &e[head + 8..]), (&kind[..], &p[..]));
        // It is asked again by the next packet.
        s.outbound(now, &p, &mut t);
        assert_eq!(t.take().len(), 1);
    }
}

#[test]
fn large_packets_wait_too() {
    let (mut s, mut t) = fixed();
    let mut big = std::vec![0; 60_000];
    big[..28].copy_from_slice(&packet("10.0.0.2", "10.0.0.7")[..28]);
    let small = packet("10.0.0.2", "10.0.0.7");
    for p in [&big, &small, &big, &big] {
        s.outbound(T0, p, &mut t);
    }
    t.take();
    s.inbound(T0, &frame(OURS, ARP, &arp(2, (THEIRS, "10.0.0.7"), (OURS, "10.0.0.2"))), &mut t);
    assert_eq!(t.take().iter().map(|f| f.3.len()).collect::<Vec<_>>(), [60_000, 32, 60_000, 60_000]);
}

#[test]
fn it_answers_who_asks_for_it() {
    let (mut s, mut t) = fixed();
    let ask = |target| frame(EVERYBODY, ARP, &arp(1, (THEIRS, "10.0.0.5"), ([0; 6], target)));
    assert!(!s.inbound(T0, &ask("10.0.0.3"), &mut t));
    assert_eq!(t.take(), []);
    s.inbound(T0, &ask("10.0.0.2"), &mut t);
    assert_eq!(t.take(), [(THEIRS, OURS, ARP, arp(2, (OURS, "10.0.0.2"), (THEIRS, "10.0.0.5")))]);
    // Whoever asked is known.
    s.outbound(T0, &packet("10.0.0.2", "10.0.0.5"), &mut t);
    assert_eq!(t.take()[0].0, THEIRS);

    let group = solicited(at("fd00::2"));
    let m = discovery(135, 0, "fd00::2", Some((1, THEIRS)));
    let ask = |hops| {
        frame(
            [0x33, 0x33, 0xff, 0, 0, 2],
            IPV6,
            Frame::ip(at("fd00::5"), group, 58, hops, Sum::Pseudo(2), m.len(), |b| b.copy_from_slice(&m)).get(),
        )
    };
    s.inbound(T0, &ask(64), &mut t);
    assert_eq!(t.take(), [], "what came over a router is no neighbour's");
    s.inbound(T0, &ask(255), &mut t);
    let sent = t.take();
    assert_eq!((sent.len(), sent[0].0), (1, THEIRS));
    let a = &sent[0].3;
    assert_eq!((&a[8..24], &a[24..40], a[7], a[40], a[44]), (&at("fd00::2").0[..], &at("fd00::5").0[..], 255, 136, 0x60));
    assert_eq!(output::fold(output::sum(output::pseudo(at("fd00::2"), at("fd00::5"), 58, a.len() - 40), &a[40..])), 0);
}

/// A router advertisement with prefix fd07::/64, MTU 1400, a name server, for `lifetime` seconds.
fn advertisement(lifetime: u16, valid: u32) -> Vec<u8> {
    let mut m = std::vec![134, 0, 0, 0, 64, 0];
    m.extend_from_slice(&lifetime.to_be_bytes());
    m.extend_from_slice(&[0; 8]);
    m.extend_from_slice(&[1, 1]);
    m.extend_from_slice(&THEIRS);
    m.extend_from_slice(&[5, 1, 0, 0, 0, 0, 5, 120]);
    m.extend_from_slice(&[3, 4, 64, 0xc0]);
    m.extend_from_slice(&valid.to_be_bytes());
    m.extend_from_slice(&valid.to_be_bytes());
    m.extend_from_slice(&[0; 4]);
    m.extend_from_slice(&at("fd07::").0);
    m.extend_from_slice(&[25, 3, 0, 0, 0, 0, 1, 0]);
    m.extend_from_slice(&at("fd07::53").0);
    frame([0x33, 0x33, 0, 0, 0, 1], IPV6, &icmp6("fe80::9", "ff02::1", 255, &m))
}

#[test]
fn a_router_gives_address_way_and_name_servers() {
    let (mut s, mut t) = (Station::new(OURS, 1500, &option("passt"), Name::EMPTY, 7, T0), Tape::default());
    s.tick(T0, &mut t);
    // A DISCOVER, the question for our link-local address, the question for routers.
    let said: Vec<_> = t.take().iter().filter(|f| f.2 == IPV6).map(|f| f.3[40]).collect();
    assert_eq!(said, [135, 133, 136][..2]);
    s.inbound(T0, &advertisement(1800, 3600), &mut t);
    let mine = eui64(at("fd07::"), OURS);
    assert!(s.net.addrs.iter().any(|p| *p == Prefix { ip: mine, len: 64 }));
    assert_eq!((s.net.routers[1], s.net.mtu, s.net.dns.as_slice()), (at("fe80::9"), 1400, &[at("fd07::53")][..]));
    assert!(!s.is_settled(T0 + SEC) && s.is_settled(T0 + 4 * SEC), "a DHCP server may still answer");
    s.tick(T0, &mut t);
    let said: Vec<_> = t.take().iter().filter(|f| f.2 == IPV6).map(|f| (f.3[40], f.3[48..64].to_vec())).collect();
    assert!(said.contains(&(135, mine.0.to_vec())), "the question whether somebody has it");
    assert!(said.contains(&(136, mine.0.to_vec())), "routers are told");
    // The router's own Ethernet address was in it.
    s.outbound(T0, &packet("fd07::1", "2001:db8::1"), &mut t);
    assert_eq!(t.take()[0].0, THEIRS);
    // What is not said again runs out.
    s.inbound(T0, &advertisement(0, 3600), &mut t);
    assert_eq!(s.net.routers[1], Ip::ANY6);
    s.tick(T0 + 3601 * SEC, &mut t);
    assert!(!s.net.addrs.iter().any(|p| p.ip == mine));
    assert_eq!(s.net.dns.as_slice(), []);
}

#[test]
fn an_address_somebody_has_is_given_up() {
    for object in [discovery(136, 0x20, "fd07::ff:fe00:1", Some((2, THEIRS))), discovery(135, 0, "fd07::ff:fe00:1", None)] {
        let (mut s, mut t) = (Station::new(OURS, 1500, &option("passt"), Name::EMPTY, 7, T0), Tape::default());
        s.inbound(T0, &advertisement(1800, 3600), &mut t);
        let mine = at("fd07::ff:fe00:1");
        assert!(s.net.addrs.iter().any(|p| p.ip == mine));
        let src = if object[0] == 135 { "::" } else { "fe80::9" };
        s.inbound(T0 + 500 * MS, &frame([0x33, 0x33, 0, 0, 0, 1], IPV6, &icmp6(src, "ff02::1", 255, &object)), &mut t);
        assert!(!s.net.addrs.iter().any(|p| p.ip == mine));
    }
}

/// A server's answer to a client's message `m`: its type, then options.
fn answer(m: &[u8], kind: u8, ip: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut a = std::vec![0; 240];
    a[..4].copy_from_slice(&[2, 1, 6, 0]);
    a[4..8].copy_from_slice(&m[4..8]);
    a[16..20].copy_from_slice(&ip);
    a[28..44].copy_from_slice(&m[28..44]);
    a[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
    a.extend_from_slice(&[53, 1, kind, 54, 4, 10, 1, 0, 1]);
    a.extend_from_slice(options);
    a.push(255);
    let f = Frame::udp((at("10.1.0.1"), 67), (at("255.255.255.255"), 68), a.len(), |b| b.copy_from_slice(&a));
    frame(OURS, IPV4, f.get())
}

/// The last DHCP message sent: source, destination, message.
fn dhcp_of(t: &mut Tape) -> Option<(Ip, Ip, Vec<u8>)> {
    let v4 = |b: &[u8]| Ip::v4(b.try_into().unwrap());
    t.take()
        .iter()
        .rfind(|f| f.2 == IPV4 && f.3[9] == 17 && f.3[22..24] == [0, 67])
        .map(|f| (v4(&f.3[12..16]), v4(&f.3[16..20]), f.3[28..].to_vec()))
}
fn kind_of(m: &[u8]) -> u8 {
    assert_eq!(m[240..242], [53, 1]);
    m[242]
}

const OPTIONS: &[u8] = &[1, 4, 255, 255, 0, 0, 3, 4, 10, 1, 0, 1, 6, 4, 10, 1, 0, 53, 26, 2, 5, 0x78, 51, 4, 0, 0, 0, 100];

#[test]
fn a_lease_is_had_renewed_and_lost() {
    let name = Name::new("web").unwrap();
    let (mut s, mut t) = (Station::new(OURS, 1500, &option("passt"), name, 7, T0), Tape::default());
    s.tick(T0, &mut t);
    let (src, dst, m) = dhcp_of(&mut t).expect("a DISCOVER");
    assert_eq!((src, dst, kind_of(&m)), (Ip::ANY4, Ip::BROADCAST, 1));
    assert!(m.windows(5).any(|w| w == [12, 3, b'w', b'e', b'b']));
    // Nobody: it is asked again after a second.
    s.tick(T0 + SEC, &mut t);
    let (_, _, m) = dhcp_of(&mut t).expect("another");
    let mut other = m.clone();
    other[4] ^= 1;
    s.inbound(T0 + SEC, &answer(&other, 2, [10, 1, 0, 9], OPTIONS), &mut t);
    s.tick(T0 + SEC, &mut t);
    assert_eq!(dhcp_of(&mut t), None, "an answer to another's question");
    s.inbound(T0 + SEC, &answer(&m, 2, [10, 1, 0, 9], OPTIONS), &mut t);
    s.tick(T0 + SEC, &mut t);
    let (_, dst, m) = dhcp_of(&mut t).expect("a REQUEST");
    assert_eq!((dst, kind_of(&m)), (Ip::BROADCAST, 3));
    assert!(m.windows(6).any(|w| w == [50, 4, 10, 1, 0, 9]) && m.windows(6).any(|w| w == [54, 4, 10, 1, 0, 1]));
    s.inbound(T0 + SEC, &answer(&m, 5, [10, 1, 0, 9], OPTIONS), &mut t);
    let begin = T0 + SEC;
    assert!(s.net.addrs.iter().any(|p| *p == Prefix { ip: at("10.1.0.9"), len: 16 }));
    assert_eq!((s.net.routers[0], s.net.mtu, s.net.dns.as_slice()), (at("10.1.0.1"), 1400, &[at("10.1.0.53")][..]));
    s.tick(begin, &mut t);
    assert!(t.take().iter().any(|f| f.2 == ARP && f.0 == EVERYBODY), "it is announced");
    // Half of it gone: its server is asked, at its own address.
    s.inbound(begin, &frame(OURS, ARP, &arp(1, (THEIRS, "10.1.0.1"), ([0; 6], "10.1.0.9"))), &mut t);
    s.tick(begin + 49 * SEC, &mut t);
    assert_eq!(dhcp_of(&mut t), None);
    s.tick(begin + 50 * SEC, &mut t);
    let (src, dst, m) = dhcp_of(&mut t).expect("a renewal");
    assert_eq!((src, dst, kind_of(&m), &m[12..16]), (at("10.1.0.9"), at("10.1.0.1"), 3, &[10, 1, 0, 9][..]));
    s.inbound(begin + 50 * SEC, &answer(&m, 5, [10, 1, 0, 9], OPTIONS), &mut t);
    // From now on nobody answers: everybody is asked, and at the end the address is gone.
    let (mut now, mut rebinding) = (begin + 50 * SEC, false);
    while now < begin + 160 * SEC {
        now += SEC;
        s.tick(now, &mut t);
        rebinding |= dhcp_of(&mut t).is_some_and(|(src, dst, _)| src == at("10.1.0.9") && dst == Ip::BROADCAST);
    }
    assert!(rebinding && !s.net.addrs.iter().any(|p| p.ip.is_v4()));
}

#[test]
fn a_refused_request_begins_anew() {
    let (mut s, mut t) = (Station::new(OURS, 1500, &option("passt"), Name::EMPTY, 7, T0), Tape::default());
    s.tick(T0, &mut t);
    let (_, _, m) = dhcp_of(&mut t).expect("a DISCOVER");
    s.inbound(T0, &answer(&m, 2, [10, 1, 0, 9], OPTIONS), &mut t);
    s.tick(T0, &mut t);
    let (_, _, m) = dhcp_of(&mut t).expect("a REQUEST");
    s.inbound(T0, &answer(&m, 6, [0; 4], &[]), &mut t);
    s.tick(T0, &mut t);
    let (_, _, again) = dhcp_of(&mut t).expect("another DISCOVER");
    assert_eq!(kind_of(&again), 1);
    assert_ne!(again[4..8], m[4..8], "a transaction of its own");
}

#[test]
fn what_comes_from_a_wire_has_a_checksum() {
    let (mut s, mut t) = fixed();
    let tcp = |sum: bool, dst: &str| {
        let src = if dst.contains(':') { "fd00::5" } else { "10.0.0.5" };
        let how = if sum { Sum::Pseudo(16) } else { Sum::None };
        frame(OURS, if dst.contains(':') { IPV6 } else { IPV4 }, Frame::ip(at(src), at(dst), 6, 64, how, 20, |b| b[12] = 0x50).get())
    };
    for dst in ["10.0.0.2", "fd00::2"] {
        assert!(s.inbound(T0, &tcp(true, dst), &mut t));
        assert!(!s.inbound(T0, &tcp(false, dst), &mut t), "zero is no checksum out there");
    }
    let mut f = tcp(true, "10.0.0.2");
    f[ETHERNET + 8] ^= 1;
    assert!(!s.inbound(T0, &f, &mut t), "a spoilt header");
    f[ETHERNET + 8] ^= 1;
    f[ETHERNET + 10..ETHERNET + 12].fill(0);
    assert!(!s.inbound(T0, &f, &mut t), "a header without a checksum");
    let udp = |dst: &str| {
        let src = if dst.contains(':') { "fd00::5" } else { "10.0.0.5" };
        let f = Frame::ip(at(src), at(dst), 17, 64, Sum::None, 12, |b| b[5] = 12);
        frame(OURS, if dst.contains(':') { IPV6 } else { IPV4 }, f.get())
    };
    assert!(s.inbound(T0, &udp("10.0.0.2"), &mut t) && !s.inbound(T0, &udp("fd00::2"), &mut t));
    // For another station, or our own come back.
    assert!(!s.inbound(T0, &frame(THEIRS, IPV4, &packet("10.0.0.5", "10.0.0.2")), &mut t));
}

#[test]
fn nonsense_does_no_harm() {
    let (mut s, mut t) = (Station::new(OURS, 1500, &option("passt"), Name::EMPTY, 7, T0), Tape::default());
    let mut seed = 88_172_645_463_325_252u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let good = [
        advertisement(1800, 3600),
        answer(&std::vec![1; 240], 2, [10, 1, 0, 9], OPTIONS),
        frame(OURS, ARP, &arp(1, (THEIRS, "10.0.0.5"), ([0; 6], "10.0.0.2"))),
    ];
    for n in 0..20_000u64 {
        let mut f = good[(random() % 3) as usize].clone();
        for _ in 0..random() % 6 {
            let at = random() as usize % f.len();
            f[at] = random() as u8;
        }
        f.truncate(f.len() - random() as usize % f.len());
        let now = T0 + n * MS;
        s.inbound(now, &f, &mut t);
        s.outbound(now, f.get(ETHERNET..).unwrap_or_default(), &mut t);
        s.tick(now, &mut t);
        t.take();
    }
    let _ = dhcp::SERVER;
}

#[test]
fn the_option_is_read() {
    let u = option("tap:tap0,ip=10.0.0.2/24,ip=fd00::2/64,gw=10.0.0.1,mtu=1400");
    assert_eq!((u.kind, u.at.as_str(), u.ip.len(), u.gateways.len(), u.mtu), (Kind::Tap, "tap0", 2, 1, 1400));
    assert_eq!((option("passt:/run/p").kind, option("passt:/run/p").at.as_str()), (Kind::Passt, "/run/p"));
    for bad in [
        "",
        "tap",
        "tap:",
        "tun:x",
        "passt:",
        "passt:relative",
        "tap:a/b",
        "tap:sixteenletters16",
        "passt,gw=x",
        "passt,ip=10.0.0.0/24",
        "passt,x",
        "passt,mtu=5",
        "tap:t,gw=10.0.0.1,gw=10.0.0.2",
    ] {
        let mut u = Uplink::NONE;
        assert!(u.read(bad, 0, 0).is_err(), "{bad:?} was accepted");
    }
}
