//! Starting: what happens before main, and at the first virtual socket.
//!
//! # Theory of operation
//! **Purpose.** A program that never opens a socket should hardly notice us; one that does gets its instance then, and a family of processes gets one
//! instance, whoever of it is first.
//! **How it works.** [`start`] runs as a constructor: it resolves the next definitions, reads the options (an error ends the program with status 125
//! and a message: it must not run with the wrong network) and makes sure of the family's memfd, empty and unmapped, on a number of
//! [`fdguard::PLACES`] that fork and exec inherit. [`instance`] maps that memfd and founds the instance in it, or attaches to the one another
//! process of the family founded. A program started by exec with virtual descriptors attaches at once ([`crate::exec::rejoin`]).
//! Before [`start`] has run, and when switched off, every hook passes ([`inert`]).
//! **Limits.** A process that closed the memfd by a raw system call starts a new family.
//! **Locks.** [`STATE`] lets one thread at a time found or attach. **Failure.** Exit status 125 and a message; EMFILE, ENOMEM if the arena cannot be had.
//! **See also.** [`csel_core::arena::found`], [`csel_core::net::link::join`].
use crate::exec::preload::Ticket;
use crate::fdguard::{self, PLACES, Which};
use crate::{enter, ret, shadow, signal, table, trace, uplink};
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use csel_core::arena::found::{self, Founded};
use csel_core::config::{Config, Name, Path, Str};
use csel_core::errno::{Errno, Result};
use csel_core::gate;
use csel_core::instance::{Cx, Env, Instance};
use csel_core::net::link::join::{self, JoinError};
use csel_core::net::link::segment::Segment;
use csel_core::sync::Me;
use libc::{c_char, c_int};

/// What a program that could not get its network exits with.
const REFUSED: c_int = 125;

/// Nothing is done: not started yet, or switched off.
static INERT: AtomicBool = AtomicBool::new(true);

/// The constructor is through: the program runs.
static STARTED: AtomicBool = AtomicBool::new(false);

/// 0: no instance in this process; 1: a thread is at it; 2: there is one; 3: none can be had.
static STATE: AtomicU32 = AtomicU32::new(0);

struct Kept(UnsafeCell<(Config, Path, Name, Path)>);
// SAFETY: written by the constructor, only read afterwards.
unsafe impl Sync for Kept {}
static KEPT: Kept = Kept(UnsafeCell::new((Config::DEFAULT, Str::EMPTY, Name::EMPTY, Str::EMPTY)));

/// The options, the directory of segments, the program's name, and where passt is if it is wanted.
fn kept() -> &'static (Config, Path, Name, Path) {
    // SAFETY: see Kept.
    unsafe { &*KEPT.0.get() }
}

/// Does every hook pass?
#[inline]
pub(crate) fn inert() -> bool {
    INERT.load(Relaxed)
}

/// May this process open raw sockets (as Linux asks for CAP_NET_RAW)?
pub(crate) fn privileged() -> bool {
    gate::file::geteuid() == 0
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

/// The end of a program that returns from main or calls exit(3): its sockets close.
extern "C" fn finish() {
    crate::fork::leave();
}

unsafe extern "C" fn start(_argc: c_int, argv: *const *const c_char, envp: *const *const c_char) {
    // A panic's line comes from us, not from std's formatting to a stream that is the application's.
    std::panic::set_hook(Box::new(|info| {
        let mut at = Str::<200>::EMPTY;
        if let Some(place) = info.location() {
            let _ = write!(at, "{}:{}", place.file(), place.line());
        }
        let what = info.payload().downcast_ref::<&str>().copied().or_else(|| info.payload().downcast_ref::<String>().map(String::as_str));
        ret::say(&["csel: a bug of the library: panic at ", at.as_str(), ": ", what.unwrap_or("(no message)")]);
    }));
    table::resolve();
    // SAFETY: what the dynamic linker passes to constructors: arrays ended by NULL, alive as long as the process.
    let look_up = |name: &'static str| unsafe { variable(envp, name) };
    let config = match Config::from_env(look_up) {
        Ok(c) => c,
        Err(e) => refuse(format_args!("{e}")),
    };
    if config.disable {
        return;
    }
    let uid = gate::file::geteuid();
    let dir = config.runtime_dir(look_up("XDG_RUNTIME_DIR"), uid);
    let Ok(dir) = dir else {
        refuse(format_args!("CSEL_DIR: the directory of segments has too long a path; set CSEL_DIR to a shorter one"))
    };
    // SAFETY: as above; argv[0] may be missing.
    let argv0 = unsafe { argv.as_ref().and_then(|a| a.as_ref()).map_or(&b""[..], |a| CStr::from_ptr(a).to_bytes()) };
    // SAFETY: constructors run alone.
    unsafe { *KEPT.0.get() = (config, dir, Name::of_program(argv0), uplink::find_passt(&config, look_up("PATH"))) };
    // SAFETY: as above.
    unsafe { crate::exec::preload::keep(envp, dir.as_bytes()) };
    // SAFETY: as above.
    let ticket = unsafe { variable(envp, crate::exec::preload::TICKET) }.and_then(Ticket::parse);
    if let Some(t) = &ticket {
        crate::exec::preload::tear(t);
    }
    trace_to(&config);
    let fresh = !find_family(ticket.as_ref(), &dir) && !begin_family();
    if fresh {
        ret::say(&["csel: no descriptor could be had for the arena: this program uses the kernel's network for nothing, its sockets fail"]);
    }
    crate::fork::register();
    INERT.store(false, Release);
    if !config.publish.is_empty() && !family_has_instance() {
        // Ports of the host are taken before the program starts, or it does not.
        let _ = instance();
    }
    STARTED.store(true, Release);
    if family_has_instance() {
        crate::exec::rejoin(ticket.as_ref());
    }
}

/// The value of a variable in an array of `NAME=value`.
///
/// # Safety
/// `envp` must be such an array, ended by NULL, that lives as long as the result is used.
unsafe fn variable(envp: *const *const c_char, name: &str) -> Option<&'static [u8]> {
    let mut at = envp;
    // SAFETY: the caller vouches.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            let text = CStr::from_ptr(*at).to_bytes();
            if let Some(rest) = text.strip_prefix(name.as_bytes())
                && let Some(value) = rest.strip_prefix(b"=")
            {
                return Some(value);
            }
            at = at.add(1);
        }
    }
    None
}

