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
        let bytes = if let Ok(Out::Value(Some(value))) = &outcome { charged_bytes(value) } else { 0 };
        if bytes <= SMALL_BYTES || !self.links().is_get(id) {
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
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::time::Duration;

    use bytes::Bytes;
    use engine::rt::sim;

    use super::super::routes_tests::Nodes;
    use crate::memory::{Memory, MemoryLimits};
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
            // What a connection has of an answer is a copy of its own, while nothing is charged where the value was read.
            let (replies, came) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(0)));
            for _ in 0..10 {
                let (here, replies, came) = (here.clone(), replies.clone(), came.clone());
                rt.spawn(async move {
                    let outcome = here.submit(None, Op::Get { key: key() }).await;
                    let Ok(Out::Value(Some(value))) = outcome else { panic!("{outcome:?}") };
                    replies.borrow_mut().push(here.memory().output.charge(value.len()));
                    came.set(came.get() + 1);
                });
            }
            let mut rounds = 0;
            while came.get() < 10 {
                rt.sleep(Duration::from_millis(100)).await;
                let used = here.memory().output.used();
                assert!(used <= 8 * MIB, "{used} bytes are charged to the connections' core");
                replies.borrow_mut().clear();
                rounds += 1;
            }
            assert!(rounds > 2, "all came within {rounds} rounds, so none has waited");
            replies.borrow_mut().clear();
            assert_eq!((here.memory().output.used(), there.memory().output.used()), (0, 0));
        });
    }
}
