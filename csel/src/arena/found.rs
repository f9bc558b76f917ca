//! Founding an arena: from an empty memfd to an instance that others can attach to.
//!
//! A family of processes inherits one memfd. Whoever needs the instance first founds it: it claims the header (its pid stands where the magic
//! will be), fills in the facts, and publishes. The others see either nothing, a claim (and wait for it, or take it over if the claimant died),
//! or a finished arena of the same layout.
#![allow(unsafe_code)]

use super::{
    BASE,
    map::{self, view},
};
use crate::errno::{Errno, Result};
use crate::gate;
use crate::instance::{FLOWS, Facts, Instance, MAGIC, layout};
use core::sync::atomic::Ordering::*;

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
            Err(pid) if pid > u64::from(u32::MAX) => return Founded::Foreign,
            Err(pid) => {
                if !gate::process_exists(pid as u32) {
                    let _ = inst.header.magic.compare_exchange(pid, 0, AcqRel, Relaxed);
                } else if pid == me {
                    // Another thread of ours is at it.
                    gate::sched_yield();
                } else {
                    let _ = gate::futex_wait(&inst.header.keeper, u32::MAX, gate::clock_gettime(libc::CLOCK_MONOTONIC) + 1_000_000);
                    gate::sched_yield();
                }
            }
        }
    }
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

/// Is the instance founded, and by this build?
pub fn is_founded(inst: &Instance) -> bool {
    inst.header.magic.load(Acquire) == MAGIC && inst.header.layout.load(Relaxed) == layout()
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
    if got != Ok(16) || head != [MAGIC, layout()] {
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
