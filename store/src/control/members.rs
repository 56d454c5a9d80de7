//! Stores of other nodes that want to join, or that moved to another address.
//!
//! Their ids come from [`Control::alloc_ids`]; what is asked here is whether a store of this id and node may be entered as it describes
//! itself, and then to enter it. That the store is really reached where it says, by who dials it, is found out between the two.

use std::fmt;

use scheduler::{NodeId, State, StateCommand, StoreDescriptor, StoreId};

use super::denied::Denied;
use super::{Control, time};

/// Why a store may not join, beyond what the state refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It is one of this node's own.
    OwnStore(StoreId),
    /// The id of its node did not come from here.
    NodeNotAllocated(NodeId),
    /// The id of its node is that of a store.
    NodeIsStore(NodeId),
}

impl fmt::Display for NotAdmitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnStore(store) => {
                write!(
                    f,
                    "{store} belongs to the node that was asked; was a data directory copied? Join with an empty one"
                )
            }
            Self::NodeNotAllocated(node) => {
                write!(f, "the id of {node} was not handed out by this cluster; let the node ask for one")
            }
            Self::NodeIsStore(node) => {
                write!(f, "the id of {node} names a store; let the node ask for one of its own")
            }
        }
    }
}

/// What entering a store would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joining {
    /// Nothing: the state has it as it is described.
    Known,
    /// It is new.
    New,
    /// It was at this address.
    MovedFrom(String),
}

impl Control {
    /// Whether a store of another node may be entered as it describes itself.
    ///
    /// # Errors
    /// Why not; nothing has changed.
    pub fn may_join(&self, wanted: &StoreDescriptor) -> Result<Joining, Denied> {
        let not_admitted = |why| Err(Denied::NotAdmitted(why));
        if wanted.node.0 == self.0.member.member_id {
            return not_admitted(NotAdmitted::OwnStore(wanted.id));
        }
        let image = self.0.state.known(Clone::clone).ok_or_else(|| {
            Denied::Unavailable(
                "the store that keeps it could not be opened; see the log of the node".to_owned(),
            )
        })?;
        if wanted.node.0 >= image.next_id {
            return not_admitted(NotAdmitted::NodeNotAllocated(wanted.node));
        }
        if image.stores.contains_key(&StoreId(wanted.node.0)) || wanted.id.0 == wanted.node.0 {
            return not_admitted(NotAdmitted::NodeIsStore(wanted.node));
        }
        let joining = match image.stores.get(&wanted.id) {
            None => Joining::New,
            Some(known) if known.address != wanted.address => Joining::MovedFrom(known.address.clone()),
            Some(known) if (known.node, &known.labels) == (wanted.node, &wanted.labels) => Joining::Known,
            Some(_) => Joining::New,
        };
        // The state judges it again when the entry is applied; here it is asked before anything is dialled.
        let mut state = State::restore(image).map_err(Denied::Refused)?;
        state.apply(StateCommand::PutStore(wanted.clone())).map_err(Denied::Refused)?;
        Ok(joining)
    }

    /// Enters a store of another node into the state, and into the map once that is durable.
    ///
    /// # Errors
    /// The state refuses it or cannot be changed.
    pub async fn admit(&self, wanted: StoreDescriptor) -> Result<(), Denied> {
        self.may_join(&wanted)?;
        self.0.state.apply(StateCommand::PutStore(wanted.clone())).await?;
        let entered = self.0.scheduler.borrow_mut().put_store(wanted, time(&self.0.rt));
        self.count(entered.map_err(|refusal| refusal.to_string()));
        Ok(())
    }
}
