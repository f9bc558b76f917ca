//! The cases: what is started, and which numbers are taken from what the client prints.
//!
//! A row of the table is one [`Figure`]; a [`Case`] gives one or more from one pair of programs. HOST and WORK in the arguments stand for the
//! server's address and the work directory; `peer` is the program beside the bench.

/// Which way is better, and the ratio csel/kernel that is promised, if one is.
#[derive(Clone, Copy)]
pub(crate) enum Want {
    AtMost(Option<f64>),
    AtLeast(Option<f64>),
}

/// One number that a client tells: its row's name and unit, how to find it in what the client printed, and what is wanted of it.
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) find: fn(&str) -> Option<f64>,
    pub(crate) want: Want,
}

pub(crate) struct Case {
    pub(crate) word: &'static str,
    pub(crate) server: &'static [&'static str],
    /// The port to wait for, where the server does not say `listening` itself.
    pub(crate) port: Option<&'static str>,
    pub(crate) client: &'static [&'static str],
    /// Arguments that make it shorter with BENCH_QUICK=1: (from, to).
    pub(crate) quick: &'static [(&'static str, &'static str)],
    /// Variables of csel's side.
    pub(crate) env: &'static [(&'static str, &'static str)],
    /// Rounds, if not the usual number.
    pub(crate) rounds: Option<usize>,
    pub(crate) figures: &'static [Figure],
}

const CASE: Case = Case { word: "", server: &[], port: None, client: &[], quick: &[], env: &[], rounds: None, figures: &[] };

/// `key=value` in a client's line.
fn key(text: &str, k: &str) -> Option<f64> {
    text.split_whitespace().find_map(|w| w.strip_prefix(k)?.strip_prefix('=')?.parse().ok())
}
fn median_us(t: &str) -> Option<f64> {
    key(t, "median_us")
}
fn gbit(t: &str) -> Option<f64> {
    key(t, "gbit_s")
}
fn per_s(t: &str) -> Option<f64> {
    key(t, "per_s")
}
/// redis-benchmark --csv: "GET","12345.67",...
fn csv(t: &str, name: &str) -> Option<f64> {
    t.lines().find_map(|l| l.strip_prefix(name)?.split('"').nth(1)?.parse().ok())
}
fn redis_get(t: &str) -> Option<f64> {
    csv(t, "\"GET\",")
}
fn redis_set(t: &str) -> Option<f64> {
    csv(t, "\"SET\",")
}
fn pgbench(t: &str) -> Option<f64> {
    t.lines().find_map(|l| l.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok())
}
fn wrk(t: &str) -> Option<f64> {
    t.lines().find_map(|l| l.strip_prefix("Requests/sec:")?.trim().parse().ok())
}
/// A stage of `peer many`: the line that begins with open=N.
fn stage(t: &str, n: &str, k: &str) -> Option<f64> {
    key(t.lines().find(|l| l.split_whitespace().next() == Some(n))?, k)
}

const REDIS: &[&str] =
    &["redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--loglevel", "warning"];

