//! The command line: `csel run` is as if the program ran bare, and wrong input is a clear message before anything starts.
//!
//! Nothing here needs the network replica: programs are `sh` and friends; instances that are in the way (a name, an address, a full
//! segment) are made by the test itself through the core, as the library makes them.
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use csel_core::config::{Config, Name, Path as DirPath, by_flag};
use csel_core::net::link::join::{Joined, close, join};
use csel_tests::launch::{World, wait_for};

/// An instance of the test's own on a segment.
fn occupy(world: &World, options: &[(&str, &str)]) -> Joined {
    let mut config = Config::DEFAULT;
    for (flag, value) in options {
        config.set(by_flag(flag).expect("a flag"), value.as_bytes()).expect("a value");
    }
    let dir = DirPath::new(world.runtime().as_os_str().as_encoded_bytes()).expect("a short path");
    join(&dir, &config, &Name::of_program(b"test"), -1).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_exit_status_is_the_programs() {
    let w = World::new();
    for code in [0, 1, 7, 125, 255] {
        assert_eq!(w.run(["--", "sh", "-c", &format!("exit {code}")]).code(), code);
    }
}

#[test]
fn a_signal_ends_it_as_a_signal() {
    let w = World::new();
    for (name, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11)] {
        let said = w.run(["--", "sh", "-c", &format!("ulimit -c 0; kill -{name} $$")]);
        assert_eq!((said.status.code(), said.code()), (None, 128 + number), "{said:?}");
    }
}

#[test]
fn no_launcher_stays_between() {
    let w = World::new();
    let mut c = w.csel_command(["run", "--", "sh", "-c", "echo $$ $PPID"]);
    c.arg0("csel");
    let running = w.start(c);
    let pid = running.pid();
    assert_eq!(running.end().ok(), format!("{pid} {}", std::process::id()));
}

#[test]
fn arguments_and_argv0_arrive_as_they_were() {
    let w = World::new();
    let args = ["a", "b c", "", "--name", "-x", "\n", "--", "é"];
    let said = w.run(["--", "sh", "-c", "printf '%s|' \"$0\" \"$@\"", "zero"].iter().chain(&args));
    assert_eq!(said.ok(), "zero|a|b c||--name|-x|\n|--|é|");
    // Without --, what follows the program is the program's.
    assert_eq!(w.run(["sh", "-c", "echo $0 $1", "--name", "--ip"]).ok(), "--name --ip");
    assert_eq!(w.run(["--", "cat", "/proc/self/cmdline"]).ok(), "cat\0/proc/self/cmdline\0");
}

#[test]
fn standard_input_and_output_are_the_programs() {
    let w = World::new();
    // ls itself shows its descriptors: no pipeline, whose ends come and go.
    const SHOW: &str = "cat; echo oops >&2; exec ls /proc/self/fd";
    let input = w.file("input", "to the program\n");
    let mut c = w.csel_command(["run", "--", "sh", "-c", SHOW]);
    c.stdin(fs::File::open(input).expect("the file"));
    let said = w.start(c).end();
    // What the library opens for itself it opens by LD_PRELOAD too; the launcher leaves nothing open.
    let mut preloaded = w.preload_command(&[], ["sh", "-c", SHOW]);
    preloaded.stdin(fs::File::open(w.dir.join("input")).expect("the file"));
    let preloaded = w.start(preloaded).end();
    assert!(said.ok().starts_with("to the program\n"), "{said:?}");
    assert_eq!((said.ok(), said.err.as_str()), (preloaded.ok(), "oops\n"));
}

#[test]
fn signal_dispositions_and_mask_are_the_callers() {
    let w = World::new();
    let show = ["grep", "-E", "^Sig(Ign|Blk|Cgt)", "/proc/self/status"];
    let with_signals = |mut c: std::process::Command| {
        // SAFETY: async-signal-safe calls on the child's own signals.
        unsafe {
            c.pre_exec(|| {
                libc::signal(libc::SIGPIPE, libc::SIG_IGN);
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, libc::SIGUSR1);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
                Ok(())
            })
        };
        w.start(c).end()
    };
    let mut bare = w.command(show[0]);
    bare.args(&show[1..]);
    let bare = with_signals(bare);
    let run = with_signals(w.csel_command(["run", "--"].iter().chain(&show)));
    assert_eq!(run.ok(), bare.ok());
}