/// Ends the program: it must not run with another network than it was told to.
pub(crate) fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    let mut text = Str::<500>::EMPTY;
    let _ = write!(text, "{why}");
    ret::say(&["csel: ", text.as_str()]);
    exit_now(REFUSED)
}

/// exit_group(2).
pub(crate) fn exit_now(status: c_int) -> ! {
    loop {
        // SAFETY: no pointers.
        let _ = unsafe { gate::syscall(libc::SYS_exit_group, [status as usize, 0, 0, 0, 0, 0]) };
    }
}

fn trace_to(config: &Config) {
    let file = config.trace.as_bytes();
    if file.is_empty() {
        return;
    }
    if file == b"1" {
        return trace::start(2);
    }
    let mut path = [0u8; 256];
    path[..file.len()].copy_from_slice(file);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    match CStr::from_bytes_until_nul(&path).map_err(|_| Errno::EINVAL).and_then(|p| gate::open(p, flags, 0o600)) {
        Ok(fd) => trace::start(fdguard::adopt(fd)),
        Err(e) => {
            let mut text = Str::<20>::EMPTY;
            let _ = write!(text, "{e}");
            refuse(format_args!(
                "CSEL_TRACE: cannot open {}: {}; for example CSEL_TRACE=/tmp/trace, or CSEL_TRACE=1 for standard error",
                config.trace, text
            ));
        }
    }
}

/// exit_group(2), for rows of the table: as a function that might return.
pub(crate) fn exit(status: c_int) {
    exit_now(status)
}

/// What gethostname(2) says, if the options or the instance say it.
pub(crate) fn hostname() -> Option<Name> {
    if inert() {
        return None;
    }
    let config = &kept().0;
    let set = [config.hostname, config.name].into_iter().find(|n| !n.is_empty());
    set.or_else(|| enter::env().map(|e| *e.inst.facts.get().config.hostname_or(&e.inst.facts.get().name)))
}

/// The memfd of our family: inherited over fork and exec, or found by the ticket of a program that has lost it.
fn find_family(ticket: Option<&Ticket>, dir: &Path) -> bool {
    let wanted = ticket.map_or(0, |t| t.arena);
    let fits = |fd: c_int| is_arena(fd) && (wanted == 0 || gate::file::fstat(fd).is_ok_and(|st| st.ino == wanted));
    let elsewhere = ticket.map(|t| (t.at, -1)).filter(|t| t.0 > 2);
    for (arena, segment) in PLACES.into_iter().chain(elsewhere) {
        if fits(arena) {
            keep_arena(arena);
            if gate::fcntl(segment, libc::F_GETFD, 0).is_ok() {
                fdguard::set(Which::Segment, segment);
            }
            return true;
        }
    }
    match ticket.filter(|_| wanted != 0).and_then(|t| crate::exec::rendezvous::find(dir, wanted, t.at)) {
        Some(fd) => {
            to_its_place(fd);
            true
        }
        None => false,
    }
}

