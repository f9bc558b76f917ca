//! DNS: names nobody on the segment has are asked of a server over the instance's own sockets; without a server nothing is sent.
use csel_tests::launch::{Running, World};

const RESOLVE: &str = env!("CARGO_BIN_EXE_resolve");
const NAMESERVER: &str = env!("CARGO_BIN_EXE_nameserver");

fn serve(w: &World) -> Running {
    let mut running = w.start(w.csel_command(["run", "--name", "ns", "--ip", "10.111.0.53", "--", NAMESERVER]));
    running.until("serving");
    running
}

/// Asks in an instance with these options; an answer for each question.
fn ask(w: &World, options: &[&str], questions: &[&str]) -> Vec<String> {
    let file = w.file("questions", &(questions.join("\n") + "\n"));
    let mut args: Vec<&str> = options.to_vec();
    args.extend(["--", RESOLVE, "file", file.to_str().expect("a path")]);
    w.run(args).ok().lines().map(|l| l.split_once(" -> ").expect("an answer").1.to_owned()).collect()
}

#[test]
fn a_server_on_the_segment_answers() {
    let w = World::new();
    let ns = serve(&w);
    let options = ["--name", "me", "--ip", "10.111.0.9", "--ip", "fdc5:e1::9", "--dns", "10.111.0.53"];
    let questions = [
        ("gai host.example 80 2 1 0 0", "1/6/0x0 192.0.2.7:80"),
        ("gai host.example - 10 1 0 0", "1/6/0x0 [2001:db8::7%0]:0"),
        ("gai HOST.example. - 2 1 0 0", "1/6/0x0 192.0.2.7:0"),
        ("gai alias.example - 2 1 0 2", "1/6/0x2 192.0.2.7:0 host.example"),
        ("gai v4.example - 10 1 0 8", "1/6/0x8 [::ffff:192.0.2.4%0]:0"),
        ("gai v4.example - 10 1 0 0", "error -5"),
        ("gai empty.example - 0 1 0 0", "error -5"),
        ("gai nosuch.example - 0 1 0 0", "error -2"),
        ("gai broken.example - 2 1 0 0", "error -3"),
        ("gai odd.example - 2 1 0 0", "1/6/0x0 192.0.2.7:0"),
        ("ni 192.0.2.7 80 2", "host.example 80"),
        ("ni 192.0.2.8 80 2", "192.0.2.8 80"),
        // What is known here is not asked for.
        ("gai ns - 2 1 0 0", "1/6/0x0 10.111.0.53:0"),
        ("gai localhost - 2 1 0 0", "1/6/0x0 127.0.0.1:0"),
    ];
    let said = ask(&w, &options, &questions.map(|q| q.0));
    for ((question, want), got) in questions.iter().zip(&said) {
        assert_eq!(got, want, "{question}");
    }
    let both =
        ask(&w, &options, &["gai host.example - 0 1 0 0", "gai big.example - 2 1 0 0", "name host.example 2", "name empty.example 2"]);
    assert_eq!(both[0].split("; ").count(), 2, "{both:?}");
    assert_eq!(both[1].split("; ").count(), 20, "over TCP, since it is cut off over UDP: {both:?}");
    assert!(both[2].contains("192.0.2.7"), "{both:?}");
    assert!(!both[3].contains("192.0.2"), "{both:?}");
    let asked = ns.so_far();
    assert!(asked.contains("big.example") && asked.contains(" tcp"), "{asked}");
    assert!(!asked.contains("ns ") && !asked.contains("localhost"), "{asked}");
}

#[test]
fn without_a_server_nothing_is_asked() {
    let w = World::new();
    let ns = serve(&w);
    assert_eq!(ask(&w, &["--name", "me"], &["gai host.example - 2 1 0 0", "ni 192.0.2.7 80 2"]), ["error -2", "192.0.2.7 80"]);
    assert_eq!(ns.so_far().lines().count(), 1, "{}", ns.so_far());
}

#[test]
fn a_server_that_is_not_there_is_a_temporary_failure() {
    let w = World::new();
    // Nobody has the address: refused at once, not after timeouts.
    assert_eq!(ask(&w, &["--dns", "10.111.0.54"], &["gai host.example - 2 1 0 0"]), ["error -3"]);
    w.run(["--dns", "nowhere", "--", "true"]).fails(125, &["--dns", "nowhere", "IPv4 or IPv6 address"]);
}
