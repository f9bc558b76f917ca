//! What a connection tells of itself: TCP_INFO, and the rows of ss(8).
use super::flow::{Inner, Phase, State};
use super::{demux, listen};
use crate::instance::{Cx, Instance};
use crate::net::addr::Tuple;
use crate::sync::Me;

/// TCP_* states of the kernel's tcp_states.h.
fn number(phase: Phase, state: State) -> u8 {
    match (phase, state) {
        (Phase::Listening, _) => 10,
        (Phase::Free | Phase::Fresh | Phase::Done, _) => 7,
        (_, State::Established) => 1,
        (_, State::SynSent) => 2,
        (_, State::SynReceived) => 3,
        (_, State::FinWait1) => 4,
        (_, State::FinWait2) => 5,
        (_, State::TimeWait) => 6,
        (_, State::CloseWait) => 8,
        (_, State::LastAck) => 9,
        (_, State::Closing) => 11,
        (_, State::Closed | State::Listen) => 7,
    }
}

/// Bytes of struct tcp_info as of Linux 6.18; what comes after `tcpi_rehash` is about ECN and timeouts, and zero.
const SIZE: usize = 280;

/// struct tcp_info of linux/tcp.h.
pub(super) fn tcp_info(cx: &Cx<'_>, i: &mut Inner, n: u32) -> [u8; SIZE] {
    let mut out = [0u8; SIZE];
    let look = i.look();
    let m = &i.meter;
    let now = cx.now();
    out[0] = number(i.phase, look.state);
    let live = m.synced;
    if live {
        // Open; SACK, window scaling.
        out[2] = m.retrans_now.min(255) as u8;
        out[3] = i.times.probes as u8;
        out[5] = if m.sack { 2 } else { 0 } | if m.scaled() > 0 || m.snd_scale != 255 { 4 } else { 0 };
        out[6] = if m.snd_scale == 255 { 0 } else { m.snd_scale & 15 } | if m.rcv_scale == 255 { 0 } else { m.rcv_scale << 4 };
    }
    let mut u32_at = |at: usize, v: u32| out[at..at + 4].copy_from_slice(&v.to_ne_bytes());
    let ms_ago = |t: u64| if t == 0 { 0 } else { (now.saturating_sub(t) / 1_000_000).min(u64::from(u32::MAX)) as u32 };
    let mss = if live { m.mss() as u32 } else { 536 };
    let rto = 200_000u32.max(m.rtt_us + 4 * m.rttvar_us);
    u32_at(8, if live { rto } else { 1_000_000 });
    u32_at(12, 40_000);
    u32_at(16, mss);
    u32_at(20, if live { u32::from(m.our_mss) } else { 0 });
    let in_flight = m.in_flight() as u32;
    if let Some((waiting, backlog)) = listen::of_flow(cx, n).map(|l| l.waiting()) {
        u32_at(24, waiting);
        u32_at(28, backlog);
    } else {
        u32_at(24, in_flight.div_ceil(mss.max(1)));
    }
    u32_at(36, u32::from(m.retrans_now > 0));
    u32_at(44, ms_ago(m.data_sent_at));
    u32_at(52, ms_ago(m.data_heard_at));
    u32_at(56, ms_ago(m.heard_at));
    u32_at(60, i.hop.mtu);
    u32_at(64, i.rx_size);
    u32_at(68, m.rtt_us);
    u32_at(72, m.rttvar_us);
    u32_at(76, i32::MAX as u32);
    u32_at(80, 10.max(m.snd_wnd / mss.max(1)));
    u32_at(84, u32::from(m.our_mss));
    u32_at(88, 3);
    u32_at(92, m.rtt_us);
    u32_at(96, i.rx_size);
    u32_at(100, m.retrans);
    u32_at(136, m.segs_out);
    u32_at(140, m.segs_in);
    u32_at(144, (look.sq as u32).saturating_sub(in_flight));
    u32_at(148, if m.min_rtt_us == u32::MAX { 0 } else { m.min_rtt_us });
    u32_at(152, m.data_segs_in);
    u32_at(156, m.data_segs_out);
    u32_at(192, m.data_segs_out.saturating_sub(m.retrans));
    u32_at(228, m.snd_wnd);
    u32_at(232, (i.rx_size).saturating_sub(look.rq as u32));
    let mut u64_at = |at: usize, v: u64| out[at..at + 8].copy_from_slice(&v.to_ne_bytes());
    u64_at(104, u64::MAX);
    u64_at(112, u64::MAX);
    u64_at(120, m.bytes_acked);
    u64_at(128, m.bytes_received);
    u64_at(200, m.bytes_sent);
    u64_at(208, m.bytes_retrans);
    out
}

/// A row of ss(8) or /proc/net/tcp.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Both ends; a listener's remote is all zero.
    pub tuple: Tuple,
    /// TCP_* number of tcp_states.h.
    pub state: u8,
    /// Bytes (a listener: connections) to read, and bytes unacknowledged (a listener: the backlog).
    pub recv_q: u32,
    /// See `recv_q`.
    pub send_q: u32,
    /// The open description's number, 0 for none.
    pub sock: u32,
    /// Segments sent again.
    pub retrans: u32,
    /// Smoothed round trip in microseconds.
    pub rtt_us: u32,
}

/// Every TCP socket and connection of an instance. A flow that is being used just now is shown as far as can be told without its lock.
pub fn each(inst: &Instance, me: &Me, mut row: impl FnMut(&Row)) {
    for (id, f) in inst.net.tcp.flows.iter() {
        let Some(mut i) = f.inner.try_lock(me) else { continue };
        if matches!(i.phase, Phase::Free | Phase::Fresh) {
            continue;
        }
        let look = i.look();
        let mut r = Row {
            tuple: i.tuple,
            state: number(i.phase, look.state),
            recv_q: look.rq as u32,
            send_q: look.sq as u32,
            sock: i.sock,
            retrans: i.meter.retrans,
            rtt_us: i.meter.rtt_us,
        };
        if i.phase == Phase::Listening {
            r.tuple = Tuple { local: i.local, ..Tuple::default() };
            if let Some(l) = inst.net.tcp.listeners.get(crate::arena::Id::new(f.lid.load(core::sync::atomic::Ordering::Relaxed))) {
                (r.recv_q, r.send_q) = l.waiting();
            }
        }
        drop(i);
        let _ = id;
        row(&r);
    }
}

/// Every connection in TIME-WAIT.
pub fn each_resting(cx: &Cx<'_>, mut row: impl FnMut(&Row)) {
    demux::each_resting(cx, |t, _| {
        row(&Row { tuple: *t, state: 6, recv_q: 0, send_q: 0, sock: 0, retrans: 0, rtt_us: 0 });
    });
}
