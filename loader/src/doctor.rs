//! doctor: what will be covered and what will not; `csel symbols`.
//!
//! How it works: a row for each thing `run` needs (the library, the runtime directory) and, for a program, what [`program`] says.
//! Ends 0 if all is well, 1 if not. `symbols` loads libcsel.so and prints its own table.
//! Limits: what a program does once it runs (raw system calls, programs it starts) is not looked at, and said so.
//! Locks: none. Failure: [`Failure`].
use std::io::Write as _;
use std::path::Path;

use csel_core::config::Config;

use crate::cli::Doctor;
use crate::{Failure, exec, program, run};

/// One line of the report.
fn row(well: &mut bool, what: &str, found: Result<String, String>) -> Result<(), Failure> {
    let (mark, text) = match found {
        Ok(text) => ("ok ", text),
        Err(text) => {
            *well = false;
            ("BAD", text)
        }
    };
    writeln!(std::io::stdout(), "{mark} {what:<10} {text}").map_err(Failure::new)
}

/// `csel doctor [PROGRAM]`.
pub(crate) fn doctor(args: &Doctor) -> Result<i32, Failure> {
    let mut well = true;
    row(&mut well, "library", run::library().map(|p| p.display().to_string()).map_err(|f| f.message))?;
    let dir = run::runtime_dir(&Config::DEFAULT, Path::new("/"));
    row(&mut well, "directory", dir.map(|p| p.display().to_string()).map_err(|f| f.message))?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let spin = if cpus > 1 { "waits may spin" } else { "waits never spin by default" };
    row(&mut well, "processors", Ok(format!("{cpus}: {spin}")))?;
    if let Some(name) = &args.program {
        match program::find(name, std::env::var_os("PATH").as_deref()) {
            Err(f) => row(&mut well, "program", Err(f.message))?,
            Ok(path) => {
                row(&mut well, "program", Ok(path.display().to_string()))?;
                let covered = program::preloadable(&path).map(|()| "calls through libc are covered".to_owned());
                row(&mut well, "preload", covered)?;
                let limits = "system calls that do not go through libc (Go, inline assembly) reach the kernel's network";
                row(&mut well, "limits", Ok(limits.to_owned()))?;
            }
        }
    }
    Ok(if well { 0 } else { 1 })
}

/// `csel symbols`.
pub(crate) fn symbols() -> Result<i32, Failure> {
    let path = run::library()?;
    let text = exec::symbols(&path).map_err(|why| Failure::new(format_args!("{}: {why}", path.display())))?;
    std::io::stdout().write_all(&text).map_err(Failure::new)?;
    Ok(0)
}