pub(crate) const CASES: &[Case] = &[
    Case {
        word: "rtt",
        server: &["peer", "echo", "7000"],
        client: &["peer", "rtt", "HOST", "7000", "64", "20000"],
        quick: &[("20000", "5000")],
        figures: &[Figure { name: "round trip 64 B, spin", unit: "us", find: median_us, want: Want::AtMost(Some(0.3)) }],
        ..CASE
    },
    Case {
        word: "rtt-sleep",
        server: &["peer", "echo", "7000"],
        client: &["peer", "rtt", "HOST", "7000", "64", "20000"],
        quick: &[("20000", "5000")],
        env: &[("CSEL_SPIN_US", "0")],
        figures: &[Figure { name: "round trip 64 B, no spin", unit: "us", find: median_us, want: Want::AtMost(Some(0.9)) }],
        ..CASE
    },
    Case {
        word: "bulk1",
        server: &["peer", "sink", "7000"],
        client: &["peer", "bulk", "HOST", "7000", "1", "2048"],
        quick: &[("2048", "512")],
        figures: &[Figure { name: "bulk, 1 stream", unit: "Gbit/s", find: gbit, want: Want::AtLeast(Some(1.3)) }],
        ..CASE
    },
    Case {
        word: "bulk4",
        server: &["peer", "sink", "7000"],
        client: &["peer", "bulk", "HOST", "7000", "4", "2048"],
        quick: &[("2048", "512")],
        figures: &[Figure { name: "bulk, 4 streams", unit: "Gbit/s", find: gbit, want: Want::AtLeast(Some(1.3)) }],
        ..CASE
    },
    Case {
        word: "rate",
        server: &["peer", "echo", "7000"],
        client: &["peer", "rate", "HOST", "7000", "4000"],
        quick: &[("4000", "1000")],
        figures: &[Figure { name: "connect, 1 byte, close", unit: "1/s", find: per_s, want: Want::AtLeast(Some(1.5)) }],
        ..CASE
    },
    Case {
        word: "fork",
        server: &["peer", "echo", "7000"],
        client: &["peer", "forks", "1000", "500"],
        quick: &[("500", "100")],
        figures: &[Figure { name: "fork, exit, 1000 sockets open", unit: "us", find: median_us, want: Want::AtMost(Some(2.0)) }],
        ..CASE
    },
    Case {
        word: "udp-rtt",
        server: &["peer", "udp", "7000"],
        client: &["peer", "udprtt", "HOST", "7000", "64", "20000"],
        quick: &[("20000", "5000")],
        figures: &[Figure { name: "UDP round trip 64 B", unit: "us", find: median_us, want: Want::AtMost(None) }],
        ..CASE
    },
    Case {
        word: "udp-rate",
        server: &["peer", "udpsink", "7000"],
        client: &["peer", "udprate", "HOST", "7000", "64", "300000"],
        quick: &[("300000", "100000")],
        figures: &[
            Figure { name: "UDP 64 B, arrived", unit: "1/s", find: per_s, want: Want::AtLeast(None) },
            Figure { name: "UDP 64 B, arrived of sent", unit: "", find: |t| key(t, "arrived"), want: Want::AtLeast(None) },
        ],
        ..CASE
    },
    Case {
        word: "redis-c1",
        server: REDIS,
        port: Some("6379"),
        client: &["redis-benchmark", "-h", "HOST", "--csv", "-t", "set,get", "-c", "1", "-n", "20000"],
        quick: &[("20000", "5000")],
        figures: &[
            Figure { name: "redis GET, c=1", unit: "1/s", find: redis_get, want: Want::AtLeast(Some(2.0)) },
            Figure { name: "redis SET, c=1", unit: "1/s", find: redis_set, want: Want::AtLeast(Some(2.0)) },
        ],
        ..CASE
    },
    Case {
        word: "redis-c50",
        server: REDIS,
        port: Some("6379"),
        client: &["redis-benchmark", "-h", "HOST", "--csv", "-t", "set,get", "-c", "50", "-n", "100000"],
        quick: &[("100000", "30000")],
        figures: &[
            Figure { name: "redis GET, c=50", unit: "1/s", find: redis_get, want: Want::AtLeast(Some(1.3)) },
            Figure { name: "redis SET, c=50", unit: "1/s", find: redis_set, want: Want::AtLeast(Some(1.3)) },
        ],
        ..CASE
    },
    Case {
        word: "redis-P16",
        server: REDIS,
        port: Some("6379"),
        client: &["redis-benchmark", "-h", "HOST", "--csv", "-t", "set,get", "-c", "50", "-P", "16", "-n", "500000"],
        quick: &[("500000", "200000")],
        figures: &[
            Figure { name: "redis GET, c=50 -P 16", unit: "1/s", find: redis_get, want: Want::AtLeast(None) },
            Figure { name: "redis SET, c=50 -P 16", unit: "1/s", find: redis_set, want: Want::AtLeast(None) },
        ],
        ..CASE
    },
    Case {
        word: "redis-k0",
        server: REDIS,
        port: Some("6379"),
        client: &["redis-benchmark", "-h", "HOST", "--csv", "-t", "set,get", "-c", "50", "-k", "0", "-n", "5000"],
        quick: &[("5000", "2000")],
        figures: &[
            Figure { name: "redis GET, c=50 -k 0", unit: "1/s", find: redis_get, want: Want::AtLeast(None) },
            Figure { name: "redis SET, c=50 -k 0", unit: "1/s", find: redis_set, want: Want::AtLeast(None) },
        ],
        ..CASE
    },
    Case {
        word: "pgbench",
        server: &["sh", "WORK/pg.sh", "WORK"],
        port: Some("5432"),
        client: &["pgbench", "-h", "HOST", "-U", "me", "-n", "-S", "-c", "16", "-j", "2", "-T", "4", "postgres"],
        quick: &[("4", "2")],
        figures: &[Figure { name: "pgbench -S, 16 clients", unit: "1/s", find: pgbench, want: Want::AtLeast(Some(1.0)) }],
        ..CASE
    },
    Case {
        word: "http",
        server: &["nginx", "-p", "WORK", "-c", "WORK/nginx.conf"],
        port: Some("80"),
        client: &["wrk", "-t", "1", "-c", "32", "-d", "2s", "http://HOST/"],
        quick: &[("2s", "1s")],
        figures: &[Figure { name: "HTTP requests, wrk to nginx (1 process)", unit: "1/s", find: wrk, want: Want::AtLeast(None) }],
        ..CASE
    },
    Case {
        word: "workers",
        server: &["nginx", "-p", "WORK", "-c", "WORK/nginx2.conf"],
        port: Some("80"),
        client: &["wrk", "-t", "2", "-c", "64", "-d", "2s", "http://HOST/"],
        quick: &[("2s", "1s")],
        figures: &[Figure { name: "HTTP requests, wrk to nginx (2 workers)", unit: "1/s", find: wrk, want: Want::AtLeast(Some(1.0)) }],
        ..CASE
    },
    Case {
        word: "workers-close",
        server: &["nginx", "-p", "WORK", "-c", "WORK/nginx2.conf"],
        port: Some("80"),
        client: &["wrk", "-t", "2", "-c", "64", "-d", "2s", "-H", "Connection: close", "http://HOST/"],
        quick: &[("2s", "1s")],
        figures: &[Figure { name: "HTTP connections, wrk to nginx (2 workers)", unit: "1/s", find: wrk, want: Want::AtLeast(Some(1.0)) }],
        ..CASE
    },
    Case {
        word: "idle",
        server: &["peer", "epoll", "7000"],
        client: &["peer", "many", "HOST", "7000", "10000"],
        quick: &[],
        rounds: Some(3),
        figures: &[
            Figure {
                name: "round trip, 1 connection open",
                unit: "us",
                find: |t| stage(t, "open=1", "median_us"),
                want: Want::AtMost(None),
            },
            Figure { name: "round trip, 100 open", unit: "us", find: |t| stage(t, "open=100", "median_us"), want: Want::AtMost(None) },
            Figure { name: "round trip, 1000 open", unit: "us", find: |t| stage(t, "open=1000", "median_us"), want: Want::AtMost(None) },
            Figure { name: "round trip, 10000 open", unit: "us", find: |t| stage(t, "open=10000", "median_us"), want: Want::AtMost(None) },
            Figure { name: "client CPU a trip, 1 open", unit: "us", find: |t| stage(t, "open=1", "cpu_us"), want: Want::AtMost(None) },
            Figure {
                name: "client CPU a trip, 10000 open",
                unit: "us",
                find: |t| stage(t, "open=10000", "cpu_us"),
                want: Want::AtMost(None),
            },
            Figure { name: GROWTH, unit: "x", find: growth, want: Want::AtMost(None) },
            Figure { name: MEMORY, unit: "KiB", find: |t| key(t, "kib_per_connection"), want: Want::AtMost(None) },
        ],
        ..CASE
    },
];

/// Two rows whose promise is about csel alone, not a ratio.
const GROWTH: &str = "round trip growth, 1 to 10000 open";
const MEMORY: &str = "memory per idle connection, both ends";

fn growth(t: &str) -> Option<f64> {
    Some(stage(t, "open=10000", "median_us")? / stage(t, "open=1", "median_us")?)
}

/// The promise about csel's own figure, for the rows that have one.
pub(crate) fn own_bound(name: &str) -> Option<f64> {
    match name {
        GROWTH => Some(1.3),
        MEMORY => Some(16.0),
        _ => None,
    }
}
