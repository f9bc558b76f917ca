//! shutdown(2), close(2), linger, and what is left of a connection after FIN or RST.

use std::thread;

use crate::cases;
use crate::net::{fill, listener, pair, pattern, put_all, sleep, take, take_all, take_to_end, until, wait, wait_in, wait_ready};
use crate::sys::{Addr, Fd, Net, sys};
use libc::{
    ECONNRESET, ENOTCONN, EPIPE, MSG_DONTWAIT, MSG_NOSIGNAL, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, SHUT_RD, SHUT_RDWR, SHUT_WR,
    SO_LINGER, SOL_SOCKET,
};

cases! {
    one: [],
    net: [
        half_close, half_close_readiness, half_close_then_bulk_back, send_after_shut_wr, shut_rd_reads_zero, shut_rd_readiness, shut_rd_peer_may_send,
        shut_rdwr, shut_bad_how, shut_twice, shut_after_all_is_over, shut_wakes_reader, shut_rd_wakes_reader, shut_wakes_poller, shut_wr_wakes_blocked_writer,
        close_unread_resets, close_read_does_not_reset, reset_after_data, reset_is_reported_once, reset_seen_by_send, reset_readiness,
        reset_by_so_error, reset_wakes_reader, reset_wakes_writer, linger_zero_resets, linger_waits_for_reader, linger_gives_up, linger_values,
        names_after_end, names_after_reset, names_after_all_is_over, all_over_readiness, data_with_fin, unsent_data_survives_close, simultaneous_close,
        write_to_closed, fin_then_write_then_epipe, close_then_port_is_free, end_of_file_is_an_edge_for_two, shutdown_order_kept, orphan_takes_nothing,
        reset_discards_unsent, close_with_empty_buffer_is_fin, peer_data_after_shut_rd_is_readable, reconnect_many_times, shut_wr_after_peer_end,
        close_during_send,
    ],
}

fn half_close(net: Net) {
    let (c, s) = pair(net);
    c.write(b"last").is(4);
    c.shutdown(SHUT_WR).is(0);
    assert_eq!(take_to_end(&s), b"last");
    s.write(b"answer").is(6);
    assert_eq!(take(&c, 9), b"answer");
    s.close().is(0);
    assert_eq!(take(&c, 9), b"");
}

fn half_close_readiness(net: Net) {
    let (c, s) = pair(net);
    assert_eq!(s.ready(), POLLOUT);
    c.shutdown(SHUT_WR).is(0);
    wait_ready(&s, POLLIN | POLLOUT | POLLRDHUP);
    assert_eq!(c.ready(), POLLOUT);
    s.shutdown(SHUT_WR).is(0);
    wait_ready(&c, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    wait_ready(&s, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
}

fn half_close_then_bulk_back(net: Net) {
    let (c, s) = pair(net);
    c.shutdown(SHUT_WR).is(0);
    let data = pattern(2 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(take(&s, 1), b"");
            put_all(&s, &data);
            s.shutdown(SHUT_WR).is(0);
        });
        assert!(take_to_end(&c) == data);
    });
}

fn send_after_shut_wr(net: Net) {
    let (c, s) = pair(net);
    c.shutdown(SHUT_WR).is(0);
    c.send(b"x", MSG_NOSIGNAL).fails(EPIPE);
    c.send(b"x", MSG_NOSIGNAL | MSG_DONTWAIT).fails(EPIPE);
    s.write(b"y").is(1);
    assert_eq!(take(&c, 9), b"y");
}

fn shut_rd_reads_zero(net: Net) {
    let (c, s) = pair(net);
    s.shutdown(SHUT_RD).is(0);
    s.recv(&mut [0; 4], 0).is(0);
    s.recv(&mut [0; 4], MSG_DONTWAIT).is(0);
    s.write(b"still").is(5);
    assert_eq!(take(&c, 9), b"still");
}

fn shut_rd_readiness(net: Net) {
    let (_c, s) = pair(net);
    s.shutdown(SHUT_RD).is(0);
    assert_eq!(s.ready(), POLLIN | POLLOUT | POLLRDHUP);
}

fn shut_rd_peer_may_send(net: Net) {
    let (c, s) = pair(net);
    s.shutdown(SHUT_RD).is(0);
    for _ in 0..5 {
        c.write(b"into the void").is(13);
    }
    sleep(20);
    c.write(b"no reset").is(8);
    assert_eq!(c.error(), 0);
}

fn peer_data_after_shut_rd_is_readable(net: Net) {
    let (c, s) = pair(net);
    s.shutdown(SHUT_RD).is(0);
    c.write(b"late").is(4);
    // Linux queues it, and gives it to who asks; then the end again.
    until(|| s.ioctl_int(libc::FIONREAD) == 4);
    assert_eq!(take(&s, 9), b"late");
    s.recv(&mut [0; 4], 0).is(0);
}

