//! segment: who is on the segments of a runtime directory, and whether one more may join.
//!
//! # Theory of operation
//! Purpose: `csel ps` and `ss` list instances; `csel run` finds out before the program starts that its name or address is taken,
//! the segment full, or its file of another version. How it works: the files are the core's (`net::link::join`), which checks owner,
//! mode, size and version before anything in them is believed. A port counts as taken only while a process of its instance holds its
//! lock, so the dead are not listed.
//!
//! Limits: what is read may be a moment old; the library checks again when it joins. Locks: the file's join lock, while it is opened.
//! Failure: `JoinError`'s words, which name option, value and remedy.
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use csel_core::config::{Config, Name, Path as DirPath};
use csel_core::gate::file::ofd_is_locked;
use csel_core::net::link::join::{self, JoinError};
use csel_core::net::link::segment::{PORTS, Port, Segment};

use crate::Failure;

/// One instance on a segment.
#[derive(Clone, serde::Serialize)]
pub(crate) struct Instance {
    pub(crate) segment: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) pid: u32,
    pub(crate) program: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
}

/// A segment's file, open and mapped as long as this lives.
pub(crate) struct Open {
    seg: &'static Segment,
    fd: i32,
}

impl Open {
    pub(crate) fn new(dir: &Path, net: &Name, create: bool) -> Result<Self, Failure> {
        let path = DirPath::new(dir.as_os_str().as_bytes())
            .map_err(|e| Failure::new(format_args!("{}: {e}; set CSEL_DIR to a shorter path", dir.display())))?;
        let (seg, fd) = join::open(&path, net, create).map_err(Failure::new)?;
        Ok(Self { seg, fd })
    }

    /// Whether there is room, and the name and the addresses asked for are free.
    fn admits(&self, config: &Config) -> Result<(), Box<JoinError>> {
        if self.live().count() >= PORTS {
            return Err(JoinError::Full(config.net).into());
        }
        for port in self.live() {
            if !config.name.is_empty() && port.name().as_str().eq_ignore_ascii_case(config.name.as_str()) {
                return Err(JoinError::NameTaken(config.name, port.pid.load(Relaxed)).into());
            }
            for cidr in &config.ip {
                let ip = join::of(cidr.addr);
                if port.addrs().any(|(a, _)| a == ip) {
                    return Err(JoinError::AddressTaken(ip, port.name()).into());
                }
            }
        }
        Ok(())
    }

    /// The ports whose instances live.
    fn live(&self) -> impl Iterator<Item = &Port> {
        self.seg.taken().filter(|(n, _)| ofd_is_locked(self.fd, u64::from(*n)) != Ok(false)).map(|(_, p)| p)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // The reference does not leave this struct.
        join::close(self.seg, self.fd);
    }
}

/// Everybody on the segments of `dir` (or on one), and what could not be read.
pub(crate) fn instances(dir: &Path, net: Option<&str>) -> Result<(Vec<Instance>, Vec<String>), Failure> {
    let mut names = Vec::new();
    match net {
        Some(net) => names.push(Name::new(net).map_err(|e| Failure::new(format_args!("--net: bad value \"{net}\": {e}")))?),
        None => match std::fs::read_dir(dir) {
            Ok(entries) => {
                let files = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
                names.extend(files.filter_map(|f| Name::new(f.strip_suffix(".seg")?).ok()));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::new(format_args!("{}: {e}", dir.display()))),
        },
    }
    let (mut all, mut troubles) = (Vec::new(), Vec::new());
    for name in names {
        if !dir.join(format!("{name}.seg")).exists() {
            continue;
        }
        match Open::new(dir, &name, false) {
            Ok(open) => all.extend(open.live().map(|p| describe(&name, p))),
            Err(f) => troubles.push(f.message),
        }
    }
    Ok((all, troubles))
}

/// The name of a process.
pub(crate) fn program_of(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).map_or_else(|_| "-".to_owned(), |c| c.trim_end().to_owned())
}

fn describe(segment: &Name, port: &Port) -> Instance {
    let pid = port.pid.load(Relaxed);
    let mac = csel_core::config::Mac(port.mac());
    Instance {
        segment: segment.to_string(),
        name: port.name().to_string(),
        hostname: port.hostname().to_string(),
        pid,
        program: program_of(pid),
        addresses: port.addrs().map(|(ip, len)| format!("{ip}/{len}")).collect(),
        mac: mac.to_string(),
        mtu: port.mtu.load(Relaxed),
    }
}

/// Whether an instance with these options may join. What an instance holds whose program has just ended is waited for, as the library does.
pub(crate) fn admit(config: &Config, dir: &Path) -> Result<(), Failure> {
    let open = Open::new(dir, &config.net, true)?;
    let mut tries = join::PATIENCE_MS;
    while let Err(e) = open.admits(config) {
        if tries == 0 || !join::is_leaving(open.seg, &e) {
            return Err(Failure::new(e));
        }
        tries -= 1;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}
