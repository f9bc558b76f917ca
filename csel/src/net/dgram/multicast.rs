//! Groups: who is a member of what.
//!
//! # Theory of operation
//! **Purpose.** IP_ADD_MEMBERSHIP and its relatives decide which sockets get a group's datagrams.
//! **How it works.** Each socket has its [`Members`], with a source filter each (RFC 3678: exclude these, or include only these). [`Groups`] counts
//! members of the whole instance: a group nobody joined is not ours, so that even IP_MULTICAST_ALL brings nothing of it.
//! The segment floods multicast, so nothing need be said on it: IGMP and MLD are not sent.
//! **Limits.** [`MEMBERS`] groups a socket (igmp_max_memberships is 20), [`SOURCES`] sources each, [`GROUPS`] groups an instance.
//! **Locks.** The socket's; a table lock for [`Groups`]. **Failure.** EADDRINUSE, EADDRNOTAVAIL, ENODEV, ENOBUFS, EINVAL.
//! **See also.** ip(7), ipv6(7), RFC 3678.
use super::Body;
use crate::arena::Shared;
use crate::errno::{Errno, Result};
use crate::instance::Cx;
use crate::net::addr::Ip;
use crate::net::iface;
use crate::net::option::{Options, flag};
use crate::sync::{Lock, rank};

/// Groups a socket can be a member of.
pub const MEMBERS: usize = 20;
/// Sources a membership can name.
pub const SOURCES: usize = 10;
/// Groups an instance can have members in.
pub const GROUPS: usize = 1024;

/// One membership.
#[repr(C)]
#[derive(Clone, Copy, Shared)]
struct Member {
    group: Ip,
    /// 0: the place is free.
    ifindex: u32,
    /// The sources are the only ones wanted (MCAST_INCLUDE), not the ones unwanted.
    include: bool,
    count: u8,
    sources: [Ip; SOURCES],
}

/// A socket's memberships.
#[repr(C)]
#[derive(Shared)]
pub struct Members {
    list: [Member; MEMBERS],
}

#[repr(C)]
#[derive(Clone, Copy, Shared)]
struct Group {
    group: Ip,
    ifindex: u32,
    count: u32,
}

/// How many members each group has.
#[repr(C)]
#[derive(Shared)]
pub struct Groups {
    table: Lock<Table, { rank::TABLE }>,
}

#[repr(C)]
#[derive(Shared)]
struct Table {
    len: u32,
    list: [Group; GROUPS],
}

impl Members {
    /// Forgets all of them; they have been left.
    pub fn reset(&mut self) {
        for m in &mut self.list {
            m.ifindex = 0;
        }
    }
    fn find(&mut self, group: Ip, ifindex: u32) -> Option<&mut Member> {
        self.list.iter_mut().find(|m| m.ifindex != 0 && m.group == group && (ifindex == 0 || m.ifindex == ifindex))
    }
}

/// Is the instance in this group on this interface? The all-nodes groups always are ours.
pub fn joined(cx: &Cx<'_>, group: Ip, ifindex: u32) -> bool {
    if group == Ip::v4([224, 0, 0, 1]) {
        return true;
    }
    if !group.is_v4() {
        let g = group.0;
        let nodes = g[2..15].iter().all(|b| *b == 0) && g[15] == 1 && (g[1] == 1 || g[1] == 2);
        // ff02::1:ffXX:XXXX: the solicited-node groups of our addresses.
        let solicited = g[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
            && (cx.facts().addrs().iter().any(|p| p.ip.0[13..] == g[13..])
                || crate::net::link::uplink::addrs(cx).iter().any(|p| p.ip.0[13..] == g[13..]));
        if nodes || solicited {
            return true;
        }
    }
    let t = cx.inst.net.dgram.groups.table.lock(cx.me);
    t.list[..(t.len as usize).min(GROUPS)].iter().any(|e| e.count > 0 && e.group == group && e.ifindex == ifindex)
}

/// After a death inside: the counts anew from the members, which `bodies` shows.
pub(super) fn recount(cx: &Cx<'_>, bodies: impl FnOnce(&mut dyn FnMut(&Members))) {
    {
        let Some(mut t) = cx.inst.net.dgram.groups.table.take_over(cx.me) else { return };
        t.len = 0;
    }
    bodies(&mut |members| {
        for m in members.list.iter().filter(|m| m.ifindex != 0) {
            let _ = count(cx, m.group, m.ifindex, true);
        }
    });
}

fn count(cx: &Cx<'_>, group: Ip, ifindex: u32, more: bool) -> Result<()> {
    let mut t = cx.inst.net.dgram.groups.table.lock(cx.me);
    let len = (t.len as usize).min(GROUPS);
    let found = t.list[..len].iter().position(|e| e.count > 0 && e.group == group && e.ifindex == ifindex);
    match (found, more) {
        (Some(i), true) => t.list[i].count += 1,
        (Some(i), false) => t.list[i].count -= 1,
        (None, false) => {}
        (None, true) => {
            let i = match t.list[..len].iter().position(|e| e.count == 0) {
                Some(i) => i,
                None if len < GROUPS => {
                    t.len += 1;
                    len
                }
                None => return Err(Errno::ENOBUFS),
            };
            t.list[i] = Group { group, ifindex, count: 1 };
        }
    }
    Ok(())
}

/// The interface a membership is on: by index, by address, or where the group's route leads. ENODEV.
pub fn device(cx: &Cx<'_>, _group: Ip, ifindex: u32, addr: Ip) -> Result<u32> {
    let found = if ifindex != 0 {
        iface::by_index(cx, ifindex).map(|i| i.index)
    } else if !addr.is_unspecified() {
        iface::of_addr(cx, addr)
    } else {
        iface::by_index(cx, iface::ETH).map(|i| i.index)
    };
    found.ok_or(Errno::ENODEV)
}

/// IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP, MCAST_JOIN_GROUP.
pub fn join(cx: &Cx<'_>, b: &mut Body, group: Ip, ifindex: u32) -> Result<()> {
    join_mode(cx, b, group, ifindex, false).map(|_| ())
}

fn join_mode(cx: &Cx<'_>, b: &mut Body, group: Ip, ifindex: u32, include: bool) -> Result<usize> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    if b.members.find(group, ifindex).is_some() {
        return Err(Errno::EADDRINUSE);
    }
    let at = b.members.list.iter().position(|m| m.ifindex == 0).ok_or(Errno::ENOBUFS)?;
    count(cx, group, ifindex, true)?;
    b.members.list[at] = Member { group, ifindex, include, count: 0, sources: [Ip::ANY6; SOURCES] };
    Ok(at)
}

