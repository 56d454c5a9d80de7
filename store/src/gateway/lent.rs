//! Values that another core of the node has read for a connection of this one.
//!
//! They are charged to the core that read them, and only as long as they lie there: the reply that a connection makes of one is this core's.
//! So a large value finds room here before whoever asked has it. Else clients that read nothing come to any amount, a reply each, as
//! soon as the region of what they ask for has moved away from their core: each that is written makes room for the next read there.
//!
//! Invariant: while a value waits here it stays charged where it was read, so what waits is bounded.

use engine::rt::Rt;

use super::dispatch::Dispatch;
use crate::memory::{Memory, SMALL_BYTES, charged_bytes};
use crate::request::{Out, Outcome};
use crate::shard::links::CoreLinks;

impl Dispatch {
    /// Hands an answer of another core to whoever waits for it, a large value once there is room for it here.
    pub(super) fn take_answer(&self, id: u64, outcome: Outcome) {
        let bytes = match &outcome {
            Ok(Out::Value(Some(value))) if self.links().is_get(id) => charged_bytes(value),
            Ok(_) | Err(_) => 0,
        };
        if bytes <= SMALL_BYTES {
            return self.links().arrived(id, outcome);
        }
        let (rt, links, memory) = (self.rt().clone(), self.links().clone(), self.memory().clone());
        self.rt().spawn(async move { arrive(&rt, &links, &memory, id, bytes, outcome).await });
    }
}

async fn arrive(rt: &Rt, links: &CoreLinks, memory: &Memory, id: u64, bytes: usize, outcome: Outcome) {
    let outcome = match (memory.output.wait(rt, bytes).await, outcome) {
        (Ok(charge), Ok(Out::Value(value))) => Ok(Out::Value(value.map(|value| charge.wrap(value)))),
        (Ok(_), outcome) => outcome,
        (Err(busy), _) => Err(busy),
    };
    links.arrived(id, outcome);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use engine::rt::sim;

    use super::super::routes_tests::Nodes;
    use crate::memory::{Memory, MemoryLimits};
    use crate::refusal::Refusal;
    use crate::request::{Op, Out};

    const MIB: usize = 1 << 20;

    /// The keys below "e" are those of the first core.
    fn key() -> Bytes {
        Bytes::from_static(b"a")
    }

    #[test]
    fn values_of_another_core_wait_for_room_at_the_core_of_the_connection() {
        sim::run(1, |rt| async move {
            let limits = MemoryLimits { input_bytes: 64 * MIB, output_bytes: 8 * MIB };
            let nodes = Nodes::start(&rt, &Memory::new(limits)).await;
            let [there, here] = &nodes.gateways;
            there.submit(None, Op::Put { key: key(), value: vec![7; 2 * MIB].into() }).await.unwrap();
            let mut asked: Vec<_> = (0..10).map(|_| here.submit(None, Op::Get { key: key() })).collect();
            let (held, waits) = (asked.drain(..2).collect::<Vec<_>>(), asked);
            // What a connection has of an answer is a copy of its own: nothing is charged there any more.
            let mut replies = Vec::new();
            for submitted in held {
                let Ok(Out::Value(Some(value))) = submitted.await else { panic!("there is room for these") };
                replies.push(here.memory().output.charge(value.len()));
            }
            rt.sleep(Duration::from_millis(100)).await;
            let used = here.memory().output.used();
            assert!(used <= 8 * MIB, "{used} bytes are charged to the connection's core");
            assert!(there.memory().output.used() <= 8 * MIB, "what waits is charged where it was read");
            drop(replies);
            let mut came = 0;
            for submitted in waits {
                match submitted.await {
                    Ok(Out::Value(Some(value))) => came += usize::from(value.len() == 2 * MIB),
                    Err(Refusal::Busy { .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(came, 8, "they come one by one as those before them go");
            assert_eq!((here.memory().output.used(), there.memory().output.used()), (0, 0));
        });
    }
}
