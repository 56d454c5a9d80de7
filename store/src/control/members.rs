//! Stores of other nodes that want to join, or that moved to another address.
//!
//! A new store may have the address of one that is silent: it takes its place then, and the old one is taken out of use with all other stores
//! of its node, by one entry of the log: the new node may have fewer. A node of which a store is heard is never displaced.
//!
//! Their ids come from [`Control::alloc_ids`]; what is asked here is whether a store of this id and node may be entered as it describes
//! itself, and then to enter it. That the store is really reached where it says, by who dials it, is found out between the two.

use std::fmt;

use scheduler::{Lifecycle, NodeId, State, StateCommand, StateImage, StoreDescriptor, StoreId};

use super::denied::Denied;
use super::{Control, time};
use crate::plant::{Bug, planted};

/// Why a store may not join, beyond what the state refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// An address of a node that wants to join is that of a store that has joined.
    AddressInUse {
        /// The address.
        address: String,
        /// The store.
        holder: StoreId,
        /// Its node.
        node: NodeId,
        /// For how long the store has not been heard, and how long it must not be before another one takes its place, milliseconds.
        silent_ms: (u64, u64),
    },
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
            Self::AddressInUse { address, holder, node, silent_ms: (silent_ms, needed_ms) } => {
                write!(
                    f,
                    "{address} is the address of {holder} of {node}, which has joined and was heard {:.1} s ago. If its data directory was \
                     wiped, what was on it is gone: put the directory back, or start the new node here once the old one has been silent for \
                     {:.0} s, and it takes its place, or at once at other ports or another address",
                    *silent_ms as f64 / 1e3,
                    *needed_ms as f64 / 1e3
                )
            }
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

/// What a node that joins is given. Its stores enter the state themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedNode {
    /// Its id.
    pub node: u64,
    /// The id of its first store; the others have those that follow.
    pub first_store: u64,
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
    /// It is new, and this store, which is silent, was at its address.
    InPlaceOf(StoreId),
    /// The same, and the node of that one has other stores in use, which are silent, too.
    InPlaceOfNode(StoreId),
}

impl Control {
    /// Gives ids to a node with `stores` stores that will be reached at `addresses`, as far as that is settled. Ids of a node that
    /// never comes are not given out again.
    ///
    /// # Errors
    /// An address belongs to a store that has joined, or there are no ids.
    pub async fn grant_node(&self, stores: u64, addresses: &[String]) -> Result<GrantedNode, Denied> {
        let holders = self.0.state.known(|image| {
            let there = image.stores.values().filter(|store| store.lifecycle != Lifecycle::Tombstone);
            let holders = there.filter(|store| addresses.contains(&store.address));
            holders.flat_map(|holder| displaced(image, holder)).collect::<Vec<_>>()
        });
        for holder in holders.unwrap_or_default() {
            self.is_silent(&holder)?;
        }
        let first_store = self.alloc_ids(stores + 1).await?;
        Ok(GrantedNode { node: first_store + stores, first_store })
    }

    /// Whether a store was not heard for so long that another one may take its place. That nothing of it answers there is found out by who
    /// dials the other one: two do not listen at one address. A scheduler that has just begun waits as long as any other.
    ///
    /// # Errors
    /// It was heard.
    fn is_silent(&self, holder: &StoreDescriptor) -> Result<(), Denied> {
        let now = time(&self.0.rt);
        let scheduler = self.0.scheduler.borrow();
        let needed_ms = scheduler.config().store_disconnected_ms;
        let known = scheduler.cluster().store(holder.id);
        let silent_ms = known.map_or(0, |known| now.ms_since(known.last_heard));
        if (silent_ms > needed_ms && holder.node.0 != self.0.member.member_id)
            || planted(Bug::AddressGivenAway)
        {
            return Ok(());
        }
        let StoreDescriptor { id, node, address, labels: _, lifecycle: _ } = holder.clone();
        let silent_ms = (silent_ms, needed_ms);
        Err(Denied::NotAdmitted(NotAdmitted::AddressInUse { address, holder: id, node, silent_ms }))
    }

