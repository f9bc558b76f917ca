//! Founding an arena: from an empty memfd to an instance that others can attach to.
//!
//! A family of processes inherits one memfd. Whoever needs the instance first founds it: it claims the header (its pid stands where the magic
//! will be), fills in the facts, and publishes. The others see either nothing, a claim (and wait for it, or take it over if the claimant died),
//! or a finished arena of the same layout.
//!
//! A family may outlive its instance: a shell that has no socket itself runs one program that has, and later another. When the last process with a
//! table is gone and its keeper gives the port back, the arena is emptied ([`leaving`], [`vacate`]), so that the next program founds the instance anew.
//! Nobody may attach meanwhile: attaching ([`attach`]) and leaving both put a claim in the magic's place for as long as they look at who is there.
//! A claim of somebody dead is taken over by the next one who comes. A keeper attaches like everybody else, and one leaves only when nobody is inside
//! ([`crate::desk`]): a process on its way out has let go of its table before it is out.
#![allow(unsafe_code)]

use super::{
    BASE,
    map::{self, view},
};
use crate::errno::{Errno, Result};
use crate::gate;
use crate::instance::{FLOWS, Facts, Instance, MAGIC, layout};
use core::sync::atomic::Ordering::*;

/// A claim of one who attaches (with its pid): the instance is there.
const ATTACHING: u64 = 1 << 32;
/// A claim of a keeper that leaves (with its pid): the instance is going.
const LEAVING: u64 = 1 << 33;
const CLAIMS: u64 = ATTACHING | LEAVING | u32::MAX as u64;

/// What [`found`] came to.
#[derive(Debug)]
pub enum Founded<E> {
    /// This call founded it.
    New,
    /// It was there already.
    Old,
    /// The facts could not be had.
    Failed(E),
    /// Made by a library of another build: this process cannot share it.
    Foreign,
}

/// Maps the arena in `fd` (growing an empty file first) at [`BASE`]; EEXIST if the address is taken, ENOMEM where address space is limited.
pub fn open(fd: i32) -> Result<&'static Instance> {
    gate::ftruncate(fd, Instance::SPAN as u64)?;
    let at = map::map_shared(fd, Instance::SPAN, BASE)?;
    Ok(place(at))
}

/// An arena in anonymous memory, anywhere: for tests and for instances that share nothing.
pub fn anonymous() -> Result<&'static Instance> {
    Ok(place(map::map_anonymous(Instance::SPAN)?))
}

fn place(at: *mut u8) -> &'static Instance {
    // SAFETY: a fresh mapping of SPAN bytes, zero or written through the same type by a process that checked the layout; never unmapped.
    let inst: &'static Instance = unsafe { view(at) };
    // SAFETY: the rest of the mapping, span(FLOWS) bytes from BUFFERS_AT on.
    unsafe { inst.buffers.place(at as usize + Instance::BUFFERS_AT, FLOWS) };
    inst
}

/// Founds the instance with the facts that `facts` finds out, unless it has been founded.
pub fn found<E>(inst: &'static Instance, facts: impl FnOnce() -> core::result::Result<Facts, E>) -> Founded<E> {
    let me = u64::from(gate::getpid());
    loop {
        match inst.header.magic.compare_exchange(0, me, AcqRel, Acquire) {
            Ok(_) => break,
            Err(MAGIC) if inst.header.layout.load(Relaxed) == layout() => return Founded::Old,
            Err(MAGIC) => return Founded::Foreign,
            Err(claim) if claim & !CLAIMS != 0 => return Founded::Foreign,
            Err(claim) => wait_for(inst, claim),
        }
    }
    // A keeper that left may have emptied this too since we mapped it.
    // SAFETY: the mapping is SPAN bytes, see `place`.
    unsafe { inst.buffers.place(core::ptr::from_ref(inst) as usize + Instance::BUFFERS_AT, FLOWS) };
    match facts() {
        Ok(f) => {
            // SAFETY: the claim makes us the only one here until the magic is published.
            unsafe { inst.facts.set(f) };
            inst.header.layout.store(layout(), Relaxed);
            inst.header.size.store(Instance::SPAN as u64, Relaxed);
            inst.header.magic.store(MAGIC, Release);
            Founded::New
        }
        Err(e) => {
            inst.header.magic.store(0, Release);
            Founded::Failed(e)
        }
    }
}

/// Waits a moment for whoever has a claim on the header, or does away with the claim if its process is gone.
fn wait_for(inst: &'static Instance, claim: u64) {
    let pid = claim as u32;
    if gate::process_exists(pid) {
        if pid != gate::getpid() {
            gate::file::nap(200_000);
        }
        gate::sched_yield();
        return;
    }
    let magic = &inst.header.magic;
    if claim & ATTACHING != 0 {
        let _ = magic.compare_exchange(claim, MAGIC, AcqRel, Relaxed);
    } else if claim & LEAVING != 0 {
        let mine = u64::from(gate::getpid()) | LEAVING;
        if magic.compare_exchange(claim, mine, AcqRel, Relaxed).is_ok() {
            empty(inst);
        }
    } else {
        let _ = magic.compare_exchange(claim, 0, AcqRel, Relaxed);
    }
}

