//! Parent and child of a trial.
//!
//! # Theory of operation
//! See main.rs for what a trial is. The parent waits on a pidfd, so it neither spins nor misses; output goes to a file, not a pipe,
//! because whatever outlives the child (csel's keeper) would hold a pipe open. The child runs its case on the main thread of a fresh
//! process, with default signal dispositions, and reports by its exit status: 0 passed, 101 a failed assertion, a signal otherwise.
//!
//! Failure: a child past its deadline is killed with its process group, by id.

use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::sys::{self, Net, sys};
use crate::{Case, Run};

/// How long one case may take, on whatever machine.
const DEADLINE: Duration = Duration::from_secs(30);

const CASE: &str = "CSEL_CASE";
const MODE: &str = "CSEL_MODE";

/// Names each child's segment and directory.
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A case with its IP version chosen.
struct One {
    name: String,
    run: Box<dyn Fn() + Send + Sync>,
}

fn expand(families: &[&'static [Case]]) -> Vec<One> {
    let mut all = Vec::new();
    for case in families.iter().flat_map(|family| family.iter()) {
        let family = case.family.rsplit("::").next().unwrap_or(case.family);
        match case.run {
            Run::One(run) => all.push(One { name: format!("{family}::{}", case.name), run: Box::new(run) }),
            Run::Net(run) => {
                for (net, tag) in [(Net::V4, "v4"), (Net::V6, "v6")] {
                    all.push(One { name: format!("{family}::{}_{tag}", case.name), run: Box::new(move || run(net)) });
                }
            }
        }
    }
    all
}

pub(crate) fn main(families: &[&'static [Case]]) -> ExitCode {
    let all = expand(families);
    if let Ok(name) = std::env::var(CASE) {
        let Some(case) = all.iter().find(|case| case.name == name) else {
            eprintln!("no case is called {name}");
            return ExitCode::from(2);
        };
        return child(case);
    }
    let mut args = Arguments::from_args();
    if args.test_threads.is_none() {
        args.test_threads = Some(4);
    }
    let base = std::env::temp_dir().join(format!("csel-conformance-{}", std::process::id()));
    if let Err(e) = private_dir(&base) {
        eprintln!("{}: {e}", base.display());
        return ExitCode::FAILURE;
    }
    let mut trials = Vec::new();
    for mode in ["native", "csel"] {
        for case in &all {
            let (name, base) = (case.name.clone(), base.clone());
            trials.push(Trial::test(format!("{mode}::{}", case.name), move || trial(mode, &name, &base)));
        }
    }
    let conclusion = libtest_mimic::run(&args, trials);
    let _ = fs::remove_dir_all(&base);
    conclusion.exit_code()
}

fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Where libcsel.so is: CSEL_LIB, else the release build beside us, else the debug one.
fn library() -> Result<PathBuf, Failed> {
    if let Some(path) = std::env::var_os("CSEL_LIB") {
        let path = PathBuf::from(path);
        let real = fs::canonicalize(&path).map_err(|e| format!("CSEL_LIB={}: {e}", path.display()))?;
        return Ok(real);
    }
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let target = exe.ancestors().nth(3).ok_or("no target directory above this program")?;
    for profile in ["release", "debug"] {
        let path = target.join(profile).join("libcsel.so");
        if path.exists() {
            return Ok(path);
        }
    }
    Err(format!("{}/release/libcsel.so is not there: cargo build --release -p csel-shim (or set CSEL_LIB)", target.display()).into())
}

fn trial(mode: &'static str, name: &str, base: &Path) -> Result<(), Failed> {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let dir = base.join(serial.to_string());
    private_dir(&dir)?;
    let result = run_child(mode, name, &dir, serial);
    match &result {
        Ok(()) => {
            let _ = fs::remove_dir_all(&dir);
        }
        // In CI, on a machine shared with others, a trial that fails is run a second time, and both are told of (as tests/test.sh does with whole
        // steps); never by hand, and what fails twice fails.
        Err(why) if std::env::var_os("CI").is_some() => {
            let second = base.join(format!("{serial}{AGAIN}"));
            private_dir(&second)?;
            if run_child(mode, name, &second, SERIAL.fetch_add(1, Ordering::Relaxed)).is_ok() {
                eprintln!("FLAKY: {mode}::{name} failed once and passed once; the first time: {}", why.message().unwrap_or("no words"));
                return Ok(());
            }
        }
        Err(_) => {}
    }
    result
}

/// Marks the directory of a second try.
const AGAIN: &str = "-again";

fn run_child(mode: &'static str, name: &str, dir: &Path, serial: u32) -> Result<(), Failed> {
    let log = dir.join("log");
    let out = fs::File::create(&log)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.env(CASE, name).env(MODE, mode).env("XDG_RUNTIME_DIR", dir).env("RUST_BACKTRACE", "0");
    command.stdin(std::process::Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
    if mode == "csel" {
        command.env("LD_PRELOAD", library()?);
        command.env("CSEL_NET", format!("conf-{}-{serial}", std::process::id()));
    }
    // SAFETY: between fork and exec, one system call that touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            // Not allowed is not a failure: the case then runs in our namespace.
            libc::unshare(libc::CLONE_NEWNET);
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let pid = child.id() as libc::pid_t;
    let in_time = wait_pid(pid);
    if !in_time {
        sys!(libc::kill(-pid, libc::SIGKILL)).get().ok();
    }
    let status = child.wait()?;
    // Whoever is left of the case's own children goes with it; the group may be empty.
    sys!(libc::kill(-pid, libc::SIGKILL)).get().ok();
    if in_time && status.success() {
        return Ok(());
    }
    let said = fs::read(&log).unwrap_or_default();
    let how = match (in_time, status.signal()) {
        (false, _) => format!("no end after {DEADLINE:?}: killed"),
        (true, Some(signal)) => format!("died of signal {signal}"),
        (true, None) => format!("{status}"),
    };
    Err(format!("{how}\n{}", String::from_utf8_lossy(&said)).into())
}

/// Whether `pid` ended before the deadline.
fn wait_pid(pid: libc::pid_t) -> bool {
    let fd = sys!(libc::syscall(libc::SYS_pidfd_open, pid, 0)).ok() as i32;
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let n = sys!(libc::poll(&mut poll, 1, DEADLINE.as_millis() as i32)).get().unwrap_or(0);
    sys!(libc::close(fd)).ok();
    n == 1
}

/// Runs one case, in the child.
fn child(case: &One) -> ExitCode {
    // SAFETY: no thread but this one yet; the Rust runtime ignores SIGPIPE, a C program does not, and csel replicates C's view.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    if sys::csel() {
        prove_live();
    } else {
        prepare_namespace();
    }
    (case.run)();
    ExitCode::SUCCESS
}

/// Brings `lo` up and opens ping sockets to us; does nothing where it is up already or we may not.
fn prepare_namespace() {
    let fd = sys!(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)).ok() as i32;
    // SAFETY: all-zero is a valid ifreq.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    req.ifr_name[0] = b'l' as libc::c_char;
    req.ifr_name[1] = b'o' as libc::c_char;
    req.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    sys!(libc::ioctl(fd, libc::SIOCSIFFLAGS, &req)).get().ok();
    sys!(libc::close(fd)).ok();
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
    // ::1 is tentative for no time at all on lo, but its setting up is work of another thread's.
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while std::net::TcpListener::bind("[::1]:0").is_err() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The library is mapped, and our AF_INET socket is an AF_UNIX socket of the kernel's.
fn prove_live() {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc/self/maps");
    assert!(maps.contains("libcsel.so"), "libcsel.so is not loaded: LD_PRELOAD={:?}", std::env::var_os("LD_PRELOAD"));
    let fd = sys!(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)).ok() as i32;
    let link = fs::read_link(format!("/proc/self/fd/{fd}")).expect("the socket is a real fd");
    let link = link.to_string_lossy().into_owned();
    let inode = link.trim_start_matches("socket:[").trim_end_matches(']');
    let unix = fs::read_to_string("/proc/net/unix").expect("/proc/net/unix");
    assert!(
        unix.lines().any(|line| line.split_whitespace().nth(6) == Some(inode)),
        "libcsel.so is loaded but not live: an AF_INET socket is the kernel's own ({link})"
    );
    sys!(libc::close(fd)).ok();
}
