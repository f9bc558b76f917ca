//! list: `csel ps` and `csel ss`.
//!
//! How it works: [`segment::instances`] says who is there; each instance's arena says what sockets it has. Tables for people, `--json` for
//! programs (one array of objects, fields named as the columns). Limits: an instance whose arena cannot be read is named on standard
//! error and has no sockets in the list. Locks: none. Failure: [`Failure`]. See also: ss(8), ps(1).
use std::io::Write as _;
use std::path::{Path, PathBuf};

use comfy_table::Table;
use csel_core::config::Config;

use crate::cli::{List, Sockets};
use crate::segment::{Instance, instances};
use crate::sockets::Socket;
use crate::{Failure, run, sockets};

/// The runtime directory the tools look at.
fn dir_of(args: &List) -> Result<PathBuf, Failure> {
    if let Some(dir) = &args.dir {
        return Ok(dir.clone());
    }
    if let Some(dir) = std::env::var_os("CSEL_DIR").filter(|d| !d.is_empty()) {
        return Ok(dir.into());
    }
    run::runtime_dir(&Config::DEFAULT, Path::new("/"))
}

/// Everybody asked for; what could not be read is said on standard error.
fn found(args: &List) -> Result<Vec<Instance>, Failure> {
    let (mut all, troubles) = instances(&dir_of(args)?, args.net.as_deref())?;
    for trouble in troubles {
        let _ = writeln!(std::io::stderr(), "csel: {trouble}");
    }
    all.sort_by(|a, b| (&a.segment, &a.name, a.pid).cmp(&(&b.segment, &b.name, b.pid)));
    Ok(all)
}

fn print(text: &str) -> Result<i32, Failure> {
    writeln!(std::io::stdout(), "{}", text.trim_end()).map_err(Failure::new)?;
    Ok(0)
}

fn json(value: &impl serde::Serialize) -> Result<i32, Failure> {
    print(&serde_json::to_string_pretty(value).map_err(Failure::new)?)
}

/// A table without lines, columns two blanks apart, as ps(1) and ss(8) look.
fn table(heading: Option<&[&str]>) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    if let Some(heading) = heading {
        table.add_row(heading);
    }
    table
}

fn text_of(table: &Table) -> String {
    // Every line comes padded and with a blank before it.
    table.lines().map(|l| l.strip_prefix(' ').unwrap_or(&l).trim_end().to_owned() + "\n").collect()
}

/// `csel ps`.
pub(crate) fn ps(args: &List) -> Result<i32, Failure> {
    let all = found(args)?;
    if args.json {
        return json(&all);
    }
    let mut table = table(Some(&["SEGMENT", "NAME", "PID", "PROGRAM", "ADDRESSES", "MAC", "MTU", "HOSTNAME"]));
    for i in &all {
        let (pid, mtu) = (i.pid.to_string(), i.mtu.to_string());
        table.add_row([&i.segment, &i.name, &pid, &i.program, &i.addresses.join(" "), &i.mac, &mtu, &i.hostname]);
    }
    print(&text_of(&table))
}

/// Whether the flags ask for this socket.
fn asked(args: &Sockets, s: &Socket) -> bool {
    let kinds = args.tcp || args.udp || args.raw;
    let kind = match s.netid {
        "tcp" => args.tcp,
        "udp" => args.udp,
        _ => args.raw,
    };
    let families = args.ipv4 || args.ipv6;
    // As ss(8): what has no peer of a kind without connections is listening.
    let listens = s.state == "LISTEN" || (s.netid != "tcp" && s.state == "UNCONN");
    (!kinds || kind)
        && (!families || if s.ipv6 { args.ipv6 } else { args.ipv4 })
        && (!args.listening || listens)
        // A socket that was only made says nothing; ss(8) does not know it either.
        && (s.netid != "tcp" || s.state != "UNCONN" || args.all)
        && args.list.net.as_ref().is_none_or(|net| *net == s.segment)
        && args.name.as_ref().is_none_or(|name| name.eq_ignore_ascii_case(&s.instance))
}

/// `csel ss`.
pub(crate) fn ss(args: &Sockets) -> Result<i32, Failure> {
    // Numbers are all there is; the flag is taken for those whose fingers know it.
    let _ = args.numeric;
    let (mut all, unread) = sockets::all(&dir_of(&args.list)?);
    if unread > 0 {
        let _ = writeln!(std::io::stderr(), "csel: {unread} instance(s) of another build of csel, or not readable from here, are left out");
    }
    all.retain(|s| asked(args, s));
    all.sort_by(|a, b| {
        (&a.segment, &a.instance, a.netid, a.local_port, a.peer_port).cmp(&(&b.segment, &b.instance, b.netid, b.local_port, b.peer_port))
    });
    if args.list.json {
        return json(&all);
    }
    let heading = ["Instance", "Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port", "Process"];
    let mut table = table((!args.no_header).then_some(&heading[..]));
    for s in &all {
        let port = |port: u16| if port == 0 { "*".to_owned() } else { port.to_string() };
        let local = format!("{}:{}", s.local_address, port(s.local_port));
        let peer = format!("{}:{}", s.peer_address, port(s.peer_port));
        let held: Vec<String> = s.processes.iter().map(|p| format!("(\"{}\",pid={},fd={})", p.program, p.pid, p.fd)).collect();
        let users = if held.is_empty() { String::new() } else { format!("users:({})", held.join(",")) };
        let (recv, send) = (s.recv_q.to_string(), s.send_q.to_string());
        table.add_row([s.instance.as_str(), s.netid, s.state, &recv, &send, &local, &peer, &users]);
    }
    print(&text_of(&table))
}