/// Does `enter`, which makes the calling process one of the instance's, while no keeper can leave. `None`: the instance has gone, found it anew; also
/// if `enter` finds that it has lost its port and that nobody is left of it, and says so by `None`.
pub fn attach<R>(inst: &'static Instance, enter: impl FnOnce() -> Option<R>) -> Option<R> {
    let claim = u64::from(gate::getpid()) | ATTACHING;
    loop {
        match inst.header.magic.compare_exchange(MAGIC, claim, AcqRel, Acquire) {
            Ok(_) => break,
            Err(0) => return None,
            Err(other) if other & !CLAIMS != 0 => return None,
            Err(other) => wait_for(inst, other),
        }
    }
    let r = enter();
    if r.is_some() {
        inst.header.magic.store(MAGIC, Release);
    } else {
        inst.header.magic.store(u64::from(gate::getpid()) | LEAVING, Release);
        empty(inst);
    }
    r
}

/// A keeper is about to leave: from now on nobody attaches. False: somebody is attaching just now. Undone by [`stay`], completed by [`vacate`].
pub fn leaving(inst: &Instance) -> bool {
    inst.header.magic.compare_exchange(MAGIC, u64::from(gate::getpid()) | LEAVING, AcqRel, Relaxed).is_ok()
}

/// Undoes [`leaving`].
pub fn stay(inst: &Instance) {
    let _ = inst.header.magic.compare_exchange(u64::from(gate::getpid()) | LEAVING, MAGIC, AcqRel, Relaxed);
}

/// The keeper has left (see [`leaving`]) and touches nothing of the instance any more: empties the arena for the next program of the family.
pub fn vacate(inst: &'static Instance) {
    if inst.header.magic.load(Acquire) == u64::from(gate::getpid()) | LEAVING {
        empty(inst);
    }
}

/// Zeros everything behind the facts, which a thread in the last moments of its process may still look at, and lets the claim go.
fn empty(inst: &'static Instance) {
    let at = core::ptr::from_ref(inst) as usize;
    let from = core::mem::offset_of!(Instance, buffers);
    let page = from.next_multiple_of(4096);
    // SAFETY: inside the mapping, behind what is kept. Our claim keeps everybody else out; atomics would be no better for whoever runs astray.
    unsafe {
        core::ptr::write_bytes((at + from) as *mut u8, 0, page - from);
        map::release(at + page, Instance::SPAN - page);
    }
    inst.header.keeper.store(0, Relaxed);
    inst.header.magic.store(0, Release);
}

/// Does the first word of an arena say that there is an instance?
pub fn says_founded(magic: u64) -> bool {
    magic == MAGIC || magic & !CLAIMS == 0 && magic & ATTACHING != 0
}

/// Is the instance founded, and by this build?
pub fn is_founded(inst: &Instance) -> bool {
    says_founded(inst.header.magic.load(Acquire)) && inst.header.layout.load(Relaxed) == layout()
}

/// Maps the arena in `fd` for one who only looks (`csel ss`), and unmaps it after `look`. `None`: it is no arena of this build, nobody has founded
/// it, or its address is taken here.
pub fn visit<R>(fd: i32, look: impl FnOnce(&Instance) -> R) -> Option<R> {
    if gate::file::fstat(fd).ok()?.size != Instance::SPAN as u64 {
        return None;
    }
    let mut head = [0u64; 2];
    // SAFETY: sixteen writable bytes.
    let got = unsafe { gate::syscall(libc::SYS_pread64, [fd as usize, head.as_mut_ptr() as usize, 16, 0, 0, 0]) };
    if got != Ok(16) || !says_founded(head[0]) || head[1] != layout() {
        return None;
    }
    let inst = open(fd).ok()?;
    let result = look(inst);
    // SAFETY: `look` has ended, and its reference could not leave it.
    unsafe { unmap(inst) };
    Some(result)
}

/// Gives an arena's address space back.
///
/// # Safety
/// No reference to it or to anything in it may be used any more.
pub unsafe fn unmap(inst: &'static Instance) {
    // SAFETY: the caller vouches.
    unsafe { map::unmap(core::ptr::from_ref(inst).cast_mut().cast(), Instance::SPAN) }
}

/// An error of [`open`] in words.
pub fn explain(e: Errno) -> &'static str {
    match e {
        Errno::EEXIST => "the arena's address 0x200000000000 is taken in this process",
        Errno::ENOMEM => "address space is limited (ulimit -v): csel reserves 130 GiB of it, untouched; raise or drop the limit",
        Errno::EFBIG => "the file size limit (ulimit -f) forbids the arena, which is sparse; raise or drop the limit",
        _ => "the arena could not be mapped",
    }
}
