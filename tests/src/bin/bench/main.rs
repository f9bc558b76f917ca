//! bench: csel against the kernel's loopback, in the same run, alternating.
//!
//! Purpose: the ratios that the project promises, each from unmodified programs in two processes: natively over 127.0.0.1, under csel as two
//! instances on one segment. Absolute times mean nothing on a shared machine; a ratio of medians taken turn by turn does.
//!
//! How it works: a [`Case`] says how to start its server and its client and which numbers to take from the client's words. Each round runs
//! the kernel's turn and then csel's; the figure is the median of the rounds (5; 3 with `BENCH_QUICK=1`). Everything runs in a network and
//! PID namespace of its own with the loopback up (`unshare`), so that nothing outlives the run and memory can be counted by process.
//!
//! Usage: `bench [--json FILE] [--attach preload|run] [--only WORD[,WORD]]`. Prints a table, writes it as JSON and as Markdown beside that.
//! Programs come from `CSEL_LIB`, `CSEL_BIN` and `CSEL_TESTBIN` (or beside this program).
//!
//! Limits: two processes on two cores; a loaded machine widens the spread, which the table shows. Failure: a client is bounded by `timeout`;
//! a case that fails on one side is a row that says so, and the exit status is 1.
mod cases;

use cases::{CASES, Case, Want, own_bound};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use std::{env, fs};

type Outcome<T> = Result<T, String>;

/// Which stack carries a turn.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Kernel,
    Csel,
}

struct Bench {
    lib: PathBuf,
    bin: PathBuf,
    peer: PathBuf,
    work: PathBuf,
    attach: String,
    quick: bool,
    turn: usize,
}

