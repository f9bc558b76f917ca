//! file: `--config FILE` (TOML) and `--env-file FILE` (K=V a line).
//!
//! How it works: a config file's keys are the flags of the option table (`net = "lab"`, `ip = ["10.111.0.5", "fd00::5"]`), plus
//! `workdir` and a table `[env]`. Values may be texts, whole numbers, booleans, or lists of these where the flag may be repeated.
//! Limits: none. Locks: none. Failure: the file, the line or key, the nearest key.
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use csel_core::config::{OPTIONS, by_flag};
use serde::Deserialize;

use crate::Failure;

/// A value in the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Number(i64),
    Switch(bool),
    List(Vec<Self>),
}

impl Value {
    fn texts(&self, out: &mut Vec<OsString>) {
        match self {
            Self::Text(text) => out.push(text.into()),
            Self::Number(n) => out.push(n.to_string().into()),
            Self::Switch(on) => out.push(if *on { "on" } else { "off" }.into()),
            Self::List(list) => list.iter().for_each(|v| v.texts(out)),
        }
    }
}

#[derive(Deserialize)]
struct Raw {
    workdir: Option<PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(flatten)]
    options: BTreeMap<String, Value>,
}

/// A config file, read.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    /// Texts of options, by variable.
    pub(crate) options: BTreeMap<&'static str, Vec<OsString>>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) env: BTreeMap<String, String>,
}

/// Reads a config file.
pub(crate) fn config(path: &Path) -> Result<ConfigFile, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| Failure::new(format_args!("--config {name}: {e}")))?;
    parse(&text).map_err(|e| Failure::new(format_args!("--config {name}: {e}")))
}

fn parse(text: &str) -> Result<ConfigFile, String> {
    let raw: Raw = toml::from_str(text).map_err(|e| e.to_string().trim_end().to_owned())?;
    let mut out = ConfigFile { options: BTreeMap::new(), workdir: raw.workdir, env: raw.env };
    for (key, value) in &raw.options {
        let Some(opt) = by_flag(key) else {
            let keys: Vec<_> = OPTIONS.iter().map(|o| o.flag).filter(|f| !f.is_empty()).collect();
            return Err(format!("unknown option \"{key}\"; the options are {}, workdir and [env]", keys.join(", ")));
        };
        let mut texts = Vec::new();
        value.texts(&mut texts);
        if texts.len() > 1 && !opt.many {
            return Err(format!("{key}: takes one value, not a list"));
        }
        if !texts.is_empty() {
            out.options.insert(opt.env, texts);
        }
    }
    Ok(out)
}

/// Reads an environment file: K=V a line, as it stands; `#` begins a comment line; K alone passes the variable on as it is.
pub(crate) fn environment(path: &Path) -> Result<Vec<(OsString, OsString)>, Failure> {
    let name = path.display();
    let text = std::fs::read(path).map_err(|e| Failure::new(format_args!("--env-file {name}: {e}")))?;
    let mut out = Vec::new();
    for (n, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        match assignment(line) {
            Some((key, Some(value))) => out.push((key, value)),
            Some((_, None)) => {}
            None => {
                return Err(Failure::new(format_args!(
                    "--env-file {name}:{}: \"{}\" is no assignment; write KEY=VALUE",
                    n + 1,
                    String::from_utf8_lossy(line)
                )));
            }
        }
    }
    Ok(out)
}

/// `K=V`, or `K` alone. `None`: no name.
pub(crate) fn assignment(text: &[u8]) -> Option<(OsString, Option<OsString>)> {
    let at = text.iter().position(|b| *b == b'=').unwrap_or(text.len());
    if at == 0 || text.contains(&0) || text[..at].iter().any(u8::is_ascii_whitespace) {
        return None;
    }
    let value = text.get(at + 1..).map(|v| OsString::from_vec(v.to_vec()));
    Some((std::ffi::OsStr::from_bytes(&text[..at]).to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_file_gives_options_environment_and_directory() {
        let c = parse("net = \"lab\"\nip = [\"10.0.0.1\", \"fd00::1\"]\nmtu = 1500\nkeeper = false\nworkdir = \"/x\"\n[env]\nA = \"b\"\n")
            .unwrap();
        assert_eq!(c.options["CSEL_IP"], ["10.0.0.1", "fd00::1"]);
        assert_eq!(c.options["CSEL_MTU"], ["1500"]);
        assert_eq!(c.options["CSEL_KEEPER"], ["off"]);
        assert_eq!(c.env["A"], "b");
        assert_eq!(c.workdir.unwrap(), Path::new("/x"));
    }

    #[test]
    fn wrong_config_files_say_what_is_wrong() {
        assert!(parse("nett = \"x\"").unwrap_err().contains("unknown option \"nett\""));
        assert!(parse("net = [\"a\", \"b\"]").unwrap_err().contains("one value"));
        assert!(parse("net = ").is_err() && parse("net = 1.5").is_err());
    }

    #[test]
    fn assignments() {
        let a = |t: &str| assignment(t.as_bytes());
        assert_eq!(a("A=b=c"), Some(("A".into(), Some("b=c".into()))));
        assert_eq!(a("A="), Some(("A".into(), Some("".into()))));
        assert_eq!(a("A"), Some(("A".into(), None)));
        assert!(a("=x").is_none() && a("A B=c").is_none() && a("").is_none());
    }
}
