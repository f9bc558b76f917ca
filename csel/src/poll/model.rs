//! poll(2) and select(2) as arithmetic: masks in, masks out.
//!
//! # Theory of operation
//! **Purpose.** The rules of `fs/select.c` without descriptors, locks or time, so that they can be read and tested alone.
//! **How it works.** poll(2) reports what was asked for and POLLERR, POLLHUP always. select(2) asks for three fixed masks and reports a bit for each;
//! it has no POLLNVAL: a bad descriptor fails the whole call. A timeout is rounded up to nanoseconds and saturates.
//! **Limits, locks, failure.** None. **See also.** poll(2), select(2).
use super::ev;
use crate::clock::{NEVER, Nanos};

/// What poll(2) reports of `level` when `events` were asked for.
#[inline]
pub fn revents(level: u32, events: i16) -> i16 {
    (level & (u32::from(events as u16) | ev::ALWAYS)) as u16 as i16
}

/// POLLIN_SET: select(2)'s readable.
pub const READ: u32 = ev::RDNORM | ev::RDBAND | ev::IN | ev::HUP | ev::ERR;
/// POLLOUT_SET: select(2)'s writable.
pub const WRITE: u32 = ev::WRBAND | ev::WRNORM | ev::OUT | ev::ERR;
/// POLLEX_SET: select(2)'s exceptional.
pub const EXCEPT: u32 = ev::PRI;

/// What to ask poll(2) for, for a descriptor that is in these sets of select(2).
#[inline]
pub fn asks(read: bool, write: bool, except: bool) -> i16 {
    let mask = if read { READ } else { 0 } | if write { WRITE } else { 0 } | if except { EXCEPT } else { 0 };
    mask as i16
}

/// In which sets a descriptor is reported, of those it was in.
#[inline]
pub fn sets(revents: i16, read: bool, write: bool, except: bool) -> (bool, bool, bool) {
    let r = u32::from(revents as u16);
    (read && r & READ != 0, write && r & WRITE != 0, except && r & EXCEPT != 0)
}

/// When a wait of `timeout` (`None`: for ever) that begins now ends.
pub fn deadline(now: Nanos, timeout: Option<Nanos>) -> Nanos {
    timeout.map_or(NEVER, |t| now.saturating_add(t))
}

/// Milliseconds as poll(2) and epoll_wait(2) take them: negative is for ever.
pub fn millis(timeout: i32) -> Option<Nanos> {
    u64::try_from(timeout).ok().map(|ms| ms * 1_000_000)
}

/// A timespec. `None`: not one (EINVAL).
pub fn timespec(sec: i64, nsec: i64) -> Option<Nanos> {
    if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
        return None;
    }
    Some((sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64))
}

/// A timeval as select(2) takes it: microseconds may be more than a second. `None`: negative (EINVAL).
pub fn timeval(sec: i64, usec: i64) -> Option<Nanos> {
    if sec < 0 || usec < 0 {
        return None;
    }
    Some((sec as u64).saturating_mul(1_000_000_000).saturating_add((usec as u64).saturating_mul(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_always_reported() {
        assert_eq!(revents(ev::IN | ev::ERR | ev::HUP, libc::POLLOUT), libc::POLLERR | libc::POLLHUP);
        assert_eq!(revents(ev::IN | ev::OUT | ev::RDNORM, libc::POLLIN), libc::POLLIN);
    }

    #[test]
    fn select_sees_a_hang_up_as_readable_only() {
        assert_eq!(sets(libc::POLLHUP, true, true, true), (true, false, false));
        assert_eq!(sets(libc::POLLERR, true, true, true), (true, true, false));
        assert_eq!(sets(libc::POLLPRI, true, true, true), (false, false, true));
    }

    #[test]
    fn timeouts() {
        assert_eq!(millis(-5), None);
        assert_eq!(timespec(0, 1_000_000_000), None);
        assert_eq!(timeval(1, 2_000_000), Some(3_000_000_000));
        assert_eq!(deadline(5, timespec(i64::MAX, 0)), NEVER);
    }
}
