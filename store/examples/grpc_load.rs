//! What one call costs the core that serves it: a map in memory that answers on the TiKV port, and a client on a core of its own.
//!
//! `cargo run --release -p ringkeep-store --example grpc_load` prints CPU time of the serving core per RawGet, for single calls and for
//! batched commands.

#![expect(clippy::print_stdout, reason = "this is what it is for")]

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{CoreOptions, Cores};
use engine::rt::{ListenOptions, Rt, chan};
use futures_util::stream::{FuturesUnordered, StreamExt};
use store::gateway::Gateway;
use store::wire::grpc::client::Client;
use store::wire::grpc::{self, Options};
use store::wire::health::HealthService;
use store::wire::proto::kvrpcpb::*;
use store::wire::proto::tikvpb::*;
use store::wire::tikv::Tikv;

const VALUE_BYTES: usize = 100;
const ROUND: Duration = Duration::from_secs(2);

fn main() -> std::io::Result<()> {
    let cores = Cores::new()?;
    let (announce, addresses) = mpsc::channel();
    let (stop, stopped) = chan::queue::<()>(1);
    let server = cores.start(0, &CoreOptions::default(), move |rt| async move {
        let listener = rt.listen(SocketAddr::from(([127, 0, 0, 1], 0)), ListenOptions::default())?;
        let addr = listener.local_addr()?;
        let service = Tikv::new(&rt, Gateway::in_memory(), 1, HealthService::default());
        let _server = grpc::serve(&rt, listener, service, Options::default());
        // The other thread waits for the address, so it is there to receive it.
        let _ = announce.send(addr);
        stopped.recv().await;
        std::io::Result::Ok(())
    })?;
    let addr = addresses.recv().map_err(std::io::Error::other)?;
    let client = cores.start(1, &CoreOptions::default(), move |rt| load(rt, addr))?;
    client.join()??;
    drop(stop);
    server.join()?
}

async fn load(rt: Rt, addr: SocketAddr) -> std::io::Result<()> {
    let client = Client::connect(&rt, addr).await?;
    let put = RawPutRequest { key: "key".into(), value: vec![7; VALUE_BYTES].into(), ..Default::default() };
    client.unary::<RawPutResponse>("/tikvpb.Tikv/RawPut", &put).await.map_err(std::io::Error::other)?;
    println!("{:<28} {:>12} {:>16}", "shape", "op/s", "server us/op");
    for in_flight in [1, 8, 64, 256] {
        let (before, began) = (server_cpu()?, rt.now());
        let mut calls = FuturesUnordered::new();
        let mut done = 0u64;
        let one = async || client.unary::<RawGetResponse>("/tikvpb.Tikv/RawGet", &get()).await;
        (0..in_flight).for_each(|_| calls.push(one()));
        while rt.now().since(began) < ROUND
            && let Some(answer) = calls.next().await
        {
            answer.map_err(std::io::Error::other)?;
            done += 1;
            calls.push(one());
        }
        report(&format!("unary, {in_flight} in flight"), done, rt.now().since(began), server_cpu()? - before);
    }
    for batch in [8, 32, 128] {
        let (before, began) = (server_cpu()?, rt.now());
        let done = batched(&rt, &client, batch).await.map_err(std::io::Error::other)?;
        report(&format!("BatchCommands of {batch}"), done, rt.now().since(began), server_cpu()? - before);
    }
    Ok(())
}

/// Four batches in flight on one stream.
async fn batched(rt: &Rt, client: &Client, batch: u64) -> Result<u64, grpc::Status> {
    let mut call = client.open("/tikvpb.Tikv/BatchCommands").await?;
    let request = || Request { cmd: Some(Command::RawGet(get())) };
    let requests = (0..batch).map(|_| request()).collect();
    let message =
        BatchCommandsRequest { requests, request_ids: (0..batch).collect(), client_send_time_ns: 0 };
    let framed = grpc::frame(&message);
    let (began, mut done, mut in_flight) = (rt.now(), 0, 0);
    while rt.now().since(began) < ROUND {
        while in_flight < 4 * batch {
            call.outbox.send(framed.clone()).await?;
            in_flight += batch;
        }
        let Some(message) = call.inbox.next().await? else { break };
        let answers: BatchCommandsResponse = prost::Message::decode(message.bytes)
            .map_err(|error| grpc::Status::invalid(error.to_string()))?;
        done += answers.request_ids.len() as u64;
        in_flight -= answers.request_ids.len() as u64;
    }
    Ok(done)
}

fn get() -> RawGetRequest {
    RawGetRequest { key: Bytes::from_static(b"key"), ..Default::default() }
}

/// CPU time that the serving core's thread has had.
fn server_cpu() -> std::io::Result<Duration> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if std::fs::read_to_string(path.join("comm"))?.starts_with("rk-core-0") {
            let stat = std::fs::read_to_string(path.join("schedstat"))?;
            let nanos = stat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
            return Ok(Duration::from_nanos(nanos));
        }
    }
    Err(std::io::Error::other("no serving core"))
}

fn report(shape: &str, done: u64, took: Duration, cpu: Duration) {
    let (per_second, each) = (done as f64 / took.as_secs_f64(), cpu.as_secs_f64() * 1e6 / done as f64);
    println!("{shape:<28} {per_second:>12.0} {each:>16.2}");
}
