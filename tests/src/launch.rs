//! launch: programs as instances, for the tests of the tools, options and names.
//!
//! # Theory of operation
//! Purpose: a test says `World::new()`, then `world.run(["--name", "web", "--", "sh", ...])`, `world.preload(&[("CSEL_NAME", "web")], ...)` or
//! `world.bare(...)`, and gets what the program printed and how it ended. How it works: each world has a runtime directory of its own
//! (`CSEL_DIR`), so worlds do not meet; no CSEL_ variable of the caller reaches a program. Each program is bounded by [`PATIENCE`] and then
//! killed by its pid. Output goes to files, not pipes: a keeper that outlives a program would hold a pipe open.
//!
//! Limits: the release build beside the tests, or what `CSEL_LIB` and `CSEL_BIN` name; if it is missing the test fails with the remedy.
//! Locks: none. Failure: panics, with everything the program said.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a program may take; only there so that nothing hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A built file: what the variable names, or the file beside the test program's directory.
#[must_use]
pub fn built(variable: &str, file: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let exe = std::env::current_exe().expect("/proc/self/exe");
    // target/release/deps/cli-1234 -> target
    let target = exe.ancestors().nth(3).expect("a target directory");
    let path = target.join("release").join(file);
    assert!(path.exists(), "{} is not there: `make build` first, or name it by {variable}", path.display());
    path
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Said {
    /// Its status.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The exit status; 128 + the signal if there was one.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Its output, if it ended with 0.
    #[track_caller]
    #[must_use]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code(), 0, "{self:?}");
        self.out.trim_end()
    }

    /// It ended with `code` and its standard error has all of `words`.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "\"{word}\" is not in the message: {self:?}");
        }
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it ended?
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Its standard input, if that was piped.
    #[must_use]
    pub fn input(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// What it has printed so far.
    #[must_use]
    pub fn so_far(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits until it has printed `word`.
    #[track_caller]
    pub fn until(&mut self, word: &str) {
        let ok = wait_for(|| self.so_far().contains(word) || matches!(self.child.try_wait(), Ok(Some(_))));
        assert!(
            ok && self.so_far().contains(word),
            "\"{word}\" was not printed: {} {}",
            self.so_far(),
            fs::read_to_string(&self.err).unwrap_or_default()
        );
    }

    /// Waits for its end.
    #[track_caller]
    #[must_use]
    pub fn end(mut self) -> Said {
        let mut status = None;
        wait_for(|| {
            status = self.child.try_wait().expect("waitpid");
            status.is_some()
        });
        let late = status.is_none();
        if late {
            let _ = self.child.kill();
        }
        let status = status.unwrap_or_else(|| self.child.wait().expect("waitpid"));
        let read = |p: &Path| String::from_utf8_lossy(&fs::read(p).unwrap_or_default()).into_owned();
        let said = Said { status, out: read(&self.out), err: read(&self.err) };
        assert!(!late, "did not end in {PATIENCE:?}: {said:?}");
        said
    }

    /// Ends it (SIGKILL) and waits.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Asks again and again, up to [`PATIENCE`].
pub fn wait_for(mut done: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One test's world: a runtime directory and a place for files, removed at the end.
pub struct World {
    /// The place.
    pub dir: PathBuf,
    csel: PathBuf,
    lib: PathBuf,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A world with nobody in it.
    #[must_use]
    pub fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("csel-world-{}-{n}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&dir).expect("a directory for the test");
        fs::DirBuilder::new().mode(0o700).create(dir.join("run")).expect("a runtime directory");
        Self { dir, csel: built("CSEL_BIN", "csel"), lib: built("CSEL_LIB", "libcsel.so") }
    }

    /// The runtime directory.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The library.
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.lib
    }

    /// A file of this world with this text.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("a file for the test");
        path
    }

    /// A program, with no variable of csel's from outside, and CSEL_DIR of this world.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut c = Command::new(program);
        for (key, _) in std::env::vars_os().filter(|(k, _)| k.as_encoded_bytes().starts_with(b"CSEL_")) {
            c.env_remove(key);
        }
        c.env_remove("LD_PRELOAD").env("CSEL_DIR", self.runtime()).stdin(Stdio::null());
        c
    }

    /// `csel` with these arguments, to be changed before it starts.
    #[must_use]
    pub fn csel_command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut c = self.command(&self.csel);
        c.env("CSEL_LIB", &self.lib).args(args);
        c
    }

    /// Starts a command, its output going to files.
    #[must_use]
    pub fn start(&self, mut c: Command) -> Running {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.dir.join(format!("{n}.out")), self.dir.join(format!("{n}.err")));
        let create = |p: &Path| fs::File::create(p).expect("a file for output");
        let child = c.stdout(create(&out)).stderr(create(&err)).spawn().unwrap_or_else(|e| panic!("{c:?}: {e}"));
        Running { child, out, err }
    }

    /// `csel` with these arguments, to its end.
    #[track_caller]
    #[must_use]
    pub fn csel<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Said {
        self.start(self.csel_command(args)).end()
    }

    /// `csel run` with these arguments, to its end.
    #[track_caller]
    #[must_use]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Said {
        let mut c = self.csel_command(["run"]);
        c.args(args);
        self.start(c).end()
    }

    /// A program by LD_PRELOAD with these variables, to be started.
    #[must_use]
    pub fn preload_command<S: AsRef<OsStr>>(&self, variables: &[(&str, &str)], args: impl IntoIterator<Item = S>) -> Command {
        let mut args = args.into_iter();
        let mut c = self.command(args.next().expect("a program"));
        c.args(args).env("LD_PRELOAD", &self.lib).envs(variables.iter().copied());
        c
    }

    /// A program by LD_PRELOAD with these variables, to its end.
    #[track_caller]
    #[must_use]
    pub fn preload<S: AsRef<OsStr>>(&self, variables: &[(&str, &str)], args: impl IntoIterator<Item = S>) -> Said {
        self.start(self.preload_command(variables, args)).end()
    }

    /// A program without csel, to its end.
    #[track_caller]
    #[must_use]
    pub fn bare<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Said {
        let mut args = args.into_iter();
        let mut c = self.command(args.next().expect("a program"));
        c.args(args);
        self.start(c).end()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}
