//! What the scheduler answers to a core's beats, carried out on that core.
//!
//! ```text
//!   BeatAnswer ─┬─ instructions ──▶ the store of the region's leader
//!               └─ addresses, stores that have not joined ─▶ the core's address book
//! ```
//!
//! Nothing is kept here but what was said: a step that a store refuses is said in the log, once a minute at most, and comes again with the answer
//! to a later beat, as long as the scheduler wants it; an address that cannot be used stays wanted.

use std::collections::BTreeMap;
use std::rc::Rc;

use engine::rt::chan::Receiver;
use engine::rt::{Mono, Rt};
use scheduler::Instruction;

use super::pace::BeatPace;
use crate::control::BeatAnswer;
use crate::plant::{Bug, planted};
use crate::shard::Shard;
use crate::shard::repeats::Repeats;
use crate::wire::peer::book::AddressBook;

/// Carries answers out until the scheduler shard ends. `shards` are the core's stores by number on the node.
pub(super) async fn follow(
    rt: Rt,
    answers: Receiver<BeatAnswer>,
    shards: BTreeMap<usize, Shard>,
    book: Rc<AddressBook>,
    pace: Rc<BeatPace>,
) {
    let repeats = Repeats::default();
    while let Some(BeatAnswer { instructions, addresses, members: _, unknown, gone: _ }) =
        answers.recv().await
    {
        for (store, address) in addresses {
            if planted(Bug::AddressesLost) {
                continue;
            }
            book.set(store, &address);
        }
        unknown.into_iter().for_each(|store| book.deny(store));
        for instruction in &instructions {
            carry_out(&shards, instruction, (&repeats, rt.now()));
        }
        pace.answered(&instructions);
    }
}

fn carry_out(shards: &BTreeMap<usize, Shard>, instruction: &Instruction, (repeats, now): (&Repeats, Mono)) {
    let Instruction { region, epoch: _, leader, operator, action } = instruction;
    let Some(shard) = shards.values().find(|shard| shard.store() == leader.store) else {
        // The beat before this answer was one of the store.
        tracing::warn!(
            store = leader.store.0,
            region = region.0,
            "a step is for a store that is not on this core"
        );
        return;
    };
    match shard.carry_out(instruction) {
        Ok(()) => {
            let sentence = format!("operator {}: {action} begins", operator.0);
            let Some(unsaid) = repeats.may_say(*region, sentence, now) else { return };
            tracing::info!(
                store = leader.store.0,
                region = region.0,
                operator = operator.0,
                %action,
                unsaid,
                "a step of the scheduler begins"
            );
        }
        Err(refusal) => {
            let reason = refusal.reason();
            let sentence = format!("operator {}: {action}: {reason}", operator.0);
            let Some(unsaid) = repeats.may_say(*region, sentence, now) else { return };
            tracing::info!(
                store = leader.store.0,
                region = region.0,
                operator = operator.0,
                %action,
                reason,
                unsaid,
                "a step of the scheduler is refused"
            );
        }
    }
}
