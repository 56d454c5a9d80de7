//! What data cores ask the scheduler: where regions are of which they have no replica, and ids for regions that they cut.
//!
//! ```text
//! core ──Question──▶ root core ──▶ the scheduler here, or the one of the cluster ──▶ Found ──▶ core
//! ```
//!
//! Nothing is promised: a question or an answer that does not fit is dropped, and the core asks again after a while. What is answered may be
//! older than the regions; the stores judge what is sent to them.

use engine::rt::chan::{self, Receiver, Sender, TrySend};
use scheduler::{NewRegion, Peer, Region, StoreId};

use super::Control;

/// Questions of all cores that may wait.
const QUESTIONS_MAX: usize = 256;
/// Answers that a core may not have taken yet.
const ANSWERS_MAX: usize = 64;
/// Regions in an answer: those after the one that was asked for are asked for next.
pub const REGIONS_MAX: usize = 64;

/// What a core asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Where a key is.
    Key(Vec<u8>),
    /// Ids for as many parts that are to be cut off a region.
    Parts(Region, u32),
}

/// A question of a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The core, by number on its node.
    pub core: usize,
    /// Its number for the question.
    pub id: u64,
    /// What it asks for.
    pub sought: Sought,
}

/// What is known of where a key is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Regions {
    /// The region that has the key and some after it, in key order, with their leaders as far as they are known.
    pub regions: Vec<(Region, Option<Peer>)>,
    /// Where the stores of their peers are reached.
    pub addresses: Vec<(StoreId, String)>,
}

/// What a core is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Where a key is.
    Regions(Regions),
    /// Ids for parts of a region, or why there are none.
    Parts(Result<Vec<NewRegion>, String>),
}

/// The answer to a question, by its number.
pub type Answer = (u64, Found);

/// A queue for the questions of all data cores.
pub fn questions() -> (Sender<Question>, Receiver<Question>) {
    chan::queue(QUESTIONS_MAX)
}

/// A queue for the answers to one core's questions.
pub fn replies() -> (Sender<Answer>, Receiver<Answer>) {
    chan::queue(ANSWERS_MAX)
}

/// Hands an answer to the core that asked. One that does not fit is dropped: the core asks again.
pub fn reply(replies: &[Sender<Answer>], core: usize, answer: Answer) {
    let Some(to) = replies.get(core) else { return };
    match to.try_send(answer) {
        Ok(()) => {}
        Err(TrySend::Full(_)) => {
            tracing::warn!(core, "a core takes no answers about regions: it may be very busy")
        }
        Err(TrySend::Closed(_)) => tracing::debug!(core, "a core has ended before an answer about regions"),
    }
}

impl Control {
    /// Where `key` is, and up to `limit` regions from there on.
    pub fn locate(&self, key: &[u8], limit: usize) -> Regions {
        self.map(|map| {
            let regions: Vec<(Region, Option<Peer>)> = map
                .regions_from(key, limit.min(REGIONS_MAX))
                .map(|known| {
                    (known.region.clone(), known.leader.and_then(|id| known.region.peer(id)).copied())
                })
                .collect();
            let mut stores: Vec<StoreId> =
                regions.iter().flat_map(|(region, _)| region.peers.iter().map(|peer| peer.store)).collect();
            stores.sort_unstable();
            stores.dedup();
            let address = |id: StoreId| Some((id, map.store(id)?.descriptor.address.clone()));
            Regions { regions, addresses: stores.into_iter().filter_map(address).collect() }
        })
    }
}
