//! What libc does inside itself stays inside the instance: scoped Syscall User Dispatch, with signals, threads, fork, and where there is none.
use csel_tests::launch::{Said, World};

const INWARD: &str = env!("CARGO_BIN_EXE_inward");
const NAMESERVER: &str = env!("CARGO_BIN_EXE_nameserver");

#[track_caller]
fn done(said: &Said) {
    assert_eq!(said.ok().lines().last(), Some("done"), "{said:?}");
}

/// Natively (on the host's loopback), by LD_PRELOAD and by `csel run`.
#[track_caller]
fn everywhere(words: &[&str]) {
    let w = World::new();
    let all: Vec<&str> = [INWARD].iter().chain(words).copied().collect();
    done(&w.bare(&all));
    done(&w.preload(&[], &all));
    done(&w.run(["--"].iter().chain(&all)));
}

#[test]
fn a_line_written_by_libc_itself_arrives() {
    everywhere(&["plain"]);
}

#[test]
fn signals_threads_and_forks_in_scopes() {
    everywhere(&["storm"]);
}

#[test]
fn asynchronous_name_requests() {
    everywhere(&["a", "localhost"]);
}

#[test]
fn the_resolver_functions_ask_over_the_instances_sockets() {
    let w = World::new();
    let mut ns = w.start(w.csel_command(["run", "--name", "ns", "--ip", "10.111.0.53", "--", NAMESERVER]));
    ns.until("serving");
    done(&w.run(["--name", "me", "--", INWARD, "res", "10.111.0.53", "host.example"]));
    assert!(ns.so_far().contains("host.example"), "{}", ns.so_far());
}

#[test]
fn where_the_kernel_has_none_nothing_breaks() {
    let w = World::new();
    done(&w.preload(&[], [INWARD, "absent"]));
}
