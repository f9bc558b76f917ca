//! polldiff: random sequences of operations on real sockets of the kernel's and on csel's give the same events.
//!
//! # Theory of operation
//! Purpose: epoll's rules (level, edge, one-shot, exclusive, nested, dup, close without DEL, both kinds of descriptor in one wait) have too many
//! combinations to list. A sequence is made from a number, run natively and under csel, and every result is compared: events, masks, errors.
//!
//! How it works: this program runs itself twice for each batch of sequences, natively and with LD_PRELOAD=libcsel.so, each in a network
//! namespace of its own where that is allowed. A child writes one line for each sequence; the parent compares the lines. What an operation sets going
//! in the kernel (a segment on its way through a softirq) is waited for by asking for the *level* that must come, so nothing depends on time.
//! Operations are chosen from the number and from what the sequence itself has done, never from results.
//!
//! Use: `cargo test -p csel-tests --test polldiff` (those of [`FOUND`], then 2 000 sequences); `CSEL_POLLDIFF_SEQUENCES=100000`;
//! `CSEL_POLLDIFF_FIRST=n` to begin elsewhere. A difference is shown with both lines from where they part; `CSEL_POLLDIFF_FIRST=n
//! CSEL_POLLDIFF_SEQUENCES=1` runs it again, with `CSEL_POLLDIFF_TIMES=5000` as often (what two processes do at once differs rarely).
//!
//! Limits: events of one wait are compared as a set: the order of two that one operation causes is the softirq's, natively. That what is ready takes
//! turns is seen by as many waits for one event as there are events.
mod world;

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Sequences that have differed once: each is run [`OFTEN`] times.
const FOUND: &[u64] = &[796, 2_502, 40_731, 62_112, 70_312, 74_210, 75_910, 86_292, 100_743];
const OFTEN: u64 = 50;
const RANGE: &str = "CSEL_POLLDIFF_RANGE";
const BATCH: u64 = 500;
/// How long a batch may take on whatever machine.
const DEADLINE: Duration = Duration::from_secs(300);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Where libcsel.so is: CSEL_LIB, else the release build beside us, else the debug one.
fn library() -> PathBuf {
    if let Some(path) = std::env::var_os("CSEL_LIB") {
        return fs::canonicalize(&path).unwrap_or_else(|e| panic!("CSEL_LIB={}: {e}", path.display()));
    }
    let exe = std::env::current_exe().expect("own path");
    let target = exe.ancestors().nth(3).expect("a target directory above this program");
    let found = ["release", "debug"].iter().map(|p| target.join(p).join("libcsel.so")).find(|p| p.exists());
    found.unwrap_or_else(|| panic!("{}/release/libcsel.so is not there: cargo build --release -p csel-shim", target.display()))
}

fn spawn(mode: &str, from: u64, to: u64, times: u64, dir: &Path) -> Child {
    let out = fs::File::create(dir.join(format!("{mode}.out"))).expect("a file for the lines");
    let err = fs::File::create(dir.join(format!("{mode}.err"))).expect("a file for messages");
    let mut c = Command::new(std::env::current_exe().expect("own path"));
    c.env(RANGE, format!("{from} {to} {times}")).env("XDG_RUNTIME_DIR", dir).stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    if mode == "csel" {
        c.env("LD_PRELOAD", library()).env("CSEL_NET", format!("polldiff-{}-{from}", std::process::id()));
    }
    // SAFETY: between fork and exec, one system call that touches no memory of ours. Not allowed is not a failure.
    unsafe {
        c.pre_exec(|| {
            libc::unshare(libc::CLONE_NEWNET);
            Ok(())
        });
    }
    c.spawn().expect("this program again")
}

fn finish(mode: &str, mut child: Child, dir: &Path) -> Result<String, String> {
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break Some(status);
        }
        if begun.elapsed() > DEADLINE {
            // SAFETY: a group we made.
            unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let lines = fs::read_to_string(dir.join(format!("{mode}.out"))).unwrap_or_default();
    let said = fs::read_to_string(dir.join(format!("{mode}.err"))).unwrap_or_default();
    match status {
        Some(s) if s.success() => Ok(lines),
        Some(s) => Err(format!("{mode}: {s} (signal {:?}) after {} sequences\n{said}", s.signal(), lines.lines().count())),
        None => Err(format!("{mode}: no end after {DEADLINE:?} and {} sequences\n{said}", lines.lines().count())),
    }
}

/// Shows where two lines part.
fn differs(native: &str, csel: &str) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (native.split("; ").collect(), csel.split("; ").collect());
    let at = a.iter().zip(&b).position(|(x, y)| x != y).unwrap_or_else(|| a.len().min(b.len()));
    let before = a[..at].join("\n    ");
    let show = |v: &[&str]| v.get(at).map_or_else(|| "(nothing)".to_string(), ToString::to_string);
    format!("    {before}\n  native: {}\n  csel:   {}", show(&a), show(&b))
}

/// Runs sequences `from` to `to`, each so often, both ways; how many differ.
fn compare(base: &Path, from: u64, to: u64, times: u64) -> u64 {
    let mut bad = 0;
    let dir = base.join(from.to_string());
    fs::create_dir_all(&dir).expect("a directory");
    let (native, csel) = (spawn("native", from, to, times, &dir), spawn("csel", from, to, times, &dir));
    match (finish("native", native, &dir), finish("csel", csel, &dir)) {
        (Ok(a), Ok(b)) => {
            for (i, (x, y)) in (0..).zip(a.lines().zip(b.lines())) {
                if x != y {
                    bad += 1;
                    if bad <= 10 {
                        println!("sequence {} (turn {}):\n{}", from + i / times, i % times, differs(x, y));
                    }
                }
            }
            let lines = (to - from) * times;
            if a.lines().count() as u64 != lines || b.lines().count() as u64 != lines {
                bad += 1;
                println!("{} native and {} csel lines of {lines}", a.lines().count(), b.lines().count());
            }
        }
        (a, b) => {
            bad += 1;
            for e in [a.err(), b.err()].into_iter().flatten() {
                println!("{e}");
            }
        }
    }
    let _ = fs::remove_dir_all(&dir);
    bad
}

fn main() -> ExitCode {
    if let Ok(range) = std::env::var(RANGE) {
        let n: Vec<u64> = range.split(' ').map(|n| n.parse().expect("a number")).collect();
        return world::child(n[0], n[1], n[2]);
    }
    if std::env::args().any(|a| a == "--list") {
        println!("polldiff: test");
        return ExitCode::SUCCESS;
    }
    let count = number("CSEL_POLLDIFF_SEQUENCES", 2_000);
    let first = number("CSEL_POLLDIFF_FIRST", 0);
    let times = number("CSEL_POLLDIFF_TIMES", 1).max(1);
    let base = std::env::temp_dir().join(format!("csel-polldiff-{}", std::process::id()));
    let (mut bad, mut from) = (0, first);
    if first == 0 {
        bad += FOUND.iter().map(|&n| compare(&base, n, n + 1, OFTEN)).sum::<u64>();
    }
    while from < first + count {
        let to = (from + BATCH).min(first + count);
        bad += compare(&base, from, to, times);
        from = to;
    }
    let _ = fs::remove_dir_all(&base);
    println!("polldiff: {count} sequences, {bad} differ");
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
