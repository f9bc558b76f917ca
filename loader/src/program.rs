//! program: which file will run, and whether a library can be preloaded into it.
//!
//! # Theory of operation
//! Purpose: LD_PRELOAD silently does nothing in a static program, in one of another libc or another machine, and in one that gains
//! privileges; the launcher says so instead of starting a program outside its instance.
//!
//! How it works: the program is looked up in PATH as execvp(3) does. A script is followed to its interpreter (`#!`, at most four
//! deep). Of the ELF file the class, the machine and PT_INTERP are read: no interpreter, a static program; another one than this
//! libc's, another libc. Setuid and setgid to somebody else and file capabilities make the loader drop LD_PRELOAD (AT_SECURE).
//!
//! Limits: what a program starts later is not looked at. Locks: none. Failure: [`Failure`] 127, 126, or 125 with the reason.
//! See also: ld.so(8) "Secure-execution mode", elf(5), execve(2).
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::exec::{executable, has_capabilities, ids};
use crate::{Failure, NOT_EXECUTABLE, NOT_FOUND};

/// Where execvp(3) would find the program.
pub(crate) fn find(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, Failure> {
    let shown = name.display();
    if name.is_empty() {
        return Err(Failure::with(NOT_FOUND, "the program's name is empty"));
    }
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match std::fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Failure::with(NOT_FOUND, format_args!("{shown}: not found"))),
            Err(e) => Err(Failure::with(NOT_EXECUTABLE, format_args!("{shown}: {e}"))),
            Ok(m) if m.is_dir() => Err(Failure::with(NOT_EXECUTABLE, format_args!("{shown}: is a directory"))),
            Ok(_) if !executable(&path) => {
                Err(Failure::with(NOT_EXECUTABLE, format_args!("{shown}: not executable; chmod +x it, or name its interpreter")))
            }
            Ok(_) => Ok(path),
        };
    }
    let mut denied = None;
    for dir in std::env::split_paths(path.unwrap_or_else(|| OsStr::new("/bin:/usr/bin"))) {
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir };
        let file = dir.join(name);
        if std::fs::metadata(&file).is_ok_and(|m| m.is_file()) {
            if executable(&file) {
                return Ok(file);
            }
            denied.get_or_insert(file);
        }
    }
    match denied {
        Some(file) => Err(Failure::with(NOT_EXECUTABLE, format_args!("{}: not executable", file.display()))),
        None => Err(Failure::with(NOT_FOUND, format_args!("{shown}: not found in PATH"))),
    }
}

/// What stands at the beginning of a file.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// `#!` and this interpreter.
    Script(PathBuf),
    /// ELF of this machine with this interpreter (PT_INTERP).
    Dynamic(PathBuf),
    /// ELF without interpreter.
    Static,
    /// ELF of another machine or word size.
    Foreign,
    /// Neither: the shell may understand it.
    Other,
}

/// Whether the program can be preloaded; if not, why, in words that fit after "PROGRAM: ".
pub(crate) fn preloadable(path: &Path) -> Result<(), String> {
    let mut path = path.to_owned();
    for _ in 0..5 {
        let of = |e: std::io::Error| format!("{}: {e}", path.display());
        let file = match File::open(&path) {
            // Execute-only files cannot be looked at; the program decides.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return gains_privileges(&path),
            other => other.map_err(of)?,
        };
        match kind(&file).map_err(of)? {
            Kind::Script(interpreter) => path = interpreter,
            Kind::Dynamic(interpreter) => {
                gains_privileges(&path)?;
                let name = interpreter.file_name().unwrap_or_default().as_bytes();
                return if name.starts_with(b"ld-linux") {
                    Ok(())
                } else {
                    Err(format!("uses another libc ({}); libcsel.so is for glibc", interpreter.display()))
                };
            }
            Kind::Static => {
                return Err(format!(
                    "{} is statically linked: nothing can be preloaded into it; use a dynamically linked build",
                    path.display()
                ));
            }
            Kind::Foreign => return Err(format!("{} is for another machine than {}", path.display(), std::env::consts::ARCH)),
            Kind::Other => return Ok(()),
        }
    }
    Err("too many interpreters one after the other".to_owned())
}

