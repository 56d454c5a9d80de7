//! What messages that are begun and not ended may hold at the PD port: a pool of their own, which follows `memory_bytes`.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use store::config::{Limits, Machine};
use store::memory::PoolUse;
use store::wire::grpc::client::Client;

use crate::real::{self, ROOT, Real};

/// A message may be as long where it names many things.
const WHOLE_BYTES: u32 = 4 << 20;
const PART_BYTES: usize = 3 << 20;
const CONNECTIONS: usize = 6;
const STREAMS: usize = 8;
const MIB: u64 = 1 << 20;

/// What messages take at the PD port, and the bound, as published.
fn input(real: &Real) -> PoolUse {
    let reports = real.started.board.read();
    let port = reports.iter().find(|core| core.scheduler.is_some()).expect("the scheduler is here");
    port.memory.iter().find(|pool| pool.pool == "input").copied().expect("it has that pool")
}

/// The highest use of the pool under more unfinished messages than fit, and its bound.
async fn fill(rt: Rt, memory_bytes: u64) -> (u64, u64) {
    let mut setup = real::setup(Path::new("/data"));
    let machine = Machine { cores: 1, memory_bytes, open_files: 4096 };
    setup.config.memory_bytes = memory_bytes.into();
    setup.limits = Limits::derive(&setup.config, machine).unwrap();
    let real = real::start(&rt, setup).await.unwrap();
    rt.sleep(Duration::from_secs(2)).await;
    let (mut highest, bound) = (0, input(&real).max_bytes);
    let mut message = vec![0; PART_BYTES];
    message[1..5].copy_from_slice(&WHOLE_BYTES.to_be_bytes());
    let message = Bytes::from(message);
    for _ in 0..CONNECTIONS {
        let client = Client::connect(&rt, real.started.addresses.pd).await.unwrap();
        for _ in 0..STREAMS {
            let (client, message) = (client.clone(), message.clone());
            rt.spawn(async move {
                // Ended by the server some time, because others wait for what it holds.
                client.begin_message("/pdpb.PD/BatchScanRegions", message).await
            });
        }
    }
    for _ in 0..100 {
        rt.sleep(Duration::from_millis(100)).await;
        highest = highest.max(input(&real).used_bytes);
    }
    real.drain().await;
    (highest, bound)
}

#[test]
fn unfinished_messages_at_the_pd_port_fill_their_pool_and_no_more() {
    let of_memory = |memory_bytes| {
        let world = World::new(91, Options::default());
        let (used, bound) =
            world.block_on(world.node(0).start(ROOT, move |rt| fill(rt, memory_bytes))).unwrap();
        // One message is let through, and each of the others holds a window beyond what there is room for.
        assert!(used > bound / 2, "{used} of {bound} bytes are used: the test does not test");
        assert!(used < bound + 8 * MIB, "{used} bytes where {bound} may be held");
        bound
    };
    let (small, large) = (of_memory(256 * MIB), of_memory(512 * MIB));
    assert!(large > small, "{large} and {small}: the bound does not follow memory_bytes");
}
