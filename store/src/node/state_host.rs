//! The core that keeps the scheduler's state, as the scheduler shard sees it: it takes questions off the link, puts them to the system
//! group of its store, and sends back what they came to.
//!
//! Every question is answered: by what its applied entry came to, by the store's refusal, or, if the store could not be opened, by why. A
//! question that is dropped because the core ends reads as unknown at the other end.

use std::pin::pin;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::chan::{Receiver, Sender, TrySend};
use futures_util::future::select;

use crate::control::Ask;
use crate::control::link::{AnswerTo, News};
use crate::refusal::Refusal;
use crate::shard::Shard;

/// How often it is looked how the replica stands, if nothing moves it: what stops the store and what moves the group rings.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When what the scheduler shard had no room for is said again.
const SAY_AGAIN: Duration = Duration::from_millis(200);

/// Answers until the scheduler shard ends. `store` is the one that keeps the state, or why it is not open.
pub async fn serve(rt: Rt, store: Result<Shard, String>, asks: Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        match (&store, ask) {
            (Ok(shard), Ask::Read(to)) => {
                let shard = shard.clone();
                drop(rt.spawn(async move { answer(&to, shard.system_state().await) }));
            }
            (Ok(shard), Ask::Command(command, term, to)) => {
                let shard = shard.clone();
                drop(rt.spawn(async move { answer(&to, shard.system_command(command, term).await) }));
            }
            (Ok(shard), Ask::Members(to)) => answer(&to, shard.system_members()),
            (Ok(shard), Ask::Step(step, to)) => answer(&to, shard.carry_out(&step)),
            (Err(why), Ask::Read(to)) => answer(&to, Err(Refusal::Stopped(why.clone()))),
            (Err(why), Ask::Command(_, _, to)) => answer(&to, Err(Refusal::Stopped(why.clone()))),
            (Err(why), Ask::Members(to)) => answer(&to, Err(Refusal::Stopped(why.clone()))),
            (Err(why), Ask::Step(_, to)) => answer(&to, Err(Refusal::Stopped(why.clone()))),
        }
    }
}

/// Says how the replica stands, at once and whenever that changes, until the root core ends. `store` is as in [`serve`].
pub async fn watch(rt: Rt, store: Result<Shard, String>, news: Sender<News>) {
    let mut said = None;
    loop {
        let now = match &store {
            Err(why) => News::Closed(why.clone(), None),
            Ok(shard) => standing(shard),
        };
        let mut wait = LOOK_EVERY;
        if said.as_ref() != Some(&now) {
            match news.try_send(now.clone()) {
                Ok(()) => said = Some(now),
                Err(TrySend::Full(_)) => wait = SAY_AGAIN,
                Err(TrySend::Closed(_)) => return,
            }
        }
        let Ok(shard) = &store else { return };
        select(pin!(shard.system_moved()), pin!(rt.sleep(wait))).await;
    }
}

fn standing(shard: &Shard) -> News {
    match (shard.system_standing(), shard.stopped()) {
        (standing, Some(why)) => News::Closed(why, standing.map(|it| it.alone)),
        (Some(standing), None) => News::Standing(standing),
        (None, None) => News::Absent,
    }
}

fn answer<T>(to: &AnswerTo<T>, answer: Result<T, Refusal>) {
    match to.try_send(answer) {
        // Whoever asked may be gone: a client that has left, or a scheduler shard that has ended.
        Ok(()) | Err(TrySend::Closed(_)) => {}
        Err(TrySend::Full(_)) => unreachable!("a question is answered once"),
    }
}
