//! Names: what libc says natively it says under csel, and peers find each other.
//!
//! The questions that do not depend on who is where (numbers, services, flags, errors) are asked natively and in an instance and the
//! answers compared, word by word: Linux is the oracle. The others are asked in an instance whose peers the test put there.
use std::process::Stdio;

use csel_tests::launch::{Running, World};

const RESOLVE: &str = env!("CARGO_BIN_EXE_resolve");

/// An instance that sits on its segment until it is dropped.
fn sit(w: &World, options: &[&str]) -> Running {
    let mut c = w.csel_command(["run"].iter().chain(options).chain(&["--", RESOLVE, "sit"]));
    c.stdin(Stdio::piped());
    let mut running = w.start(c);
    running.until("sitting");
    running
}

/// Asks in an instance with these options; a line for each question.
fn ask(w: &World, options: &[&str], questions: &[&str]) -> Vec<String> {
    let file = w.file("questions", &(questions.join("\n") + "\n"));
    let mut args: Vec<&str> = options.to_vec();
    args.extend(["--", RESOLVE, "file", file.to_str().expect("a path")]);
    w.run(args).ok().lines().map(|l| l.split_once(" -> ").expect("an answer").1.to_owned()).collect()
}

/// Questions whose answers are the same on every host with these files.
fn same_everywhere() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    // FAMILY SOCKTYPE PROTOCOL FLAGS
    let hints =
        ["0 0 0 0", "0 1 0 0", "2 1 0 0", "10 1 0 0", "10 1 0 8", "10 1 0 0x18", "0 2 0 1", "0 3 0 0", "0 0 6 0", "0 0 132 0", "0 5 0 0"];
    let wrong =
        ["99 0 0 0", "0 99 0 0", "0 1 17 0", "0 0 99 0", "0 0 0 0x10000", "0 3 99 0", "0 1 0 4", "0 1 0 0x400", "0 1 0 2", "1 0 0 0"];
    let nodes = [
        "-",
        "*",
        "127.0.0.1",
        "::1",
        "127.1",
        "0x7f.1",
        "017700000001",
        "::ffff:1.2.3.4",
        "fe80::1%lo",
        "fe80::1%1",
        "fe80::1%7",
        "::1%1",
        "ff02::1%lo",
    ];
    for hints in hints.iter().chain(&wrong) {
        for node in nodes {
            for service in ["-", "80", "http"] {
                all.push(format!("gai {node} {service} {hints}"));
            }
        }
    }
    // No numbers: natively they would be asked of DNS, so here with AI_NUMERICHOST only.
    for node in NO_NUMBERS {
        for family in [0, 2, 10] {
            all.push(format!("gai {node} 80 {family} 1 0 4"));
        }
    }
    for service in ["ntp", "domain", "nosuch", "65535", "65536", "65537", "-1", "+80", "80x", "99999999999999999999", "''", "*", "0"] {
        for hints in ["0 0 0 0", "0 1 0 0", "0 2 0 0", "0 3 0 0", "0 0 0 0x400", "0 0 17 0"] {
            all.push(format!("gai 127.0.0.1 {service} {hints}"));
        }
    }
    all.push("gai 127.0.0.1 80 -h".into());
    for address in ["127.0.0.1", "fe80::1%1", "fe80::1%77", "::1%1", "ff02::1%1", "192.0.2.77", "2001:db8::77", "::ffff:192.0.2.1"] {
        for port in ["80", "514", "64999", "0"] {
            for flags in ["1", "2", "3", "17", "18", "19", "9", "0x100"] {
                // Names of addresses are each host's own; a name that is asked for must be a number here.
                if address.starts_with("127") || number_of_host(flags) {
                    all.push(format!("ni {address} {port} {flags}"));
                }
            }
        }
    }
    for (host, serv) in [(0, 32), (1025, 0), (0, 0), (9, 32), (10, 32), (1025, 4), (1025, 5)] {
        all.push(format!("ni 127.0.0.1 80 1 {host} {serv}"));
    }
    all.push("ni 127.0.0.1 80 8 0 0".into());
    for name in ["127.0.0.1", "127.1", "1.2.3"] {
        all.extend([format!("name {name} 2"), format!("name_r {name} 2 512")]);
    }
    all.extend([
        "name ::1 10".into(),
        "name localhost 2".into(),
        "name_r localhost 2 512".into(),
        "name_r localhost 2 8".into(),
        "addr 127.0.0.1".into(),
    ]);
    all
}

