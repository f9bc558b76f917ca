//! soak: a family under mixed load whose members are killed all the time.
//!
//! # Theory of operation
//! **Purpose.** `kill -9` of any member at any instant costs at most the connection it was inside; nothing stays taken, nobody hangs, no byte is wrong.
//! **How it works.** The supervisor (this program, native) starts two instances on one segment, each this program again, preloaded: `family`, eight
//! processes with servers and clients of all kinds ([`load`]), of which one is killed (or stopped for a while, or told to exit(3) with its
//! threads at work) every [`EVERY`] milliseconds and replaced by a fork from the root; and `peer`, a smaller family, which is killed as a whole every few seconds,
//! with or without its keeper, and started again. Now and then the first one's keeper is killed. A watchdog in shared memory ([`board`]) bounds
//! each operation. In the end the members are killed, and the instance's census ([`csel_core::repair::census`]) must come back to what it was before.
//! **Limits.** `SOAK_SECONDS` (20), `SOAK_SEED`, `SOAK_EVERY` (20 ms). **Failure.** Exit status 1, the seed and what was seen.
//! `SOAK_HOLD=1` leaves the processes for ten minutes to be looked at.
mod board;
mod family;
mod load;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Milliseconds between two deaths.
const EVERY: u64 = 20;
const HERE: &str = "10.111.1.1";
const THERE: &str = "10.111.1.2";

fn variable(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(usual)
}

/// An instance's root process and what it says.
struct Instance {
    child: Child,
    said: Receiver<String>,
}