/// IP_DROP_MEMBERSHIP, IPV6_LEAVE_GROUP, MCAST_LEAVE_GROUP. `ifindex` 0: whichever.
pub fn leave(cx: &Cx<'_>, b: &mut Body, group: Ip, ifindex: u32) -> Result<()> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let m = b.members.find(group, ifindex).ok_or(Errno::EADDRNOTAVAIL)?;
    let ifindex = core::mem::take(&mut m.ifindex);
    count(cx, group, ifindex, false)
}

/// The socket ends.
pub fn leave_all(cx: &Cx<'_>, members: &mut Members) {
    for m in &mut members.list {
        if m.ifindex != 0 {
            let _ = count(cx, m.group, m.ifindex, false);
            m.ifindex = 0;
        }
    }
}

/// What is done to a source filter (RFC 3678 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    /// IP_ADD_SOURCE_MEMBERSHIP.
    Join,
    /// IP_DROP_SOURCE_MEMBERSHIP.
    Leave,
    /// IP_BLOCK_SOURCE.
    Block,
    /// IP_UNBLOCK_SOURCE.
    Unblock,
}

/// Changes a source filter.
pub fn filter(cx: &Cx<'_>, b: &mut Body, how: Filter, group: Ip, ifindex: u32, source: Ip) -> Result<()> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let include = matches!(how, Filter::Join | Filter::Leave);
    if b.members.find(group, ifindex).is_none() {
        if how != Filter::Join {
            return Err(Errno::EINVAL);
        }
        join_mode(cx, b, group, ifindex, true)?;
    }
    let Some(m) = b.members.find(group, ifindex) else { return Err(Errno::EINVAL) };
    if m.include != include {
        return Err(Errno::EINVAL);
    }
    let n = usize::from(m.count).min(SOURCES);
    let at = m.sources[..n].iter().position(|s| *s == source);
    match (how, at) {
        (Filter::Join | Filter::Block, Some(_)) => Err(Errno::EADDRNOTAVAIL),
        (Filter::Join | Filter::Block, None) if n == SOURCES => Err(Errno::ENOBUFS),
        (Filter::Join | Filter::Block, None) => {
            m.sources[n] = source;
            m.count += 1;
            Ok(())
        }
        (Filter::Leave | Filter::Unblock, None) => Err(Errno::EADDRNOTAVAIL),
        (Filter::Leave | Filter::Unblock, Some(i)) => {
            m.sources[i] = m.sources[n - 1];
            m.count -= 1;
            // The last wanted source gone: the membership goes.
            if how == Filter::Leave && m.count == 0 {
                return leave(cx, b, group, ifindex);
            }
            Ok(())
        }
    }
}

/// Does a socket want a group's datagram from `src` that came in on `ifindex`? (ip_mc_sf_allow)
pub fn wants(members: &Members, opt: &Options, group: Ip, src: Ip, ifindex: u32) -> bool {
    match members.list.iter().find(|m| m.ifindex == ifindex && m.group == group) {
        Some(m) => m.sources[..usize::from(m.count).min(SOURCES)].contains(&src) == m.include,
        None => opt.has(if group.is_v4() { flag::MULTICAST_ALL } else { flag::MULTICAST_ALL6 }),
    }
}