#[test]
fn the_terminal_is_the_programs() {
    let w = World::new();
    let script = |command: &str| {
        let mut c = w.command("script");
        c.args(["-qec", command, "/dev/null"]).env("CSEL_LIB", w.library());
        let said = w.start(c).end();
        assert_eq!(said.code(), 5, "{said:?}");
        said.out
    };
    let program = "sh -c 'test -t 0 && test -t 1 && test -t 2 && cut -d\" \" -f5,8 /proc/$$/stat | (read g f; test $g = $f && echo foreground); exit 5'";
    let csel = csel_tests::launch::built("CSEL_BIN", "csel");
    let run = script(&format!("exec {} run -- {program}", csel.display()));
    assert_eq!(run, script(&format!("exec {program}")));
    assert!(run.contains("foreground"), "{run}");
}

#[test]
fn environment_comes_from_e_and_env_file_and_config() {
    let w = World::new();
    let file = w.file("env", "# comment\nA=file\nB=x y\n\nC=\n");
    let config = w.file("csel.toml", "hostname = \"fromfile\"\nmtu = 1500\n[env]\nA = \"config\"\nD = \"config\"\n");
    let show = "echo \"$A|$B|$C|$D|$CSEL_HOSTNAME|$CSEL_MTU|$CSEL_NAME\"";
    let args =
        ["--config", config.to_str().unwrap(), "--env-file", file.to_str().unwrap(), "-e", "A=flag=1", "--mtu", "9000", "--name", "n1"];
    assert_eq!(w.run(args.iter().chain(&["--", "sh", "-c", show])).ok(), "flag=1|x y||config|fromfile|9000|n1");
}

#[test]
fn a_variable_counts_unless_a_flag_is_given() {
    let w = World::new();
    let show = ["--", "sh", "-c", "echo $CSEL_NET $CSEL_IP"];
    let mut c = w.csel_command(["run", "--ip", "10.0.0.1", "--ip", "fd00::1/64"].iter().chain(&show));
    c.env("CSEL_NET", "blue").env("CSEL_IP", "10.9.9.9");
    assert_eq!(w.start(c).end().ok(), "blue 10.0.0.1,fd00::1/64");
}

#[test]
fn working_directory_and_relative_paths() {
    let w = World::new();
    let sub = w.dir.join("sub");
    fs::create_dir(&sub).expect("a directory");
    let mut c =
        w.csel_command(["run", "-w", "sub", "--pcap", "p.pcapng", "--trace=t.txt", "--", "sh", "-c", "pwd; echo $CSEL_PCAP $CSEL_TRACE"]);
    c.current_dir(&w.dir);
    let here = fs::canonicalize(&w.dir).expect("the directory");
    let here = here.display();
    assert_eq!(w.start(c).end().ok(), format!("{here}/sub\n{here}/p.pcapng {here}/t.txt"));
}

#[test]
fn the_library_goes_before_another_preload() {
    let w = World::new();
    let mut c = w.csel_command(["run", "--", "sh", "-c", "echo $LD_PRELOAD"]);
    c.env("LD_PRELOAD", "libm.so.6");
    assert_eq!(w.start(c).end().ok(), format!("{}:libm.so.6", w.library().display()));
    // A csel inside a csel does not load the library twice.
    let inner = csel_tests::launch::built("CSEL_BIN", "csel");
    let said =
        w.run([Path::new("--").as_os_str(), inner.as_os_str(), "run".as_ref(), "sh".as_ref(), "-c".as_ref(), "echo $LD_PRELOAD".as_ref()]);
    assert_eq!(said.ok(), w.library().display().to_string());
}

