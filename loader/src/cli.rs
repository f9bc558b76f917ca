//! cli: the command line.
//!
//! How it works: the subcommands are clap's; the options of `run` that an instance has come from the core's table ([`crate::options`]).
//! Wrong usage ends with 125 and clap's message, which names the argument and the nearest right one.
//! Limits: none. Locks: none. Failure: [`Failure`].
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::options::Given;
use crate::{Failure, OWN, doctor, list, run};

/// each application its own user-mode TCP/IP stack
#[derive(Parser)]
#[command(name = "csel", version, subcommand_required = true, arg_required_else_help = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a program as an instance with a network of its own
    Run(Run),
    /// Show the instances on the segments
    Ps(List),
    /// Show the instances' sockets, as ss(8) does
    Ss(Sockets),
    /// Say whether a program can be an instance, and what is missing
    Doctor(Doctor),
    /// Print the symbols libcsel.so takes over, one a line
    Symbols,
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

/// csel run
#[derive(clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) options: Given,
    /// Set a variable of the program's environment; may be repeated
    #[arg(short = 'e', long = "env", value_name = "K=V", help_heading = "Program")]
    pub(crate) env: Vec<OsString>,
    /// Read variables from a file, K=V a line, # begins a comment; may be repeated
    #[arg(long, value_name = "FILE", help_heading = "Program")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Start the program in this directory
    #[arg(short = 'w', long, value_name = "DIR", help_heading = "Program")]
    pub(crate) workdir: Option<PathBuf>,
    /// Read options from a TOML file; flags and CSEL_* variables go before it
    #[arg(long, value_name = "FILE", help_heading = "Program")]
    pub(crate) config: Option<PathBuf>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM", help_heading = "Program")]
    pub(crate) command: Vec<OsString>,
}

/// csel ps
#[derive(clap::Args)]
pub(crate) struct List {
    /// Only this segment
    #[arg(long, value_name = "SEGMENT")]
    pub(crate) net: Option<String>,
    /// Where segments are kept (CSEL_DIR)
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// csel ss
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Sockets {
    #[command(flatten)]
    pub(crate) list: List,
    /// Only this instance
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Listening sockets only
    #[arg(short, long)]
    pub(crate) listening: bool,
    /// Listening and other sockets (the default)
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Numbers, not names (the default)
    #[arg(short, long)]
    pub(crate) numeric: bool,
    /// TCP
    #[arg(short, long)]
    pub(crate) tcp: bool,
    /// UDP
    #[arg(short, long)]
    pub(crate) udp: bool,
    /// Raw and ping sockets
    #[arg(short = 'w', long)]
    pub(crate) raw: bool,
    /// IPv4 only
    #[arg(short = '4', long)]
    pub(crate) ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', long)]
    pub(crate) ipv6: bool,
    /// No heading
    #[arg(short = 'H', long)]
    pub(crate) no_header: bool,
    /// Print help
    #[arg(short = 'h', long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// csel doctor
#[derive(clap::Args)]
pub(crate) struct Doctor {
    /// The program to look at
    pub(crate) program: Option<OsString>,
}

/// Reads the command line and does what it says.
pub(crate) fn main() -> Result<i32, Failure> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return Ok(if e.use_stderr() { OWN } else { 0 });
        }
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Ps(args) => list::ps(&args),
        Command::Ss(args) => list::ss(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Symbols => doctor::symbols(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "csel", &mut std::io::stdout());
            Ok(0)
        }
        Command::Man => man(),
    }
}

/// The manual page: clap's, with the pages of the subcommands after it and the table of variables.
fn man() -> Result<i32, Failure> {
    let mut text = Vec::new();
    let mut top = Cli::command();
    top.build();
    let written = clap_mangen::Man::new(top.clone()).render(&mut text).and_then(|()| {
        for sub in top.get_subcommands().filter(|s| s.get_name() != "help") {
            writeln!(text, ".SH CSEL {}", sub.get_name().to_uppercase())?;
            let page = clap_mangen::Man::new(sub.clone());
            page.render_synopsis_section(&mut text)?;
            page.render_description_section(&mut text)?;
            page.render_options_section(&mut text)?;
        }
        let mut table = String::new();
        let _ = csel_core::config::write_docs(&mut table);
        writeln!(text, ".SH ENVIRONMENT\n.nf\n{}.fi", table.replace('\\', "\\\\").replace('-', "\\-"))?;
        writeln!(
            text,
            ".SH EXIT STATUS\nThe program's own; 125 if csel fails, 126 if the program cannot be executed, 127 if it is not found."
        )?;
        std::io::stdout().write_all(&text)
    });
    written.map_err(Failure::new)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_is_a_flag_of_run() {
        let mut top = Cli::command();
        let help = top.find_subcommand_mut("run").unwrap().render_long_help().to_string();
        for opt in csel_core::config::OPTIONS.iter().filter(|o| !o.flag.is_empty()) {
            assert!(help.contains(&format!("--{}", opt.flag)) && help.contains(opt.env), "{} is not in the help", opt.flag);
        }
    }
}
