//! Links between several instances, with bare IP packets.
use super::rx::ETHERNET;
use super::segment::RING;
use super::tx::{Hop, Refused, hop, reserve};
use super::*;
use crate::clock::MS;
use crate::config::{Impair, Path};
use crate::errno::Errno;
use crate::net::addr::Ip;
use crate::stats::read;
use crate::testing::{Host, World};
use std::process::Command;

fn v4(h: &Host) -> Ip {
    h.env.inst.facts.get().addrs[0].ip
}
fn v6(h: &Host) -> Ip {
    h.env.inst.facts.get().addrs[1].ip
}
fn at(s: &str) -> Ip {
    join::of(s.parse().unwrap())
}
fn port(h: &Host) -> u16 {
    h.env.inst.facts.get().port
}
fn frames_in(h: &Host) -> u64 {
    read(&h.env.inst.stats.frames_in)
}

/// An IP packet of `len` bytes that nobody answers (an echo reply to no question), numbered.
fn packet(ip: &mut [u8], src: Ip, dst: Ip, n: u32) {
    let len = ip.len();
    ip.fill(0);
    if let (Some(s), Some(d)) = (src.as_v4(), dst.as_v4()) {
        (ip[0], ip[8], ip[9]) = (0x45, 64, 1);
        ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        ip[12..16].copy_from_slice(&s);
        ip[16..20].copy_from_slice(&d);
        let sum: u32 = ip[..20].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip[24..28].copy_from_slice(&n.to_be_bytes());
    } else {
        (ip[0], ip[6], ip[7]) = (0x60, 58, 64);
        ip[40] = 129;
        ip[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
        ip[8..24].copy_from_slice(&src.0);
        ip[24..40].copy_from_slice(&dst.0);
        ip[44..48].copy_from_slice(&n.to_be_bytes());
    }
}

fn send(h: &Host, dst: Ip, len: usize, n: u32) -> Result<(), Refused> {
    h.call(|cx| {
        let hop = hop(cx, Ip::ANY4, dst).unwrap();
        let mut f = reserve(cx, &hop, len)?;
        packet(f.ip(), if dst.is_v4() { v4(h) } else { v6(h) }, dst, n);
        f.commit(cx);
        Ok(())
    })
}

/// What lies in a port's ring: numbers of the packets.
fn lying(h: &Host) -> Vec<u32> {
    let p = h.env.seg.port(port(h)).unwrap();
    let head = AtomicU64::new(p.ring.resume());
    let mut all = Vec::new();
    // The reader of a copy of the head, who gives nothing back: the published head is put right afterwards by a drain.
    while let crate::arena::ring::Peek::Frame { frame, span, .. } = p.ring.peek(&head) {
        let ip = &frame[ETHERNET..];
        let body = if ip[0] >> 4 == 4 { &ip[24..28] } else { &ip[44..48] };
        all.push(u32::from_be_bytes([body[0], body[1], body[2], body[3]]));
        p.ring.advance(&head, span);
    }
    h.env.inst.net.link.head.store(head.load(Relaxed), Relaxed);
    all
}

#[test]
fn hops_lead_where_linux_would_go() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    a.call(|cx| {
        let to = |src, dst| hop(cx, src, dst);
        for me in [at("127.0.0.1"), at("127.9.9.9"), at("::1"), v4(a), v6(a), Ip::ANY4, Ip::ANY6] {
            let h = to(Ip::ANY4, me).unwrap();
            assert!(h.loopback && h.port == port(a), "{me}");
        }
        for peer in [v4(b), v6(b), b.env.inst.facts.get().addrs[2].ip] {
            // Twice: the second answer comes from the cache.
            for _ in 0..2 {
                let h = to(Ip::ANY4, peer).unwrap();
                assert_eq!((h.port, h.loopback, h.mtu), (port(b), false, 65535), "{peer}");
                assert!(route::is_valid(cx, &h));
            }
        }
        for all in [at("255.255.255.255"), at("10.111.255.255"), at("224.0.0.1"), at("ff02::1")] {
            assert_eq!(to(Ip::ANY4, all).unwrap().port, Hop::FLOOD, "{all}");
        }
        assert_eq!(to(Ip::ANY4, at("10.111.77.7")), Err(Errno::EHOSTUNREACH));
        assert_eq!(to(Ip::ANY4, at("fdc5:e1::7777")), Err(Errno::EHOSTUNREACH));
        assert_eq!(to(Ip::ANY4, at("192.0.2.1")), Err(Errno::ENETUNREACH));
        assert_eq!(to(Ip::ANY6, at("2001:db8::1")), Err(Errno::ENETUNREACH));
        assert_eq!(to(at("127.0.0.1"), v4(b)), Err(Errno::EINVAL));
    });
}

