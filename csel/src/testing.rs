//! A world for tests: several instances on one anonymous segment, under a virtual clock, in one thread.
//!
//! Each [`Host`] is an instance with an arena of its own; [`World::new`] joins them to one segment. Time stands still unless
//! [`World::advance`] moves it, and nothing happens behind the test's back: frames wait in rings until [`World::run`] (or a call that makes
//! progress) drains them.
use crate::arena::found::{self, Founded};
use crate::clock::Nanos;
use crate::config::Config;
use crate::fd::Held;
use crate::instance::{Cx, Env};
use crate::net::link::join;
use crate::net::link::segment::Segment;
use crate::net::timer;
use crate::sync::Me;
use core::cell::Cell;
use std::boxed::Box;
use std::vec::Vec;

std::thread_local! {
    static NOW: Cell<Nanos> = const { Cell::new(1_000_000_000) };
}

/// The virtual clock of the calling test.
pub fn now() -> Nanos {
    NOW.with(Cell::get)
}

/// Lets time pass, and nothing else happen.
pub fn pass(by: Nanos) {
    NOW.with(|n| n.set(n.get() + by));
}

/// Instances on one segment.
pub struct World {
    /// The instances.
    pub hosts: Vec<Host>,
}

/// One instance.
pub struct Host {
    /// Its environment.
    pub env: Env,
    /// The test's thread.
    pub me: Me,
}

impl Host {
    /// A call on this instance.
    pub fn cx(&self) -> Cx<'_> {
        Cx::new(&self.env, &self.me)
    }
    /// Does something in a call of its own, and what the call owes when it ends.
    pub fn call<T>(&self, f: impl FnOnce(&Cx<'_>) -> T) -> T {
        let cx = self.cx();
        f(&cx)
    }
    /// socket(2).
    pub fn socket(&self, family: i32, ty: i32, protocol: i32) -> Held {
        self.call(|cx| crate::call::socket::socket(cx, family, ty, protocol)).unwrap_or_else(|e| panic!("socket: {e:?}"))
    }
    /// Drains what has arrived and runs due timers. True if anything happened.
    pub fn progress(&self) -> bool {
        self.call(crate::net::progress)
    }
}

impl World {
    /// `n` instances, named `h0`, `h1`..., with leased addresses.
    pub fn new(n: usize) -> Self {
        Self::with(n, |_, _| {})
    }
    /// `n` instances whose options `set` may change.
    pub fn with(n: usize, set: impl Fn(usize, &mut Config)) -> Self {
        let seg: &'static Segment = join::anonymous().unwrap_or_else(|e| panic!("a segment: {e}"));
        let hosts = (0..n)
            .map(|i| {
                let mut config = Config::default();
                config.name = crate::config::Name::new(&std::format!("h{i}")).unwrap_or_else(|e| panic!("{e:?}"));
                set(i, &mut config);
                let inst = found::anonymous().unwrap_or_else(|e| panic!("an arena: {e}"));
                match found::found(inst, || join::plug(seg, -1, &config, &config.name, None).map_err(Box::new)) {
                    Founded::New => inst.net.link.begin(seg, inst.facts.get().port),
                    other => panic!("founding: {other:?}"),
                }
                let me = Me::ask();
                let mut env = Env { inst, seg, clock: now, proc: 0 };
                env.proc = inst.procs.enter(&Cx::new(&env, &me), me.pid).unwrap_or_else(|e| panic!("{e}"));
                Host { env, me }
            })
            .collect();
        Self { hosts }
    }
    /// Lets everything that can happen now happen, on all instances. Bounded: a livelock is a failure.
    pub fn run(&self) {
        for _ in 0..10_000 {
            let mut any = false;
            for h in &self.hosts {
                any |= h.progress();
            }
            if !any {
                return;
            }
        }
        panic!("the world does not come to rest");
    }
    /// Moves time, stopping at each timer on the way.
    pub fn advance(&self, by: Nanos) {
        let end = now() + by;
        for _ in 0..1_000_000 {
            self.run();
            let next = self.hosts.iter().map(|h| h.call(timer::next)).min().unwrap_or(Nanos::MAX);
            if next > end {
                break;
            }
            NOW.with(|n| n.set(next.max(n.get() + 1)));
        }
        NOW.with(|n| n.set(end));
        self.run();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::Ip;
    use crate::net::link::tx;

    #[test]
    fn instances_find_each_other() {
        let w = World::new(3);
        let to = w.hosts[2].env.inst.facts.get().addrs[0].ip;
        let hop = w.hosts[0].call(|cx| tx::hop(cx, Ip::ANY4, to)).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(hop.port, w.hosts[2].env.inst.facts.get().port);
        w.run();
    }
}
