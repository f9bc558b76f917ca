//! options: the core's option table as flags of `csel run`.
//!
//! How it works: [`Given`] is flattened into clap's `run`; it adds one argument per row of [`OPTIONS`] and keeps the texts given.
//! [`Options`] joins the sources (flag before variable before file) and has the core check each text, so that what is accepted here
//! is accepted by the library. Limits: none. Locks: none. Failure: the core's message, in the words of the source it came from.
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use csel_core::config::{Config, OPTIONS, Opt, by_env};

use crate::Failure;

/// What was given on the command line, by variable.
#[derive(Debug, Default)]
pub(crate) struct Given(pub(crate) BTreeMap<&'static str, Vec<OsString>>);

impl Args for Given {
    fn augment_args(mut cmd: Command) -> Command {
        for opt in OPTIONS.iter().filter(|o| !o.flag.is_empty()) {
            let mut arg = Arg::new(opt.env)
                .long(opt.flag)
                .value_name(opt.value)
                .value_parser(clap::value_parser!(OsString))
                .action(if opt.many { ArgAction::Append } else { ArgAction::Set })
                .help_heading("Instance")
                .help(help(opt));
            if opt.flag == "trace" {
                // --trace alone is standard error; the program's name must not be taken for its value.
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("1");
            }
            if opt.flag == "publish" {
                arg = arg.short('p');
            }
            if opt.value == "on|off" && opt.default == "off" {
                // As a switch: the flag alone is on.
                arg = arg.num_args(0..=1).require_equals(true).default_missing_value("on");
            }
            cmd = cmd.arg(arg);
        }
        cmd
    }

    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}

fn help(opt: &Opt) -> String {
    let range = if opt.high > 0 { format!("; {} to {}", opt.low, opt.high) } else { String::new() };
    format!("{} [{}; default: {}{range}]", opt.help.trim(), opt.env, opt.default)
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for opt in OPTIONS.iter().filter(|o| !o.flag.is_empty()) {
            if let Some(values) = matches.get_many::<OsString>(opt.env) {
                self.0.insert(opt.env, values.cloned().collect());
            }
        }
        Ok(())
    }
}

/// Where a text came from.
enum Source {
    Flag,
    Variable,
    File(String),
}

/// The options as the program will get them.
pub(crate) struct Options {
    /// Checked.
    pub(crate) config: Config,
    /// The variables to set.
    pub(crate) variables: BTreeMap<&'static str, OsString>,
    /// Which options came from a flag (for the words of messages).
    flags: Vec<&'static str>,
    /// Which came from a flag or a file, not from the environment.
    pub(crate) launched: Vec<&'static str>,
}

impl Options {
    /// Joins flags, variables and the file's options, and checks them all.
    pub(crate) fn new(
        given: &Given,
        environment: &BTreeMap<OsString, OsString>,
        file: Option<(&str, &BTreeMap<&'static str, Vec<OsString>>)>,
    ) -> Result<Self, Failure> {
        let mut out = Self { config: Config::DEFAULT, variables: BTreeMap::new(), flags: Vec::new(), launched: Vec::new() };
        for opt in OPTIONS {
            let variable = environment.get(std::ffi::OsStr::new(opt.env)).filter(|v| !v.is_empty());
            let (source, values) = if let Some(values) = given.0.get(opt.env) {
                out.flags.push(opt.env);
                (Source::Flag, values.clone())
            } else if let Some(value) = variable {
                (Source::Variable, vec![value.clone()])
            } else if let Some((name, values)) = file.and_then(|(name, f)| Some((name, f.get(opt.env)?))) {
                (Source::File(name.to_owned()), values.clone())
            } else {
                continue;
            };
            if !matches!(source, Source::Variable) {
                out.launched.push(opt.env);
            }
            for value in &values {
                check(&mut out.config, opt, value, &source)?;
            }
            out.variables.insert(opt.env, values.join(std::ffi::OsStr::new(",")));
        }
        Ok(out)
    }

    /// The option in the words of whoever gave it: `--net` or `CSEL_NET`.
    pub(crate) fn called(&self, env: &'static str) -> String {
        match by_env(env.as_bytes()).filter(|_| self.flags.contains(&env)) {
            Some(opt) => format!("--{}", opt.flag),
            None => env.to_owned(),
        }
    }
}

fn check(config: &mut Config, opt: &'static Opt, value: &OsString, source: &Source) -> Result<(), Failure> {
    if value.is_empty() {
        return Err(Failure::new(format_args!("--{}: needs a value; for example --{} {}", opt.flag, opt.flag, opt.example)));
    }
    config.set(opt, value.as_bytes()).map_err(|e| {
        let mut text = String::new();
        let _ = match source {
            Source::Flag => e.write_as_flag(&mut text),
            Source::Variable => std::fmt::Write::write_fmt(&mut text, format_args!("{e}")),
            Source::File(name) => std::fmt::Write::write_fmt(
                &mut text,
                format_args!(
                    "--config {name}: {} = \"{}\": {}; for example {} = \"{}\"",
                    opt.flag,
                    value.display(),
                    e.problem(),
                    opt.flag,
                    opt.example
                ),
            ),
        };
        Failure::new(text)
    })
}
