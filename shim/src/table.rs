//! The symbol table: every name libcsel.so stands before, declared once.
//!
//! # Theory of operation
//! **Purpose.** One row of [`interpose!`] says what a symbol is called, its C signature, whether it is a cancellation point, how far it is
//! supported and in which words, and what it does. From the row come the exported function, the next definition (`real::NAME`), the
//! trace line, and the row of [`rows`], which `csel symbols` prints and `make symbols` compares with what the library exports.
//! **How it works.** `interpose!` is used once in each file of [`crate::abi`]. Functions with C variable arguments (fcntl, ioctl, open, syscall, prctl)
//! are declared with the most arguments they can have: on x86-64 and aarch64 the registers are the same. The functions are `extern "C-unwind"`,
//! because pthread_cancel(3) unwinds through them.
//! **Limits.** `execl` and friends, which pass arguments on the stack, are written by hand. **Locks.** None. **Failure.** None.
//! **See also.** [`crate::real`], `tests/symbols.sh`.
use crate::real::Next;

/// How far a symbol is supported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    /// As Linux.
    Full,
    /// Not wholly as Linux; the row says where.
    Partial,
    /// Handed to libc; hooked only to keep the books.
    Pass,
}

/// One row.
pub(crate) struct Row {
    /// The symbol.
    pub(crate) name: &'static str,
    /// The family: the file it is in.
    pub(crate) family: &'static str,
    /// Is it a cancellation point?
    pub(crate) cancels: bool,
    /// How far it is supported.
    pub(crate) status: Status,
    /// What differs from Linux, in words a user would search for.
    pub(crate) words: &'static str,
    /// Where the next definition is.
    pub(crate) next: &'static Next,
}

/// Declares symbols. See the module's head.
macro_rules! interpose {
    (family $family:ident; $($(#[doc = $doc:literal])* $cancel:ident fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $status:ident $words:literal $body:block)*) => {
        /// The next definitions of this family.
        #[allow(dead_code, clippy::too_many_arguments, non_snake_case)]
        pub(crate) mod real {
            #[allow(unused_imports)]
            use super::*;
            $(
                #[allow(unused_doc_comments)]
                #[inline(always)]
                pub(crate) unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the next definition of this name has this signature (the man page's).
                    let next: unsafe extern "C-unwind" fn($($ty),*) $(-> $ret)? = unsafe { core::mem::transmute(next::$name.get()) };
                    // SAFETY: the caller passes what the man page asks for, or what the application passed.
                    unsafe { next($($arg),*) }
                }
            )*
            #[allow(non_upper_case_globals)]
            pub(super) mod next {
                $(pub(crate) static $name: $crate::real::Next = $crate::real::Next::new(concat!(stringify!($name), "\0"));)*
            }
        }
        /// The rows of this family.
        pub(crate) static ROWS: &[$crate::table::Row] = &[$($crate::table::Row {
            name: stringify!($name),
            family: stringify!($family),
            cancels: interpose!(@cancels $cancel),
            status: $crate::table::Status::$status,
            words: $words,
            next: &real::next::$name,
        }),*];
        $(
            $(#[doc = $doc])*
            ///
            /// # Safety
            /// As the man page says.
            #[allow(clippy::too_many_arguments)]
            #[allow(unreachable_pub)]
            #[unsafe(no_mangle)]
            pub unsafe extern "C-unwind" fn $name($($arg: $ty),*) $(-> $ret)? {
                let traced = $crate::trace::begin();
                let result = $body;
                if traced {
                    $crate::trace::end(stringify!($name), &[$((stringify!($arg), $crate::trace::Show::show(&$arg))),*], $crate::trace::Show::show(&result));
                }
                #[allow(clippy::let_and_return, clippy::unit_arg)]
                result
            }
        )*
    };
    (@cancels cancels) => { true };
    (@cancels plain) => { false };
}
pub(crate) use interpose;

/// Every row of every family.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    crate::abi::FAMILIES.iter().copied().flatten()
}

/// Resolves every next definition.
pub(crate) fn resolve() {
    for row in rows() {
        row.next.resolve();
    }
}

/// What a row says, as one line: name, family, status, words.
fn line(row: &Row, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
    let status = match row.status {
        Status::Full => "full",
        Status::Partial => "partial",
        Status::Pass => "pass",
    };
    let cancels = if row.cancels { " cancels" } else { "" };
    writeln!(out, "{} {} {status}{cancels} {}", row.name, row.family, row.words)
}

/// Calls `each` with a line of text for each symbol, for `csel symbols` (which loads the library and asks for this name).
///
/// # Safety
/// `each` must be a function that takes `cookie`, bytes and their count.
#[allow(unreachable_pub)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn csel_symbols(
    each: Option<unsafe extern "C-unwind" fn(*mut libc::c_void, *const u8, usize)>,
    cookie: *mut libc::c_void,
) {
    let Some(each) = each else { return };
    for row in rows() {
        let mut text = csel_core::config::Str::<255>::EMPTY;
        let _ = line(row, &mut text);
        let bytes = text.as_bytes();
        // SAFETY: the caller vouches for the function.
        unsafe { each(cookie, bytes.as_ptr(), bytes.len()) };
    }
}
