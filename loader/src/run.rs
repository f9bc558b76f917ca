//! run: `csel run [options] -- program args`.
//!
//! # Theory of operation
//! Purpose: everything that can be known to be wrong is said before the program starts; then the process becomes the program.
//!
//! How it works, in order: `--config` and `--env-file` are read; flags, variables and file are joined ([`Options`]) and checked by the
//! core; the program is found and looked at ([`program`]); the library is found; the runtime directory is made; who is on the segment
//! is read and the name and the addresses asked for are compared with it ([`segment::admit`]); then the environment is put together and
//! [`become_program`] called. Relative paths of options are made absolute, since the program may change its directory.
//!
//! Limits: another instance may take a name or an address between the check and the start: the library then says it.
//! Locks: none. Failure: see [`crate::Failure`]. See also: env(1), docker-run(1) (exit status), ld.so(8) (LD_PRELOAD).
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use csel_core::config::{Config, misspelt};
use csel_core::gate;

use crate::cli::Run;
use crate::exec::{become_program, ids};
use crate::options::Options;
use crate::{Failure, NOT_EXECUTABLE, NOT_FOUND, file, program, segment};

type Environment = BTreeMap<OsString, OsString>;

/// `csel run`. Comes back only if it fails.
pub(crate) fn run(args: &Run) -> Result<i32, Failure> {
    let name = args.config.as_ref().map(|p| p.display().to_string());
    let from_file = args.config.as_deref().map(file::config).transpose()?.unwrap_or_default();
    let mut environment: Environment = std::env::vars_os().collect();
    forget_outer(&mut environment);
    // The file's [env], then --env-file, then -e: the nearer to the user the later.
    environment.extend(from_file.env.iter().map(|(k, v)| (k.into(), v.into())));
    for path in &args.env_file {
        environment.extend(file::environment(path)?);
    }
    for text in &args.env {
        match file::assignment(text.as_bytes()) {
            Some((key, Some(value))) => {
                environment.insert(key, value);
            }
            // As docker: the variable is passed on as it is, which it is anyway.
            Some((_, None)) => {}
            None => return Err(Failure::new(format_args!("-e: bad value \"{}\": no assignment; for example -e LANG=C", text.display()))),
        }
    }
    for key in environment.keys() {
        if let Some(opt) = misspelt(key.as_bytes()) {
            return Err(Failure::new(format_args!(
                "{}: unknown option; did you mean {}? If it is not csel's, unset it",
                key.display(),
                opt.env
            )));
        }
    }
    let options = Options::new(&args.options, &environment, name.as_deref().map(|n| (n, &from_file.options)))?;
    let workdir = args.workdir.as_ref().or(from_file.workdir.as_ref());
    let here = std::env::current_dir().map_err(|e| Failure::new(format_args!("the working directory: {e}")))?;
    if let Some(dir) = workdir {
        std::env::set_current_dir(dir)
            .map_err(|e| Failure::new(format_args!("--workdir: bad value \"{}\": {e}; name a directory you may enter", dir.display())))?;
    }

    let (given, rest) = args.command.split_first().ok_or_else(|| Failure::new("no program"))?;
    let path = program::find(given, environment.get(OsStr::new("PATH")).map(OsString::as_os_str))?;
    let library = library()?;
    let off = options.config.disable;
    if !off {
        program::preloadable(&path)
            .map_err(|why| Failure::new(format_args!("{}: cannot be an instance: {why} (csel doctor {0} says more)", given.display())))?;
    }

    // From here on it is about this machine: directories, files, the segment.
    for (env, value) in &options.variables {
        if matches!(*env, "CSEL_PCAP" | "CSEL_TRACE" | "CSEL_DIR") && value != "1" {
            environment.insert(env.into(), here.join(value).into_os_string());
        } else {
            environment.insert(env.into(), value.clone());
        }
    }
    if !options.launched.is_empty() {
        environment.insert(LAUNCHED.into(), options.launched.join(",").into());
    }
    writable(&options, "CSEL_PCAP", &environment)?;
    writable(&options, "CSEL_TRACE", &environment)?;
    if !off {
        let dir = runtime_dir(&options.config, &here)?;
        make_private(&options, &dir)?;
        segment::admit(&options.config, &dir)?;
    }
    preload(&mut environment, &library)?;
    leave_family();
    Err(start(given, &path, rest, &environment))
}

/// Names the options that a `csel run` gave its program by flag or file, so that a `csel run` inside does not take them for the user's:
/// the inner instance has a name and addresses of its own.
const LAUNCHED: &str = "CSEL_LAUNCHED";

/// Drops what an outer `csel run` set for its own program.
fn forget_outer(environment: &mut Environment) {
    let Some(outer) = environment.remove(OsStr::new(LAUNCHED)) else { return };
    for name in outer.as_bytes().split(|b| *b == b',') {
        environment.remove(OsStr::from_bytes(name));
    }
}

/// A csel started by a program under csel makes an instance of its own: the arena and the segment it was born with, which the library
/// finds by their descriptors, are not handed on.
fn leave_family() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    for entry in entries.flatten() {
        let number = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok());
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let target = target.as_os_str().as_bytes();
        if let Some(fd) = number.filter(|_| target.starts_with(b"/memfd:csel-arena") || target.ends_with(b".seg")) {
            // By the gate: libc's close may be the library's, which guards these.
            let _ = gate::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC as usize);
        }
    }
}