/// Texts that are no addresses.
const NO_NUMBERS: [&str; 9] = ["1.2.3.4.", "08.1", "256.1.1.1", "1.2.3.4.5", "1..2", "fe80::1%nosuch", "::1%lo", "1::2::3", "''"];

/// The answer to a question, in an order of its own where the host's routes decide it: without a node.
fn settled(line: &str) -> String {
    match line.split_once(" -> ") {
        Some((question, answer)) if question.starts_with("gai - ") || question.starts_with("gai * ") => {
            let mut parts: Vec<_> = answer.split("; ").collect();
            parts.sort_unstable();
            format!("{question} -> {}", parts.join("; "))
        }
        _ => line.to_owned(),
    }
}

/// Do these NI_ flags ask for the host's number?
fn number_of_host(flags: &str) -> bool {
    flags.parse::<i32>().is_ok_and(|f| f & libc::NI_NUMERICHOST != 0)
}

#[test]
fn libc_and_csel_say_the_same() {
    let w = World::new();
    let questions = same_everywhere();
    assert!(questions.len() > 1000);
    let file = w.file("questions", &(questions.join("\n") + "\n"));
    let file = file.to_str().expect("a path");
    let native = w.bare([RESOLVE, "file", file]);
    let run = w.run(["--", RESOLVE, "file", file]);
    let preload = w.preload(&[], [RESOLVE, "file", file]);
    assert_eq!(native.ok().lines().count(), questions.len());
    for (how, said) in [("csel run", &run), ("LD_PRELOAD", &preload)] {
        let differ: Vec<_> = native.ok().lines().map(settled).zip(said.ok().lines().map(settled)).filter(|(n, c)| n != c).collect();
        assert!(
            differ.is_empty(),
            "by {how}, {} of {} differ (native, csel): {:#?}",
            differ.len(),
            questions.len(),
            &differ[..differ.len().min(20)]
        );
    }
}

#[test]
fn no_numbers_are_unknown_names() {
    let w = World::new();
    for (family, v6) in [(0, "error -2"), (2, "error -9"), (10, "error -2")] {
        let questions: Vec<String> = NO_NUMBERS.iter().map(|n| format!("gai {n} 80 {family} 1 0 0")).collect();
        let said = ask(&w, &[], &questions.iter().map(String::as_str).collect::<Vec<_>>());
        for (node, said) in NO_NUMBERS.iter().zip(said) {
            // As glibc: what is an IPv6 address but for its scope is of another family than IPv4.
            assert_eq!(said, if node.contains('%') { v6 } else { "error -2" }, "{node} {family}");
        }
    }
    let order = ask(&w, &[], &["gai - 80 0 1 0 0", "gai - 80 0 1 0 1"]);
    assert_eq!(order, ["1/6/0x0 [::1%0]:80; 1/6/0x0 127.0.0.1:80", "1/6/0x1 0.0.0.0:80; 1/6/0x1 [::%0]:80"]);
}

#[test]
fn peers_are_found_by_name_and_address() {
    let w = World::new();
    let _web = sit(&w, &["--name", "Web", "--ip", "10.111.0.5", "--ip", "fdc5:e1::5", "--hostname", "www.example"]);
    let _old = sit(&w, &["--name", "old", "--ip", "10.111.0.6"]);
    let _far = sit(&w, &["--name", "far", "--net", "elsewhere"]);
    let said = ask(
        &w,
        &["--name", "me"],
        &[
            "gai web 80 0 1 0 0",
            "gai WEB.csel - 2 1 0 2",
            "gai www.example - 2 1 0 0",
            "gai old - 0 1 0 0",
            "gai old - 10 1 0 0",
            "gai old - 10 1 0 8",
            "gai far - 0 1 0 0",
            "gai nosuch - 0 1 0 0",
            "gai web.nosuch - 0 1 0 0",
            "name web 2",
            "name web 10",
            "name old 10",
            "name nosuch 2",
            "name_r nosuch 2 512",
            "addr 10.111.0.5",
            "addr fdc5:e1::5",
            "addr 10.111.0.77",
            "ni 10.111.0.6 80 2",
            "ni fdc5:e1::5 80 8",
            "ni 10.111.0.77 80 8",
            "ni 10.111.0.77 80 2",
        ],
    );
    let want = [
        "1/6/0x0 [fdc5:e1::5%0]:80; 1/6/0x0 10.111.0.5:80",
        "1/6/0x2 10.111.0.5:0 Web",
        "1/6/0x0 10.111.0.5:0",
        "1/6/0x0 10.111.0.6:0",
        "error -2",
        "1/6/0x8 [::ffff:10.111.0.6%0]:0",
        "error -2",
        "error -2",
        "error -2",
        "Web 2/4 10.111.0.5",
        "Web 10/16 fdc5:e1::5",
        "h_errno 4",
        "h_errno 1",
        "returned 0, h_errno 1",
        "Web 2/4 10.111.0.5",
        "Web 10/16 fdc5:e1::5",
        "h_errno 1",
        "old 80",
        "Web http",
        "error -2",
        "10.111.0.77 80",
    ];
    for (i, want) in want.iter().enumerate() {
        assert_eq!(said[i], *want, "question {i}");
    }
}

