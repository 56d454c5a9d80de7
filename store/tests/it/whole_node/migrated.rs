//! Connections that migrate to the core of their keys: their clients notice nothing, and a pipeline that is cut by it goes on.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use engine::rt::sim::{Options, World};
use engine::rt::{Rt, Stream};
use store::config::SyncMethod;

use super::{START_MAX, begin};
use crate::page;

const CLIENTS: usize = 8;
/// Commands of one client, in pipelines of different lengths.
const COMMANDS: u64 = 400;

/// In rough weather each attempt may get lost as often as a client asks.
async fn connect(rt: &Rt, addr: SocketAddr) -> std::io::Result<Stream> {
    loop {
        match rt.connect(addr).await {
            Err(error) if error.kind() == ErrorKind::TimedOut => {}
            connected => return connected,
        }
    }
}

/// Counts in a key of its own, and asks for what it wrote. Every reply has to be the next one.
async fn count(rt: Rt, addr: SocketAddr, number: usize) -> Result<(), String> {
    let mut stream = connect(&rt, addr).await.map_err(|error| error.to_string())?;
    let (mut counted, mut unread) = (0, Vec::new());
    while counted < COMMANDS {
        let length = 1 + rt.random() % 20;
        let request = format!("INCR counter-{number}\r\n").repeat(length as usize);
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let expected: String = (counted + 1..=counted + length).map(|n| format!(":{n}\r\n")).collect();
        while unread.len() < expected.len() {
            let mut buffer = [0; 512];
            match stream.read(&mut buffer).await {
                Ok(0) => return Err("the connection ended".to_owned()),
                Ok(n) => unread.extend_from_slice(&buffer[..n]),
                Err(error) => return Err(error.to_string()),
            }
        }
        if unread != expected.as_bytes() {
            return Err(format!("{:?} instead of {expected:?}", String::from_utf8_lossy(&unread)));
        }
        unread.clear();
        counted += length;
        rt.sleep(Duration::from_millis(rt.random() % 4)).await;
    }
    Ok(())
}

/// How many connections have migrated.
fn live(seed: u64) -> u64 {
    let world = World::new(seed, Options::rough(seed));
    let life = begin(&world.node(0), SyncMethod::Dsync);
    assert!(world.run_until(START_MAX, || life.started.borrow().is_some()));
    let started = life.started.borrow().clone().expect("it was said").expect("it starts");
    let addr = SocketAddr::new(world.node(0).ip(), started.addresses.resp.port());
    let counting: Vec<_> = (0..CLIENTS)
        .map(|number| world.node(1 + number).start(0, move |rt| count(rt, addr, number)))
        .collect();
    for client in counting {
        match world.block_on(client).expect("it ends by itself") {
            // Rough weather resets connections.
            Err(error) if error.contains("reset") || error.contains("ended") => {}
            counted => assert_eq!(counted, Ok(()), "seed {seed}"),
        }
    }
    // The board is written once a second.
    world.run_for(Duration::from_secs(2));
    page::of(&started.board.read(), "ringkeep_resp_connections_moved_total") as u64
}

#[test]
fn connections_migrate_to_the_core_of_their_keys_and_lose_nothing() {
    let migrated: u64 = (0..20).map(live).sum();
    assert!(migrated > 20, "only {migrated} connections migrated");
}