#[test]
fn mtu_is_the_smaller_one() {
    let w = World::with(2, |i, c| c.mtu = [1500, 9000][i]);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    assert_eq!(b.call(|cx| hop(cx, Ip::ANY4, v4(a))).unwrap().mtu, 1500);
    assert_eq!(a.call(|cx| hop(cx, Ip::ANY4, v4(b))).unwrap().mtu, 1500);
}

#[test]
fn a_successor_gets_no_frame_of_its_predecessor() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let old = a.call(|cx| hop(cx, Ip::ANY4, v4(b))).unwrap();
    send(a, v4(b), 100, 1).unwrap();
    join::leave(b.env.seg, port(b));
    assert_eq!(a.call(|cx| reserve(cx, &old, 100).err()), Some(Refused::Gone));
    assert_eq!(a.call(|cx| hop(cx, Ip::ANY4, v4(b))), Err(Errno::EHOSTUNREACH));
    // Somebody else takes the port, and the address.
    let facts = join::plug(b.env.seg, -1, &b.env.inst.facts.get().config, &b.env.inst.facts.get().name, None).unwrap();
    assert_eq!(facts.port, port(b));
    b.env.inst.net.link.begin(b.env.seg, facts.port);
    let new = a.call(|cx| hop(cx, Ip::ANY4, v4(b))).unwrap();
    assert_ne!(new.generation, old.generation);
    // One who had found the way before, and is late.
    let p = b.env.seg.port(port(b)).unwrap();
    p.ring.reserve(a.me.tid, 100, old.generation).unwrap().commit();
    b.progress();
    assert_eq!((read(&b.env.inst.stats.frames_in), read(&b.env.inst.stats.frames_bad)), (1, 0));
    assert_eq!(read(&b.env.inst.stats.ip_in_errors) + read(&b.env.inst.stats.ip_in_addr_errors), 0);
}

#[test]
fn frames_come_through_whole_and_in_order() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    for n in 0..100 {
        send(a, if n % 2 == 0 { v4(b) } else { v6(b) }, 60 + n as usize * 600, n).unwrap();
        if n % 10 == 9 {
            assert_eq!(lying(b), (n - 9..=n).collect::<Vec<_>>());
        }
    }
    let frame = a.call(|cx| {
        let h = hop(cx, Ip::ANY4, v4(b)).unwrap();
        let mut f = reserve(cx, &h, 77).unwrap();
        assert_eq!(f.ip().len(), 77);
        packet(f.ip(), v4(a), v4(b), 7);
        f.commit(cx);
        let p = cx.seg.port(h.port).unwrap();
        let head = AtomicU64::new(p.ring.resume());
        let crate::arena::ring::Peek::Frame { frame, .. } = p.ring.peek(&head) else { panic!() };
        frame[..ETHERNET].to_vec()
    });
    let (ma, mb) = (a.env.inst.facts.get().mac, b.env.inst.facts.get().mac);
    assert_eq!(frame, [&mb[..], &ma[..], &[8, 0]].concat());
}

#[test]
fn a_flood_reaches_everybody_and_ourselves() {
    let w = World::new(4);
    for dst in [at("255.255.255.255"), at("239.1.2.3"), at("ff02::1")] {
        let before: Vec<u64> = w.hosts.iter().map(frames_in).collect();
        send(&w.hosts[1], dst, 100, 5).unwrap();
        w.run();
        for (i, h) in w.hosts.iter().enumerate() {
            assert_eq!(frames_in(h) - before[i], u64::from(i != 1), "{dst} at host {i}");
        }
        assert_eq!(w.hosts[1].env.inst.net.link.lo.used(), 0);
    }
}