#[test]
fn a_csel_inside_a_csel_is_another_instance() {
    let w = World::new();
    let inner = csel_tests::launch::built("CSEL_BIN", "csel");
    // The outer's name and address are not the inner's; what the user exports is.
    let show = "echo $CSEL_NAME,$CSEL_IP,$CSEL_MTU,$CSEL_NET; ls -l /proc/self/fd | grep -c arena";
    let script = format!("{} run --net two -- sh -c '{show}'", inner.display());
    let mut c = w.csel_command(["run", "--name", "outer", "--ip", "10.0.0.1", "--", "sh", "-c", &script]);
    c.env("CSEL_MTU", "1500");
    assert_eq!(w.start(c).end().ok(), ",,1500,two\n1");
}

#[test]
fn status_of_programs_that_cannot_run() {
    let w = World::new();
    w.run(["--", "no-such-program"]).fails(127, &["no-such-program", "not found in PATH"]);
    w.run(["--", "./no/such"]).fails(127, &["./no/such", "not found"]);
    w.run(["--", "/etc/passwd"]).fails(126, &["/etc/passwd", "not executable", "chmod +x"]);
    w.run(["--", "/etc"]).fails(126, &["/etc", "directory"]);
    let text = w.file("script", "echo run by the shell $1\n");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!(w.run([text.as_os_str(), "x".as_ref()]).ok(), "run by the shell x");
    let text = w.file("hashbang", "#!/bin/sh -e\necho run by $0\n");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!(w.run([text.as_os_str()]).ok(), format!("run by {}", text.display()));
}

#[test]
fn wrong_input_is_a_message_that_names_option_value_and_remedy() {
    let w = World::new();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--nett", "x"], &["--nett", "--net"]),
        (&["--mtu", "67"], &["--mtu", "\"67\"", "68 to 65535", "--mtu 1500"]),
        (&["--mtu", "big"], &["--mtu", "\"big\"", "number"]),
        (&["--ip", "10.0.0"], &["--ip", "\"10.0.0\"", "IPv4 or IPv6", "--ip 10.111.0.5/16"]),
        (&["--ip", "10.0.0.1/33"], &["--ip", "1 to 32"]),
        (&["--ip", "127.0.0.1"], &["--ip", "unicast"]),
        (&["--ip", "10.0.0.0/24"], &["--ip", "network's own"]),
        (&["--mac", "01:00:00:00:00:01"], &["--mac", "multicast"]),
        (&["--name", "a/b"], &["--name", "\"a/b\"", "letters"]),
        (&["--hostname=-x"], &["--hostname", "\"-x\""]),
        (&["--net", "../x"], &["--net", "\"../x\""]),
        (&["--add-host", "db"], &["--add-host", "NAME:ADDRESS"]),
        (&["--impair", "lose=1%"], &["--impair", "drop=1%"]),
        (&["--sndbuf", "1"], &["--sndbuf", "2304"]),
        (&["--keeper", "maybe"], &["--keeper", "on or off"]),
        (&["--pcap", "/no/such/dir/x"], &["--pcap", "/no/such/dir/x", "can be written"]),
        (&["--dir", "/etc/passwd"], &["--dir", "/etc/passwd", "of your own"]),
        (&["--config", "/no/such"], &["--config", "/no/such"]),
        (&["--env-file", "/no/such"], &["--env-file", "/no/such"]),
        (&["-e", "=x"], &["-e", "\"=x\"", "-e LANG=C"]),
        (&["-w", "/no/such"], &["--workdir", "/no/such"]),
        (&["--name", ""], &["--name", "value"]),
    ];
    for (args, words) in cases {
        w.run(args.iter().chain(&["--", "sh", "-c", "echo it started"])).fails(125, words);
    }
    w.run(["--name", "x"]).fails(125, &["<PROGRAM>"]);
    let mut c = w.csel_command(["run", "true"]);
    c.env("CSEL_NETT", "x");
    w.start(c).end().fails(125, &["CSEL_NETT", "CSEL_NET"]);
    let mut c = w.csel_command(["run", "true"]);
    c.env("CSEL_MTU", "x");
    w.start(c).end().fails(125, &["CSEL_MTU", "\"x\"", "CSEL_MTU=1500"]);
    let mut c = w.csel_command(["run", "true"]);
    c.env("CSEL_LIB", "/no/libcsel.so");
    w.start(c).end().fails(125, &["CSEL_LIB", "/no/libcsel.so"]);
    let config = w.file("bad.toml", "nett = \"x\"\n");
    w.run(["--config", config.to_str().unwrap(), "true"]).fails(125, &["bad.toml", "nett"]);
    let config = w.file("bad2.toml", "mtu = 5\n");
    w.run(["--config", config.to_str().unwrap(), "true"]).fails(125, &["bad2.toml", "mtu", "68 to 65535"]);
}

