//! doctor: what will be covered and what will not; `csel symbols`.
//!
//! How it works: a row for each thing `run` needs (the library, the runtime directory) and, for a program, what [`program`] says.
//! Ends 0 if all is well, 1 if not. `symbols` prints the section `.csel.symbols` of libcsel.so, which the library's own table made.
//! Limits: what a program does once it runs (raw system calls, programs it starts) is not looked at, and said so.
//! Locks: none. Failure: [`Failure`].
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;

use csel_core::config::Config;

use crate::cli::Doctor;
use crate::program::le;
use crate::{Failure, program, run};

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
    let bytes = std::fs::read(&path).map_err(|e| Failure::new(format_args!("{}: {e}", path.display())))?;
    let text = section(&bytes, ".csel.symbols")
        .ok_or_else(|| Failure::new(format_args!("{}: has no table of symbols; is it csel's library?", path.display())))?;
    std::io::stdout().write_all(text).map_err(Failure::new)?;
    Ok(0)
}

/// The contents of an ELF section.
fn section<'a>(elf: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let index = |n: u64| usize::try_from(n).ok();
    let (at, size, count, names) = (le(elf, 40, 8)?, le(elf, 58, 2)?, le(elf, 60, 2)?, le(elf, 62, 2)?);
    let head = |n: u64| index(at.checked_add(n * size)?);
    let body = |n: u64| {
        let h = head(n)?;
        let (from, len) = (index(le(elf, h + 24, 8)?)?, index(le(elf, h + 32, 8)?)?);
        elf.get(from..from.checked_add(len)?)
    };
    let strings = body(names)?;
    let called = |n: u64| {
        let from = strings.get(index(le(elf, head(n)?, 4)?)?..)?;
        Some(OsStr::new(name).as_encoded_bytes() == from.split(|b| *b == 0).next()?)
    };
    (0..count).find(|n| called(*n) == Some(true)).and_then(body)
}
