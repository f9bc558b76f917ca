//! msghdr, iovec and control messages as values.
//!
//! # Theory of operation
//! [`sendmsg`] and [`recvmsg`] build the header around slices and take it apart again; a case that wants a wrong header builds its own
//! with [`header`]. Control messages are (level, type, bytes), parsed and made here by hand, so that a wrong length by csel shows.

use std::mem;

use crate::sys::{Addr, Fd, R, sys};

/// A control message: level, type, payload.
pub(crate) type Control = (i32, i32, Vec<u8>);

const HEAD: usize = size_of::<libc::cmsghdr>();

fn align(n: usize) -> usize {
    n.next_multiple_of(size_of::<usize>())
}

/// Room for a control message with `n` bytes of payload.
pub(crate) fn space(n: usize) -> usize {
    align(HEAD) + align(n)
}

/// An int's payload.
pub(crate) fn int(v: i32) -> Vec<u8> {
    v.to_ne_bytes().to_vec()
}

/// A payload as an int.
#[track_caller]
pub(crate) fn as_int(payload: &[u8]) -> i32 {
    i32::from_ne_bytes(payload.try_into().expect("four bytes"))
}

pub(crate) fn encode(controls: &[Control]) -> Vec<u8> {
    let mut all = Vec::new();
    for (level, kind, payload) in controls {
        all.extend((align(HEAD) + payload.len()).to_ne_bytes());
        all.extend(level.to_ne_bytes());
        all.extend(kind.to_ne_bytes());
        all.extend(payload);
        all.resize(align(all.len()), 0);
    }
    all
}

#[track_caller]
fn decode(mut bytes: &[u8]) -> Vec<Control> {
    let mut all = Vec::new();
    while bytes.len() >= HEAD {
        let len = usize::from_ne_bytes(bytes[..8].try_into().expect("8"));
        let level = i32::from_ne_bytes(bytes[8..12].try_into().expect("4"));
        let kind = i32::from_ne_bytes(bytes[12..16].try_into().expect("4"));
        assert!(len >= HEAD && len <= bytes.len(), "cmsg_len {len} of {}", bytes.len());
        all.push((level, kind, bytes[HEAD..len].to_vec()));
        bytes = &bytes[align(len).min(bytes.len())..];
    }
    all
}

/// iovecs over `bufs`.
pub(crate) fn iov(bufs: &[&[u8]]) -> Vec<libc::iovec> {
    bufs.iter().map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() }).collect()
}

/// iovecs into `bufs`.
pub(crate) fn iov_mut(bufs: &mut [Vec<u8>]) -> Vec<libc::iovec> {
    bufs.iter_mut().map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() }).collect()
}

/// A header with these iovecs and nothing else.
pub(crate) fn header(iov: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr.
    let mut hdr: libc::msghdr = unsafe { mem::zeroed() };
    hdr.msg_iov = iov.as_mut_ptr();
    hdr.msg_iovlen = iov.len();
    hdr
}

pub(crate) fn sendmsg(fd: &Fd, bufs: &[&[u8]], to: Option<&Addr>, controls: &[Control], flags: i32) -> R {
    let mut iov = iov(bufs);
    let mut hdr = header(&mut iov);
    let mut control = encode(controls);
    if let Some(to) = to {
        hdr.msg_name = to.ptr().cast_mut().cast();
        hdr.msg_namelen = to.len;
    }
    if !control.is_empty() {
        hdr.msg_control = control.as_mut_ptr().cast();
        hdr.msg_controllen = control.len();
    }
    sys!(libc::sendmsg(fd.raw(), &raw const hdr, flags))
}

/// What recvmsg brought.
pub(crate) struct Got {
    pub(crate) result: R,
    /// All buffers, one after the other, up to the result.
    pub(crate) data: Vec<u8>,
    pub(crate) from: Addr,
    pub(crate) flags: i32,
    pub(crate) controls: Vec<Control>,
}

impl Got {
    /// The payload of the control message of this level and type.
    #[track_caller]
    pub(crate) fn control(&self, level: i32, kind: i32) -> &[u8] {
        let found = self.controls.iter().find(|c| c.0 == level && c.1 == kind);
        let Some(found) = found else { panic!("no control message {level}/{kind} in {:?}", self.controls) };
        &found.2
    }
}

#[track_caller]
pub(crate) fn recvmsg(fd: &Fd, sizes: &[usize], flags: i32, control: usize) -> Got {
    let mut bufs: Vec<Vec<u8>> = sizes.iter().map(|n| vec![0; *n]).collect();
    let mut iov = iov_mut(&mut bufs);
    let mut hdr = header(&mut iov);
    let mut from = Addr::room();
    let mut room = vec![0u64; control.div_ceil(8)];
    hdr.msg_name = from.mut_ptr().cast();
    hdr.msg_namelen = from.len;
    hdr.msg_control = room.as_mut_ptr().cast();
    hdr.msg_controllen = control;
    let result = sys!(libc::recvmsg(fd.raw(), &raw mut hdr, flags));
    from.len = hdr.msg_namelen;
    let bytes: Vec<u8> = room.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let controls = if result.get().is_ok() { decode(&bytes[..hdr.msg_controllen]) } else { Vec::new() };
    let mut data = bufs.concat();
    data.truncate(result.get().unwrap_or(0).max(0) as usize);
    Got { result, data, from, flags: hdr.msg_flags, controls }
}