/// The arena's descriptor is this one.
fn keep_arena(fd: c_int) {
    fdguard::set(Which::Arena, fd);
    crate::exec::arena_is(gate::file::fstat(fd).map_or(0, |st| st.ino));
}

/// Moves the arena's descriptor to where exec'd programs look for it.
fn to_its_place(fd: c_int) {
    let spot = PLACES.iter().map(|p| p.0).filter(|&to| gate::fcntl(to, libc::F_GETFD, 0).is_err()).find_map(|to| fdguard::place(fd, to));
    if spot.is_some() {
        let _ = gate::close(fd);
    } else {
        let _ = gate::fcntl(fd, libc::F_SETFD, 0);
    }
    keep_arena(spot.unwrap_or(fd));
}

/// Is it a memfd made by [`begin_family`]? Only memfds have seals, and ours has the one that says nothing else can be sealed.
pub(crate) fn is_arena(fd: c_int) -> bool {
    gate::fcntl(fd, libc::F_GET_SEALS, 0) == Ok(libc::F_SEAL_SEAL as usize)
        && gate::file::fstat(fd).is_ok_and(|st| st.size == 0 || st.size == Instance::SPAN as u64)
}

fn begin_family() -> bool {
    // A memfd made with sealing allowed is the only one whose seals can be told from "none"; MFD_CLOEXEC is not given: exec inherits it.
    let Ok(fd) = gate::memfd_create(c"csel-arena", libc::MFD_ALLOW_SEALING) else { return false };
    let _ = gate::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SEAL as usize);
    to_its_place(fd);
    true
}

/// Has a process of the family founded the instance? Looked up without mapping it.
pub(crate) fn family_has_instance() -> bool {
    let mut magic = 0u64;
    let a = [fdguard::get(Which::Arena) as usize, &raw mut magic as usize, 8, 0, 0, 0];
    // SAFETY: eight writable bytes.
    matches!(unsafe { gate::syscall(libc::SYS_pread64, a) }, Ok(8)) && found::says_founded(magic)
}

/// Makes sure that this process has its instance. ENOMEM, ENFILE: none can be had.
#[inline]
pub(crate) fn instance() -> Result<()> {
    if STATE.load(Acquire) == 2 { Ok(()) } else { establish() }
}

#[cold]
fn establish() -> Result<()> {
    loop {
        match STATE.compare_exchange(0, 1, AcqRel, Acquire) {
            Ok(_) => break,
            Err(2) => return Ok(()),
            Err(3) => return Err(Errno::ENOBUFS),
            Err(_) => gate::sched_yield(),
        }
    }
    let r = enter::undisturbed(begin);
    STATE.store(if r.is_ok() { 2 } else { 3 }, Release);
    if r.is_ok() {
        crate::bells::hang();
        if enter::proc().is_some_and(|p| p.high.load(Acquire) != 0) {
            // A table of before exec(2): close-on-exec has closed some of it, and a number may mean something else by now.
            check_descriptors();
        }
        keep();
        // It watches us from now on.
        let _ = enter::with_cx(csel_core::net::wait::knock);
        uplink::await_it();
    }
    r
}

/// Makes sure of a keeper.
pub(crate) fn keep() {
    let mut dir = [0u8; 256];
    let path = kept().1.as_bytes();
    dir[..path.len()].copy_from_slice(path);
    match crate::keeper::ensure(CStr::from_bytes_until_nul(&dir).unwrap_or(c"")) {
        None => {}
        Some(why) if !STARTED.load(Acquire) => refuse(format_args!("{why}")),
        Some(why) => ret::say(&["csel: ", why.as_str()]),
    }
}

/// The child of a fork whose parent was in the middle of [`establish`] starts anew.
pub(crate) fn after_fork() {
    let _ = STATE.compare_exchange(1, 0, AcqRel, Relaxed);
}

fn begin() -> Result<()> {
    let fd = fdguard::get(Which::Arena);
    let inst = found::open(fd).inspect_err(|&e| ret::say(&["csel: ", found::explain(e)]))?;
    let (config, dir, program, passt) = kept();
    loop {
        let seg = found_or_open(inst, config, dir, program, passt)?;
        // Between the two the last of the others may have left, and its keeper with it.
        let entered = found::attach(inst, || {
            if !join::holds(seg, fdguard::get(Which::Segment), inst.facts.get()) && !inst.procs.anyone() {
                return None;
            }
            crate::exec::claim(inst);
            let unknown = Env { inst, seg, clock: enter::clock, proc: 0 };
            Some(inst.procs.enter(&Cx::new(&unknown, enter::thread().me()), gate::getpid()))
        });
        if let Some(proc) = entered {
            let proc = proc?;
            signal::arm();
            crate::abi::stdio::arm();
            return if enter::publish(Env { inst, seg, clock: enter::clock, proc }) { Ok(()) } else { Err(Errno::ENFILE) };
        }
        forget_segment();
    }
}