#[test]
fn a_full_ring_refuses_and_calls_when_there_is_room() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let mut sent = 0u64;
    while send(a, v4(b), 60_000, sent as u32).is_ok() {
        sent += 1;
        assert!(sent < 1000);
    }
    assert!(sent >= RING as u64 / 60_100 - 1, "{sent}");
    let seg = a.env.seg;
    let waits = |p: &segment::Port| p.room_waiters.iter().any(|w| w.load(Relaxed) != 0);
    assert!(waits(&seg.ports[usize::from(port(b))]));
    // Others who are refused do not disturb: small ones may still fit.
    let _ = send(a, v4(b), 40, 0);
    while b.progress() {}
    assert!(!waits(&seg.ports[usize::from(port(b))]));
    assert!(frames_in(b) >= sent);
    let mine = &seg.ports[usize::from(port(a))];
    assert_eq!(mine.room.load(Relaxed), 1);
    assert!(a.call(rx::pending));
    a.progress();
    assert_eq!(mine.room.load(Relaxed), 0);
    assert!(send(a, v4(b), 60_000, 0).is_ok());
}

#[test]
fn our_own_full_ring_is_drained_by_whoever_settles() {
    let w = World::new(1);
    let a = &w.hosts[0];
    for _ in 0..20 {
        a.call(|cx| {
            let h = hop(cx, Ip::ANY4, at("127.0.0.1")).unwrap();
            let mut n = 0;
            while let Ok(mut f) = reserve(cx, &h, 65_000) {
                packet(f.ip(), at("127.0.0.1"), at("127.0.0.1"), n);
                f.commit(cx);
                n += 1;
            }
            assert!(n > 50);
        });
        assert_eq!(a.env.inst.net.link.lo.used(), 0);
    }
    w.run();
}

#[test]
fn a_dead_writer_holds_up_nobody() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let p = &a.env.seg.ports[usize::from(port(b))];
    let life = p.life.load(Relaxed);
    core::mem::forget(p.ring.reserve((1 << 22) - 1, 500, life));
    send(a, v4(b), 100, 1).unwrap();
    w.run();
    assert_eq!(frames_in(b), 1);
    // One that lives (this thread) and does not commit is waited for, though not for ever.
    core::mem::forget(p.ring.reserve(a.me.tid, 500, life));
    send(a, v4(b), 100, 1).unwrap();
    b.progress();
    assert_eq!(frames_in(b), 1);
    for _ in 0..400 {
        w.advance(10 * MS);
        b.progress();
    }
    assert_eq!(frames_in(b), 2);
}

#[test]
fn bad_frames_are_counted_and_dropped() {
    let w = World::new(2);
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    let p = &a.env.seg.ports[usize::from(port(b))];
    let put = |bytes: &[u8]| {
        let mut s = p.ring.reserve(a.me.tid, bytes.len(), p.life.load(Relaxed)).unwrap();
        s.bytes().copy_from_slice(bytes);
        s.commit();
    };
    let mac = b.env.inst.facts.get().mac;
    let head = |ty: u16| [&mac[..], &[2; 6], &ty.to_be_bytes()].concat();
    put(&[]);
    put(&[1; 13]);
    put(&head(0x0800));
    put(&[head(0x0800), vec![0x60; 40]].concat());
    put(&[head(0x1234), vec![0x45; 40]].concat());
    w.run();
    assert_eq!(read(&b.env.inst.stats.frames_bad), 5);
    // For another station: not ours, not bad.
    put(&[&[2; 12][..], &[8, 0], &[0x45; 40]].concat());
    w.run();
    assert_eq!(read(&b.env.inst.stats.frames_bad), 5);
}

fn impaired(set: Impair) -> World {
    World::with(2, |i, c| {
        if i == 0 {
            c.impair = set;
        }
    })
}

#[test]
fn impairments_are_what_they_say_and_repeatable() {
    let sent: Vec<u32> = (0..1000).collect();
    let run = |set: Impair| {
        let w = impaired(set);
        let mut got = Vec::new();
        for n in &sent {
            send(&w.hosts[0], v4(&w.hosts[1]), 100, *n).unwrap();
            got.extend(lying(&w.hosts[1]));
        }
        got
    };
    let drop = run(Impair { drop_ppm: 100_000, ..Impair::NONE });
    assert!((850..950).contains(&drop.len()) && drop.is_sorted(), "{}", drop.len());
    assert_eq!(drop, run(Impair { drop_ppm: 100_000, ..Impair::NONE }));
    assert_ne!(drop, run(Impair { drop_ppm: 100_000, seed: 2, ..Impair::NONE }));
    let dup = run(Impair { dup_ppm: 100_000, ..Impair::NONE });
    assert!((1050..1150).contains(&dup.len()) && dup.is_sorted(), "{}", dup.len());
    let mut swapped = run(Impair { reorder_ppm: 100_000, ..Impair::NONE });
    assert!(!swapped.is_sorted() && swapped.len() >= 999);
    swapped.sort_unstable();
    assert!(swapped.iter().eq(sent.iter().take(swapped.len())));
}