fn shut_rdwr(net: Net) {
    let (c, s) = pair(net);
    c.shutdown(SHUT_RDWR).is(0);
    c.recv(&mut [0; 4], 0).is(0);
    c.send(b"x", MSG_NOSIGNAL).fails(EPIPE);
    assert_eq!(c.ready(), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    assert_eq!(take(&s, 9), b"");
}

fn shut_bad_how(net: Net) {
    let (c, _s) = pair(net);
    c.shutdown(3).fails(libc::EINVAL);
    c.shutdown(-1).fails(libc::EINVAL);
    net.tcp().shutdown(9).fails(libc::EINVAL);
}

fn shut_twice(net: Net) {
    let (c, s) = pair(net);
    c.shutdown(SHUT_WR).is(0);
    c.shutdown(SHUT_WR).is(0);
    c.shutdown(SHUT_RD).is(0);
    s.write(b"x").is(1);
}

fn shut_after_all_is_over(net: Net) {
    let (c, s) = pair(net);
    c.shutdown(SHUT_WR).is(0);
    wait_in(&s);
    s.shutdown(SHUT_WR).is(0);
    wait_ready(&c, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    wait_ready(&s, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    until(|| c.shutdown(SHUT_RD).get() == Err(ENOTCONN));
    until(|| s.shutdown(SHUT_WR).get() == Err(ENOTCONN));
}

fn shut_wakes_reader(net: Net) {
    let (_c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| s.recv(&mut [0; 4], 0).is(0));
        sleep(40);
        s.shutdown(SHUT_RDWR).is(0);
    });
}

fn shut_rd_wakes_reader(net: Net) {
    let (_c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| s.recv(&mut [0; 4], 0).is(0));
        sleep(40);
        s.shutdown(SHUT_RD).is(0);
    });
}

fn shut_wakes_poller(net: Net) {
    let (_c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(wait(&s, POLLIN) & POLLIN, POLLIN));
        sleep(40);
        s.shutdown(SHUT_RD).is(0);
    });
}

fn shut_wr_wakes_blocked_writer(net: Net) {
    let (c, _s) = pair(net);
    fill(&c);
    c.nonblock(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // What did fit before is reported, if any did; then the pipe is broken.
            while c.send(&[0; 100_000], MSG_NOSIGNAL).get().is_ok() {}
            c.send(b"x", MSG_NOSIGNAL).fails(EPIPE);
        });
        sleep(40);
        c.shutdown(SHUT_WR).is(0);
    });
}

fn close_unread_resets(net: Net) {
    let (c, s) = pair(net);
    c.write(b"unread").is(6);
    wait_in(&s);
    s.close().is(0);
    wait_in(&c);
    c.recv(&mut [0; 4], 0).fails(ECONNRESET);
}

fn close_read_does_not_reset(net: Net) {
    let (c, s) = pair(net);
    c.write(b"read").is(4);
    assert_eq!(take(&s, 9), b"read");
    s.close().is(0);
    wait_in(&c);
    c.recv(&mut [0; 4], 0).is(0);
}

fn reset(fd: Fd) {
    fd.set(SOL_SOCKET, SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 0 }).is(0);
    fd.close().is(0);
}

/// The end that stays of a connection that was reset, with the reset in.
fn was_reset(net: Net) -> Fd {
    let (c, s) = pair(net);
    reset(s);
    until(|| c.ready() & POLLERR != 0);
    c
}

fn reset_after_data(net: Net) {
    let (c, s) = pair(net);
    s.write(b"before").is(6);
    wait_in(&c);
    reset(s);
    until(|| c.ready() & POLLERR != 0);
    assert_eq!(take(&c, 9), b"before");
    c.recv(&mut [0; 4], 0).fails(ECONNRESET);
}

fn reset_is_reported_once(net: Net) {
    let c = was_reset(net);
    c.recv(&mut [0; 4], 0).fails(ECONNRESET);
    c.recv(&mut [0; 4], 0).is(0);
    c.recv(&mut [0; 4], 0).is(0);
    c.send(b"x", MSG_NOSIGNAL).fails(EPIPE);
}

fn reset_seen_by_send(net: Net) {
    let c = was_reset(net);
    c.send(b"x", MSG_NOSIGNAL).fails(ECONNRESET);
    c.send(b"x", MSG_NOSIGNAL).fails(EPIPE);
    c.recv(&mut [0; 4], 0).is(0);
}