/// Ends its process when dropped: by its own pid, and waits for it.
struct Server(Child);
impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: a child of ours that has not been waited for: the pid is still its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        for _ in 0..100 {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bench {
    /// `args` as instance `name`; bounded by `limit` seconds if that is not 0.
    fn command(&self, side: Side, name: &str, args: &[String], envs: &[(&str, &str)], limit: u32) -> Command {
        let mut words: Vec<String> = Vec::new();
        if limit > 0 {
            words.extend(["timeout".into(), "-k".into(), "2".into(), limit.to_string()]);
        }
        if side == Side::Csel {
            let net = format!("bench{}", self.turn);
            words.push("env".into());
            words.extend(envs.iter().map(|(k, v)| format!("{k}={v}")));
            words.push(format!("XDG_RUNTIME_DIR={}", self.work.display()));
            if self.attach == "run" {
                let bin = self.bin.display().to_string();
                words.extend([bin, "run".into(), "--name".into(), name.into(), "--net".into(), net, "--".into()]);
            } else {
                words.extend([format!("CSEL_NAME={name}"), format!("CSEL_NET={net}"), format!("LD_PRELOAD={}", self.lib.display())]);
            }
        }
        words.extend(args.iter().cloned());
        let mut c = Command::new(&words[0]);
        c.args(&words[1..]).stdin(Stdio::null()).current_dir(&self.work);
        c
    }

    fn words(&self, args: &[&str], side: Side, quick: &[(&str, &str)]) -> Vec<String> {
        let host = if side == Side::Kernel { "127.0.0.1" } else { "server" };
        args.iter()
            .map(|a| {
                let a = quick.iter().find(|(from, _)| self.quick && from == a).map_or(*a, |(_, to)| to);
                let a = a.replace("HOST", host).replace("WORK", &self.work.display().to_string());
                if a == "peer" { self.peer.display().to_string() } else { a }
            })
            .collect()
    }

    /// One turn: server up, client, server down. Returns what the client printed.
    fn turn(&mut self, case: &Case, side: Side) -> Outcome<String> {
        self.turn += 1;
        let args = self.words(case.server, side, &[]);
        let log = self.work.join("server.log");
        let err = fs::File::create(&log).map_err(|e| e.to_string())?;
        let mut child = self
            .command(side, "server", &args, case.env, 0)
            .stdout(Stdio::piped())
            .stderr(err)
            .spawn()
            .map_err(|e| format!("{}: {e}", args[0]))?;
        let out = child.stdout.take();
        let _server = Server(child);
        match case.port {
            None => {
                let mut line = String::new();
                let mut out = BufReader::new(out.ok_or("no output")?);
                out.read_line(&mut line).map_err(|e| e.to_string())?;
                if line.trim() != "listening" {
                    return Err(format!("server: {line}{}", tail(&log)));
                }
            }
            Some(port) => {
                // Whatever it writes must not fill the pipe.
                std::thread::spawn(move || out.map(|mut o| o.read_to_end(&mut Vec::new())));
                let args = self.words(&["peer", "wait", "HOST", port, "20"], side, &[]);
                let done = self.command(side, "wait", &args, &[], 25).output().map_err(|e| e.to_string())?;
                if !done.status.success() {
                    return Err(format!("server does not answer: {}{}", String::from_utf8_lossy(&done.stderr), tail(&log)));
                }
            }
        }
        let args = self.words(case.client, side, case.quick);
        let done = self.command(side, "client", &args, case.env, 60).output().map_err(|e| e.to_string())?;
        if !done.status.success() {
            let words: String = String::from_utf8_lossy(&done.stderr).chars().take(300).collect();
            return Err(format!("client: {} {words}{}", done.status, tail(&log)));
        }
        Ok(String::from_utf8_lossy(&done.stdout).replace('\r', "\n"))
    }

    /// Start-up time of `true` in milliseconds, bare or attached by `how`: the median of many.
    fn startup(&self, how: Option<&str>) -> Outcome<f64> {
        let mut ms = Vec::new();
        for _ in 0..if self.quick { 20 } else { 60 } {
            // Neither `env` nor `timeout` between: they would be measured too.
            let mut c = Command::new(if how == Some("run") { self.bin.as_os_str() } else { "true".as_ref() });
            match how {
                Some("run") => c.args(["run", "--name", "t", "--net", "start", "--", "true"]),
                Some(_) => c.env("LD_PRELOAD", &self.lib).env("CSEL_NAME", "t").env("CSEL_NET", "start"),
                None => &mut c,
            }
            .env("XDG_RUNTIME_DIR", &self.work);
            let t0 = Instant::now();
            let status = c.status().map_err(|e| e.to_string())?;
            if !status.success() {
                return Err(format!("true: {status}"));
            }
            ms.push(t0.elapsed().as_secs_f64() * 1e3);
        }
        Ok(median(&mut ms))
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().take(3).fold(String::new(), |s, l| format!("{s} | {l}"))
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    if v.is_empty() { f64::NAN } else { v[v.len() / 2] }
}

/// One row of the table.
struct Row {
    name: String,
    unit: &'static str,
    kernel: Vec<f64>,
    csel: Vec<f64>,
    want: Want,
    error: Option<String>,
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let (k, c) = (median(&mut self.kernel.clone()), median(&mut self.csel.clone()));
        let number = |v: f64| match v {
            v if v.is_nan() => "-".to_owned(),
            v if v >= 1000.0 => format!("{v:.0}"),
            v => format!("{v:.2}"),
        };
        let spread = |v: &[f64]| {
            let (lo, hi) = v.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
            if v.is_empty() { String::new() } else { format!(" ({}-{})", number(lo), number(hi)) }
        };
        let ratio = c / k;
        let (bound, met) = match (own_bound(&self.name), self.want) {
            (Some(b), _) => (format!("csel <= {b} {}", self.unit), Some(c <= b)),
            (None, Want::AtMost(Some(b))) => (format!("<= {b}"), Some(ratio <= b)),
            (None, Want::AtLeast(Some(b))) => (format!(">= {b}"), Some(ratio >= b)),
            _ => (String::new(), None),
        };
        let verdict = match (&self.error, met) {
            (Some(e), _) => format!("FAILED: {}", e.chars().take(160).collect::<String>()),
            (None, Some(true)) => "met".into(),
            (None, Some(false)) => "short".into(),
            (None, None) => String::new(),
        };
        let name = format!("{}{}", self.name, if self.unit.is_empty() { String::new() } else { format!(", {}", self.unit) });
        [name, number(k) + &spread(&self.kernel), number(c) + &spread(&self.csel), number(ratio), bound, verdict]
    }

    fn json(&self) -> String {
        let list = |v: &[f64]| v.iter().map(|x| format!("{x:.4}")).collect::<Vec<_>>().join(",");
        let text = |s: &str| s.chars().map(|c| if c == '"' || c == '\\' || c.is_control() { ' ' } else { c }).collect::<String>();
        let [_, _, _, ratio, bound, verdict] = self.cells();
        format!(
            "{{\"name\":\"{}\",\"unit\":\"{}\",\"kernel\":[{}],\"csel\":[{}],\"ratio\":{},\"wanted\":\"{}\",\"verdict\":\"{}\"}}",
            self.name,
            self.unit,
            list(&self.kernel),
            list(&self.csel),
            ratio.parse::<f64>().map_or_else(|_| "null".into(), |r| format!("{r}")),
            text(&bound),
            text(&verdict)
        )
    }
}

/// Runs this program again in namespaces of its own, with the loopback up.
fn into_namespaces() {
    if env::var_os("BENCH_NS").is_some() {
        return;
    }
    for flags in ["-npf", "-rnpf"] {
        let probe = Command::new("unshare").args([flags, "--mount-proc", "--kill-child", "true"]).stderr(Stdio::null()).status();
        if probe.is_ok_and(|s| s.success()) {
            let me = env::current_exe().unwrap_or_default();
            let up = "ip link set lo up; exec \"$0\" \"$@\"";
            let e = Command::new("unshare")
                .args([flags, "--mount-proc", "--kill-child", "sh", "-c", up])
                .arg(me)
                .args(env::args().skip(1))
                .env("BENCH_NS", "1")
                .exec();
            eprintln!("bench: unshare: {e}");
        }
    }
    eprintln!("bench: no namespaces to be had: on the host's own loopback, and memory is not counted rightly");
}

fn main() {
    into_namespaces();
    let (mut json, mut attach, mut only) = (None, "preload".to_owned(), Vec::new());
    let mut args = env::args().skip(1);
    while let Some(a) = args.next() {
        match (a.as_str(), args.next()) {
            ("--json", Some(v)) => json = Some(PathBuf::from(v)),
            ("--attach", Some(v)) => attach = v,
            ("--only", Some(v)) => only = v.split(',').map(str::to_owned).collect(),
            _ => {
                eprintln!("usage: bench [--json FILE] [--attach preload|run] [--only WORD,...]");
                std::process::exit(2);
            }
        }
    }
    let beside = env::current_exe().ok().and_then(|p| p.parent().map(Path::to_owned)).unwrap_or_default();
    let place = |var: &str, file: &str| env::var_os(var).map_or_else(|| beside.join(file), PathBuf::from);
    // The process id is one of a namespace of our own: another bench may have the same at the same time.
    let since = std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos());
    let work = env::temp_dir().join(format!("csel-bench-{}-{since}", std::process::id()));
    let peer = env::var_os("CSEL_TESTBIN").map_or_else(|| beside.clone(), PathBuf::from).join("peer");
    let quick = env::var_os("BENCH_QUICK").is_some_and(|v| v != "0");
    let mut b = Bench { lib: place("CSEL_LIB", "libcsel.so"), bin: place("CSEL_BIN", "csel"), peer, work, attach, quick, turn: 0 };
    for f in ["CSEL_LIB", "CSEL_BIN", "CSEL_TESTBIN", "LD_PRELOAD"] {
        // SAFETY: no other thread runs yet.
        unsafe { env::remove_var(f) };
    }
    if let Err(e) = prepare(&b.work) {
        eprintln!("bench: {}: {e}", b.work.display());
        std::process::exit(1);
    }
    let rows = measure(&mut b, &only);
    let table = table(&rows);
    println!("{table}");
    let failed = rows.iter().filter(|r| r.error.is_some()).count();
    if let Some(path) = json {
        let text = format!(
            "{{\"quick\":{quick},\"attach\":\"{}\",\"rows\":[\n{}\n]}}\n",
            b.attach,
            rows.iter().map(Row::json).collect::<Vec<_>>().join(",\n")
        );
        let written = fs::write(&path, text).and_then(|()| fs::write(path.with_extension("md"), markdown(&rows)));
        match written {
            Ok(()) => println!("written: {} and .md", path.display()),
            Err(e) => eprintln!("bench: {}: {e}", path.display()),
        }
    }
    let _ = fs::remove_dir_all(&b.work);
    if failed > 0 {
        eprintln!("bench: {failed} rows failed");
        std::process::exit(1);
    }
}

