//! A family: a root that opens the doors and forks members; one is killed every few milliseconds and replaced.
use crate::board::{Board, MEMBERS, Me, Rng, now};
use crate::load::{self, Doors};
use std::io::{BufRead as _, Write as _};
use std::sync::atomic::Ordering::*;

/// An operation that lasts longer hangs (a loaded machine, stopped members and two processors are slow, not that slow).
const LATE: u64 = 15_000;

/// One member: threads of all kinds; its main thread waits for the word to exit with all of them at work.
fn member(board: &'static Board, doors: Doors, n: usize, seed: u64, hosts: &'static [[u8; 4]], clients: bool) -> ! {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let mut rng = Rng::new(seed);
    let (exclusive, edge) = (rng.below(2) == 0, rng.below(2) == 0);
    let spawn = |f: Box<dyn FnOnce() + Send>| std::thread::Builder::new().stack_size(256 << 10).spawn(f).expect("a thread");
    spawn(Box::new(move || load::blocking_server(Me::new(board, n, 0), doors)));
    spawn(Box::new(move || load::epoll_server(Me::new(board, n, 1), doors, exclusive, edge)));
    spawn(Box::new(move || load::udp_server(Me::new(board, n, 2), doors)));
    if clients {
        spawn(Box::new(move || {
            let me = Me::new(board, n, 3);
            let mut buf = vec![0; 128 << 10];
            while !board.stop.load(Relaxed) {
                load::turn(&me, &mut rng, hosts, &mut buf);
            }
        }));
    }
    while !board.leave[n].load(Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // exit(3) with threads inside.
    std::process::exit(0)
}

struct Family {
    board: &'static Board,
    doors: Doors,
    pids: [i32; MEMBERS],
    seed: u64,
    born: u64,
    count: usize,
    hosts: &'static [[u8; 4]],
    clients: bool,
}

impl Family {
    fn fork(&mut self, n: usize) {
        self.born += 1;
        self.board.clear(n);
        let seed = self.seed ^ self.born << 20;
        // SAFETY: the root has one thread.
        match unsafe { libc::fork() } {
            0 => member(self.board, self.doors, n, seed, self.hosts, self.clients),
            pid if pid > 0 => self.pids[n] = pid,
            _ => panic!("fork: {}", std::io::Error::last_os_error()),
        }
    }
    fn reap(&mut self, n: usize) {
        let mut status = 0;
        // SAFETY: status is writable.
        unsafe { libc::waitpid(self.pids[n], &raw mut status, 0) };
        let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        let left = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        if !killed && !left {
            self.board.fail(&format!("member {n} (pid {}) ended by itself: status {status:#x}", self.pids[n]));
        }
        self.pids[n] = 0;
    }
    fn signal(&self, n: usize, sig: i32) {
        // SAFETY: no pointers; a child of ours that nobody has waited for.
        unsafe { libc::kill(self.pids[n], sig) };
    }
}

/// What is known of a thread that hangs.
fn describe(pid: i32) -> String {
    let mut out = String::new();
    for t in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |f: &str| std::fs::read_to_string(t.path().join(f)).unwrap_or_default().trim().to_owned();
        let state = read("status").lines().find(|l| l.starts_with("State")).unwrap_or_default().to_owned();
        out += &format!("\n    {} {} {state} {} {}", t.file_name().to_string_lossy(), read("comm"), read("wchan"), read("syscall"));
    }
    out
}

fn say(text: &str) {
    println!("{text}");
    let _ = std::io::stdout().flush();
}

/// `soak family SECONDS SEED EVERY_MS COUNT CLIENTS HOST...`: run by the supervisor, preloaded.
pub(crate) fn main(args: &[String]) -> i32 {
    let number = |i: usize| args[i].parse::<u64>().expect("a number");
    let (seconds, seed, every, count, clients) = (number(0), number(1), number(2), number(3) as usize, number(4) != 0);
    let hosts: Vec<[u8; 4]> = args[5..].iter().map(|h| h.parse::<std::net::Ipv4Addr>().expect("an address").octets()).collect();
    let board = Board::make();
    let mut f =
        Family { board, doors: load::open_doors(), pids: [0; MEMBERS], seed, born: 0, count, hosts: Box::leak(hosts.into()), clients };
    say("ready");
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    for n in 0..f.count {
        f.fork(n);
    }
    let mut rng = Rng::new(seed);
    let end = now() + seconds * 1000;
    let mut next = now() + every;
    let mut stopped: Vec<(usize, u64)> = Vec::new();
    let mut said = now();
    while now() < end && !board.failed.load(Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(next.saturating_sub(now()).clamp(1, 5)));
        stopped.retain(|&(n, until)| {
            let over = now() >= until;
            if over {
                f.signal(n, libc::SIGCONT);
            }
            !over
        });
        for (m, t, what) in board.late(LATE) {
            board.fail(&format!("member {m} thread {t} hangs: {what}{}", describe(f.pids[m])));
        }
        if now() - said > 10_000 {
            said = now();
            say(&format!("... {}", board.counts()));
        }
        if every == 0 || now() < next {
            next = next.max(now().saturating_sub(1000));
            continue;
        }
        next += every;
        let n = rng.below(f.count as u64) as usize;
        if stopped.iter().any(|s| s.0 == n) {
            continue;
        }
        match rng.below(20) {
            0 => {
                board.stops.fetch_add(1, Relaxed);
                f.signal(n, libc::SIGSTOP);
                stopped.push((n, now() + 20 + rng.below(200)));
            }
            1..3 => {
                board.exits.fetch_add(1, Relaxed);
                board.leave[n].store(true, SeqCst);
                f.reap(n);
                f.fork(n);
            }
            _ => {
                board.kills.fetch_add(1, Relaxed);
                f.signal(n, libc::SIGKILL);
                f.reap(n);
                f.fork(n);
            }
        }
    }
    let failed = board.failed.load(Relaxed);
    if failed && std::env::var_os("SOAK_HOLD").is_some() {
        say(&format!("held: {:?}", f.pids));
        std::thread::sleep(std::time::Duration::from_secs(600));
    }
    board.stop.store(true, SeqCst);
    for n in 0..f.count {
        if f.pids[n] != 0 {
            f.signal(n, libc::SIGKILL);
            f.reap(n);
        }
    }
    say(&format!("counts {}", board.counts()));
    // Connections that nobody has accepted are the listeners': no leak.
    load::drain_doors(f.doors);
    say("stopped");
    line.clear();
    let _ = std::io::stdin().lock().read_line(&mut line);
    load::close_doors(f.doors);
    i32::from(failed)
}
