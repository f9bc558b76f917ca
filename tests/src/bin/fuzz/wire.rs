//! Packets made up: right in form often enough that what is inside is looked at, wrong in one place or another.

use csel_core::net::addr::Ip;
use csel_core::testing::World;

use crate::rng::Rng;
use crate::{TCP_PORT, UDP_PORT, addr};

/// An IP packet with plausible addresses and ports.
pub(crate) fn template(w: &World, r: &mut Rng) -> Vec<u8> {
    let v6 = r.one_in(2);
    let mut ips: Vec<Ip> = w.hosts.iter().map(|h| addr(h, v6)).collect();
    let mut odd = [0; 16];
    odd.copy_from_slice(&r.bytes(16));
    let strange = if v6 {
        [Ip::LOOPBACK6, Ip::ANY6, Ip(odd), Ip([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])]
    } else {
        [Ip::LOOPBACK4, Ip::BROADCAST, Ip::v4([odd[0], odd[1], odd[2], odd[3]]), Ip::v4([224, 0, 0, 1])]
    };
    ips.push(r.pick(&strange));
    let (src, dst) = (r.pick(&ips), r.pick(&ips));
    let port = |r: &mut Rng| r.pick(&[TCP_PORT, TCP_PORT + 1, UDP_PORT, UDP_PORT + 1, 32768, 32769, 0, 65535]).to_be_bytes();
    let proto = r.pick(&[6, 6, 17, 17, if v6 { 58 } else { 1 }, if v6 { 58 } else { 1 }, 2, 44, 0, 43, 60, 255]);
    let mut body = Vec::new();
    match proto {
        6 => {
            body.extend(port(r));
            body.extend(port(r));
            body.extend((r.word() as u32).to_be_bytes());
            body.extend((r.word() as u32).to_be_bytes());
            let options = r.pick(&[0usize, 0, 1, 3, 5, 10]);
            body.extend([((5 + options) << 4) as u8, r.pick(&[2, 0x12, 0x10, 0x11, 0x18, 4, 0x14, 0x3f, 0, 0xff])]);
            body.extend((r.word() as u16).to_be_bytes());
            body.extend([0; 4]);
            for _ in 0..options * 4 {
                body.push(r.pick(&[0, 1, 2, 3, 4, 5, 8, 10, 0xff, 0x40]));
            }
            body.extend(r.some(&[0, 0, 1, 100, 1400]));
        }
        17 => {
            body.extend(port(r));
            body.extend(port(r));
            let data = r.some(&[0, 1, 100, 1400, 9000]);
            body.extend((if r.one_in(4) { r.word() as u16 } else { data.len() as u16 + 8 }).to_be_bytes());
            body.extend([0; 2]);
            body.extend(data);
        }
        1 | 58 => {
            body.extend([r.pick(&[0, 3, 4, 5, 8, 11, 12, 1, 2, 128, 129, 133, 134, 135, 136]), r.below(16) as u8, 0, 0]);
            body.extend((r.word() as u32).to_be_bytes());
            // What an ICMP error quotes: another packet, whole or not.
            if r.one_in(2) && ips.len() > 2 {
                let mut inner = header(v6, dst, src, r.pick(&[6, 17]), 8 + r.below(20), r);
                inner.extend(port(r));
                inner.extend(port(r));
                inner.extend(r.bytes(16));
                body.extend(inner);
            } else {
                body.extend(r.some(&[0, 4, 32, 100]));
            }
        }
        44 => {
            body.extend([r.pick(&[6, 17, 58, 0, 44]), 0]);
            body.extend((r.pick(&[0u16, 1, 8, 0xfff8]) | r.pick(&[0u16, 1])).to_be_bytes());
            body.extend([0, 0, 0, r.below(3) as u8]);
            body.extend(r.some(&[0, 8, 64, 1024]));
        }
        _ => {
            body.extend([r.pick(&[6, 17, 58, 59, 0, 43, 60, 44]), r.below(4) as u8]);
            body.extend(r.some(&[6, 14, 22, 64]));
        }
    }
    let mut p = header(v6, src, dst, proto, body.len(), r);
    p.extend(body);
    p
}

fn header(v6: bool, src: Ip, dst: Ip, proto: u8, len: usize, r: &mut Rng) -> Vec<u8> {
    let mut p = Vec::with_capacity(40 + len);
    if v6 {
        p.extend([0x60, 0, 0, 0]);
        p.extend((len as u16).to_be_bytes());
        p.extend([proto, r.pick(&[64, 255, 1, 0])]);
        p.extend(src.0);
        p.extend(dst.0);
    } else {
        let fragment: u16 = if r.one_in(4) { r.pick(&[0x2000, 0x2001, 1, 0x1fff, 0x4000, 0x20b9]) } else { 0 };
        p.extend([0x45, 0]);
        p.extend((20 + len as u16).to_be_bytes());
        p.extend([0, r.below(3) as u8]);
        p.extend(fragment.to_be_bytes());
        p.extend([r.pick(&[64, 255, 1, 0]), proto, 0, 0]);
        p.extend(&src.0[12..]);
        p.extend(&dst.0[12..]);
        checksum4(&mut p);
    }
    p
}

/// Makes an IPv4 header's checksum right, so that what is behind it is looked at.
pub(crate) fn checksum4(p: &mut [u8]) {
    let n = p.first().map_or(0, |b| usize::from(b & 15) * 4);
    if p.first().map(|b| b >> 4) != Some(4) || n < 20 || p.len() < n {
        return;
    }
    p[10..12].fill(0);
    let mut sum: u32 = p[..n].chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = (!(sum as u16)).to_be_bytes();
    p[10..12].copy_from_slice(&sum);
}
