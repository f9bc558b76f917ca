//! nameserver: a small DNS server on port 53, UDP and TCP, for the tests of names; says `serving` when it is ready.
//!
//! It knows `host.example` (192.0.2.7, 2001:db8::7), `alias.example` (a CNAME chain to it), `v4.example`, `empty.example` (no addresses), `big.example`
//! (twenty addresses: cut off over UDP), `broken.example` (SERVFAIL), `odd.example` (an answer with a wrong id first), `mute.example` (none), and
//! 7.2.0.192.in-addr.arpa. All else is NXDOMAIN. Every question is a line of its output.
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::thread;

use simple_dns::rdata::{A, AAAA, CNAME, PTR, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

/// The records for a question; `None`: NXDOMAIN.
fn records(name: &str, ty: QTYPE) -> Option<Vec<(String, RData<'static>)>> {
    let v4 = |a: [u8; 4]| RData::A(A { address: Ipv4Addr::from(a).into() });
    let v6 = || RData::AAAA(AAAA { address: "2001:db8::7".parse::<Ipv6Addr>().expect("an address").into() });
    let cname = |to: &'static str| RData::CNAME(CNAME(Name::new_unchecked(to)));
    let (a, aaaa) = (ty == QTYPE::TYPE(TYPE::A), ty == QTYPE::TYPE(TYPE::AAAA));
    let named = |r: RData<'static>| vec![(name.to_owned(), r)];
    Some(match name {
        "host.example" | "odd.example" if a => named(v4([192, 0, 2, 7])),
        "host.example" if aaaa => named(v6()),
        // The chain's links in the wrong order, as they may come.
        "alias.example" if a => vec![
            ("host.example".into(), v4([192, 0, 2, 7])),
            ("middle.example".into(), cname("host.example")),
            ("alias.example".into(), cname("middle.example")),
        ],
        "v4.example" | "v4.search.example" if a => named(v4([192, 0, 2, 4])),
        "big.example" if a => (0..20).map(|n| (name.to_owned(), v4([192, 0, 2, 100 + n]))).collect(),
        "7.2.0.192.in-addr.arpa" => named(RData::PTR(PTR(Name::new_unchecked("host.example")))),
        "host.example" | "odd.example" | "alias.example" | "v4.example" | "v4.search.example" | "big.example" | "empty.example" => {
            Vec::new()
        }
        _ => return None,
    })
}

/// The answer to a message, cut off if it is to go over UDP and is too long; `None`: silence.
fn answer(question: &[u8], udp: bool) -> Option<(String, Vec<u8>)> {
    let p = Packet::parse(question).ok()?;
    let q = p.questions.first()?.clone();
    let name = q.qname.to_string().to_ascii_lowercase();
    let mut reply = Packet::new_reply(p.id());
    reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    let (ty, found) = (q.qtype, records(&name, q.qtype));
    reply.questions.push(q);
    if name == "mute.example" {
        return Some((name, Vec::new()));
    }
    match found {
        _ if name == "broken.example" => *reply.rcode_mut() = RCODE::ServerFailure,
        None => *reply.rcode_mut() = RCODE::NameError,
        Some(rows) if udp && rows.len() > 10 => {
            let _ = rows;
            reply.set_flags(PacketFlag::TRUNCATION);
        }
        Some(rows) => {
            for (owner, data) in rows {
                reply.answers.push(ResourceRecord::new(Name::new(&owner).ok()?.into_owned(), CLASS::IN, 60, data));
            }
        }
    }
    Some((format!("{name} {ty:?} {}", if udp { "udp" } else { "tcp" }), reply.build_bytes_vec_compressed().ok()?))
}

fn main() {
    let udp = UdpSocket::bind("0.0.0.0:53").expect("port 53");
    let tcp = TcpListener::bind("0.0.0.0:53").expect("port 53");
    println!("serving");
    thread::spawn(move || {
        for s in tcp.incoming() {
            let Ok(mut s) = s else { return };
            let mut len = [0; 2];
            let mut question = vec![0; 512];
            if s.read_exact(&mut len).is_err() {
                continue;
            }
            question.truncate(usize::from(u16::from_be_bytes(len)).min(512));
            if s.read_exact(&mut question).is_ok()
                && let Some((said, bytes)) = answer(&question, false)
            {
                println!("{said}");
                let _ = s.write_all(&(bytes.len() as u16).to_be_bytes()).and_then(|()| s.write_all(&bytes));
            }
        }
    });
    let mut room = [0; 1500];
    while let Ok((n, from)) = udp.recv_from(&mut room) {
        let Some((said, mut bytes)) = answer(&room[..n], true) else { continue };
        println!("{said}");
        if bytes.is_empty() {
            continue;
        }
        if said.starts_with("odd.") {
            bytes[0] ^= 0xff;
            let _ = udp.send_to(&bytes, from);
            bytes[0] ^= 0xff;
        }
        let _ = udp.send_to(&bytes, from);
    }
}
