//! Promises about listeners and streams.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Stage, poll_once_and_leave, write_blocks};
use crate::rt::{BLOCK_BYTES, ListenOptions, Listener, OpenMode, Rt, Stream};

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn listen(rt: &Rt) -> (Listener, SocketAddr) {
    let listener = rt.listen(any_port(), ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Both ends of a fresh connection.
async fn pair(rt: &Rt) -> (Stream, Stream) {
    let (listener, addr) = listen(rt);
    let accepted = rt.spawn(async move { listener.accept().await.unwrap().0 });
    let opened = rt.connect(addr).await.unwrap();
    (opened, accepted.await)
}

async fn read_to_end(stream: &mut Stream) -> std::io::Result<Vec<u8>> {
    let (mut all, mut buf) = (Vec::new(), [0; 1000]);
    loop {
        match stream.read(&mut buf).await? {
            0 => return Ok(all),
            n => all.extend_from_slice(&buf[..n]),
        }
    }
}

pub(super) async fn a_stream_carries_bytes_both_ways_after_half_of_it_closed(stage: Stage) {
    let (client, mut server) = pair(&stage.rt).await;
    let answering = stage.rt.spawn(async move {
        let asked = read_to_end(&mut server).await.unwrap();
        server.write_all(&[&b"you said "[..], &asked].concat()).await.unwrap();
    });
    let (mut reading, mut writing) = client.split();
    writing.write_all(b"hello").await.unwrap();
    writing.shutdown().await.unwrap();
    let (mut answer, mut buf) = (Vec::new(), [0; 4]);
    while let n @ 1.. = reading.read(&mut buf).await.unwrap() {
        answer.extend_from_slice(&buf[..n]);
    }
    assert_eq!(answer, b"you said hello");
    answering.await;
}

pub(super) async fn both_ends_of_a_stream_name_the_addresses_in_use(stage: Stage) {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let listener = stage.rt.listen(everywhere, ListenOptions::default()).unwrap();
    let dialed = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
    let accepted = stage.rt.spawn(async move { listener.accept().await.unwrap() });
    let opened = stage.rt.connect(dialed).await.unwrap();
    let (stream, from) = accepted.await;
    assert_eq!(stream.local_addr().unwrap(), dialed);
    assert_eq!(opened.local_addr().unwrap(), from);
}

pub(super) async fn two_tasks_share_a_stream(stage: Stage) {
    const BYTES: usize = 1 << 20;
    let (client, mut server) = pair(&stage.rt).await;
    let echoing = stage.rt.spawn(async move {
        let mut buf = vec![0; 30_000];
        while let n @ 1.. = server.read(&mut buf).await.unwrap() {
            server.write_all(&buf[..n]).await.unwrap();
        }
    });
    let (mut reading, mut writing) = client.split();
    let sent: Vec<u8> = (0..BYTES).map(|n| (n % 253) as u8).collect();
    let expected = sent.clone();
    let sending = stage.rt.spawn(async move {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    });
    let (mut received, mut buf) = (Vec::new(), vec![0; 10_000]);
    while let n @ 1.. = reading.read(&mut buf).await.unwrap() {
        received.extend_from_slice(&buf[..n]);
    }
    assert!(received == expected, "{} of {BYTES} bytes", received.len());
    sending.await;
    echoing.await;
}

pub(super) async fn a_dropped_stream_ends_for_the_peer(stage: Stage) {
    let (client, mut server) = pair(&stage.rt).await;
    drop(client);
    assert_eq!(read_to_end(&mut server).await.unwrap(), b"");
    // The first write may still be taken; sooner or later the peer's absence shows.
    while server.write_all(b"anybody?").await.is_ok() {
        stage.rt.sleep(Duration::from_millis(1)).await;
    }
}

pub(super) async fn a_port_without_listener_refuses(stage: Stage) {
    let (listener, addr) = listen(&stage.rt);
    drop(listener);
    assert_eq!(stage.rt.connect(addr).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

pub(super) async fn a_port_is_taken_once_unless_it_is_shared(stage: Stage) {
    const CLIENTS: usize = 40;
    let rt = &stage.rt;
    let (_alone, addr) = listen(rt);
    let again = rt.listen(addr, ListenOptions::default());
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AddrInUse);

    let shared = ListenOptions { share_port: true, ..ListenOptions::default() };
    let one = rt.listen(any_port(), shared).unwrap();
    let addr = one.local_addr().unwrap();
    let other = rt.listen(addr, shared).unwrap();
    let (accepted, served) = crate::rt::chan::queue(CLIENTS);
    for listener in [one, other] {
        let accepted = accepted.clone();
        drop(rt.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.try_send(stream).unwrap();
            }
        }));
    }
    for _ in 0..CLIENTS {
        rt.connect(addr).await.unwrap();
    }
    for _ in 0..CLIENTS {
        served.recv().await.unwrap();
    }
}