fn reset_readiness(net: Net) {
    let c = was_reset(net);
    assert_eq!(c.ready(), POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP);
    assert_eq!(c.error(), ECONNRESET);
    assert_eq!(c.ready(), POLLIN | POLLOUT | POLLHUP | POLLRDHUP);
}

fn reset_by_so_error(net: Net) {
    let c = was_reset(net);
    assert_eq!(c.error(), ECONNRESET);
    assert_eq!(c.error(), 0);
    c.recv(&mut [0; 4], 0).is(0);
}

fn reset_wakes_reader(net: Net) {
    let (c, s) = pair(net);
    thread::scope(|scope| {
        scope.spawn(|| c.recv(&mut [0; 4], 0).fails(ECONNRESET));
        sleep(40);
        reset(s);
    });
}

fn reset_wakes_writer(net: Net) {
    let (c, s) = pair(net);
    fill(&c);
    c.nonblock(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = c.send(&[0; 100_000], MSG_NOSIGNAL);
            while last.get().is_ok() {
                last = c.send(&[0; 100_000], MSG_NOSIGNAL);
            }
            last.fails(ECONNRESET);
        });
        sleep(40);
        reset(s);
    });
}

fn linger_zero_resets(net: Net) {
    let (c, s) = pair(net);
    reset(c);
    wait_in(&s);
    s.recv(&mut [0; 4], 0).fails(ECONNRESET);
}

fn reset_discards_unsent(net: Net) {
    let (c, s) = pair(net);
    fill(&c);
    c.nonblock(false);
    reset(c);
    until(|| s.ready() & POLLERR != 0);
    let mut room = vec![0; 1 << 20];
    // What had arrived can be read; the end is a reset and not an end of file.
    loop {
        match s.recv(&mut room, 0).get() {
            Ok(n) => assert_ne!(n, 0),
            Err(e) => break assert_eq!(e, ECONNRESET),
        }
    }
}

fn linger_waits_for_reader(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(1 << 20);
    c.set(SOL_SOCKET, SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 9 }).is(0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            sleep(50);
            take_to_end(&s)
        });
        put_all(&c, &data);
        c.close().is(0);
        assert!(reader.join().expect("reader") == data);
    });
}

fn linger_gives_up(net: Net) {
    let (c, s) = pair(net);
    fill(&c);
    c.nonblock(false);
    c.set(SOL_SOCKET, SO_LINGER, &libc::linger { l_onoff: 1, l_linger: 1 }).is(0);
    // It comes back after a second though nobody reads; the bytes stay on their way.
    c.close().is(0);
    assert!(take_to_end(&s).len() > 16384);
}

fn linger_values(net: Net) {
    let c = net.tcp();
    let mut linger = libc::linger { l_onoff: 9, l_linger: 9 };
    assert_eq!(c.get_into(SOL_SOCKET, SO_LINGER, &mut linger), 8);
    assert_eq!((linger.l_onoff, linger.l_linger), (0, 0));
    c.set(SOL_SOCKET, SO_LINGER, &libc::linger { l_onoff: 7, l_linger: 30 }).is(0);
    c.get_into(SOL_SOCKET, SO_LINGER, &mut linger);
    assert_eq!((linger.l_onoff, linger.l_linger), (1, 30));
    c.set(SOL_SOCKET, SO_LINGER, &1i32).fails(libc::EINVAL);
}

fn names_after_end(net: Net) {
    let (c, s) = pair(net);
    let at = s.name();
    s.close().is(0);
    wait_in(&c);
    assert_eq!(c.peer(), at);
}

fn names_after_reset(net: Net) {
    let (c, s) = pair(net);
    let at = c.name();
    reset(s);
    until(|| c.ready() & POLLERR != 0);
    c.getpeername(&mut Addr::room()).fails(ENOTCONN);
    assert_eq!(c.name().port(), at.port());
}

fn names_after_all_is_over(net: Net) {
    let (c, s) = pair(net);
    s.shutdown(SHUT_WR).is(0);
    wait_in(&c);
    c.shutdown(SHUT_WR).is(0);
    until(|| c.getpeername(&mut Addr::room()).get() == Err(ENOTCONN));
    until(|| s.getpeername(&mut Addr::room()).get() == Err(ENOTCONN));
}

