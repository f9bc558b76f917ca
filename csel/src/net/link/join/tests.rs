//! Joining: what is given, what is refused and in which words.
use super::*;
use crate::config::{Cidr, Mac};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

/// A directory of one test's own, removed at the end.
struct Dir(PathBuf);
impl Dir {
    fn new(name: &str) -> Self {
        let d = std::env::temp_dir().join(format!("link-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&d);
        std::fs::create_dir(&d).unwrap();
        std::fs::set_permissions(&d, std::fs::Permissions::from_mode(0o700)).unwrap();
        Self(d)
    }
    fn path(&self) -> Path {
        Path::new(self.0.as_os_str().as_encoded_bytes()).unwrap()
    }
    fn file(&self) -> PathBuf {
        self.0.join("default.seg")
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn name(s: &str) -> Name {
    Name::new(s).unwrap()
}

fn ip(s: &str) -> Ip {
    of(s.parse().unwrap())
}

fn with(ips: &[&str]) -> Config {
    let mut c = Config::DEFAULT;
    for a in ips {
        let (addr, len) = a.split_once('/').unwrap();
        c.ip.push(Cidr { addr: addr.parse().unwrap(), len: len.parse().unwrap() }).unwrap();
    }
    c
}

fn addrs(f: &Facts) -> Vec<String> {
    f.addrs().iter().map(|p| format!("{}/{}", p.ip, p.len)).collect()
}

#[test]
fn two_with_no_options_get_names_and_addresses() {
    let seg = anonymous().unwrap();
    let a = plug(seg, -1, &Config::DEFAULT, &name("nc"), None).unwrap();
    let b = plug(seg, -1, &Config::DEFAULT, &name("nc"), None).unwrap();
    assert_eq!((a.name.as_str(), b.name.as_str()), ("nc", "nc-2"));
    assert_eq!(addrs(&a), ["10.111.0.1/16", "fdc5:e1::1/64", "fe80::c5:e1ff:fe00:0/64"]);
    assert_eq!(addrs(&b), ["10.111.0.2/16", "fdc5:e1::2/64", "fe80::c5:e1ff:fe00:1/64"]);
    assert_ne!(a.mac, b.mac);
    assert_eq!(seg.holder(ip("10.111.0.2")).unwrap().0, b.port);
    assert_eq!(seg.named("NC-2").unwrap().0, b.port);
    assert_eq!(seg.taken().count(), 2);
    leave(seg, a.port);
    assert!(seg.named("nc").is_none() && seg.holder(ip("10.111.0.1")).is_none());
}

#[test]
fn what_was_asked_for_is_given_or_refused() {
    let seg = anonymous().unwrap();
    let mut c = with(&["192.0.2.7/24", "2001:db8::7/64"]);
    c.name = name("web");
    c.hostname = name("web.example");
    c.mac = Mac([2, 0, 0, 0, 0, 9]);
    c.mtu = 1500;
    let f = plug(seg, -1, &c, &name("x"), None).unwrap();
    assert_eq!((f.name.as_str(), f.mtu, f.mac), ("web", 1500, [2, 0, 0, 0, 0, 9]));
    assert_eq!(addrs(&f), ["192.0.2.7/24", "2001:db8::7/64", "fe80::ff:fe00:9/64"]);
    assert_eq!(seg.host("web.example").unwrap().0, f.port);
    let taken = plug(seg, -1, &with(&["192.0.2.7/24"]), &name("y"), None).unwrap_err();
    assert_eq!(taken.to_string(), "the address 192.0.2.7 is taken by web; choose another with --ip (CSEL_IP)");
    let mut c = with(&[]);
    c.name = name("web");
    let taken = plug(seg, -1, &c, &name("y"), None).unwrap_err().to_string();
    assert_eq!(taken, format!("the name web is taken by process {}; choose another with --name (CSEL_NAME)", std::process::id()));
    for bad in ["224.0.0.1/24", "127.0.0.2/8", "0.0.0.0/8", "::/64", "255.255.255.255/32"] {
        assert!(matches!(plug(seg, -1, &with(&[bad]), &name("y"), None), Err(JoinError::BadAddress(_))), "{bad}");
    }
    assert_eq!(seg.taken().count(), 1);
}

#[test]
fn a_lease_goes_around_an_address_that_somebody_asked_for() {
    let seg = anonymous().unwrap();
    plug(seg, -1, &with(&["10.111.0.2/16"]), &name("x"), None).unwrap();
    let f = plug(seg, -1, &Config::DEFAULT, &name("y"), None).unwrap();
    assert_eq!(addrs(&f)[0], "10.111.1.2/16");
}

#[test]
fn a_full_segment_says_so() {
    let seg = anonymous().unwrap();
    for _ in 0..PORTS {
        plug(seg, -1, &Config::DEFAULT, &name("x"), None).unwrap();
    }
    let e = plug(seg, -1, &Config::DEFAULT, &name("x"), None).unwrap_err();
    assert_eq!(e.to_string(), "the segment default is full (256 instances); choose another with --net (CSEL_NET)");
    leave(seg, 77);
    assert_eq!(plug(seg, -1, &Config::DEFAULT, &name("x"), None).unwrap().port, 77);
}

#[test]
fn a_file_is_made_private_and_found_again() {
    let dir = Dir::new("file");
    let a = join(&dir.path(), &Config::DEFAULT, &name("a"), -1).unwrap();
    let mode = std::fs::metadata(dir.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let b = join(&dir.path(), &Config::DEFAULT, &name("b"), -1).unwrap();
    assert_eq!(b.seg.named("a").unwrap().0, a.facts.port);
    assert_ne!(core::ptr::from_ref(a.seg), core::ptr::from_ref(b.seg));
    // What one writes the other sees.
    a.seg.ports[1].mtu.store(4242, Relaxed);
    assert_eq!(b.seg.ports[1].mtu.load(Relaxed), 4242);
    let _ = (gate::close(a.fd), gate::close(b.fd));
}

#[test]
fn the_port_of_a_dead_instance_is_freed() {
    let dir = Dir::new("dead");
    let mut c = with(&["10.9.0.1/24"]);
    c.name = name("web");
    let a = join(&dir.path(), &c, &name("a"), -1).unwrap();
    assert!(matches!(join(&dir.path(), &c, &name("b"), -1), Err(JoinError::NameTaken(..))));
    let life = a.seg.ports[0].life.load(Relaxed);
    // The last descriptor and the last mapping go: what the kernel does when the last process dies.
    close(a.seg, a.fd);
    // (A child that another test forked meanwhile may have copies for a moment.)
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let b = loop {
        match join(&dir.path(), &c, &name("b"), -1) {
            Ok(b) => break b,
            Err(e) => assert!(std::time::Instant::now() < deadline, "{e}"),
        }
    };
    assert_eq!((b.facts.name.as_str(), b.facts.port), ("web", 0));
    assert_ne!(b.seg.ports[0].life.load(Relaxed), life);
    let _ = gate::close(b.fd);
}

#[test]
fn files_that_are_no_segment_of_ours_are_refused() {
    let dir = Dir::new("bad");
    let tried = || match join(&dir.path(), &Config::DEFAULT, &name("a"), -1) {
        Ok(_) => panic!("joined"),
        Err(e) => (e, e.to_string()),
    };
    let file = dir.file();
    let private = || std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, b"hello").unwrap();
    private();
    assert!(matches!(tried().0, JoinError::NotASegment(_)));
    std::fs::write(&file, vec![b'x'; 100_000]).unwrap();
    assert!(matches!(tried().0, JoinError::NotASegment(_)));
    let mut head = MAGIC.to_ne_bytes().to_vec();
    head.extend((layout() ^ 1).to_ne_bytes());
    std::fs::write(&file, &head).unwrap();
    let (e, text) = tried();
    assert!(matches!(e, JoinError::Version(_)));
    assert!(text.contains(file.to_str().unwrap()) && text.contains("remove it") && text.contains("--net"), "{text}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(tried().0, JoinError::Foreign(_)));
    std::fs::remove_file(&file).unwrap();
    symlink("/dev/null", &file).unwrap();
    assert!(matches!(tried().0, JoinError::Unreadable(_, Errno::ELOOP)));
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(matches!(tried().0, JoinError::Unreadable(_, Errno::EISDIR)));
    std::fs::set_permissions(&dir.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(tried().0, JoinError::DirForeign(_)));
    let nowhere = Path::new(b"/proc/nowhere/csel").unwrap();
    assert!(matches!(join(&nowhere, &Config::DEFAULT, &name("a"), -1), Err(JoinError::Dir(..))));
}

#[test]
fn one_that_joins_and_stops_is_not_waited_for_for_ever() {
    let dir = Dir::new("busy");
    let (_seg, fd) = open(&dir.path(), &name("default"), true).unwrap();
    let held = JoinLock::take(fd).unwrap();
    let e = open(&dir.path(), &name("default"), true).err().unwrap();
    assert!(matches!(e, JoinError::Busy(_)), "{e}");
    drop(held);
    assert!(open(&dir.path(), &name("default"), true).is_ok());
}