#[test]
fn a_static_program_is_refused() {
    let w = World::new();
    let source = w.file("static.c", "int main(void) { return 0; }\n");
    let program = w.dir.join("static");
    let _ = w.bare(["cc".as_ref(), "-static".as_ref(), "-o".as_ref(), program.as_os_str(), source.as_os_str()]).ok();
    w.run([program.as_os_str()]).fails(125, &["static", "statically linked", "dynamically linked"]);
    let said = w.csel(["doctor".as_ref(), program.as_os_str()]);
    assert_eq!(said.code(), 1);
    assert!(said.out.contains("BAD preload") && said.out.contains("statically linked"), "{said:?}");
    // Preloaded by hand nothing can be done, and nothing happens to it.
    assert_eq!(w.preload(&[], [program.as_os_str()]).code(), 0);
}

#[test]
fn a_setuid_program_is_refused() {
    let w = World::new();
    // SAFETY: takes nothing.
    let program = if unsafe { libc::geteuid() } == 0 {
        let program = w.dir.join("owned-by-another");
        fs::copy("/bin/true", &program).expect("a copy");
        std::os::unix::fs::chown(&program, Some(65534), None).expect("chown");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("chmod");
        program
    } else {
        "/usr/bin/passwd".into()
    };
    w.run([program.as_os_str()]).fails(125, &["setuid", "LD_PRELOAD"]);
    assert_eq!(w.csel(["doctor".as_ref(), program.as_os_str()]).code(), 1);
}

#[test]
fn doctor_is_content_with_a_dynamic_program() {
    let w = World::new();
    let said = w.csel(["doctor", "sh"]);
    assert!(said.ok().contains("ok  preload"), "{said:?}");
    let mut c = w.csel_command(["doctor"]);
    c.env("CSEL_LIB", "/no/libcsel.so");
    let said = w.start(c).end();
    assert!(said.code() == 1 && said.out.contains("BAD library"), "{said:?}");
}

#[test]
fn a_taken_name_or_address_is_refused() {
    let w = World::new();
    let first = occupy(&w, &[("name", "web"), ("ip", "10.111.0.5"), ("ip", "fdc5:e1::5")]);
    w.run(["--name", "web", "true"]).fails(125, &["name web", "taken", "--name"]);
    w.run(["--name", "WEB", "true"]).fails(125, &["taken"]);
    w.run(["--ip", "10.111.0.5", "true"]).fails(125, &["address 10.111.0.5", "taken by web", "--ip"]);
    w.run(["--ip", "fdc5:e1::5", "true"]).fails(125, &["address fdc5:e1::5", "taken by web"]);
    assert_eq!(w.run(["--net", "other", "--name", "web", "true"]).code(), 0);
    close(first.seg, first.fd);
    // The dead do not hold names. (A child that another test is just forking may hold our file a moment longer.)
    assert!(wait_for(|| w.run(["--name", "web", "--ip", "10.111.0.5", "true"]).code() == 0), "the name outlived its instance");
}

