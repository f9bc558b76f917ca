//! Ping sockets: SOCK_DGRAM with IPPROTO_ICMP or IPPROTO_ICMPV6.
//!
//! # Theory of operation
//! **Purpose.** Echo without privileges: an application sends an echo request, gets the replies with its identifier.
//! **How it works.** The identifier is the socket's port in [`Space::Ping`]; it and the checksum are put into what is sent. Replies come as ICMP messages
//! without IP header.
//! **Limits.** Echo requests only. net.ipv4.ping_group_range is open to all: the instance is the application's own.
//! **Locks.** The socket's. **Failure.** EINVAL for any other message. **See also.** icmp(7).
use super::queue::{Data, Head, Report};
use super::{autobind, cmsg, lock, of, output, udp};
use crate::call::SendMsg;
use crate::errno::{Errno, Result};
use crate::fd::Held;
use crate::gate::user::{IoIn, gather, total_in};
use crate::instance::Cx;
use crate::net::addr::Endpoint;
use crate::net::port::{self, Space};
use crate::net::{Packet, iface};

/// sendmsg(2).
pub fn send(cx: &Cx<'_>, s: &Held, data: &[IoIn<'_>], msg: &SendMsg<'_>) -> Result<usize> {
    let len = total_in(data);
    let mut b = lock(cx, s)?;
    autobind(cx, &mut b)?;
    if len > 0xffff {
        return Err(Errno::EMSGSIZE);
    }
    if len < 8 {
        return Err(Errno::EINVAL);
    }
    if msg.flags & libc::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut head = [0; 8];
    if gather(data, 0, &mut head) < head.len() {
        return Err(Errno::EFAULT);
    }
    if head[0] != (if b.v6 { 128 } else { 8 }) || head[1] != 0 {
        return Err(Errno::EINVAL);
    }
    let to = match msg.to {
        Some(to) => to,
        None if b.connected => b.remote,
        None => return Err(Errno::EDESTADDRREQ),
    };
    let said = cmsg::parse(msg.control, b.v6)?;
    let plan = udp::plan(cx, &b, &to, &said)?;
    udp::pending(cx, s, &b)?;
    head[4..6].copy_from_slice(&b.local.port.to_be_bytes());
    drop(b);
    let v4 = plan.src.ip.is_v4();
    let (proto, how) = if v4 { (libc::IPPROTO_ICMP, output::Sum::Plain(2)) } else { (libc::IPPROTO_ICMPV6, output::Sum::Pseudo(2)) };
    let ip =
        output::Ipv { src: plan.src.ip, dst: plan.dst.ip, proto: proto as u8, ttl: plan.ttl, tos: plan.tos, df: plan.df, echo: plan.echo };
    let hop = output::way(cx, ip.src, ip.dst, plan.device)?;
    output::send(cx, &ip, &Data::Headed(&head, data, 8, len - 8), how, &hop)?;
    Ok(len)
}

/// An echo reply.
pub fn input(cx: &Cx<'_>, p: &Packet<'_>, ifindex: u32) {
    let id = u16::from_be_bytes([p.payload[4], p.payload[5]]);
    let head = Head { src: Endpoint::new(p.src, 0), dst: Endpoint::new(p.dst, id), ifindex, ttl: p.ttl, tos: p.tos, ..Head::default() };
    let Some(id) = port::find(cx, Space::Ping, &head.dst, &head.src, ifindex) else { return };
    if let Some((s, mut b)) = of(cx, id)
        && b.v6 != p.dst.is_v4()
    {
        let _ = b.enqueue(cx, s, &head, &Data::Bytes(p.payload));
    }
}

/// An ICMP error about an echo request of ours.
pub fn icmp_error(cx: &Cx<'_>, local: &Endpoint, report: &Report, quoted: &[u8], hard: bool) {
    let ifindex = iface::of_addr(cx, local.ip).unwrap_or(0);
    let Some(id) = port::find(cx, Space::Ping, local, &report.to, ifindex) else { return };
    if let Some((s, mut b)) = of(cx, id) {
        b.fail(cx, s, report, quoted, hard);
    }
}
