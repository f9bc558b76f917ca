//! CSEL_TRACE: a line for each call that the replica answered.
//!
//! [`begin`] is one load when tracing is off. A hook that handed its call to libc leaves no line: what counts is what the core touched
//! ([`crate::enter::Thread::touched`]). Arguments are shown by their names in the table: `domain`, `flags`, `how`... have tables of their own.
use core::fmt;
use core::sync::atomic::{AtomicI32, Ordering::*};
use csel_core::errno::Errno;
use csel_core::trace::{self as names, Constant, Flags, Line, SocketType};
use libc::c_void;

/// Where the lines go; -1 while tracing is off.
static TO: AtomicI32 = AtomicI32::new(-1);

/// Lines go to descriptor `fd` from now on.
pub(crate) fn start(fd: i32) {
    TO.store(fd, Relaxed);
}

/// Is tracing on? Then the thread's mark is cleared.
#[inline(always)]
pub(crate) fn begin() -> bool {
    if TO.load(Relaxed) < 0 {
        return false;
    }
    crate::enter::thread().touched.set(false);
    true
}

/// A value as the trace shows it.
pub(crate) trait Show {
    /// As a number; pointers are shown in hexadecimal.
    fn show(&self) -> Value;
}

/// A number or a pointer.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    /// A number.
    Number(i64),
    /// An address.
    Pointer(usize),
    /// No value.
    Void,
}

macro_rules! numbers {
    ($($t:ty)*) => { $(impl Show for $t { fn show(&self) -> Value { Value::Number(*self as i64) } })* };
}
numbers! { i8 u8 i16 u16 i32 u32 i64 u64 isize usize }
impl Show for () {
    fn show(&self) -> Value {
        Value::Void
    }
}
impl<T> Show for *const T {
    fn show(&self) -> Value {
        Value::Pointer(self.cast::<c_void>() as usize)
    }
}
impl<T> Show for *mut T {
    fn show(&self) -> Value {
        Value::Pointer(self.cast::<c_void>() as usize)
    }
}
impl<T> Show for Option<T> {
    fn show(&self) -> Value {
        Value::Pointer(usize::from(self.is_some()))
    }
}

struct Shown(&'static str, Value);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Value::Void => f.write_str("void"),
            Value::Pointer(0) => f.write_str("NULL"),
            Value::Pointer(p) => write!(f, "{p:#x}"),
            Value::Number(n) => match self.0 {
                "domain" => Constant(n as i32, names::AF).fmt(f),
                "ty" => SocketType(n as i32).fmt(f),
                "flags" => Flags(n as u32, names::MSG).fmt(f),
                "how" => Constant(n as i32, names::SHUT).fmt(f),
                "level" => Constant(n as i32, names::SOL).fmt(f),
                "op" => Constant(n as i32, names::EPOLL_CTL).fmt(f),
                "cmd" => Constant(n as i32, names::FCNTL).fmt(f),
                "request" => Constant(n as i32, names::IOCTL).fmt(f),
                _ => n.fmt(f),
            },
        }
    }
}

/// Writes the line of a call, if the replica had to do with it.
#[cold]
pub(crate) fn end(name: &str, args: &[(&'static str, Value)], result: Value) {
    let thread = crate::enter::thread();
    if !thread.touched.replace(false) {
        return;
    }
    let saved = crate::ret::errno();
    let mut line = Line::new(thread.me().tid, name);
    let mut level = 0;
    for &(name, value) in args {
        match (name, value) {
            ("level", Value::Number(n)) => level = n as i32,
            ("optname", Value::Number(n)) => {
                line.arg(names::option(level, n as i32));
                continue;
            }
            _ => {}
        }
        line.arg(Shown(name, value));
    }
    match result {
        Value::Number(-1) => line.fail(saved, ""),
        v => line.ok(Shown("", v)),
    };
    let _ = csel_core::gate::write(TO.load(Relaxed), line.bytes());
    crate::ret::fail(Errno(saved.0));
}
