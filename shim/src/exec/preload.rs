//! The environment of a program to be started: the one given, with what must not be lost.
//!
//! # Theory of operation
//! **Purpose.** One instance is one program and all that it starts, also where the environment is made anew (`env -i`, sudo-like programs, execle(3)) or
//! names another preload.
//! **How it works.** At start ([`keep`]) the library's absolute path and the options (`CSEL_*`, the directory of segments among them) are copied to
//! [`KEPT`], because programs write over their environment (setproctitle) and change directory. [`with`] then completes an environment: `LD_PRELOAD` gets
//! the library in front if it is not in the list, options that are missing come back, and [`TICKET`] tells the new program which table of
//! descriptors is its own, which instance it is of, and what was put back: its constructor removes the ticket, and also what was not to be seen
//! ([`Ticket::hidden`]), so that a program started with an empty environment has one.
//! Everything is built on the stack (beyond [`ROOM`] in a mapping of its own): nothing is allocated, as after vfork(2) nothing may be.
//! **Limits.** An option given anew by the caller stays as given. `CSEL_DISABLE=1` in the environment leaves the family.
//! **Locks.** None. **Failure.** Without memory the environment is passed on as it is. **See also.** environ(7), ld.so(8).
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt::Write as _;
use core::mem::MaybeUninit;
use csel_core::config::{OPTIONS as OPTIONS_TABLE, Str};
use csel_core::gate;
use libc::c_char;

/// The variable that tells a program started by the family who it is.
pub(crate) const TICKET: &str = "CSEL_EXEC";

/// `argv` and `envp`.
pub(crate) type Argv = *const *const c_char;

/// Options kept at most.
const OPTIONS: usize = 40;
/// Bytes kept for them and the path.
const BYTES: usize = 8192;
/// What is built on the stack.
const ROOM: usize = 6144;

/// What the constructor kept.
struct Kept {
    bytes: [u8; BYTES],
    used: usize,
    /// Where in `bytes` the options begin; each ends with a NUL.
    options: [usize; OPTIONS],
    count: usize,
    /// The last option is `CSEL_DIR`, made from this XDG_RUNTIME_DIR: needed only where that changes.
    derived: Option<&'static [u8]>,
}
struct Cell(UnsafeCell<Kept>);
// SAFETY: written by the constructor, only read afterwards.
unsafe impl Sync for Cell {}
static KEPT: Cell = Cell(UnsafeCell::new(Kept { bytes: [0; BYTES], used: 0, options: [0; OPTIONS], count: 0, derived: None }));

fn kept() -> &'static Kept {
    // SAFETY: see Cell.
    unsafe { &*KEPT.0.get() }
}

impl Kept {
    fn add(&mut self, parts: &[&[u8]]) -> Option<usize> {
        let at = self.used;
        let len: usize = parts.iter().map(|p| p.len()).sum();
        if at + len + 1 > BYTES {
            return None;
        }
        for part in parts {
            self.bytes[self.used..self.used + part.len()].copy_from_slice(part);
            self.used += part.len();
        }
        self.bytes[self.used] = 0;
        self.used += 1;
        Some(at)
    }
    fn option(&mut self, parts: &[&[u8]]) {
        if self.count < OPTIONS
            && let Some(at) = self.add(parts)
        {
            self.options[self.count] = at;
            self.count += 1;
        }
    }
    fn text(&self, at: usize) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes[at..]).unwrap_or(c"")
    }
}

/// The library's absolute path; empty before [`keep`].
pub(crate) fn library() -> &'static CStr {
    kept().text(0)
}

/// Keeps what programs to be started will need. `dir`: where the segments are. The constructor calls it, alone.
///
/// # Safety
/// `envp` is an environment, ended by NULL.
pub(crate) unsafe fn keep(envp: Argv, dir: &[u8]) {
    // SAFETY: constructors run alone.
    let kept = unsafe { &mut *KEPT.0.get() };
    kept.used = 0;
    kept.count = 0;
    // SAFETY: all-zero is a valid Dl_info; an address in this library.
    let name = unsafe {
        let mut info: libc::Dl_info = core::mem::zeroed();
        let found = libc::dladdr((&raw const KEPT).cast(), &raw mut info) != 0 && !info.dli_fname.is_null();
        if found { CStr::from_ptr(info.dli_fname).to_bytes() } else { b"" }
    };
    let mut here = [0u8; 4096];
    let here = if name.starts_with(b"/") || name.is_empty() {
        &b""[..]
    } else {
        // SAFETY: writable for its size.
        let n = unsafe { gate::syscall(libc::SYS_getcwd, [here.as_mut_ptr() as usize, here.len(), 0, 0, 0, 0]) }.unwrap_or(0);
        here[n.saturating_sub(1)..n].fill(b'/');
        &here[..n]
    };
    if kept.add(&[here, name]).is_none() {
        kept.add(&[]);
    }
    let (mut given, mut xdg) = (false, None);
    // SAFETY: the caller vouches.
    unsafe {
        each(envp, |text, _| {
            if is_option(text) {
                given |= name_of(text) == b"CSEL_DIR";
                kept.option(&[text]);
            } else if let Some(dir) = text.strip_prefix(b"XDG_RUNTIME_DIR=") {
                xdg = xdg.or(Some(dir));
            }
        });
    }
    kept.derived = None;
    if !given {
        let xdg = kept.add(&[xdg.unwrap_or(&[])]);
        kept.option(&[b"CSEL_DIR=", dir]);
        // SAFETY: the bytes are not written again, and never move.
        kept.derived = xdg.map(|at| unsafe { CStr::from_ptr(kept.bytes[at..].as_ptr().cast()) }.to_bytes());
    }
}

