//! csel: the launcher and its tools.
//!
//! # Theory of operation
//! Purpose: `csel run` starts a program as an instance of its own; `csel ps` and `csel ss` show instances and their sockets;
//! `csel doctor` says what will and what will not be covered.
//!
//! How it works: `run` checks everything it can before the program starts (options, program, library, segment), so that a
//! mistake is a message and not a half-started instance; then it sets LD_PRELOAD and the `CSEL_*` variables and **becomes** the
//! program ([`exec`]): same pid, same terminal, same signals, the program's own exit status. No launcher stays behind. The tools
//! read the segments' files and, through the processes on them, the instances' arenas; they change nothing.
//!
//! Map: [`cli`] (the command line), [`options`] (the option table as flags), [`file`] (`--config`, `--env-file`), [`run`], [`program`]
//! (what can be preloaded), [`segment`] (who is on a segment), [`sockets`] (what they have open), [`list`] (`ps`, `ss`), [`doctor`], [`exec`] (the edges to the system).
//! Limits: dynamically linked programs of this libc only. Locks: none. Failure: [`Failure`]: a line on standard error that names the
//! option, the value and the remedy, and 125; 126 a program that cannot be run, 127 one that is not there (as env(1), docker-run(1)).
#![cfg_attr(not(test), no_main)]

mod cli;
mod doctor;
mod exec;
mod file;
mod list;
mod options;
mod program;
mod run;
mod segment;
mod sockets;

use std::fmt;
use std::io::Write as _;

/// csel's own trouble.
pub(crate) const OWN: i32 = 125;
/// There, but it cannot be executed.
pub(crate) const NOT_EXECUTABLE: i32 = 126;
/// Not there.
pub(crate) const NOT_FOUND: i32 = 127;

/// Why csel ends: its exit status and what it says.
#[derive(Debug)]
pub(crate) struct Failure {
    status: i32,
    message: String,
}

impl Failure {
    /// csel's own trouble.
    pub(crate) fn new(message: impl fmt::Display) -> Self {
        Self { status: OWN, message: message.to_string() }
    }

    /// With a status of its own.
    pub(crate) fn with(status: i32, message: impl fmt::Display) -> Self {
        Self { status, message: message.to_string() }
    }
}

/// Everything between the command line and the exit status.
#[cfg_attr(test, allow(dead_code))]
fn entry() -> i32 {
    let status = match cli::main() {
        Ok(status) => status,
        Err(Failure { status, message }) => {
            if !message.is_empty() {
                let _ = writeln!(std::io::stderr(), "csel: {message}");
            }
            status
        }
    };
    // Rust's own main would flush; ours must.
    match std::io::stdout().flush() {
        Ok(()) => status,
        Err(_) => OWN,
    }
}
