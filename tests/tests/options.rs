//! Options: each has its effect, whichever way it is given: flag, variable, `--config` file.
//!
//! The program that looks is `show` (tests/src/bin/show.rs): it sees its network by libc's own functions.
use std::fs;
use std::process::Stdio;

use csel_tests::launch::{Running, Said, World, wait_for};

const SHOW: &str = env!("CARGO_BIN_EXE_show");
const RESOLVE: &str = env!("CARGO_BIN_EXE_resolve");

/// The value of a key in what `show` printed.
#[track_caller]
fn value<'a>(said: &'a Said, key: &str) -> &'a str {
    said.ok().lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_else(|| panic!("no {key} in {said:?}"))
}

/// `show` with one option, given in all three ways; what it says of `key` must be `want`.
#[track_caller]
fn has_effect(flag: &str, text: &str, key: &str, want: &str) {
    let w = World::new();
    let opt = csel_core::config::by_flag(flag).expect("an option");
    let by_flag = w.run([&format!("--{flag}"), text, "--", SHOW]);
    let by_variable = w.preload(&[(opt.env, text)], [SHOW]);
    let config = w.file("csel.toml", &format!("{flag} = \"{text}\"\n"));
    let by_file = w.run(["--config", config.to_str().expect("a path"), "--", SHOW]);
    for (how, said) in [("flag", by_flag), ("variable", by_variable), ("file", by_file)] {
        assert_eq!(value(&said, key), want, "{flag} by {how}");
    }
}

#[test]
fn name() {
    has_effect("name", "web", "name", "web");
}

#[test]
fn hostname() {
    has_effect("hostname", "www.example", "hostname", "www.example");
    has_effect("name", "web", "hostname", "web");
}

#[test]
fn ip() {
    has_effect("ip", "10.1.2.3/8", "addresses", "10.1.2.3");
    has_effect("ip", "10.1.2.3,fd00::3", "addresses", "10.1.2.3 fd00::3");
}

#[test]
fn mac() {
    has_effect("mac", "02:00:5e:10:20:30", "mac", "02:00:5e:10:20:30");
}

#[test]
fn mtu() {
    has_effect("mtu", "1400", "mtu", "1400");
    has_effect("mtu", "65535", "mtu", "65535");
}

#[test]
fn buffers() {
    has_effect("sndbuf", "64K", "sndbuf", "131072");
    has_effect("rcvbuf", "96K", "rcvbuf", "196608");
}

#[test]
fn with_no_options_the_name_is_the_programs_and_addresses_are_leased() {
    let w = World::new();
    let said = w.preload(&[], [SHOW]);
    assert_eq!((value(&said, "name"), value(&said, "hostname")), ("show", "show"));
    assert_eq!(value(&said, "addresses"), "10.111.0.1 fdc5:e1::1");
    assert_eq!((value(&said, "first"), value(&said, "count")), ("2/16", "3"));
    assert_eq!(value(&said, "version"), env!("CARGO_PKG_VERSION"));
    assert!(w.runtime().join("default.seg").exists());
}

/// An instance that sits on its segment.
fn sit(w: &World, command: std::process::Command) -> Running {
    let mut command = command;
    command.stdin(Stdio::piped());
    let mut running = w.start(command);
    running.until("sitting");
    running
}

#[test]
fn the_second_of_a_program_has_another_name_and_other_addresses() {
    let w = World::new();
    let sitting: Vec<Running> = (0..3).map(|_| sit(&w, w.preload_command(&[], [RESOLVE, "sit"]))).collect();
    let listed = w.csel(["ps", "--json"]);
    for name in ["\"resolve\"", "\"resolve-2\"", "\"resolve-3\"", "10.111.0.1/16", "10.111.0.2/16", "10.111.0.3/16", "fdc5:e1::3/64"] {
        assert!(listed.ok().contains(name), "{name} is not in {listed:?}");
    }
    drop(sitting);
    assert!(wait_for(|| w.csel(["ps", "--json"]).ok() == "[]"), "the dead are listed");
}