/// Is it a variable of csel's that a program under it needs?
fn is_option(text: &[u8]) -> bool {
    let name = name_of(text);
    name == b"CSEL_LAUNCHED" || name.starts_with(b"CSEL_") && OPTIONS_TABLE.iter().any(|o| o.env.as_bytes() == name)
}

/// Calls `f` with each `NAME=value` and its pointer.
///
/// # Safety
/// `envp` is NULL or an environment, ended by NULL.
unsafe fn each(envp: Argv, mut f: impl FnMut(&'static [u8], *const c_char)) {
    let mut at = envp;
    // SAFETY: the caller vouches.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            f(CStr::from_ptr(*at).to_bytes(), *at);
            at = at.add(1);
        }
    }
}

fn name_of(text: &[u8]) -> &[u8] {
    text.split(|&b| b == b'=').next().unwrap_or(text)
}

/// What a program is told about itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    /// The number of its table of descriptors; 0: none.
    pub(crate) table: u32,
    /// Inode of the arena; 0: no instance yet.
    pub(crate) arena: u64,
    /// The number of the arena's descriptor.
    pub(crate) at: i32,
    /// What was put back and is not to be seen: 1: `LD_PRELOAD`; 2: options.
    pub(crate) hidden: u32,
}

impl Ticket {
    /// From the variable's value.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = core::str::from_utf8(text).ok()?.split(',');
        let mut next = || parts.next().and_then(|t| t.parse::<u64>().ok());
        Some(Self { table: next()? as u32, arena: next()?, at: next()? as i32, hidden: next()? as u32 })
    }
    fn write(self, out: &mut Str<80>) {
        let _ = write!(out, "{TICKET}={},{},{},{}", self.table, self.arena, self.at.max(0), self.hidden);
    }
}

/// The constructor's part of a ticket: it goes, and with it what is not to be seen.
pub(crate) fn tear(ticket: &Ticket) {
    // SAFETY: the constructor runs alone; the names end with a NUL.
    unsafe {
        libc::unsetenv(c"CSEL_EXEC".as_ptr());
        if ticket.hidden & 1 != 0 {
            libc::unsetenv(c"LD_PRELOAD".as_ptr());
        }
        if ticket.hidden & 2 != 0 {
            let kept = kept();
            for &at in &kept.options[..kept.count] {
                let mut name = [0u8; 64];
                let text = name_of(kept.text(at).to_bytes());
                if text.len() < name.len() {
                    name[..text.len()].copy_from_slice(text);
                    libc::unsetenv(name.as_ptr().cast());
                }
            }
        }
    }
}

/// Is the library in a list of LD_PRELOAD's?
fn listed(list: &[u8]) -> bool {
    list.split(|&b| b == b':' || b == b' ').any(|word| word == library().to_bytes())
}

/// Where an environment is put together.
struct Build<'a> {
    pointers: &'a mut [MaybeUninit<*const c_char>],
    n: usize,
}

impl Build<'_> {
    fn push(&mut self, text: *const c_char) {
        if let Some(p) = self.pointers.get_mut(self.n) {
            p.write(text);
            self.n += 1;
        }
    }
}

