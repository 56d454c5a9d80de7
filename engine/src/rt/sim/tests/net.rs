//! What links that lose, reorder and break do to streams, and what a peer learns of a node that is gone.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::rt::ListenOptions;
use crate::rt::sim::*;

/// A node that counts the bytes it receives on port 1.
fn sink(node: &Node) -> Rc<RefCell<Vec<u8>>> {
    let received = Rc::new(RefCell::new(Vec::new()));
    let (into, addr) = (received.clone(), node.addr(1));
    let _running: Running<()> = node.start(0, move |rt| async move {
        let listener = rt.listen(addr, ListenOptions::default()).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buf = vec![0; 1000];
        while let Ok(n @ 1..) = stream.read(&mut buf).await {
            into.borrow_mut().extend_from_slice(&buf[..n]);
        }
    });
    received
}

#[test]
fn a_stream_stays_in_order_over_a_network_that_does_not() {
    let mut options = Options::default();
    (options.net.loss, options.net.duplicate, options.net.straggle) = (0.1, 0.2, 0.2);
    let world = World::new(11, options);
    let (from, to) = (world.node(0), world.node(1));
    let received = sink(&to);
    let addr = to.addr(1);
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let sending = bytes.clone();
    let sent = from.start(0, move |rt| async move {
        let mut stream = rt.connect(addr).await.unwrap();
        for part in sending.chunks(500) {
            stream.write_all(part).await.unwrap();
        }
    });
    world.block_on(sent).unwrap();
    assert!(world.run_until(Duration::from_secs(60), || received.borrow().len() == bytes.len()));
    assert_eq!(*received.borrow(), bytes);
    let stats = world.net_stats();
    assert!(stats.lost > 10 && stats.duplicated > 10 && stats.reordered > 10, "{stats:?}");
}

#[test]
fn a_cut_link_holds_bytes_back_and_breaks_the_stream_in_the_end() {
    let world = World::new(12, Options::default());
    let (from, to) = (world.node(0), world.node(1));
    let received = sink(&to);
    let addr = to.addr(1);
    let go = Rc::new(Cell::new(0));
    let shared = go.clone();
    let failed = from.start(0, move |rt| async move {
        let mut stream = rt.connect(addr).await.unwrap();
        stream.write_all(b"one").await.unwrap();
        shared.set(1);
        while shared.get() != 2 {
            rt.sleep(Duration::from_millis(1)).await;
        }
        stream.write_all(b"two").await.unwrap();
        stream.read(&mut [0; 1]).await.map_err(|error| error.kind())
    });
    assert!(world.run_until(Duration::from_secs(1), || *received.borrow() == b"one"));
    world.cut_one_way(&from, &to);
    go.set(2);
    world.run_for(Duration::from_secs(1));
    assert_eq!(*received.borrow(), b"one");
    world.join(&from, &to);
    assert!(world.run_until(Duration::from_secs(1), || *received.borrow() == b"onetwo"));
    // The other direction alone: data could flow, acknowledgements cannot, and nothing is waiting for either.
    world.cut_one_way(&to, &from);
    world.run_for(Duration::from_secs(1));
    world.reset(&from, &to);
    assert_eq!(world.block_on(failed), Some(Err(io::ErrorKind::ConnectionReset)));
}

#[test]
fn lost_acknowledgements_break_a_stream_whose_bytes_arrived() {
    let world = World::new(13, Options::default());
    let (from, to) = (world.node(0), world.node(1));
    let received = sink(&to);
    let addr = to.addr(1);
    let connected = Rc::new(Cell::new(false));
    let shared = connected.clone();
    let outcome = from.start(0, move |rt| async move {
        let mut stream = rt.connect(addr).await.unwrap();
        shared.set(true);
        rt.sleep(Duration::from_millis(10)).await;
        stream.write_all(b"once").await.unwrap();
        stream.read(&mut [0; 1]).await.map_err(|error| error.kind())
    });
    assert!(world.run_until(Duration::from_secs(1), || connected.get()));
    world.cut_one_way(&to, &from);
    assert_eq!(world.block_on(outcome), Some(Err(io::ErrorKind::TimedOut)));
    assert_eq!(*received.borrow(), b"once", "the repetitions are thrown away");
}

#[test]
fn connecting_without_a_listener_is_refused_and_to_a_dark_node_times_out() {
    let world = World::new(14, Options::default());
    let (from, to) = (world.node(0), world.node(1));
    let addr = to.addr(9);
    for (dark, kind) in [(false, io::ErrorKind::ConnectionRefused), (true, io::ErrorKind::TimedOut)] {
        if dark {
            to.crash();
        }
        let outcome = from.start(usize::from(dark), move |rt| async move {
            rt.connect(addr).await.map(|_| ()).map_err(|error| error.kind())
        });
        assert_eq!(world.block_on(outcome), Some(Err(kind)));
    }
}

#[test]
fn a_peer_learns_of_a_killed_process_and_not_of_a_power_cut() {
    for (kill, expected) in [(true, Some(Err(io::ErrorKind::ConnectionReset))), (false, None)] {
        let world = World::new(15, Options::default());
        let (from, to) = (world.node(0), world.node(1));
        let _received = sink(&to);
        let addr = to.addr(1);
        let seen = Rc::new(RefCell::new(None));
        let shared = seen.clone();
        let _running = from.start(0, move |rt| async move {
            let mut stream = rt.connect(addr).await.unwrap();
            let outcome = stream.read(&mut [0; 1]).await.map_err(|error| error.kind());
            *shared.borrow_mut() = Some(outcome);
        });
        world.run_for(Duration::from_millis(10));
        if kill {
            to.kill()
        } else {
            to.crash()
        }
        world.run_for(Duration::from_secs(60));
        assert_eq!(*seen.borrow(), expected);
    }
}
