//! Killed senders: what is left of a process that dies while it writes into another's ring.
//!
//! # Theory of operation
//! **Purpose.** SIGKILL comes at any instruction: inside the ring's lock, between reserve and commit, before the bell. The receiver must go on
//! receiving from the others, and the dead one's port must come free.
//! **How it works.** The receiver (this process) has a port of a segment in a file. It starts senders (this program again) that join and send
//! frames as fast as they can; one of them stays, the others are killed at random moments. After each kill the one that stays must get
//! frames through, within a generous time. The senders use the ring as the stack does ([`csel_core::net::link::tx`]).
//! **Limits.** `KILLS` (60). Every wait is bounded. **See also.** `csel/src/arena/ring.rs`.
use csel_core::arena::ring::Peek;
use csel_core::config::{Config, Name, Path};
use csel_core::gate;
use csel_core::net::link::join::{self, Joined};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

const DIR: &str = "LINK_KILL_DIR";
const LONG: Duration = Duration::from_secs(60);

fn come(dir: &str, name: &str) -> Joined {
    let dir = Path::new(dir.as_bytes()).unwrap();
    let name = Name::new(name).unwrap();
    join::join(&dir, &Config { name, ..Config::DEFAULT }, &name, -1).unwrap_or_else(|e| panic!("{e}"))
}

/// A sender: frames of several sizes, each filled with one byte, to port 0, until killed.
fn sender(dir: &str, name: &str) -> ! {
    let j = come(dir, name);
    let tid = gate::gettid();
    let to = &j.seg.ports[0];
    let me = j.facts.port as u8;
    // Nobody should wait for a sender whose receiver has gone.
    let end = Instant::now() + 10 * LONG;
    let mut n = 0usize;
    while Instant::now() < end {
        for _ in 0..100 {
            n += 1;
            match to.ring.reserve(tid, 100 + n * 7919 % 20_000, u32::from(me)) {
                Some(mut slot) => {
                    slot.bytes().fill(me);
                    slot.commit();
                }
                None => std::thread::yield_now(),
            }
        }
    }
    std::process::exit(0)
}

/// The receiver's view of its ring.
struct Receiver {
    j: Joined,
    head: AtomicU64,
    from: [u64; 256],
    skipped: u64,
}

impl Receiver {
    /// Takes frames until one of port `n` comes (or, without one, until the ring is empty once).
    fn until(&mut self, n: Option<u8>) {
        let ring = &self.j.seg.ports[0].ring;
        let deadline = Instant::now() + LONG;
        loop {
            match ring.peek(&self.head) {
                Peek::Empty if n.is_none() => return,
                Peek::Empty => std::thread::yield_now(),
                Peek::Bad => panic!("the ring makes no sense"),
                Peek::Busy { tid, span, .. } => {
                    if !gate::thread_exists(tid) {
                        self.skipped += 1;
                        ring.advance(&self.head, span);
                    } else if n.is_none() {
                        return;
                    } else {
                        std::thread::yield_now();
                    }
                }
                Peek::Frame { frame, tag, span } => {
                    assert!(frame.iter().all(|b| u32::from(*b) == tag), "a frame of port {tag} with somebody else's bytes");
                    self.from[tag as usize] += 1;
                    ring.advance(&self.head, span);
                    if n.is_some_and(|n| u32::from(n) == tag) {
                        return;
                    }
                }
            }
            assert!(Instant::now() < deadline, "no frame of port {n:?}; {:?} so far, {} skipped", &self.from[..8], self.skipped);
        }
    }

    /// The port of the instance `name`, once it is there.
    fn port_of(&mut self, name: &str) -> u8 {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some((n, _)) = self.j.seg.named(name) {
                return n as u8;
            }
            assert!(Instant::now() < deadline, "{name} does not come");
            self.until(None);
            std::thread::yield_now();
        }
    }
}

/// A child that is killed when the test ends, however it ends.
struct Sender(Child);
impl Sender {
    fn start(dir: &str, name: &str) -> Self {
        let mut c = Command::new(std::env::current_exe().unwrap());
        c.args(["--exact", "senders_may_be_killed_anywhere", "--nocapture"]).env(DIR, dir).env("LINK_KILL_NAME", name);
        Self(c.stdout(Stdio::null()).spawn().unwrap())
    }
    fn kill(mut self) {
        assert!(self.0.try_wait().unwrap().is_none(), "a sender ended by itself");
        self.0.kill().unwrap();
        assert_eq!(self.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}
impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn senders_may_be_killed_anywhere() {
    if let (Ok(dir), Ok(name)) = (std::env::var(DIR), std::env::var("LINK_KILL_NAME")) {
        sender(&dir, &name);
    }
    let kills: u32 = std::env::var("KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let dir = std::env::temp_dir().join(format!("link-kill-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    let path = dir.to_str().unwrap().to_owned();
    let j = come(&path, "receiver");
    assert_eq!(j.facts.port, 0);
    let head = AtomicU64::new(j.seg.ports[0].ring.resume());
    let mut r = Receiver { j, head, from: [0; 256], skipped: 0 };
    let steady = Sender::start(&path, "steady");
    let steady_port = r.port_of("steady");
    r.until(Some(steady_port));
    let mut random = u64::from(std::process::id()) | 1;
    for n in 0..kills {
        let victim = Sender::start(&path, &format!("victim{n}"));
        let port = r.port_of(&format!("victim{n}"));
        // Its predecessors are gone, and their ports free. (Somebody who looks at /proc just then may keep one for a moment.)
        assert!(port < steady_port + 16, "dead instances' ports are not freed: {port}");
        r.until(Some(port));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let end = Instant::now() + Duration::from_micros(random >> 33 & 0xfff);
        while Instant::now() < end {
            r.until(None);
        }
        victim.kill();
        for _ in 0..20 {
            r.until(Some(steady_port));
        }
    }
    steady.kill();
    r.until(None);
    println!("{} frames of the steady sender, {} records of dead writers skipped", r.from[steady_port as usize], r.skipped);
    std::fs::remove_dir_all(&dir).unwrap();
}