/// Calls `go` with `envp` completed. `ticket`: what the new program is to be told, if anything must be.
///
/// # Safety
/// `envp` is an environment, ended by NULL (or NULL itself, which Linux takes for an empty one).
pub(crate) unsafe fn with<R>(envp: Argv, mut ticket: Ticket, go: impl FnOnce(Argv) -> R) -> R {
    let (mut n, mut preload, mut disabled, mut xdg) = (0, None, false, None);
    let mut missing = [true; OPTIONS];
    let kept = kept();
    // SAFETY: the caller vouches.
    unsafe {
        each(envp, |text, _| {
            n += 1;
            if let Some(list) = text.strip_prefix(b"LD_PRELOAD=") {
                // glibc takes the first one.
                preload = preload.or(Some(list));
            } else if text.starts_with(b"CSEL_") {
                disabled |= text == b"CSEL_DISABLE=1";
                for (i, &at) in kept.options[..kept.count].iter().enumerate() {
                    missing[i] &= name_of(kept.text(at).to_bytes()) != name_of(text);
                }
            } else if let Some(dir) = text.strip_prefix(b"XDG_RUNTIME_DIR=") {
                xdg = xdg.or(Some(dir));
            }
        });
    }
    if let Some(then) = kept.derived {
        missing[kept.count - 1] &= xdg.unwrap_or(&[]) != then;
    }
    let put_back = missing[..kept.count].iter().any(|&m| m);
    let whole = preload.is_some_and(listed);
    if library().is_empty() || disabled || (whole && !put_back && ticket.table == 0 && ticket.arena == 0) {
        return go(envp);
    }
    ticket.hidden = u32::from(preload.is_none());
    // Options that are missing are hidden if all are: an environment made anew.
    let given = kept.count - usize::from(kept.derived.is_some());
    if put_back && missing[..given].iter().all(|&m| m) {
        ticket.hidden |= 2;
    }
    let mut said = Str::<80>::EMPTY;
    ticket.write(&mut said);
    let theirs = preload.unwrap_or(&[]);
    let ours = library().to_bytes();
    let pointers = n + kept.count + 4;
    let text = 16 + ours.len() + theirs.len() + 96;
    let need = pointers * size_of::<*const c_char>() + text;
    let mut here = [MaybeUninit::<*const c_char>::uninit(); ROOM / size_of::<usize>()];
    let room = if need <= ROOM {
        &mut here[..]
    } else {
        match map(need) {
            Some(room) => room,
            None => return go(envp),
        }
    };
    let mapped = (need > ROOM).then_some((room.as_mut_ptr() as usize, need));
    let (pointers, bytes) = room.split_at_mut(pointers);
    let mut text = Text { at: bytes.as_mut_ptr().cast::<u8>(), left: size_of_val(bytes) };
    let mut build = Build { pointers, n: 0 };
    // The library first: where it is looked for first.
    if !whole {
        let between: &[u8] = if theirs.is_empty() { b"" } else { b":" };
        build.push(text.put(&[b"LD_PRELOAD=", ours, between, theirs]));
    }
    // SAFETY: the caller vouches.
    unsafe {
        each(envp, |text, at| {
            if name_of(text) != TICKET.as_bytes() && (whole || name_of(text) != b"LD_PRELOAD") {
                build.push(at);
            }
        });
    }
    for (&at, _) in kept.options[..kept.count].iter().zip(missing).filter(|(_, m)| *m) {
        build.push(kept.text(at).as_ptr());
    }
    build.push(text.put(&[said.as_bytes()]));
    build.push(core::ptr::null());
    let result = go(build.pointers.as_ptr().cast());
    if let Some((at, len)) = mapped {
        // SAFETY: the mapping made above, which nobody uses any more.
        let _ = unsafe { gate::syscall(libc::SYS_munmap, [at, len, 0, 0, 0, 0]) };
    }
    result
}

/// Bytes of strings.
struct Text {
    at: *mut u8,
    left: usize,
}

impl Text {
    /// Writes a string and its NUL; where it is.
    fn put(&mut self, parts: &[&[u8]]) -> *const c_char {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        if len >= self.left {
            return c"CSEL_EXEC=".as_ptr();
        }
        let begin = self.at;
        for part in parts {
            // SAFETY: there is room, as just checked; the source is another object.
            unsafe {
                core::ptr::copy_nonoverlapping(part.as_ptr(), self.at, part.len());
                self.at = self.at.add(part.len());
            }
        }
        // SAFETY: room for the NUL.
        unsafe {
            self.at.write(0);
            self.at = self.at.add(1);
        }
        self.left -= len + 1;
        begin.cast()
    }
}

/// Memory of its own. In a child of vfork(2) that succeeds in exec it stays with the parent: a page or two, rarely.
fn map(len: usize) -> Option<&'static mut [MaybeUninit<*const c_char>]> {
    let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping where the kernel likes.
    let at = unsafe { gate::syscall(libc::SYS_mmap, [0, len, prot as usize, flags as usize, usize::MAX, 0]) }.ok()?;
    // SAFETY: fresh, page-aligned, `len` bytes.
    Some(unsafe { core::slice::from_raw_parts_mut(at as *mut _, len / size_of::<usize>()) })
}