impl Instance {
    fn start(dir: &Path, name: &str, ip: &str, args: &[String]) -> Self {
        let mut c = Command::new(std::env::current_exe().expect("/proc/self/exe"));
        c.arg("family").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        c.env("LD_PRELOAD", std::env::var_os("CSEL_LIB").expect("CSEL_LIB names the library"))
            .env("CSEL_DIR", dir)
            .env("CSEL_NAME", name)
            .env("CSEL_IP", format!("{ip}/16"));
        let mut child = c.spawn().expect("the family starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (to, said) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, said }
    }
    /// Waits until it says `word`, passing on the rest. None: it has ended, or is too late.
    fn until(&mut self, word: &str, patience: Duration) -> Option<String> {
        let end = Instant::now() + patience;
        loop {
            let line = self.said.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
            if line.starts_with(word) {
                return Some(line);
            }
            println!("  {line}");
        }
    }
    fn go(&mut self) {
        if let Some(to) = self.child.stdin.as_mut() {
            let _ = to.write_all(b"\n");
        }
    }
    fn pid(&self) -> u32 {
        self.child.id()
    }
    /// SIGKILL to its process group, all at once.
    fn kill(&mut self) {
        // SAFETY: no pointers; the group is our own child's.
        unsafe { libc::kill(-(self.pid() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is known of an instance from outside.
struct Look {
    keeper: u32,
    census: Vec<(&'static str, u64)>,
    fds: [usize; 2],
    resident: u64,
}

/// Looks into the arena that process `pid` has open.
fn look(pid: u32) -> Option<Look> {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;
    let path = [1021, 253, 61]
        .iter()
        .map(|n| PathBuf::from(format!("/proc/{pid}/fd/{n}")))
        .find(|p| std::fs::read_link(p).is_ok_and(|t| t.to_string_lossy().starts_with("/memfd:csel-arena")))?;
    let file = std::fs::File::options().read(true).write(true).open(path).ok()?;
    let resident = file.metadata().ok()?.blocks() * 512;
    let (keeper, census) = csel_core::arena::found::visit(file.as_raw_fd(), |inst| {
        (inst.header.keeper.load(std::sync::atomic::Ordering::SeqCst), csel_core::repair::census(inst).to_vec())
    })?;
    let count = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Some(Look { keeper, census, fds: [count(pid), count(keeper)], resident })
}

impl Look {
    /// What is above `before`; empty if all is back.
    fn above(&self, before: &Self) -> Vec<String> {
        let mut out = Vec::new();
        for ((name, is), (_, was)) in self.census.iter().zip(&before.census) {
            // A listener's port that is free though it listens is lost as well.
            if is > was || *name == "ports" && is != was {
                out.push(format!("{name} {is} (were {was})"));
            }
        }
        for (who, is, was) in [("root", self.fds[0], before.fds[0]), ("keeper", self.fds[1], before.fds[1])] {
            if is > was {
                out.push(format!("descriptors of the {who} {is} (were {was})"));
            }
        }
        out
    }
}

fn alive(pid: u32) -> bool {
    // SAFETY: no pointers.
    pid != 0 && unsafe { libc::kill(pid as i32, 0) } == 0
}

fn kill(pid: u32) {
    if pid > 1 {
        // SAFETY: no pointers; a keeper of an instance that we started.
        unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "family") {
        std::process::exit(family::main(&args[1..]));
    }
    let seconds = variable("SOAK_SECONDS", 20);
    let seed = variable("SOAK_SEED", u64::from(std::process::id()) ^ board::now() << 16);
    let every = variable("SOAK_EVERY", EVERY);
    println!("soak: {seconds} s, SOAK_SEED={seed}");
    let dir = std::env::temp_dir().join(format!("csel-soak-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).expect("a directory");
    let problems = soak(&dir, seconds, seed, every);
    let _ = std::fs::remove_dir_all(&dir);
    for p in &problems {
        println!("soak: {p}");
    }
    println!("soak: {} (SOAK_SEED={seed})", if problems.is_empty() { "passed" } else { "FAILED" });
    std::process::exit(i32::from(!problems.is_empty()));
}

fn soak(dir: &Path, seconds: u64, seed: u64, every: u64) -> Vec<String> {
    let patience = Duration::from_secs(60);
    let with_peer = variable("SOAK_PEER", 1) != 0;
    let mut hosts = vec!["127.0.0.1".to_owned(), HERE.to_owned()];
    if with_peer {
        hosts.push(THERE.to_owned());
    }
    let family = |seconds: u64, seed: u64, every: u64, count: u64, clients: u64, hosts: &[String]| {
        let mut v: Vec<String> = [seconds, seed, every, count, clients].iter().map(u64::to_string).collect();
        v.extend_from_slice(hosts);
        v
    };
    let peer = |seed: u64| {
        let mut p = Instance::start(dir, "there", THERE, &family(100_000, seed, 0, 2, 1, &[HERE.to_owned()]));
        p.until("ready", patience).map(|_| {
            p.go();
            p
        })
    };
    let mut here = Instance::start(dir, "here", HERE, &family(seconds, seed, every, board::MEMBERS as u64, 1, &hosts));
    if here.until("ready", patience).is_none() {
        return vec!["the family did not start".into()];
    }
    // Its keeper comes a little later.
    let kept = |l: &Look| alive(l.keeper);
    let until = Instant::now() + patience;
    let before = loop {
        std::thread::sleep(Duration::from_millis(100));
        match look(here.pid()) {
            Some(l) if kept(&l) => break l,
            _ if Instant::now() > until => return vec!["the arena cannot be looked at, or there is no keeper".into()],
            _ => {}
        }
    };
    let mut there = if with_peer { peer(seed) } else { None };
    if with_peer && there.is_none() {
        return vec!["the peer did not start".into()];
    }
    println!("soak: before: {:?}, fds {:?}, {} KiB", before.census, before.fds, before.resident >> 10);
    here.go();
    let mut rng = board::Rng::new(seed ^ 77);
    let mut problems = Vec::new();
    let end = Instant::now() + Duration::from_secs(seconds) + patience;
    let (mut keepers, mut instances, mut peak) = (0, 0, 0);
    let counts = loop {
        if let Some(line) = here.until("counts", Duration::from_millis(1500 + rng.below(1500))) {
            break line;
        }
        if matches!(here.child.try_wait(), Ok(Some(_))) || Instant::now() > end {
            problems.push("the root has ended, or does not end".into());
            break String::new();
        }
        let Some(now) = look(here.pid()) else { continue };
        peak = peak.max(now.resident);
        if rng.below(2) == 0 && variable("SOAK_KEEPER", 1) != 0 {
            keepers += 1;
            kill(now.keeper);
        }
        if let Some(mut old) = there.take() {
            if rng.below(2) == 0 {
                instances += 1;
                let its_keeper = look(old.pid()).map_or(0, |l| l.keeper);
                old.kill();
                if rng.below(2) == 0 {
                    kill(its_keeper);
                }
                match peer(seed ^ instances << 8) {
                    Some(new) => there = Some(new),
                    None => {
                        problems.push("the second instance did not start again".into());
                        break String::new();
                    }
                }
            } else {
                there = Some(old);
            }
        }
    };
    println!("soak: {counts}; keepers killed {keepers}, instances {instances}");
    if here.until("stopped", patience).is_none() {
        problems.push("the root did not stop".into());
    }
    drop(there);
    // Back to the start: what TCP must finish (FIN-WAIT-2, retransmissions to a dead instance) takes its time.
    let until = Instant::now() + Duration::from_secs(variable("SOAK_DRAIN", 75));
    loop {
        let Some(now) = look(here.pid()) else {
            problems.push("the arena cannot be looked at".into());
            break;
        };
        let left = now.above(&before);
        let kept = alive(now.keeper);
        if left.is_empty() && kept || Instant::now() > until {
            println!("soak: after: {:?}, fds {:?}, {} KiB (peak {})", now.census, now.fds, now.resident >> 10, peak >> 10);
            problems.extend(left.into_iter().map(|l| format!("left: {l}")));
            if !kept {
                problems.push("no keeper".into());
            }
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    here.go();
    match here.child.wait() {
        Ok(s) if s.success() => {}
        s => problems.push(format!("the family: {s:?}")),
    }
    problems
}