/// The work directory and nginx's site in it, for one process and for a master with two workers.
fn prepare(work: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(work.join("www"))?;
    fs::set_permissions(work, fs::Permissions::from_mode(0o700))?;
    fs::write(work.join("www/index.html"), vec![b'n'; 612])?;
    let w = work.display();
    let conf = |processes: &str| {
        format!(
            "daemon off; {processes} error_log stderr error; pid {w}/pid; user root;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {w}/b; proxy_temp_path {w}/p; fastcgi_temp_path {w}/f;\n\
         uwsgi_temp_path {w}/u; scgi_temp_path {w}/s; server {{ listen 80; root {w}/www; }} }}\n"
        )
    };
    fs::write(work.join("nginx.conf"), conf("master_process off; worker_processes 1;"))?;
    fs::write(work.join("nginx2.conf"), conf("worker_processes 2;"))?;
    fs::write(work.join("pg.sh"), POSTGRES)
}

/// PostgreSQL's server, with a database made the first time. It refuses to be root: it is somebody else in a user namespace of its own, where
/// the directory of segments is its own as well. A server that was killed may have left processes, which end by themselves.
const POSTGRES: &str = r#"
if [ -z "$2" ]; then exec unshare -U --map-user=1000 --map-group=1000 sh "$0" "$1" in; fi
cd "$1" && PATH=/usr/lib/postgresql/15/bin:$PATH && export LC_ALL=C
if [ ! -e pg.ready ]; then
  rm -rf pg; initdb -D pg -U me -A trust --no-sync --no-locale -E UTF8 || exit 1
  echo "host all all all trust" >>pg/pg_hba.conf
  printf "unix_socket_directories = '%s'