pub(super) async fn an_abandoned_accept_loses_no_connection(stage: Stage) {
    let (listener, addr) = listen(&stage.rt);
    poll_once_and_leave(listener.accept()).await;
    let mut client = stage.rt.connect(addr).await.unwrap();
    client.write_all(b"here").await.unwrap();
    drop(client);
    let (mut server, from) = listener.accept().await.unwrap();
    assert!(from.port() != 0);
    assert_eq!(read_to_end(&mut server).await.unwrap(), b"here");
}

pub(super) async fn a_core_that_ends_takes_its_connections_and_its_io_along(stage: Stage) {
    let (listener, addr) = listen(&stage.rt);
    let path = stage.path("f");
    let written = path.clone();
    let ended = stage.start_sibling(move |rt| async move {
        let file = std::rc::Rc::new(write_blocks(&rt, &written, 1, 1).await);
        let stream = rt.connect(addr).await.unwrap();
        let held = rt.clone();
        drop(rt.spawn(async move {
            held.sleep(Duration::from_secs(3600)).await;
            drop(stream);
        }));
        for n in 0..16 {
            let mut buf = rt.alloc(BLOCK_BYTES);
            buf.fill(2);
            poll_once_and_leave(file.write_at(buf, n * BLOCK_BYTES as u64)).await;
        }
    });
    let (mut server, _) = listener.accept().await.unwrap();
    ended.await;
    // The task that holds the other end will never let go of it by itself.
    assert!(matches!(read_to_end(&mut server).await.as_deref(), Ok(b"") | Err(_)));
    let file = stage.rt.open(&path, OpenMode::Read).await.unwrap();
    let mut seen = 0;
    while seen < 16 * BLOCK_BYTES {
        let bytes = file.read_at(0, 16 * BLOCK_BYTES).await.unwrap();
        seen = bytes.iter().take_while(|byte| **byte == 2).count();
        stage.rt.sleep(Duration::from_millis(1)).await;
    }
}

pub(super) async fn a_stream_goes_on_at_another_core(stage: Stage) {
    let (mut client, mut server) = pair(&stage.rt).await;
    client.write_all(b"one ").await.unwrap();
    let mut first = [0; 1];
    assert_eq!(server.read(&mut first).await.unwrap(), 1, "the rest waits");
    let detached = server.detach().expect("it was not split");
    let sibling = stage.start_sibling(move |rt| async move {
        let (mut stream, mut read) = (rt.attach(detached).unwrap(), Vec::new());
        while read.len() < 6 {
            let mut buffer = [0; 6];
            let n = stream.read(&mut buffer).await.unwrap();
            read.extend_from_slice(&buffer[..n]);
        }
        stream.write_all(b"done").await.unwrap();
        read
    });
    client.write_all(b"two").await.unwrap();
    assert_eq!(sibling.await, b"ne two");
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"done");
}

pub(super) async fn a_stream_that_no_core_takes_in_is_closed(stage: Stage) {
    let (mut client, server) = pair(&stage.rt).await;
    let (reading, writing) = server.split();
    drop(reading);
    drop(writing);
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
    let (mut client, server) = pair(&stage.rt).await;
    drop(server.detach().expect("it was not split"));
    assert_eq!(read_to_end(&mut client).await.unwrap(), b"");
}

pub(super) async fn a_name_leads_to_addresses(stage: Stage) {
    let rt = &stage.rt;
    let (_listener, addr) = listen(rt);
    let literal = rt.resolve(&addr.to_string()).await.unwrap();
    assert_eq!(literal, [addr]);
    let named = rt.resolve(&format!("localhost:{}", addr.port())).await.unwrap();
    assert!(named.iter().all(|found| found.ip().is_loopback() && found.port() == addr.port()), "{named:?}");
    assert!(!named.is_empty());
    for unknown in ["no-such-host.invalid:7", "no port", "localhost:port"] {
        assert!(rt.resolve(unknown).await.is_err(), "{unknown}");
    }
}