#[test]
fn a_full_segment_is_said() {
    let w = World::new();
    let all: Vec<Joined> = (0..csel_core::net::link::segment::PORTS).map(|_| occupy(&w, &[("net", "full")])).collect();
    w.run(["--net", "full", "true"]).fails(125, &["segment full", "is full", "--net"]);
    close(all[17].seg, all[17].fd);
    assert!(wait_for(|| w.run(["--net", "full", "true"]).code() == 0), "a port that was left is not free");
}

#[test]
fn a_foreign_or_unreadable_segment_file_is_said_and_left_alone() {
    let w = World::new();
    let seg = |name: &str, bytes: &[u8], mode: u32| {
        let path = w.runtime().join(format!("{name}.seg"));
        fs::write(&path, bytes).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        (path, bytes.to_vec())
    };
    let mut other_version = csel_core::net::link::segment::MAGIC.to_ne_bytes().to_vec();
    other_version.extend([7; 4096]);
    let files = [
        seg("text", b"this is a text, and no segment at all", 0o600),
        seg("short", b"x", 0o600),
        seg("version", &other_version, 0o600),
        seg("open", b"", 0o666),
    ];
    w.run(["--net", "text", "true"]).fails(125, &["text.seg", "not a segment file", "--net"]);
    w.run(["--net", "short", "true"]).fails(125, &["short.seg", "not a segment file"]);
    w.run(["--net", "version", "true"]).fails(125, &["version.seg", "another version", "--net"]);
    w.run(["--net", "open", "true"]).fails(125, &["open.seg", "not yours alone"]);
    for (path, bytes) in files {
        assert_eq!(fs::read(&path).expect("the file"), bytes, "{} was changed", path.display());
    }
    fs::create_dir(w.runtime().join("dir.seg")).expect("a directory");
    w.run(["--net", "dir", "true"]).fails(125, &["dir.seg"]);
    // The tools say it, and go on with the others.
    let said = w.csel(["ps"]);
    assert!(said.code() == 0 && said.err.contains("text.seg"), "{said:?}");
    let open = w.dir.join("open-to-all");
    fs::create_dir(&open).expect("a directory");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("chmod");
    w.run(["--dir".as_ref(), open.as_os_str(), "true".as_ref()]).fails(125, &["open-to-all", "chmod 700"]);
}

#[test]
fn ps_lists_instances() {
    let w = World::new();
    assert_eq!(w.csel(["ps", "--json"]).ok(), "[]");
    let _a = occupy(&w, &[("name", "web"), ("ip", "10.111.0.5"), ("mtu", "1500"), ("hostname", "web.example")]);
    let _b = occupy(&w, &[("name", "db"), ("net", "lab")]);
    let table = w.csel(["ps"]);
    let line = table.ok().lines().find(|l| l.contains("web")).expect("a line").to_owned();
    for word in ["default", "10.111.0.5/16", "1500", "web.example", &std::process::id().to_string()] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert!(table.ok().contains("lab") && !w.csel(["ps", "--net", "lab"]).ok().contains("web"));
    let json = w.csel(["ps", "--json", "--net", "default"]);
    for word in ["\"name\": \"web\"", "\"mtu\": 1500", "\"10.111.0.5/16\"", "\"segment\": \"default\""] {
        assert!(json.ok().contains(word), "{word} is not in {json:?}");
    }
    w.csel(["ps", "--net", "a/b"]).fails(125, &["--net", "a/b"]);
}

#[test]
fn completions_and_manual_page_know_every_option() {
    let w = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let said = w.csel(["completions", shell]);
        assert!(said.ok().contains("add-host"), "{shell}");
    }
    let man = w.csel(["man"]);
    for opt in csel_core::config::OPTIONS {
        assert!(man.ok().contains(opt.env), "{} is not in the manual page", opt.env);
    }
    assert!(man.ok().contains(".TH csel") && man.ok().contains("CSEL DOCTOR"));
    w.csel(["completions", "nosuch"]).fails(125, &["nosuch", "bash"]);
    w.csel(["nosuch"]).fails(125, &["nosuch"]);
    assert!(w.csel(["--version"]).ok().starts_with("csel 0."));
    assert!(w.csel(["--help"]).ok().contains("doctor"));
}
