//! FILE streams on virtual sockets: fdopen(3), fprintf(3), getline(3), fclose(3).
//!
//! glibc's streams read and write by calls inside libc that no hook sees. Each stream has a table of functions; those of ordinary files are
//! `_IO_file_jumps` and `_IO_wfile_jumps`, whose read, write and close are replaced here by ones that ask whether the descriptor is virtual. glibc checks that a stream's
//! table lies in its own section, which it still does. Done once, when the process gets its instance. Where the tables are not
//! found, or do not look as expected, nothing is done, and a stream on a virtual socket fails with EINVAL.
use crate::enter::is_virtual;
use core::ffi::CStr;
use core::sync::atomic::{AtomicUsize, Ordering::*};
use csel_core::gate;
use libc::{FILE, c_int, c_void, ssize_t};

/// Places of read, write and close in `struct _IO_jump_t`.
const READ: usize = 14;
const WRITE: usize = 15;
const CLOSE: usize = 17;
/// _IO_ERR_SEEN in a stream's flags, its first word.
const ERR_SEEN: c_int = 0x20;

type Read = unsafe extern "C-unwind" fn(*mut FILE, *mut c_void, ssize_t) -> ssize_t;
type Write = unsafe extern "C-unwind" fn(*mut FILE, *const c_void, ssize_t) -> ssize_t;
type Close = unsafe extern "C-unwind" fn(*mut FILE) -> c_int;

static OLD: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

fn virtual_fd(file: *mut FILE) -> Option<c_int> {
    // SAFETY: a stream of libc's; fileno takes no lock.
    let fd = unsafe { libc::fileno(file) };
    is_virtual(fd).then_some(fd)
}

unsafe extern "C-unwind" fn read(file: *mut FILE, buf: *mut c_void, n: ssize_t) -> ssize_t {
    match virtual_fd(file) {
        Some(fd) => crate::ret::IntoC::into_c(super::io::read_one(fd, buf, n as usize)),
        None => {
            // SAFETY: what stood here before.
            let old: Read = unsafe { core::mem::transmute(OLD[0].load(Relaxed)) };
            // SAFETY: as libc called us.
            unsafe { old(file, buf, n) }
        }
    }
}

/// As _IO_new_file_write: all of it, or the stream's error flag and what went out.
unsafe extern "C-unwind" fn write(file: *mut FILE, buf: *const c_void, n: ssize_t) -> ssize_t {
    let Some(fd) = virtual_fd(file) else {
        // SAFETY: what stood here before.
        let old: Write = unsafe { core::mem::transmute(OLD[1].load(Relaxed)) };
        // SAFETY: as libc called us.
        return unsafe { old(file, buf, n) };
    };
    let mut done = 0;
    while done < n {
        match super::io::write_one(fd, buf.cast::<u8>().wrapping_add(done as usize).cast(), (n - done) as usize) {
            Ok(k) => done += k as ssize_t,
            Err(e) => {
                crate::ret::fail(e);
                // SAFETY: the flags are the stream's first word; libc holds its lock.
                unsafe { *file.cast::<c_int>() |= ERR_SEEN };
                break;
            }
        }
    }
    done
}

unsafe extern "C-unwind" fn close(file: *mut FILE) -> c_int {
    match virtual_fd(file) {
        Some(fd) => super::fd::shut(fd),
        None => {
            // SAFETY: what stood here before.
            let old: Close = unsafe { core::mem::transmute(OLD[2].load(Relaxed)) };
            // SAFETY: as libc called us.
            unsafe { old(file) }
        }
    }
}

/// The address of a symbol of libc's.
fn symbol(name: &CStr) -> usize {
    // SAFETY: the name ends with a NUL.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) as usize }
}

/// Puts ours into libc's tables.
pub(crate) fn arm() {
    let expected = [symbol(c"_IO_file_read"), symbol(c"_IO_file_write"), symbol(c"_IO_file_close")];
    let ours = [read as *const () as usize, write as *const () as usize, close as *const () as usize];
    for name in [c"_IO_file_jumps", c"_IO_wfile_jumps"] {
        let table = symbol(name) as *mut usize;
        if table.is_null() || expected.contains(&0) {
            continue;
        }
        // SAFETY: a table of at least 21 words of libc's, readable.
        let found = [READ, WRITE, CLOSE].map(|n| unsafe { *table.add(n) });
        // libc exports old versions of read and write beside those it uses: the close is enough to know the layout.
        if found[2] != expected[2] {
            continue;
        }
        let from = table as usize & !4095;
        let len = (table as usize + 21 * 8).next_multiple_of(4096) - from;
        let protect = |prot: c_int| {
            // SAFETY: libc's own pages; they stay readable throughout.
            unsafe { gate::syscall(libc::SYS_mprotect, [from, len, prot as usize, 0, 0, 0]) }
        };
        if protect(libc::PROT_READ | libc::PROT_WRITE).is_err() {
            continue;
        }
        for (n, at) in [READ, WRITE, CLOSE].into_iter().enumerate() {
            OLD[n].store(found[n], Relaxed);
            // SAFETY: writable now; a word is written in one go, so a thread sees the old or the new one.
            unsafe { AtomicUsize::from_ptr(table.add(at)).store(ours[n], Release) };
        }
        let _ = protect(libc::PROT_READ);
    }
}