#[test]
fn what_is_taken_is_said_by_ld_preload_too() {
    let w = World::new();
    let _web = sit(&w, w.preload_command(&[("CSEL_NAME", "web"), ("CSEL_IP", "10.111.0.5")], [RESOLVE, "sit"]));
    w.preload(&[("CSEL_NAME", "web")], [SHOW]).fails(125, &["name web", "taken", "CSEL_NAME"]);
    w.preload(&[("CSEL_IP", "10.111.0.5")], [SHOW]).fails(125, &["10.111.0.5", "taken by web", "CSEL_IP"]);
    w.preload(&[("CSEL_MTU", "5")], [SHOW]).fails(125, &["CSEL_MTU", "\"5\"", "68 to 65535"]);
    w.preload(&[("CSEL_DIR", "/no/such/dir")], [SHOW]).fails(125, &["/no/such/dir", "CSEL_DIR"]);
    fs::write(w.runtime().join("text.seg"), "a text, and no segment").expect("a file");
    fs::set_permissions(w.runtime().join("text.seg"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    w.preload(&[("CSEL_NET", "text")], [SHOW]).fails(125, &["text.seg", "not a segment file"]);
}

#[test]
fn segments_are_apart() {
    let w = World::new();
    let _web = sit(&w, w.csel_command(["run", "--name", "web", "--net", "one", "--", RESOLVE, "sit"]));
    assert!(w.run(["--net", "one", "--", RESOLVE, "gai", "web", "-", "2", "1", "0", "0"]).ok().contains("10.111."));
    assert_eq!(w.run(["--net", "two", "--", RESOLVE, "gai", "web", "-", "2", "1", "0", "0"]).ok(), "error -2");
}

#[test]
fn add_host() {
    let w = World::new();
    let ask = ["--", RESOLVE, "gai", "db", "-", "2", "1", "0", "0"];
    assert!(w.run(["--add-host", "db:10.9.9.9"].iter().chain(&ask)).ok().contains("10.9.9.9"));
    assert!(w.preload(&[("CSEL_HOSTS", "a:1.2.3.4,db:10.9.9.9")], &ask[1..]).ok().contains("10.9.9.9"));
    let config = w.file("csel.toml", "add-host = [\"a:1.2.3.4\", \"db:10.9.9.9\"]\n");
    assert!(w.run(["--config", config.to_str().expect("a path")].iter().chain(&ask)).ok().contains("10.9.9.9"));
}

#[test]
fn pcap() {
    let w = World::new();
    let file = w.dir.join("p.pcapng");
    let said = w.run(["--pcap".as_ref(), file.as_os_str(), "--".as_ref(), SHOW.as_ref(), "traffic".as_ref()]);
    assert_eq!(said.ok(), "done");
    let bytes = fs::read(&file).expect("the capture");
    // A section header block, and a frame with our payload in it.
    assert_eq!(bytes[..4], 0x0a0d_0d0au32.to_le_bytes());
    assert!(bytes.windows(16).any(|s| s == b"over the segment"), "the payload is not in the capture of {} bytes", bytes.len());
}

#[test]
fn trace() {
    let w = World::new();
    let file = w.dir.join("trace");
    let to_file = w.run([&format!("--trace={}", file.display()), "--", SHOW, "traffic"]);
    assert_eq!((to_file.ok(), to_file.err.as_str()), ("done", ""));
    let to_stderr = w.preload(&[("CSEL_TRACE", "1")], [SHOW, "traffic"]);
    assert_eq!(to_stderr.ok(), "done");
    for text in [fs::read_to_string(&file).expect("the trace"), to_stderr.err] {
        for call in ["socket(AF_INET", "bind(", "listen(", "connect(", "accept4(", ") = "] {
            assert!(text.contains(call), "{call} is not in the trace:\n{text}");
        }
    }
}

#[test]
fn impairments_do_not_spoil_a_stream() {
    let w = World::new();
    let said = w.run(["--impair", "dup=20%,reorder=20%,drop=5%,seed=3", "--", SHOW]);
    assert_eq!(value(&said, "name"), "show");
}

#[test]
fn spinning_and_the_keeper_can_be_off() {
    let w = World::new();
    assert_eq!(w.run(["--spin-us", "0", "--keeper", "off", "--", SHOW, "traffic"]).ok(), "done");
    assert_eq!(w.preload(&[("CSEL_SPIN_US", "off"), ("CSEL_KEEPER", "0")], [SHOW, "traffic"]).ok(), "done");
}

#[test]
fn off_is_off() {
    let w = World::new();
    let bare = w.bare([SHOW]);
    let off = w.preload(&[("CSEL_DISABLE", "1"), ("CSEL_HOSTNAME", "x")], [SHOW]);
    assert_eq!(value(&off, "name"), "-");
    for key in ["hostname", "sndbuf", "addresses"] {
        assert_eq!(value(&off, key), value(&bare, key), "{key}");
    }
    assert!(!w.runtime().join("default.seg").exists(), "switched off, and yet on a segment");
    // Any other value is an instance.
    assert_eq!(value(&w.preload(&[("CSEL_DISABLE", "0")], [SHOW]), "name"), "show");
}

#[test]
fn a_program_without_csel_sees_nothing_of_it() {
    let w = World::new();
    let _web = sit(&w, w.csel_command(["run", "--name", "web", "--ip", "10.111.222.33", "--", RESOLVE, "sit"]));
    let bare = w.bare([SHOW]);
    assert_eq!(value(&bare, "name"), "-");
    assert!(!value(&bare, "addresses").contains("10.111.222.33"));
}

#[test]
fn ss_shows_sockets_and_their_holders() {
    let w = World::new();
    let sitting = sit(&w, w.csel_command(["run", "--name", "web", "--", RESOLVE, "sit"]));
    let line = w.csel(["ss", "-u"]).ok().lines().find(|l| l.contains("web")).expect("a line").to_owned();
    for word in ["udp", "UNCONN", "0.0.0.0:", &format!("(\"resolve\",pid={},fd=", sitting.pid())] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    assert!(!w.csel(["ss", "-t"]).ok().contains("web"));
    let json = w.csel(["ss", "--json", "--name", "web"]);
    for word in ["\"netid\": \"udp\"", "\"instance\": \"web\"", &format!("\"pid\": {}", sitting.pid())] {
        assert!(json.ok().contains(word), "{word} is not in {json:?}");
    }
    assert_eq!(w.csel(["ss", "--json", "--name", "nobody"]).ok(), "[]");
    assert_eq!(w.csel(["ss", "--json", "--net", "other"]).ok(), "[]");
    assert_eq!(w.csel(["ss", "--json", "-6"]).ok(), "[]");
}

#[test]
fn a_c_program_compiles_against_the_header_and_asks() {
    let w = World::new();
    let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../c-headers");
    let source = w.file(
        "api.c",
        r#"#include <csel.h>
#include <stdio.h>
int main(void) {
    char name[64];
    struct sockaddr_storage at[9];
    unsigned char len[9];
    int n = csel_addresses(at, len, 9);
    if (!csel_active() || csel_name(name, sizeof name) < 0 || n < 1) return 1;
    printf("%s %s %d %d/%d\n", csel_version(), name, n, at[0].ss_family, len[0]);
    return CSEL_VERSION != 100;
}
"#,
    );
    let lib = w.library().parent().expect("a directory");
    let program = w.dir.join("api");
    let mut cc = w.command("cc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg("-I")
        .arg(header)
        .arg(&source)
        .arg("-L")
        .arg(lib)
        .arg("-lcsel");
    let _ = w.start(cc).end().ok();
    let mut run = w.command(&program);
    run.env("LD_LIBRARY_PATH", lib).env("CSEL_IP", "10.3.3.3/24");
    assert_eq!(w.start(run).end().ok(), format!("{} api 2 2/24", env!("CARGO_PKG_VERSION")));
}