#[test]
fn a_name_ends_with_its_instance() {
    let w = World::new();
    let web = sit(&w, &["--name", "web", "--ip", "10.111.0.5"]);
    let question = ["gai web - 2 1 0 0"];
    assert_eq!(ask(&w, &[], &question), ["1/6/0x0 10.111.0.5:0"]);
    web.kill();
    // The keeper may stay for a moment; then the name and the address are free.
    assert!(csel_tests::launch::wait_for(|| ask(&w, &[], &question) == ["error -2"]), "the name outlived its instance");
    let _again = sit(&w, &["--name", "web", "--ip", "10.111.0.5"]);
    assert_eq!(ask(&w, &[], &question), ["1/6/0x0 10.111.0.5:0"]);
}

#[test]
fn own_names_and_added_hosts() {
    let w = World::new();
    let options = [
        "--name",
        "me",
        "--hostname",
        "me.example",
        "--ip",
        "10.111.0.9",
        "--ip",
        "fdc5:e1::9",
        "--add-host",
        "db:10.9.9.9",
        "--add-host",
        "DB6:fd00::7",
    ];
    let said = ask(
        &w,
        &options,
        &[
            "host",
            "gai me - 0 1 0 0",
            "gai me.csel - 2 1 0 0",
            "gai me.example - 2 1 0 2",
            "gai db 80 0 1 0 0",
            "gai db6 - 0 1 0 0",
            "gai db - 10 1 0 0",
            "addr 10.9.9.9",
            "addr 10.111.0.9",
            "ni fdc5:e1::9 80 0",
            "gai localhost - 0 1 0 0",
            "gai localhost - 2 1 0 2",
            "name localhost 10",
            "addr ::1",
            "gai ip6-localhost - 0 1 0 0",
        ],
    );
    let want = [
        "me.example me.example",
        "1/6/0x0 [fdc5:e1::9%0]:0; 1/6/0x0 10.111.0.9:0",
        "1/6/0x0 10.111.0.9:0",
        "1/6/0x2 10.111.0.9:0 me.example",
        "1/6/0x0 10.9.9.9:80",
        "1/6/0x0 [fd00::7%0]:0",
        "error -2",
        "db 2/4 10.9.9.9",
        "me.example 2/4 10.111.0.9",
        "me.example http",
        "1/6/0x0 [::1%0]:0; 1/6/0x0 127.0.0.1:0",
        "1/6/0x2 127.0.0.1:0 localhost",
        "localhost 10/16 ::1",
        "localhost 10/16 ::1",
        "1/6/0x0 [::1%0]:0",
    ];
    for (i, want) in want.iter().enumerate() {
        assert_eq!(said[i], *want, "question {i}");
    }
}

#[test]
fn an_instance_without_ipv6_is_not_told_of_it() {
    let w = World::new();
    let _web = sit(&w, &["--name", "web", "--ip", "10.111.0.5", "--ip", "fdc5:e1::5"]);
    // AI_ADDRCONFIG, and the default without hints.
    let said = ask(&w, &["--ip", "10.111.0.8"], &["gai web - 0 1 0 0x20", "gai web - 10 1 0 0x20", "gai web 80 -h"]);
    assert_eq!(said[0], "1/6/0x20 10.111.0.5:0");
    assert_eq!(said[1], "error -2");
    assert_eq!(said[2], "1/6/0x28 10.111.0.5:80; 2/17/0x28 10.111.0.5:80; 3/0/0x28 10.111.0.5:80");
}

#[test]
fn the_host_is_not_asked() {
    let w = World::new();
    assert_eq!(
        ask(&w, &["--name", "me"], &["gai example.com - 0 1 0 0", "gai dns.google - 0 1 0 0", "addr 8.8.8.8"]),
        ["error -2", "error -2", "h_errno 1"]
    );
}
