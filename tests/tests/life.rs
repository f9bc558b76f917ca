//! Lives and deaths: what is left when a program exits, is killed, forks or becomes another program.
//!
//! Every test has a segment and a runtime directory of its own, runs Python as the application by LD_PRELOAD, and is bounded by `timeout(1)` on each
//! program it starts. Nothing here measures time: bounds are generous and only there so that nothing hangs.
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// One test's world: a runtime directory, removed at the end.
struct World {
    dir: PathBuf,
}

impl World {
    fn new() -> Self {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("csel-life-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        Command::new("chmod").arg("700").arg(&dir).status().expect("chmod");
        Self { dir }
    }
    /// `python3 -c code` in instance `name`, bounded to 60 s.
    fn python(&self, name: &str, code: &str) -> Command {
        let mut c = Command::new("timeout");
        c.args(["-k", "1", "60", "python3", "-c", code])
            .env("LD_PRELOAD", library())
            .env("XDG_RUNTIME_DIR", &self.dir)
            .env("CSEL_NAME", name)
            .env("CSEL_NET", "life")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        c
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn library() -> PathBuf {
    if let Some(lib) = std::env::var_os("CSEL_LIB") {
        return lib.into();
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let lib = target.join("release/libcsel.so");
    assert!(lib.exists(), "{} is missing: run `make build`", lib.display());
    lib
}

fn done(mut c: Command) -> Output {
    c.output().expect("the program starts")
}

fn text(o: &Output) -> String {
    format!("{}\nstdout:\n{}\nstderr:\n{}", o.status, String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

#[track_caller]
fn ok(o: &Output) -> String {
    assert!(o.status.success(), "{}", text(o));
    String::from_utf8_lossy(&o.stdout).into_owned()
}

/// A client's first lines: connect to `host`, again and again until it is there.
const DIAL: &str = r#"
import socket, sys, os, time
def dial(host, port):
    for _ in range(400):
        try: return socket.create_connection((host, port), timeout=30)
        except OSError as e: last = e; time.sleep(0.05)
    raise last
"#;

/// A server that says `up` in a file when it listens, and then runs `body` with the accepted connection `c`.
fn server(world: &World, name: &str, body: &str) -> Child {
    let code = format!(
        "import socket, sys, os, time\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\ns.bind(('0.0.0.0', 80)); s.listen(8)\nc, _ = s.accept()\n{body}"
    );
    world.python(name, &code).spawn().expect("the server starts")
}

#[test]
fn what_was_written_before_exit_arrives() {
    let w = World::new();
    let srv = server(&w, "srv", "time.sleep(0.3)\nn = 0\nwhile True:\n  b = c.recv(65536)\n  if not b: break\n  n += len(b)\nprint(n)");
    // The client goes away at once: its megabytes must still arrive.
    let out = done(w.python("cli", &format!("{DIAL}\nc = dial('srv', 80)\nc.sendall(b'x' * 3000000)\nos._exit(0)")));
    ok(&out);
    assert_eq!(ok(&srv.wait_with_output().expect("the server ends")).trim(), "3000000");
}

#[test]
fn the_death_of_a_process_reaches_its_peer() {
    let w = World::new();
    let srv = server(&w, "srv", "c.sendall(b'hello'); os.kill(os.getpid(), 9)");
    let code = format!(
        "{DIAL}\nc = dial('srv', 80)\nassert c.recv(5, socket.MSG_WAITALL) == b'hello'\ntry: print('end', c.recv(1))\nexcept ConnectionResetError: print('end reset')"
    );
    let out = ok(&done(w.python("cli", &code)));
    assert!(out.contains("end"), "{out}");
    let _ = srv.wait_with_output();
}

#[test]
fn a_killed_instance_frees_its_name_and_address() {
    let w = World::new();
    let code = "import socket, os\ns = socket.socket(); s.bind(('0.0.0.0', 80)); s.listen(1); os.kill(os.getpid(), 9)";
    let first = done({
        let mut c = w.python("once", code);
        c.env("CSEL_IP", "10.111.7.7/16");
        c
    });
    assert!(!first.status.success());
    // Its successor may take name and address as soon as somebody noticed the death.
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let again = done({
            let mut c = w.python("once", "import socket\ns = socket.socket(); s.bind(('10.111.7.7', 80)); s.listen(1); print('mine')");
            c.env("CSEL_IP", "10.111.7.7/16");
            c
        });
        if again.status.success() {
            break;
        }
        assert!(Instant::now() < until, "name and address are still taken: {}", text(&again));
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_keeper_is_nobodys_child() {
    let w = World::new();
    let code = r#"
import socket, os, signal
seen = []
signal.signal(signal.SIGCHLD, lambda *a: seen.append(a))
s = socket.socket(); s.bind(('0.0.0.0', 80)); s.listen(1)
c = socket.create_connection(('127.0.0.1', 80)); c.sendall(b'x'); c.close(); s.close()
try: print('waited', os.waitpid(-1, os.WNOHANG))
except ChildProcessError: print('none')
assert not seen, seen
"#;
    assert_eq!(ok(&done(w.python("alone", code))).trim(), "none");
}

#[test]
fn a_child_goes_on_with_its_parents_connection() {
    let w = World::new();
    let srv = server(
        &w,
        "srv",
        "if os.fork() == 0:\n  s.close(); c.sendall(b'child ' + c.recv(4)); os._exit(0)\nc.close(); s.close(); print(os.wait()[1])",
    );
    let code = format!("{DIAL}\nc = dial('srv', 80)\nc.sendall(b'ping')\nprint(c.makefile().read())");
    assert_eq!(ok(&done(w.python("cli", &code))).trim(), "child ping");
    assert_eq!(ok(&srv.wait_with_output().expect("the server ends")).trim(), "0");
}

#[test]
fn a_connection_lives_on_over_exec() {
    let w = World::new();
    let srv = server(
        &w,
        "srv",
        "os.set_inheritable(c.fileno(), True)\nos.execvp('python3', ['python3', '-c', 'import socket, sys; c = socket.socket(fileno=int(sys.argv[1])); c.sendall(b\"after exec \" + c.recv(4)); c.close()', str(c.fileno())])",
    );
    let code = format!("{DIAL}\nc = dial('srv', 80)\nc.sendall(b'ping')\nprint(c.makefile().read())");
    let out = done(w.python("cli", &code));
    let srv = srv.wait_with_output().expect("the server ends");
    assert!(
        out.status.success() && String::from_utf8_lossy(&out.stdout).trim() == "after exec ping",
        "client {}\nserver {}",
        text(&out),
        text(&srv)
    );
}

#[test]
fn the_kernel_sees_no_inet_socket() {
    let w = World::new();
    // The library is in a process of its own; the host's view of that process must hold no INET socket.
    let code = r#"
import socket, os
s = socket.socket(); s.bind(('0.0.0.0', 8099)); s.listen(1)
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(('::', 8099))
ino = {os.fstat(x.fileno()).st_ino for x in (s, u)}
for f in ('tcp', 'tcp6', 'udp', 'udp6'):
    for line in open('/proc/net/' + f).readlines()[1:]:
        assert int(line.split()[9]) not in ino, line
print('unseen')
"#;
    assert_eq!(ok(&done(w.python("ghost", code))).trim(), "unseen");
}

/// A shell has no socket itself: its first program's end is the instance's end, and its next program founds it anew, with the same name.
#[test]
fn a_shells_next_program_is_reachable_again() {
    let w = World::new();
    let first = "import socket; socket.socket()";
    let second = "import socket; l = socket.create_server((\"\", 80)); c, _ = l.accept(); c.sendall(c.recv(9))";
    let both = format!(
        "import os\nfor code in ({first:?}, {first:?}, {second:?}):\n  os.system(f\"python3 -c '{{code}}' || echo failed; sleep 0.3\")"
    );
    let s = w.python("again", &both).spawn().expect("the program starts");
    let got = ok(&done(w.python("c", &format!("{DIAL}\nc = dial(\"again\", 80); c.sendall(b\"here\"); print(c.recv(9).decode())"))));
    assert_eq!(got.trim(), "here");
    assert_eq!(ok(&s.wait_with_output().expect("it ends")).trim(), "");
}

/// The keeper is begun at the first socket; it holds nothing of the application's open, not for a moment.
#[test]
fn the_keeper_keeps_nothing_open() {
    let w = World::new();
    for n in 0..8 {
        let code = "import socket\na, b = socket.socketpair()\ns = socket.socket()\nb.close()\nprint(a.recv(1, socket.MSG_DONTWAIT))";
        assert_eq!(ok(&done(w.python(&format!("k{n}"), code))), "b''\n");
    }
}

/// Two processes share an accepted connection and the listener; one is killed, then the other: the peer sees the end only then, and soon.
#[test]
fn the_last_holder_counts() {
    let w = World::new();
    let srv = server(
        &w,
        "srv",
        r#"
kid = os.fork()
if kid == 0:
  time.sleep(600)
os.kill(kid, 9); os.waitpid(kid, 0); time.sleep(1.5)
c.sendall(b'still open')
time.sleep(0.5)
os.kill(os.getpid(), 9)
"#,
    );
    let code = format!(
        "{DIAL}\nc = dial('srv', 80)\nassert c.recv(10, socket.MSG_WAITALL) == b'still open'\ntry: print('end', c.recv(1))\nexcept ConnectionResetError: print('end reset')"
    );
    let out = ok(&done(w.python("cli", &code)));
    assert!(out.contains("end"), "{out}");
    let _ = srv.wait_with_output();
}

/// A member that is killed while it listens and connects gives the port back, and its connections end, while its family goes on.
#[test]
fn a_killed_members_port_is_free_again() {
    let w = World::new();
    let code = r#"
import socket, os, time, signal
def listen():
    for _ in range(400):
        s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try: s.bind(('0.0.0.0', 80)); s.listen(8); return s
        except OSError as e: last = e; s.close(); time.sleep(0.05)
    raise last
keep = socket.socket()
for turn in range(8):
    r, w = os.pipe()
    kid = os.fork()
    if kid == 0:
        s = listen()
        c = socket.create_connection(('127.0.0.1', 80)); a, _ = s.accept()
        os.write(w, b'x')
        while True: c.sendall(b'y' * 1000); a.recv(1000)
    os.close(w); assert os.read(r, 1) == b'x', turn; os.close(r)
    c = socket.create_connection(('127.0.0.1', 80)); c.settimeout(30)
    os.kill(kid, 9); os.waitpid(kid, 0)
    try: assert c.recv(1) == b''
    except ConnectionResetError: pass
    c.close()
listen(); print('free')
"#;
    assert_eq!(ok(&done(w.python("home", code))).trim(), "free");
}

/// exit(3) while other threads are inside calls: no message, no hang, and the peer sees the end.
#[test]
fn exit_with_threads_inside_is_clean() {
    let w = World::new();
    let srv = server(
        &w,
        "srv",
        r#"
import threading
def reader():
  try:
    while c.recv(1000): pass
  except OSError: pass
def churn():
  while True:
    try: socket.create_connection(('127.0.0.1', 80)).close()
    except OSError: pass
for f in (reader, churn, churn): threading.Thread(target=f, daemon=True).start()
time.sleep(0.3)
import ctypes; ctypes.CDLL(None).exit(0)
"#,
    );
    let code = format!("{DIAL}\nc = dial('srv', 80)\ntry: print('end', c.recv(1))\nexcept ConnectionResetError: print('end reset')");
    let out = ok(&done(w.python("cli", &code)));
    assert!(out.contains("end"), "{out}");
    let srv = srv.wait_with_output().expect("the server ends");
    assert!(srv.status.success() && srv.stderr.is_empty(), "{}", text(&srv));
}