#[test]
fn delayed_and_swapped_frames_arrive_by_the_timer() {
    // Every frame is put aside, so the last one has no successor.
    let w = impaired(Impair { reorder_ppm: 1_000_000, ..Impair::NONE });
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    send(a, v4(b), 100, 1).unwrap();
    assert!(lying(b).is_empty());
    w.advance(5 * MS);
    a.call(tick);
    assert_eq!(frames_in(b) + lying(b).len() as u64, 1);

    let w = impaired(Impair { delay_us: 2_000, ..Impair::NONE });
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    for n in 0..10 {
        send(a, v4(b), 100, n).unwrap();
    }
    w.advance(MS);
    a.call(tick);
    assert!(lying(b).is_empty());
    w.advance(2 * MS);
    a.call(tick);
    w.run();
    assert_eq!(frames_in(b), 10);
}

#[test]
fn a_flipped_bit_is_one_bit() {
    let w = impaired(Impair { corrupt_ppm: 1_000_000, ..Impair::NONE });
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    send(a, v4(b), 100, 1).unwrap();
    let p = &a.env.seg.ports[usize::from(port(b))];
    let head = AtomicU64::new(p.ring.resume());
    let crate::arena::ring::Peek::Frame { frame, .. } = p.ring.peek(&head) else { panic!() };
    let mut good = [0; 100];
    packet(&mut good, v4(a), v4(b), 1);
    let flipped: u32 = frame[ETHERNET..].iter().zip(good).map(|(x, y)| (x ^ y).count_ones()).sum();
    assert_eq!(flipped, 1);
}

#[test]
fn a_tap_writes_pcapng() {
    let file = std::env::temp_dir().join(format!("link-pcap-{}.pcapng", std::process::id()));
    let path = Path::new(file.as_os_str().as_encoded_bytes()).unwrap();
    let w = World::with(2, |i, c| {
        if i == 0 {
            c.pcap = path;
        }
    });
    let (a, b) = (&w.hosts[0], &w.hosts[1]);
    for n in 0..3 {
        send(a, v4(b), 61, n).unwrap();
        send(b, v6(a), 90, n).unwrap();
        send(a, at("127.0.0.1"), 64, n).unwrap();
        w.run();
    }
    let bytes = std::fs::read(&file).unwrap();
    let (mut at, mut kinds, mut sizes) = (0, Vec::new(), Vec::new());
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    while at < bytes.len() {
        let len = word(at + 4) as usize;
        assert_eq!(word(at + len - 4) as usize, len, "the block at {at} does not end as it begins");
        kinds.push(word(at));
        if word(at) == 6 {
            // Interface, captured length, direction (the option after the padded frame).
            let captured = word(at + 20) as usize;
            assert_eq!(word(at + 28 + captured.next_multiple_of(4)), u32::from_ne_bytes([2, 0, 4, 0]));
            sizes.push((word(at + 8), captured, word(at + 32 + captured.next_multiple_of(4))));
        }
        at += len;
    }
    assert_eq!(&kinds[..3], [0x0a0d_0d0a, 1, 1]);
    assert_eq!(kinds.len(), 12);
    assert_eq!(sizes[..3], [(0, 75, pcap::OUT), (1, 78, pcap::OUT), (0, 104, pcap::IN)]);
    // Where tshark is installed, it agrees.
    if let Ok(out) = Command::new("tshark").arg("-r").arg(&file).output() {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(text.lines().count(), 9, "{text}{}", String::from_utf8_lossy(&out.stderr));
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_sender_over_loopback_waits_for_whoever_drains() {
    let w = World::new(1);
    let h = &w.hosts[0];
    let link = &h.env.inst.net.link;
    let token = link.token.lock(&h.me);
    std::thread::scope(|s| {
        let env = crate::instance::Env { ..h.env };
        s.spawn(move || {
            let mine = Host { env, me: crate::sync::Me::ask() };
            send(&mine, Ip::LOOPBACK4, 28, 1).expect("room");
            assert!(!link.lo.holds(link.lo_head.load(Acquire)), "sent, and not delivered");
        });
        while link.lo.tail() == link.lo_head.load(Acquire) {
            std::thread::yield_now();
        }
        // Time enough for a sender that does not wait to be gone.
        std::thread::sleep(std::time::Duration::from_millis(5));
        drop(token);
    });
}