shared_buffers = 64MB
fsync = off
autovacuum = off
max_connections = 40
" "$1" >>pg/postgresql.conf
  pg_ctl -D pg -w -l pg.log -o "-c listen_addresses=" start && pgbench -h "$1" -U me -q -i -s 1 postgres && pg_ctl -D pg -w stop && touch pg.ready || exit 1
fi >&2
rm -f pg/postmaster.pid
for n in 1 2 3 4 5 6 7 8 9 10; do [ -z "$(pgrep -f "postgres -D $1/pg")" ] && break; sleep 0.2; done
exec postgres -D "$1/pg" -c listen_addresses="*" >&2
"#;

fn measure(b: &mut Bench, only: &[String]) -> Vec<Row> {
    let mut rows = Vec::new();
    let wanted = |w: &str| only.is_empty() || only.iter().any(|o| w.starts_with(o.as_str()));
    for case in CASES.iter().filter(|c| wanted(c.word)) {
        let t0 = Instant::now();
        let mut of_case: Vec<Row> = case
            .figures
            .iter()
            .map(|f| Row { name: f.name.into(), unit: f.unit, kernel: vec![], csel: vec![], want: f.want, error: None })
            .collect();
        // With one row failing there is no use in four more of the same.
        let mut broken = [false; 2];
        for _ in 0..case.rounds.map_or(if b.quick { 3 } else { 5 }, |r| if b.quick { 1 } else { r }) {
            for (i, side) in [Side::Kernel, Side::Csel].into_iter().enumerate().filter(|(i, _)| !broken[*i]).collect::<Vec<_>>() {
                match b.turn(case, side) {
                    Ok(text) => {
                        for (row, f) in of_case.iter_mut().zip(case.figures) {
                            match (f.find)(&text) {
                                Some(v) if side == Side::Kernel => row.kernel.push(v),
                                Some(v) => row.csel.push(v),
                                None => row.error = Some(format!("no figure in: {}", text.chars().take(200).collect::<String>())),
                            }
                        }
                    }
                    Err(e) => {
                        broken[i] = true;
                        let side = if i == 0 { "kernel" } else { "csel" };
                        of_case.iter_mut().for_each(|r| r.error = Some(format!("{side}: {}", e.trim())));
                    }
                }
            }
        }
        eprintln!("bench: {} ({:.1} s)", case.word, t0.elapsed().as_secs_f64());
        for r in &of_case {
            eprintln!("    {}", r.cells().join(" | "));
        }
        rows.extend(of_case);
    }
    if wanted("start") {
        for (name, how) in [("start-up, `csel run -- true` to `true`", "run"), ("start-up, LD_PRELOAD true to `true`", "preload")] {
            let mut row = Row { name: name.into(), unit: "ms", kernel: vec![], csel: vec![], want: Want::AtMost(None), error: None };
            for _ in 0..3 {
                match b.startup(None).and_then(|k| Ok((k, b.startup(Some(how))?))) {
                    Ok((k, c)) => {
                        row.kernel.push(k);
                        row.csel.push(c);
                    }
                    Err(e) => row.error = Some(e),
                }
            }
            rows.push(row);
        }
    }
    rows
}

const HEAD: [&str; 6] = ["what", "kernel (spread)", "csel (spread)", "ratio", "wanted", ""];

fn table(rows: &[Row]) -> String {
    let lines: Vec<[String; 6]> = std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().map(Row::cells)).collect();
    let width = |i: usize| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    lines
        .iter()
        .map(|l| {
            (0..6)
                .map(|i| format!("{:<w$}", l[i], w = if i == 5 { 0 } else { widths[i] }))
                .collect::<Vec<_>>()
                .join("  ")
                .trim_end()
                .to_owned()
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn markdown(rows: &[Row]) -> String {
    let line = |c: &[String; 6]| format!("| {} |\n", c.join(" | "));
    let head = line(&HEAD.map(str::to_owned)) + "|---|---|---|---|---|---|\n";
    rows.iter().fold(head, |s, r| s + &line(&r.cells()))
}
