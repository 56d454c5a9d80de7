//! RESP over a map in memory, on one core: what the protocol alone costs.
//!
//! `cargo run --release -p ringkeep-store --example resp_in_memory -- 7379 [cpu]`, then `redis-benchmark -p 7379 -t get,set`.
//! Ends when its standard input does.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::ListenOptions;
use engine::rt::{CoreOptions, start_core};
use store::gateway::Gateway;
use store::wire::resp::{Config, Connections, Counters, Cursors, Facts, serve};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().and_then(|arg| arg.parse().ok()).unwrap_or(7379);
    let cpu: Option<usize> = args.next().and_then(|arg| arg.parse().ok());
    start_core(&CoreOptions { cpu, ..CoreOptions::default() }, move |rt| async move {
        let listener = rt.listen(SocketAddr::from(([127, 0, 0, 1], port)), ListenOptions::default())?;
        let config = Config {
            password: None,
            connections_max: 10_000,
            pipeline_max: 1024,
            cursors: Cursors::new(rt.random()),
            connections: Connections::default(),
            board: None,
            descriptors: store::descriptors::Descriptors::default(),
            facts: Facts { port, cores: 1, ..Facts::default() },
        };
        let watcher = rt.clone();
        let input_ends = async move {
            let _ = watcher.blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await;
            Duration::from_secs(5)
        };
        serve(rt, listener, Gateway::in_memory(), config, Rc::new(Counters::default()), input_ends).await;
        Ok(())
    })?
}
