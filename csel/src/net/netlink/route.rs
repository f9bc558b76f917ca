//! NETLINK_ROUTE: interfaces, addresses and routes, as ip(8) asks for them.
use super::{Answer, Request};
use crate::errno::{Errno, Result};
use crate::instance::{Cx, Prefix};
use crate::net::addr::Ip;
use crate::net::iface::{self, Class, Iface, LO};
use crate::net::link::uplink;

const NEWLINK: u16 = libc::RTM_NEWLINK;
const NEWADDR: u16 = libc::RTM_NEWADDR;
const NEWROUTE: u16 = libc::RTM_NEWROUTE;
/// The last of the RTM_GET* that there are (RTM_GETTUNNEL).
const LAST: u16 = 122;

/// Answers one request. `Ok(true)`: it was a dump.
pub fn answer(to: &mut Answer<'_, '_>, r: &Request<'_>) -> Result<bool> {
    if r.kind > LAST {
        return Err(Errno::EOPNOTSUPP);
    }
    // RTM_NEW*, RTM_DEL*, RTM_GET*, RTM_SET* follow one another.
    if r.kind & 3 != 2 {
        return Err(Errno::EPERM);
    }
    if r.dumps() {
        match r.kind {
            libc::RTM_GETLINK => links(to, r),
            libc::RTM_GETADDR => addresses(to, r),
            libc::RTM_GETROUTE => routes(to, r),
            // Neighbours, rules, queues...: there are none to tell of.
            _ => {}
        }
        return Ok(true);
    }
    match r.kind {
        libc::RTM_GETLINK => one_link(to, r)?,
        libc::RTM_GETROUTE => one_route(to, r)?,
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(false)
}

/// RTM_NEWLINK.
fn link(to: &mut Answer<'_, '_>, i: &Iface) {
    let lo = i.index == LO;
    to.begin(NEWLINK);
    to.put(&[0, 0]);
    to.put(&i.hardware.to_ne_bytes());
    to.put(&i.index.to_ne_bytes());
    // IFF_LOWER_UP: there is a carrier.
    to.put(&(i.flags | 0x1_0000).to_ne_bytes());
    to.put(&[0; 4]);
    to.attr_text(libc::IFLA_IFNAME, i.name);
    to.attr_u32(libc::IFLA_TXQLEN, 1000);
    // IF_OPER_UNKNOWN, IF_OPER_UP
    to.attr(libc::IFLA_OPERSTATE, &[if lo { 0 } else { 6 }]);
    to.attr(libc::IFLA_LINKMODE, &[0]);
    to.attr_u32(libc::IFLA_MTU, i.mtu);
    to.attr_u32(libc::IFLA_GROUP, 0);
    to.attr_u32(libc::IFLA_PROMISCUITY, 0);
    to.attr_u32(libc::IFLA_NUM_TX_QUEUES, 1);
    to.attr_u32(libc::IFLA_NUM_RX_QUEUES, 1);
    to.attr(libc::IFLA_CARRIER, &[1]);
    to.attr_text(libc::IFLA_QDISC, "noqueue");
    // struct rtnl_link_stats64, rtnl_link_stats: packets are not counted by interface.
    to.attr(libc::IFLA_STATS64, &[0; 25 * 8]);
    to.attr(libc::IFLA_STATS, &[0; 24 * 4]);
    to.attr(libc::IFLA_ADDRESS, &i.mac);
    to.attr(libc::IFLA_BROADCAST, &if lo { [0; 6] } else { [0xff; 6] });
    to.end();
}

fn links(to: &mut Answer<'_, '_>, _: &Request<'_>) {
    let cx = to.cx();
    for i in iface::all(cx) {
        link(to, &i);
    }
}

fn one_link(to: &mut Answer<'_, '_>, r: &Request<'_>) -> Result<()> {
    // struct ifinfomsg; IFLA_ALT_IFNAME.
    const FIXED: usize = 16;
    let cx = to.cx();
    let name = r.attr(FIXED, libc::IFLA_IFNAME).or_else(|| r.attr(FIXED, 53));
    let found = match (r.u32(4), name) {
        (0, None) => return Err(Errno::EINVAL),
        (0, Some(name)) => iface::by_name(cx, name),
        (n, _) => iface::by_index(cx, n),
    };
    link(to, &found.ok_or(Errno::ENODEV)?);
    Ok(())
}

/// Does a request for `family` want `ip`?
fn of_family(family: u8, ip: Ip) -> bool {
    match i32::from(family) {
        libc::AF_UNSPEC => true,
        libc::AF_INET => ip.is_v4(),
        libc::AF_INET6 => !ip.is_v4(),
        _ => false,
    }
}

/// The family of an address, as a byte.
fn family_of(ip: Ip) -> u8 {
    (if ip.is_v4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// RT_SCOPE_* of an address of ours.
fn scope(ip: Ip) -> u8 {
    if ip.is_loopback() {
        254
    } else if ip.is_link_local6() {
        253
    } else {
        0
    }
}

fn addresses(to: &mut Answer<'_, '_>, r: &Request<'_>) {
    const IFA_F_PERMANENT: u8 = 0x80;
    let cx = to.cx();
    // The kernel lists one family after the other.
    for v4 in [true, false] {
        for i in iface::all(cx).filter(|i| r.u32(4) == 0 || r.u32(4) == i.index) {
            for p in i.addrs(cx).iter().filter(|p| p.ip.is_v4() == v4 && of_family(r.u8(0), p.ip)) {
                to.begin(NEWADDR);
                to.put(&[family_of(p.ip), p.len, IFA_F_PERMANENT, scope(p.ip)]);
                to.put(&i.index.to_ne_bytes());
                to.attr_ip(libc::IFA_ADDRESS, p.ip);
                if v4 {
                    to.attr_ip(libc::IFA_LOCAL, p.ip);
                    if let Some(all) = iface::broadcast_of(p).filter(|_| i.index != LO) {
                        to.attr_ip(libc::IFA_BROADCAST, all);
                    }
                    to.attr_text(libc::IFA_LABEL, i.name);
                }
                // IFA_FLAGS
                to.attr_u32(8, u32::from(IFA_F_PERMANENT));
                let mut times = [0xff; 16];
                times[8..].fill(0);
                to.attr(libc::IFA_CACHEINFO, &times);
                to.end();
            }
        }
    }
}

/// A route: where to, RT_TABLE_*, RTN_*, RT_SCOPE_*, by which interface, from which address.
struct Route {
    dst: Prefix,
    table: u8,
    kind: u8,
    scope: u8,
    oif: u32,
    src: Option<Ip>,
    /// The router it goes by.
    via: Option<Ip>,
}

const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const BROADCAST: u8 = 3;

fn route(to: &mut Answer<'_, '_>, r: &Route) {
    const RTPROT_KERNEL: u8 = 2;
    const RTA_PRIORITY: u16 = 6;
    const RTA_TABLE: u16 = 15;
    to.begin(NEWROUTE);
    to.put(&[family_of(r.dst.ip), r.dst.len, 0, 0, r.table, RTPROT_KERNEL, r.scope, r.kind]);
    to.put(&[0; 4]);
    to.attr_u32(RTA_TABLE, u32::from(r.table));
    if r.dst.len != 0 {
        to.attr_ip(libc::RTA_DST, r.dst.ip);
    }
    if !r.dst.ip.is_v4() {
        to.attr_u32(RTA_PRIORITY, if r.table == TABLE_LOCAL { 0 } else { 256 });
    }
    if let Some(src) = r.src.filter(|s| s.is_v4()) {
        to.attr_ip(libc::RTA_PREFSRC, src);
    }
    if let Some(via) = r.via {
        to.attr_ip(libc::RTA_GATEWAY, via);
    }
    to.attr_u32(libc::RTA_OIF, r.oif);
    to.end();
}

/// A prefix with the bits behind its length cleared.
fn network(p: &Prefix) -> Prefix {
    let mut ip = p.ip;
    let skip = if ip.is_v4() { 96 } else { 0 };
    for bit in usize::from(p.len) + skip..128 {
        ip.0[bit / 8] &= !(0x80 >> (bit % 8));
    }
    Prefix { ip, len: p.len }
}

fn each_route(cx: &Cx<'_>, mut each: impl FnMut(&Route)) {
    // What no other route has goes out by the uplink's routers.
    for (via, any) in uplink::routers(cx).into_iter().zip([Ip::ANY4, Ip::ANY6]).filter(|(via, _)| !via.is_unspecified()) {
        let dst = Prefix { ip: any, len: 0 };
        each(&Route { dst, table: TABLE_MAIN, kind: UNICAST, scope: 0, oif: iface::UP, src: None, via: Some(via) });
    }
    for i in iface::all(cx) {
        for p in &i.addrs(cx) {
            let v4 = p.ip.is_v4();
            let whole = if v4 { 32 } else { 128 };
            let src = Some(p.ip);
            let (link, host) = if v4 { (253, 254) } else { (0, 0) };
            if i.index == LO && v4 {
                each(&Route { dst: network(p), table: TABLE_LOCAL, kind: LOCAL, scope: host, oif: LO, src, via: None });
            } else if i.index != LO && p.len < whole {
                each(&Route { dst: network(p), table: TABLE_MAIN, kind: UNICAST, scope: link, oif: i.index, src, via: None });
            }
            // In table local an IPv4 address is its interface's, an IPv6 one too.
            each(&Route {
                dst: Prefix { ip: p.ip, len: whole },
                table: TABLE_LOCAL,
                kind: LOCAL,
                scope: host,
                oif: i.index,
                src,
                via: None,
            });
            if let Some(all) = iface::broadcast_of(p).filter(|_| v4) {
                each(&Route {
                    dst: Prefix { ip: all, len: 32 },
                    table: TABLE_LOCAL,
                    kind: BROADCAST,
                    scope: link,
                    oif: i.index,
                    src,
                    via: None,
                });
            }
        }
    }
}

fn routes(to: &mut Answer<'_, '_>, r: &Request<'_>) {
    // struct rtmsg: family at 0, table at 4.
    const FIXED: usize = 12;
    let table = r.attr(FIXED, 15).and_then(|t| t.first().copied()).unwrap_or_else(|| r.u8(4));
    let cx = to.cx();
    each_route(cx, |one| {
        if of_family(r.u8(0), one.dst.ip) && (table == 0 || table == one.table) {
            route(to, one);
        }
    });
}

/// The route to one destination, as `ip route get` asks.
fn one_route(to: &mut Answer<'_, '_>, r: &Request<'_>) -> Result<()> {
    const FIXED: usize = 12;
    let dst = r.attr(FIXED, libc::RTA_DST).ok_or(Errno::EINVAL)?;
    let ip = match dst {
        &[a, b, c, d] => Ip::v4([a, b, c, d]),
        _ => Ip(dst.try_into().map_err(|_| Errno::EINVAL)?),
    };
    let cx = to.cx();
    let src = iface::source(cx, ip, 0)?;
    let local = iface::class(cx, ip) == Class::Local;
    let len = if ip.is_v4() { 32 } else { 128 };
    let oif = if local { LO } else { iface::device_to(cx, ip) };
    let on_link = || uplink::addrs(cx).iter().any(|p| ip.matches(p.ip, p.len));
    let via = (oif == iface::UP && !on_link()).then(|| uplink::routers(cx)[usize::from(!ip.is_v4())]);
    let (table, kind) = if local { (TABLE_LOCAL, LOCAL) } else { (TABLE_MAIN, UNICAST) };
    route(to, &Route { dst: Prefix { ip, len }, table, kind, scope: 0, oif, src: Some(src), via });
    Ok(())
}
