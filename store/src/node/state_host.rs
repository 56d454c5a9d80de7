//! The core that keeps the scheduler's state, as the scheduler shard sees it: it takes questions off the link, puts them to the system
//! group of its store, and sends back what they came to.
//!
//! Every question is answered: by what its applied entry came to, by the store's refusal, or, if the store could not be opened, by why. A
//! question that is dropped because the core ends reads as unknown at the other end.

use engine::rt::Rt;
use engine::rt::chan::{Receiver, TrySend};

use crate::control::Ask;
use crate::control::link::AnswerTo;
use crate::refusal::Refusal;
use crate::shard::Shard;

/// Answers until the scheduler shard ends. `store` is the one that keeps the state, or why it is not open.
pub async fn serve(rt: Rt, store: Result<Shard, String>, asks: Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        match (&store, ask) {
            (Ok(shard), Ask::Read(to)) => {
                let shard = shard.clone();
                drop(rt.spawn(async move { answer(&to, shard.system_state().await) }));
            }
            (Ok(shard), Ask::Command(command, to)) => {
                let shard = shard.clone();
                drop(rt.spawn(async move { answer(&to, shard.system_command(command).await) }));
            }
            (Err(why), Ask::Read(to)) => answer(&to, Err(Refusal::Stopped(why.clone()))),
            (Err(why), Ask::Command(_, to)) => answer(&to, Err(Refusal::Stopped(why.clone()))),
        }
    }
}

fn answer<T>(to: &AnswerTo<T>, answer: Result<T, Refusal>) {
    match to.try_send(answer) {
        // Whoever asked may be gone: a client that has left, or a scheduler shard that has ended.
        Ok(()) | Err(TrySend::Closed(_)) => {}
        Err(TrySend::Full(_)) => unreachable!("a question is answered once"),
    }
}
