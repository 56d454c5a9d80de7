//! Which of a node's stores the cluster still has in use, as it tells the node: when they register, and in the answers to their beats.
//! And whether it takes them at all: a node that was away may find that another one has its identity meanwhile, because its directory was
//! copied. That is on the status pages as long as it lasts, and no health check says that its stores serve.
//!
//! One that was taken out of use for good stays so, has no region, and takes part in nothing: it is named once in the log and on the status
//! pages (by way of the board), and nothing of it is reported. Its node goes on with the others. What the node cannot do is serve
//! without any store: a start is refused then, and a node that runs is not ready.

use std::fmt;

use scheduler::{StoreId, StoreRefusal};

use super::identity::Identity;
use crate::control::Beat;
use crate::plant::{Bug, planted};
use crate::wire::board::Board;

/// What is said of a store that was taken out of use for good.
pub const OUT_OF_USE: &str = "it was taken out of use for good, holds nothing any more and takes part in nothing; its core serves again once the \
                              other stores of the node are taken out of use, too, and the node starts on an empty directory with --join";

/// What is wrong with a node none of whose stores is in use, and what to do.
pub const NONE_IN_USE: &str = "all stores of this node were taken out of use for good, and it has none to serve with: stop it, and start \
                                  it on an empty directory with --join";

/// The stores of a node that are in use. Stays on the root core; what it knows is on the board.
pub(super) struct Standing {
    identity: Identity,
    board: Board,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} without stores {:?}", self.identity.node, self.board.gone())
    }
}

impl Standing {
    /// All are, as long as nothing else is heard.
    pub(super) fn new(identity: &Identity, board: &Board) -> Self {
        Self { identity: identity.clone(), board: board.clone() }
    }

    /// Whose stores they are.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether a store was taken out of use for good.
    pub(super) fn is_gone(&self, store: StoreId) -> bool {
        self.board.gone().contains(&store.0)
    }

    /// The cluster says that a store was taken out of use for good; that is said once. One of another node is none of this one's business.
    pub(super) fn note_gone(&self, store: StoreId) {
        let is_own = (0..self.identity.stores).any(|index| self.identity.store_id(index) == store);
        if !is_own || !self.board.note_gone(store.0) {
            return;
        }
        tracing::warn!(store = store.0, "a store of this node is gone: {OUT_OF_USE}");
        if self.check().is_err() {
            tracing::error!("{NONE_IN_USE}");
        }
    }

    /// The cluster does not take the stores of this node while it runs, and why; or it does.
    pub(super) fn note_refused(&self, why: Option<String>) {
        if planted(Bug::RefusalNotShown) {
            return;
        }
        let said = why.clone();
        match (self.board.note_refused(why), said) {
            (true, Some(why)) => tracing::error!(why, "the cluster does not take this node's stores"),
            (true, None) => tracing::info!("the cluster takes this node's stores"),
            (false, _) => {}
        }
    }

    /// Whether any store is in use.
    ///
    /// # Errors
    /// None is; with the last one.
    pub(super) fn check(&self) -> Result<(), StoreRefusal> {
        let mut stores = (0..self.identity.stores).map(|index| self.identity.store_id(index));
        let none_left = match planted(Bug::OneGoneEndsStart) {
            true => stores.clone().any(|store| self.is_gone(store)),
            false => stores.clone().all(|store| self.is_gone(store)),
        };
        match none_left && !planted(Bug::NoneLeftStarts) {
            true => stores.next_back().map_or(Ok(()), |last| Err(StoreRefusal::Tombstone(last))),
            false => Ok(()),
        }
    }

    /// A beat without what stores say that are not in use.
    pub(super) fn in_use(&self, mut beat: Beat) -> Beat {
        let gone = self.board.gone();
        beat.stores.retain(|store| !gone.contains(&store.descriptor.id.0));
        beat
    }
}