fn all_over_readiness(net: Net) {
    let (c, s) = pair(net);
    s.write(b"x").is(1);
    s.close().is(0);
    wait_ready(&c, POLLIN | POLLOUT | POLLRDHUP);
    c.shutdown(SHUT_WR).is(0);
    wait_ready(&c, POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    assert_eq!(take_to_end(&c), b"x");
    assert_eq!(c.error(), 0);
}

fn data_with_fin(net: Net) {
    let (c, s) = pair(net);
    c.write(b"both").is(4);
    c.close().is(0);
    wait_ready(&s, POLLIN | POLLOUT | POLLRDHUP);
    assert_eq!(take(&s, 2), b"bo");
    assert_eq!(s.ready(), POLLIN | POLLOUT | POLLRDHUP);
    assert_eq!(take_to_end(&s), b"th");
}

fn unsent_data_survives_close(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(8 << 20);
    let n = c.nonblock(true).send(&data, 0).ok() as usize;
    c.close().is(0);
    sleep(50);
    let got = take_to_end(&s);
    assert!(got.len() == n && got == data[..n], "{} of {n}", got.len());
}

fn simultaneous_close(net: Net) {
    for _ in 0..20 {
        let (c, s) = pair(net);
        thread::scope(|scope| {
            scope.spawn(|| c.shutdown(SHUT_RDWR).ok());
            s.shutdown(SHUT_RDWR).ok();
        });
        c.recv(&mut [0; 4], 0).is(0);
        s.recv(&mut [0; 4], 0).is(0);
    }
}

fn write_to_closed(net: Net) {
    let (c, s) = pair(net);
    s.close().is(0);
    wait_in(&c);
    // The first is sent and answered with a reset.
    c.send(b"x", MSG_NOSIGNAL).is(1);
    until(|| c.send(b"x", MSG_NOSIGNAL).get() == Err(EPIPE));
}

fn fin_then_write_then_epipe(net: Net) {
    let (c, s) = pair(net);
    s.close().is(0);
    wait_in(&c);
    assert_eq!(take(&c, 9), b"");
    c.send(b"x", MSG_NOSIGNAL).is(1);
    until(|| c.ready() & POLLERR != 0);
    // A reset after the peer's FIN is EPIPE (tcp_reset); a reader is past the end, and does not take the error away.
    c.recv(&mut [0; 4], 0).is(0);
    assert_eq!(c.error(), EPIPE);
}

fn close_then_port_is_free(net: Net) {
    let (c, s) = pair(net);
    let from = c.name();
    // The other end closes first, so ours has no TIME-WAIT.
    s.close().is(0);
    wait_in(&c);
    c.close().is(0);
    until(|| net.tcp().bind(&from).get().is_ok());
}

fn end_of_file_is_an_edge_for_two(net: Net) {
    let (c, s) = pair(net);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| s.recv(&mut [0; 4], 0).is(0));
        }
        sleep(40);
        c.close().is(0);
    });
}

fn shutdown_order_kept(net: Net) {
    let (c, s) = pair(net);
    let data = pattern(600_000);
    thread::scope(|scope| {
        scope.spawn(|| {
            put_all(&c, &data);
            c.shutdown(SHUT_WR).is(0);
        });
        sleep(30);
        assert_eq!(take_all(&s, data.len()), data);
        s.recv(&mut [0; 1], 0).is(0);
    });
}

fn orphan_takes_nothing(net: Net) {
    let (c, s) = pair(net);
    c.close().is(0);
    assert_eq!(take(&s, 9), b"");
    s.send(b"x", MSG_NOSIGNAL).is(1);
    until(|| s.ready() & POLLERR != 0);
    assert_eq!(s.error(), EPIPE);
}

fn close_with_empty_buffer_is_fin(net: Net) {
    let (c, s) = pair(net);
    c.write(b"1234").is(4);
    assert_eq!(take_all(&s, 4), b"1234");
    s.write(b"56").is(2);
    s.close().is(0);
    assert_eq!(take_to_end(&c), b"56");
    assert_eq!(c.error(), 0);
}

fn reconnect_many_times(net: Net) {
    let (l, at) = listener(net);
    for i in 0..200u32 {
        let c = net.tcp();
        c.connect(&at).is(0);
        let s = l.accept().fd();
        s.write(&i.to_ne_bytes()).is(4);
        assert_eq!(take_all(&c, 4), i.to_ne_bytes());
    }
}

fn shut_wr_after_peer_end(net: Net) {
    let (c, s) = pair(net);
    s.close().is(0);
    wait_in(&c);
    c.shutdown(SHUT_WR).is(0);
    assert_eq!(c.ready(), POLLIN | POLLOUT | POLLRDHUP | POLLHUP);
    assert_eq!(c.error(), 0);
    c.recv(&mut [0; 4], 0).is(0);
}

fn close_during_send(net: Net) {
    // A descriptor closed by one thread while another writes through a copy of it: the copy goes on.
    let (c, s) = pair(net);
    let copy = sys!(libc::dup(c.raw())).fd();
    let data = pattern(1 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            put_all(&copy, &data);
            copy.shutdown(SHUT_WR).is(0);
        });
        c.close().is(0);
        assert!(take_to_end(&s) == data);
    });
}
