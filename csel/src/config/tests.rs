//! Tests of the option table: every row reads its own example, and every kind refuses what it must with a message.
extern crate std;
use super::*;
use core::net::Ipv4Addr;
use std::format;
use std::string::String;
use std::vec::Vec;

fn with(env: &'static str, text: &str) -> Result<Config, ConfigError> {
    Config::from_env(|e| (e == env).then_some(text.as_bytes()))
}

#[test]
fn every_example_is_accepted_and_changes_something() {
    for o in OPTIONS {
        let mut config = Config::DEFAULT;
        config.set(o, o.example.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        assert_ne!(config, Config::DEFAULT, "{}: the example is the default", o.env);
        assert!(o.env.starts_with("CSEL_") && !o.help.is_empty() && !o.default.is_empty());
        assert_eq!(OPTIONS.iter().filter(|p| p.env == o.env).count(), 1);
    }
}

#[test]
fn nothing_given_is_the_default() {
    assert_eq!(Config::from_env(|_| None), Ok(Config::DEFAULT));
    assert_eq!(Config::from_env(|_| Some(b"")), Ok(Config::DEFAULT));
}

#[test]
fn messages_name_option_value_and_remedy() {
    let said = |env, text: &str| format!("{}", with(env, text).unwrap_err());
    assert_eq!(said("CSEL_MTU", "67"), "CSEL_MTU: bad value \"67\": must be from 68 to 65535; for example CSEL_MTU=1500");
    assert!(said("CSEL_IP", "10.0.0").contains("must be an IPv4 or IPv6 address"));
    let mut flag = String::new();
    with("CSEL_MTU", "abc").unwrap_err().write_as_flag(&mut flag).unwrap();
    assert_eq!(flag, "--mtu: bad value \"abc\": must be a whole number; for example --mtu 1500");
}

#[test]
fn addresses() {
    let c = with("CSEL_IP", "10.0.0.1/24, fd00::1 ,10.111.3.4").unwrap();
    let all: Vec<_> = c.ip.iter().map(|i| format!("{i}")).collect();
    assert_eq!(all, ["10.0.0.1/24", "fd00::1/64", "10.111.3.4/16"]);
    for bad in [
        "1.2.3",
        "10.0.0.1/33",
        "10.0.0.1/0",
        "10.0.0.1/",
        "fd00::/x",
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "224.0.0.1",
        "ff02::1",
        "10.0.0.0/24",
        "10.0.0.255/24",
        "256.1.1.1",
    ] {
        assert!(with("CSEL_IP", bad).is_err(), "{bad} was accepted");
    }
    let nine = ["10.0.0.1"; 9].join(",");
    assert_eq!(with("CSEL_IP", &nine).unwrap_err().problem(), Problem::TooMany(8));
    assert!(LEASE_V4.contains(IpAddr::V4(Ipv4Addr::new(10, 111, 255, 1))) && !LEASE_V4.contains(IpAddr::V4(Ipv4Addr::new(10, 112, 0, 1))));
    assert!(LEASE_V6.contains("fdc5:e1::9".parse().unwrap()) && !LEASE_V6.contains("fdc5:e2::9".parse().unwrap()));
    assert!(!Cidr::UNSPECIFIED.contains("::1".parse().unwrap()) && Cidr::UNSPECIFIED.contains("1.2.3.4".parse().unwrap()));
}

#[test]
fn names() {
    assert_eq!(with("CSEL_NAME", "web-1.x_y").unwrap().name.as_str(), "web-1.x_y");
    for bad in ["-x", "a b", "a/b", "..", "ü"] {
        assert!(with("CSEL_NAME", bad).is_err(), "{bad} was accepted");
    }
    assert!(with("CSEL_NAME", &"a".repeat(64)).is_err());
    assert_eq!(Name::of_program(b"/usr/bin/python3").as_str(), "python3");
    assert_eq!(Name::of_program(b"-bash").as_str(), "bash");
    assert_eq!(Name::of_program(b"./my prog+").as_str(), "my-prog-");
    assert_eq!(Name::of_program(b"").as_str(), "app");
    let long = Name::of_program(&[b'x'; 300]);
    assert!(long.as_bytes().len() <= 59);
    assert_eq!(Name::of_program(b"nc").attempt(1).as_str(), "nc");
    assert_eq!(Name::of_program(b"nc").attempt(12).as_str(), "nc-12");
    assert_eq!(Name(Str::cut(&[b'y'; 63])).attempt(2).as_bytes().len(), 63);
}

#[test]
fn sizes_switches_and_macs() {
    assert_eq!(with("CSEL_SNDBUF", "1M").unwrap().sndbuf, Size(1 << 20));
    assert!(with("CSEL_SNDBUF", "1").is_err() && with("CSEL_SNDBUF", "99999999999G").is_err() && with("CSEL_SNDBUF", "M").is_err());
    assert!(!with("CSEL_KEEPER", "off").unwrap().keeper);
    assert!(with("CSEL_KEEPER", "maybe").is_err());
    assert_eq!(with("CSEL_SPIN_US", "off").unwrap().spin_us, 0);
    assert_eq!(with("CSEL_MAC", "02:0:0:0:0:ff").unwrap().mac, Mac([2, 0, 0, 0, 0, 255]));
    for bad in ["02:0:0:0:0", "02:0:0:0:0:0:0", "01:0:0:0:0:1", "0:0:0:0:0:0", "02:0:0:0:0:+1", "x"] {
        assert!(with("CSEL_MAC", bad).is_err(), "{bad} was accepted");
    }
}

#[test]
fn hosts_and_impair() {
    let c = with("CSEL_HOSTS", "db:10.0.0.7,six:fd00::7,alt=[fd00::8]").unwrap();
    assert_eq!(c.hosts.len(), 3);
    assert_eq!(c.hosts.as_slice()[1].addr, "fd00::7".parse::<IpAddr>().unwrap());
    for bad in ["db", "db:", ":1.2.3.4", "db:x"] {
        assert!(with("CSEL_HOSTS", bad).is_err(), "{bad} was accepted");
    }
    let c = with("CSEL_IMPAIR", "drop=1%,dup=0.5%,reorder=5,delay=2ms,seed=9").unwrap();
    assert_eq!(c.impair, Impair { drop_ppm: 10_000, dup_ppm: 5_000, reorder_ppm: 50_000, corrupt_ppm: 0, delay_us: 2_000, seed: 9 });
    for bad in ["drop", "drop=101%", "drop=-1", "lose=1%", "delay=11s", "drop=1.x"] {
        assert!(with("CSEL_IMPAIR", bad).is_err(), "{bad} was accepted");
    }
}

#[test]
fn misspelt_variables_are_found() {
    assert_eq!(misspelt(b"CSEL_NETT").map(|o| o.env), Some("CSEL_NET"));
    assert!(misspelt(b"CSEL_NET").is_none() && misspelt(b"CSEL_LIB").is_none() && misspelt(b"HOME").is_none());
}

#[test]
fn runtime_dir() {
    let c = Config::DEFAULT;
    assert_eq!(c.runtime_dir(Some(b"/run/user/7"), 7).unwrap().as_str(), "/run/user/7/csel");
    assert_eq!(c.runtime_dir(None, 7).unwrap().as_str(), "/dev/shm/csel-7");
    assert_eq!(c.runtime_dir(Some(b""), 7).unwrap().as_str(), "/dev/shm/csel-7");
    assert!(c.runtime_dir(Some(&[b'/'; 255]), 7).is_err());
    assert_eq!(with("CSEL_DIR", "/x").unwrap().runtime_dir(Some(b"/y"), 7).unwrap().as_str(), "/x");
}

#[test]
fn docs_hold_every_option() {
    let mut text = String::new();
    write_docs(&mut text).unwrap();
    for o in OPTIONS {
        assert!(text.contains(o.env) && text.contains(o.default));
    }
}

#[test]
fn published_ports() {
    let c = with("CSEL_PUBLISH", "8080:80,127.0.0.1:5353:53/udp, [::1]:443:8443/tcp").unwrap();
    let all: Vec<_> = c.publish.iter().map(|p| format!("{p}")).collect();
    assert_eq!(all, ["8080:80", "127.0.0.1:5353:53/udp", "[::1]:443:8443"]);
    assert!(c.publish.as_slice()[1].udp && !c.publish.as_slice()[2].udp);
    let said = |text: &str| format!("{}", with("CSEL_PUBLISH", text).unwrap_err());
    assert!(said("8000-8010:8000-8010").contains("port ranges are not known"));
    assert!(said("80").contains("one port alone") && said(":80").contains("one port alone"));
    assert!(said("80-90").contains("port ranges"));
    for bad in ["0:80", "80:0", "70000:1", "a:b", "1.2.3:80:80", "::1:80:80", "80:80/sctp", "80:80/", "+80:80", "x:80:80", "[::1:80:80"] {
        assert!(with("CSEL_PUBLISH", bad).is_err(), "{bad} was accepted");
    }
}