/// Founds the instance, or finds the segment of the one that is there.
fn found_or_open(inst: &'static Instance, config: &Config, dir: &Path, program: &Name, passt: &Path) -> Result<&'static Segment> {
    let mut joined = None;
    let came = found::found(inst, || {
        let j = join::join(dir, config, program, fdguard::get(Which::Segment)).map_err(Box::new)?;
        inst.net.link.begin(j.seg, j.facts.port);
        inst.net.link.uplink.begin(&Me::ask(), &j.facts, passt, &uplink::place(dir));
        inst.header.uid.store(gate::file::geteuid(), Relaxed);
        let facts = j.facts;
        joined = Some((j.seg, j.fd));
        Ok::<_, Box<JoinError>>(facts)
    });
    match came {
        Founded::New => {
            let Some((seg, fd)) = joined else { return Err(Errno::ENOBUFS) };
            forget_segment();
            keep_segment(fd);
            Ok(seg)
        }
        Founded::Old => open_segment(inst, dir),
        Founded::Failed(e) => refuse(format_args!("{e}")),
        Founded::Foreign => refuse(format_args!(
            "another build of libcsel.so founded this program's instance; start its parent anew, or use one libcsel.so for the whole family"
        )),
    }
}

/// Lets go of the descriptor of a segment whose instance has gone.
fn forget_segment() {
    let old = fdguard::get(Which::Segment);
    if let Some(seg) = join::inherited(old) {
        join::close(seg, old);
        fdguard::set(Which::Segment, -1);
    }
}

/// The process is about to give up rights (setuid(2), chroot(2)) that its children may need to open the segment by its name: the family has it open
/// from now on. Nothing is done if it has, or if the segment cannot be had now either.
pub(crate) fn keep_way_in() {
    let (config, dir, ..) = kept();
    if inert() || fdguard::get(Which::Segment) >= 0 {
        return;
    }
    enter::undisturbed(|| {
        if let Ok((seg, fd)) = join::open(dir, &config.net, true) {
            if let Ok(kept) = gate::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) {
                keep_segment(kept as c_int);
            }
            join::close(seg, fd);
        }
    });
}

/// The segment's descriptor goes to the place where exec'd programs look for it.
fn keep_segment(fd: c_int) {
    let spot = PLACES.iter().map(|p| p.1).filter(|&to| gate::fcntl(to, libc::F_GETFD, 0).is_err()).find_map(|to| fdguard::place(fd, to));
    let at = spot.unwrap_or(fd);
    if at != fd {
        let _ = gate::close(fd);
    }
    fdguard::set(Which::Segment, at);
}

/// The segment of an instance that is there already: by the inherited descriptor (its path may be out of reach: chroot(2), another user, another
/// environment), else by its name.
fn open_segment(inst: &Instance, dir: &Path) -> Result<&'static Segment> {
    // A program started with another environment (nginx's new binary, sudo, env -i) would look in another directory.
    if let Some(seg) = join::inherited(fdguard::get(Which::Segment)) {
        return Ok(seg);
    }
    match join::open(dir, &inst.facts.get().config.net, false) {
        Ok((seg, fd)) => {
            keep_segment(fd);
            Ok(seg)
        }
        Err(e) => refuse(format_args!("{e}")),
    }
}

/// For those who attach by exec: the table's words against the descriptors there really are.
pub(crate) fn check_descriptors() {
    let _ = enter::with_cx(|cx| {
        let table = cx.inst.procs.get(cx.proc);
        // The program that was here before may have had threads that waited.
        csel_core::net::wait::bury(cx, cx.proc);
        // First what is there, so that a socket whose number changed is not let go of for a moment.
        crate::exec::each_descriptor(|fd| {
            if !table.is_virtual(fd) && !fdguard::is_private(fd) {
                shadow::heal(cx, fd);
            }
        });
        let high = table.high.load(Acquire);
        for fd in 0..high as c_int {
            if !table.is_virtual(fd) {
                continue;
            }
            let Some(held) = table.get(cx.inst, fd) else {
                table.clear(cx, fd);
                continue;
            };
            let stays = csel_core::fd::proves(&held, &csel_core::fd::link_of(0, fd as u32));
            held.release(cx);
            if !stays {
                table.clear(cx, fd);
            }
        }
        table.leaving.store(csel_core::fd::leaving::NO, Release);
    });
}