/// Setuid, setgid and capabilities: the loader drops LD_PRELOAD.
fn gains_privileges(path: &Path) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    let (uid, gid) = ids();
    let what = if meta.mode() & libc::S_ISUID != 0 && meta.uid() != uid {
        "setuid"
    } else if meta.mode() & libc::S_ISGID != 0 && meta.gid() != gid {
        "setgid"
    } else if uid != 0 && has_capabilities(path) {
        "privileged by file capabilities"
    } else {
        return Ok(());
    };
    Err(format!(
        "{} is {what}: the system drops LD_PRELOAD for it; run it as its owner, or use a copy without the privilege",
        path.display()
    ))
}

fn kind(file: &File) -> std::io::Result<Kind> {
    let mut head = Vec::with_capacity(256);
    file.take(256).read_to_end(&mut head)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|b| *b == b'\n').next().unwrap_or(line).trim_ascii_start();
        let word = line.split(u8::is_ascii_whitespace).next().unwrap_or(line);
        return Ok(if word.is_empty() { Kind::Other } else { Kind::Script(OsStr::from_bytes(word).into()) });
    }
    if !head.starts_with(b"\x7fELF") {
        return Ok(Kind::Other);
    }
    Ok(elf(&head, |buffer, at| file.read_exact_at(buffer, at)).unwrap_or(Kind::Foreign))
}

/// This machine, as e_machine says it.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

/// Reads an ELF file's program headers. `None`: not of this machine, or broken.
fn elf(head: &[u8], read: impl Fn(&mut [u8], u64) -> std::io::Result<()>) -> Option<Kind> {
    const PT_INTERP: u64 = 3;
    // Class 64, little endian.
    if head.get(4..6)? != [2, 1] || le(head, 18, 2)? != u64::from(MACHINE) {
        return None;
    }
    let (offset, size, count) = (le(head, 32, 8)?, le(head, 54, 2)?, le(head, 56, 2)?);
    for i in 0..count {
        let mut row = [0u8; 56];
        read(&mut row, offset.checked_add(i * size)?).ok()?;
        if le(&row, 0, 4)? == PT_INTERP {
            let mut name = vec![0; usize::try_from(le(&row, 32, 8)?).ok().filter(|n| *n <= 4096)?];
            read(&mut name, le(&row, 8, 8)?).ok()?;
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            return Some(Kind::Dynamic(OsString::from(OsStr::from_bytes(&name[..end])).into()));
        }
    }
    Some(Kind::Static)
}

/// A little-endian number of `n` bytes.
fn le(bytes: &[u8], at: usize, n: usize) -> Option<u64> {
    Some(bytes.get(at..at.checked_add(n)?)?.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_is_dynamic_and_found() {
        let sh = find(OsStr::new("sh"), Some(OsStr::new("/nowhere::/usr/bin:/bin"))).unwrap();
        assert!(matches!(kind(&File::open(&sh).unwrap()).unwrap(), Kind::Dynamic(_)));
        assert_eq!(preloadable(&sh), Ok(()));
    }

    #[test]
    fn what_is_not_there_or_not_executable() {
        let status = |name: &str| find(OsStr::new(name), Some(OsStr::new("/bin"))).map_err(|f| f.status).unwrap_err();
        assert_eq!(status("no-such-program"), NOT_FOUND);
        assert_eq!(status("./no/such"), NOT_FOUND);
        assert_eq!(status(""), NOT_FOUND);
        assert_eq!(status("/etc"), NOT_EXECUTABLE);
        assert_eq!(status("/etc/passwd"), NOT_EXECUTABLE);
    }

    #[test]
    fn a_static_or_foreign_elf_is_told_apart() {
        let mut head = vec![0u8; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18..20].copy_from_slice(&MACHINE.to_le_bytes());
        let none = |_: &mut [u8], _: u64| Ok(());
        assert_eq!(elf(&head, none), Some(Kind::Static));
        head[18] = 0xff;
        assert_eq!(elf(&head, none), None);
        assert_eq!(elf(b"\x7fELF", none), None);
    }
}