/// Becomes the program; as execvp(3), a file the system does not know is given to the shell.
fn start(given: &OsStr, path: &Path, rest: &[OsString], environment: &Environment) -> Failure {
    let c = |text: Vec<u8>| CString::new(text);
    let args: Result<Vec<_>, _> =
        std::iter::once(given).chain(rest.iter().map(OsString::as_os_str)).map(|a| c(a.as_bytes().to_vec())).collect();
    let env: Result<Vec<_>, _> = environment
        .iter()
        .map(|(k, v)| {
            let mut line = k.clone();
            line.push("=");
            line.push(v);
            c(line.into_vec())
        })
        .collect();
    let (Ok(mut args), Ok(env)) = (args, env) else { return Failure::new("a zero byte in an argument or variable") };
    let mut error = become_program(path, &args, &env);
    if error.raw_os_error() == Some(libc::ENOEXEC)
        && let Ok(script) = CString::new(path.as_os_str().as_bytes())
    {
        args.splice(..1, [c"/bin/sh".to_owned(), script]);
        error = become_program(Path::new("/bin/sh"), &args, &env);
    }
    let status = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE };
    Failure::with(status, format_args!("{}: {error}", given.display()))
}

/// libcsel.so: `CSEL_LIB`, beside csel, or in ../lib.
pub(crate) fn library() -> Result<PathBuf, Failure> {
    if let Some(path) = std::env::var_os("CSEL_LIB").filter(|p| !p.is_empty()) {
        let path = PathBuf::from(path);
        return match std::fs::metadata(&path).and_then(|_| std::path::absolute(&path)) {
            Ok(path) => Ok(path),
            Err(e) => {
                Err(Failure::new(format_args!("CSEL_LIB: bad value \"{}\": {e}; name the file libcsel.so, or unset it", path.display())))
            }
        };
    }
    let exe = std::env::current_exe().map_err(|e| Failure::new(format_args!("/proc/self/exe: {e}; set CSEL_LIB to libcsel.so's path")))?;
    let dir = exe.parent().unwrap_or_else(|| Path::new("/"));
    let places = ["libcsel.so", "../lib/libcsel.so", "../lib/csel/libcsel.so"].map(|p| dir.join(p));
    places.iter().find(|p| p.exists()).cloned().ok_or_else(|| {
        Failure::new(format_args!(
            "libcsel.so is not beside {} nor in ../lib; build it (make build), or set CSEL_LIB to its path",
            exe.display()
        ))
    })
}

/// Puts the library first in LD_PRELOAD.
fn preload(environment: &mut Environment, library: &Path) -> Result<(), Failure> {
    let text = library.as_os_str().as_bytes();
    if text.iter().any(|b| matches!(b, b' ' | b':')) {
        return Err(Failure::new(format_args!(
            "LD_PRELOAD cannot hold the path \"{}\" (a blank or colon in it); move libcsel.so, or set CSEL_LIB to a link without them",
            library.display()
        )));
    }
    let mut all = text.to_vec();
    if let Some(old) = environment.get(OsStr::new("LD_PRELOAD")) {
        for other in old.as_bytes().split(|b| matches!(b, b' ' | b':')).filter(|o| !o.is_empty()) {
            // Not the same library twice: a second copy by another path would be a second stack.
            if Path::new(OsStr::from_bytes(other)).file_name() != Some(OsStr::new("libcsel.so")) {
                all.push(b':');
                all.extend_from_slice(other);
            }
        }
    }
    environment.insert("LD_PRELOAD".into(), OsString::from_vec(all));
    Ok(())
}

/// The directory of segments for these options, absolute.
pub(crate) fn runtime_dir(config: &Config, here: &Path) -> Result<PathBuf, Failure> {
    let base = std::env::var_os("XDG_RUNTIME_DIR");
    let dir = config
        .runtime_dir(base.as_deref().map(OsStr::as_bytes), ids().0)
        .map_err(|e| Failure::new(format_args!("XDG_RUNTIME_DIR: {e}; set CSEL_DIR to a shorter path")))?;
    Ok(here.join(OsStr::from_bytes(dir.as_bytes())))
}

/// Makes the runtime directory, 0700 and ours, or says why it cannot be used.
fn make_private(options: &Options, dir: &Path) -> Result<(), Failure> {
    let say = |problem: String| {
        let remedy = "name a directory of your own with --dir or CSEL_DIR";
        Failure::new(format_args!("{}: cannot use \"{}\": {problem}; {remedy}", options.called("CSEL_DIR"), dir.display()))
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| say(e.to_string()))?;
    let meta = std::fs::symlink_metadata(dir).map_err(|e| say(e.to_string()))?;
    if !meta.is_dir() {
        return Err(say("is no directory".into()));
    }
    if meta.uid() != ids().0 {
        return Err(say(format!("belongs to user {}", meta.uid())));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(say(format!("others may enter it (mode {:04o}); chmod 700 it", meta.mode() & 0o7777)));
    }
    Ok(())
}

/// A file the library will write: it can be opened, or made.
fn writable(options: &Options, env: &'static str, environment: &Environment) -> Result<(), Failure> {
    let Some(value) = options.variables.get(env).filter(|v| *v != "1") else { return Ok(()) };
    let path = environment.get(OsStr::new(env)).map_or_else(|| Path::new(value), Path::new);
    let probe = match std::fs::metadata(path) {
        Ok(_) => std::fs::OpenOptions::new().append(true).open(path).map(drop),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match path.parent().map(std::fs::metadata) {
            Some(Ok(dir)) if dir.is_dir() => Ok(()),
            _ => Err(e),
        },
        Err(e) => Err(e),
    };
    probe.map_err(|e| {
        Failure::new(format_args!("{}: bad value \"{}\": {e}; name a file that can be written", options.called(env), value.display()))
    })
}