    /// The state as it is known here.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn image(&self) -> Result<StateImage, Denied> {
        self.0.state.known(Clone::clone).ok_or_else(|| {
            Denied::Unavailable(
                "the store that keeps it could not be opened; see the log of the node".to_owned(),
            )
        })
    }

    /// Whether a store of another node may be entered as it describes itself.
    ///
    /// # Errors
    /// Why not; nothing has changed.
    pub fn may_join(&self, wanted: &StoreDescriptor) -> Result<Joining, Denied> {
        let not_admitted = |why| Err(Denied::NotAdmitted(why));
        if wanted.node.0 == self.0.member.member_id {
            return not_admitted(NotAdmitted::OwnStore(wanted.id));
        }
        let image = self.image()?;
        if wanted.node.0 >= image.next_id {
            return not_admitted(NotAdmitted::NodeNotAllocated(wanted.node));
        }
        if image.stores.contains_key(&StoreId(wanted.node.0)) || wanted.id.0 == wanted.node.0 {
            return not_admitted(NotAdmitted::NodeIsStore(wanted.node));
        }
        let there = |other: &&StoreDescriptor| {
            other.lifecycle != Lifecycle::Tombstone && other.address == wanted.address
        };
        let joining = match image.stores.get(&wanted.id) {
            None => {
                let holders = || image.stores.values().filter(there);
                let all = holders().flat_map(|holder| displaced(&image, holder));
                all.into_iter().try_for_each(|store| self.is_silent(&store))?;
                // Of those that had the address one after the other, the last one.
                let last = holders().max_by_key(|holder| (holder.lifecycle == Lifecycle::Up, holder.id));
                last.map_or(Joining::New, |holder| match image.beside(holder.id).is_empty() {
                    true => Joining::InPlaceOf(holder.id),
                    false => Joining::InPlaceOfNode(holder.id),
                })
            }
            Some(known) if known.address != wanted.address && !planted(Bug::OldPlaceNotAsked) => {
                Joining::MovedFrom(known.address.clone())
            }
            Some(known) if (known.node, &known.labels) == (wanted.node, &wanted.labels) => Joining::Known,
            Some(_) => Joining::New,
        };
        // The state judges it again when the entry is applied; here it is asked before anything is dialled.
        let mut state = State::restore(image).map_err(Denied::Refused)?;
        state.apply(entry(&joining, wanted.clone())).map_err(Denied::Refused)?;
        Ok(joining)
    }

    /// Enters a store of another node into the state, and into the map once that is durable.
    ///
    /// # Errors
    /// The state refuses it or cannot be changed.
    pub async fn admit(&self, wanted: StoreDescriptor) -> Result<(), Denied> {
        let joining = self.may_join(&wanted)?;
        self.0.state.apply(entry(&joining, wanted.clone())).await?;
        let displaced = match joining {
            Joining::InPlaceOf(gone) | Joining::InPlaceOfNode(gone) => {
                tracing::warn!(
                    store = wanted.id.0,
                    gone = gone.0,
                    address = wanted.address,
                    "a new store takes the place of one that was silent, which is taken out of use with all of its node"
                );
                let of_node = |image: &StateImage| {
                    let node = image.stores.get(&gone).map(|gone| gone.node);
                    let all = image.stores.values().filter(|store| Some(store.node) == node);
                    all.cloned().collect::<Vec<_>>()
                };
                self.0.state.known(of_node).unwrap_or_default()
            }
            Joining::Known | Joining::New | Joining::MovedFrom(_) => Vec::new(),
        };
        // The old one first: two in use do not share an address.
        for descriptor in displaced.into_iter().chain([wanted]) {
            let entered = self.0.scheduler.borrow_mut().put_store(descriptor, time(&self.0.rt));
            self.count(entered.map_err(|refusal| refusal.to_string()));
        }
        Ok(())
    }
}

/// What leaves where the place of `holder` is taken: it, and the other stores in use of its node.
fn displaced(image: &StateImage, holder: &StoreDescriptor) -> Vec<StoreDescriptor> {
    let beside = image.beside(holder.id);
    let beside = beside.iter().filter_map(|other| image.stores.get(other));
    std::iter::once(holder).chain(beside).cloned().collect()
}

/// The command that enters a store.
fn entry(joining: &Joining, store: StoreDescriptor) -> StateCommand {
    match joining {
        Joining::InPlaceOf(gone) => StateCommand::ReplaceStore { store, gone: *gone },
        Joining::InPlaceOfNode(gone) => StateCommand::ReplaceNode { store, gone: *gone },
        Joining::Known | Joining::New | Joining::MovedFrom(_) => StateCommand::PutStore(store),
    }
}
