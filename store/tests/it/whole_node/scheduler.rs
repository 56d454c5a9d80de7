//! A client of the scheduler: it takes ids and timestamps, and says what it was given twice or out of order.
//!
//! There is one, and it asks one thing at a time, so whatever it hears it heard after everything before. What was asked and not answered
//! may have been given out; that takes nothing from what is checked.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use store::wire::grpc::client::{Call, Client};
use store::wire::grpc::{Code, Status, frame};
use store::wire::proto::pdpb::{AllocIdRequest, AllocIdResponse, TsoRequest, TsoResponse};

use super::Shared;
use super::clients::{LOOK, Waited, wait_for};

/// What the client was given, over all lives of the node.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// Behind the last id of a call, by its first.
    ids: BTreeMap<u64, u64>,
    /// Physical and logical part of the largest timestamp.
    timestamp: (i64, i64),
    pub(super) calls: u64,
}

impl Granted {
    fn ids(&mut self, first: u64, end: u64) -> Result<(), String> {
        self.calls += 1;
        let before = self.ids.range(..end).next_back();
        if before.is_some_and(|(_, taken)| *taken > first) {
            return Err(format!("ids {first} to {} were given out before: {before:?}", end - 1));
        }
        self.ids.insert(first, end);
        Ok(())
    }

    fn timestamps(&mut self, (physical, logical): (i64, i64), count: u32) -> Result<(), String> {
        self.calls += 1;
        let smallest = (physical, logical + 1 - i64::from(count));
        let before = std::mem::replace(&mut self.timestamp, (physical, logical));
        if smallest <= before {
            return Err(format!("timestamp {smallest:?} was given out after {before:?}"));
        }
        Ok(())
    }
}

/// Asks until the test is done.
pub(super) async fn client(rt: Rt, shared: Rc<Shared>) {
    while !shared.is_done() {
        let Some((life, addresses)) = shared.serving() else {
            rt.sleep(LOOK).await;
            continue;
        };
        let connecting = async {
            let pd = Client::connect(&rt, shared.reach(addresses.pd)).await.ok()?;
            let tso = pd.open("/pdpb.PD/Tso").await.ok()?;
            Some((pd, tso))
        };
        let connected = wait_for(&rt, &shared, life, "a connection to the scheduler", connecting).await;
        let Waited::Got(Some((pd, mut tso))) = connected else {
            rt.sleep(LOOK).await;
            continue;
        };
        while !shared.is_done() {
            let asking = ask(&rt, &shared, life, &pd, &mut tso);
            match wait_for(&rt, &shared, life, "a call of the scheduler", asking).await {
                Waited::Got(true) => {}
                Waited::Got(false) | Waited::Gone => break,
            }
            if rt.random().is_multiple_of(4) {
                rt.sleep(Duration::from_millis(rt.random() % 20)).await;
            }
        }
    }
}

/// One request. Whether the connection is still of use.
async fn ask(rt: &Rt, shared: &Shared, life: u64, pd: &Client, tso: &mut Call) -> bool {
    let asked = match rt.random() % 3 {
        0 => {
            // More than a block has, so that each call needs an entry.
            let count = [1, 2000][(rt.random() % 2) as usize];
            let request = AllocIdRequest { count, ..AllocIdRequest::default() };
            let answered: Result<AllocIdResponse, Status> = pd.unary("/pdpb.PD/AllocID", &request).await;
            answered.map(|AllocIdResponse { id, count, .. }| {
                shared.granted.borrow_mut().ids(id + 1 - u64::from(count), id + 1)
            })
        }
        _ => {
            let count = [1, 1 << 17][(rt.random() % 2) as usize];
            timestamps(tso, count).await.map(|last| shared.granted.borrow_mut().timestamps(last, count))
        }
    };
    match asked {
        Ok(Ok(())) => true,
        Ok(Err(wrong)) => {
            shared.fail(format!("life {life}: {wrong}"));
            false
        }
        Err(Status { code, message }) => {
            // The scheduler shard stops before the store that keeps its state, so a drain refuses nothing, either.
            // Any other end is that of the connection.
            if code == Code::InvalidArgument || message.contains("the scheduler's state") {
                shared.refused(life, &message);
            }
            false
        }
    }
}

/// The largest of `count` timestamps.
async fn timestamps(tso: &mut Call, count: u32) -> Result<(i64, i64), Status> {
    let gone = || Status::new(Code::Unavailable, "the stream has ended");
    tso.outbox.send(frame(&TsoRequest { count, ..TsoRequest::default() })).await?;
    let message = tso.inbox.next().await?.ok_or_else(gone)?;
    let answer: TsoResponse = prost::Message::decode(message.bytes).expect("an answer of the protocol");
    let last = answer.timestamp.expect("clients unwrap it");
    Ok((last.physical, last.logical))
}
