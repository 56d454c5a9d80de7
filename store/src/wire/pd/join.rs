//! How a store of another node joins: it asks for ids (`AllocID`), serves its port, and says who it is and where (`PutStore`).
//!
//! ```text
//! is it our cluster? ──► may this store be so? ──► does it answer there, as this store? ──► does none answer where it was before?
//!   header                 control (pure)            the peer protocol's introduction          the same        ──► state ──► map
//! ```
//!
//! Whoever can reach this port can ask, where no secret of the cluster is set ([`members`](super::members)). So nothing is believed that the address does not prove: a store is entered only where a store
//! of that id answers for this cluster, and the address of one that still answers where it was is never changed. A new store at the address of one that
//! is silent takes its place: what answers there is the new one, so the old one does not. Only ids that this
//! cluster has handed out are dialled for, and few at a time.
//!
//! A store that is announced by another name or address of its host answers at both. What distinguishes it from a copy is what was drawn for the opening
//! ([`lineage`](crate::region::lineage)): two directories have never drawn the same for the latest one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use scheduler::{NodeId, StateRefusal, StoreDescriptor, StoreId, StoreRefusal};

use super::{Pd, denied};
use crate::control::{Denied, Joining};
use crate::region::lineage::Opening;
use crate::wire::grpc::{Code, Status};
use crate::wire::peer::book::is_address;
use crate::wire::peer::link::LinkError;
use crate::wire::peer::open::{Purpose, Speaker, meet};
use crate::wire::proto::metapb;
use crate::wire::proto::pdpb::{self, ErrorType};

/// The label by which a store says which node it is of.
pub(super) const NODE_LABEL: &str = "node";
/// Stores that are dialled at a time.
const DIALS_MAX: usize = 4;
/// How long a store may take to answer.
const DIAL_MAX: Duration = Duration::from_secs(3);
/// How often a store is dialled whose connection breaks, and the pause between.
const DIAL_TRIES: u32 = 3;
const DIAL_PAUSE: Duration = Duration::from_millis(100);

/// Dials stores that want to join.
#[derive(Clone, Debug)]
pub struct Dialer {
    rt: Rt,
    /// In whose name.
    speaker: Speaker,
    dialling: Rc<Cell<usize>>,
    /// Whether it was said that any caller is believed.
    noted: Rc<Cell<bool>>,
}

/// What is said, once, where a cluster has several nodes and no secret.
pub const NOT_AUTHENTICATED: &str = "the nodes of this cluster do not authenticate each other, so whoever reaches their ports can speak as one of \
                                     them: set cluster_secret_file on every node";

/// One of the dials in flight.
struct Dial(Rc<Cell<usize>>);

impl Drop for Dial {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Dialer {
    /// Dials in the name of `speaker`, a store of this node.
    pub fn new(rt: &Rt, speaker: Speaker) -> Self {
        Self { rt: rt.clone(), speaker, dialling: Rc::default(), noted: Rc::default() }
    }

    /// A store of another node was entered: says once that nothing has proved that it is one of the cluster, if nothing has.
    fn note_open(&self) {
        if self.speaker.secret.is_none() && !self.noted.replace(true) {
            tracing::warn!("{NOT_AUTHENTICATED}");
        }
    }

    fn begin(&self) -> Result<Dial, Status> {
        if self.dialling.get() >= DIALS_MAX {
            let message = "too many stores are joining at this moment; try again in a moment";
            return Err(Status::new(Code::Unavailable, message));
        }
        self.dialling.set(self.dialling.get() + 1);
        Ok(Dial(self.dialling.clone()))
    }

    /// Whether `store` answers at `address`, and by which opening. A connection that breaks once may be a disturbance of the network.
    async fn dial(&self, store: StoreId, address: &str) -> Result<Opening, LinkError> {
        for _ in 1..DIAL_TRIES {
            match self.dial_once(store, address).await {
                Err(LinkError::Io(_) | LinkError::Closed) => self.rt.sleep(DIAL_PAUSE).await,
                dialled => return dialled,
            }
        }
        self.dial_once(store, address).await
    }

    async fn dial_once(&self, store: StoreId, address: &str) -> Result<Opening, LinkError> {
        let met = meet(&self.rt, Purpose::Messages, &self.speaker, address, store);
        let (_, theirs) = self.rt.timeout(DIAL_MAX, met).await.unwrap_or(Err(LinkError::Timeout))?;
        Ok(Opening { number: theirs.incarnation, drawn: theirs.lineage.drawn_for(theirs.incarnation) })
    }
}

impl Pd {
    /// Enters a store of another node, or notes that it moved.
    pub(super) async fn put_store(
        &self,
        request: pdpb::PutStoreRequest,
    ) -> Result<pdpb::PutStoreResponse, Status> {
        let ours = self.control.cluster_id();
        if request.header.is_none_or(|header| header.cluster_id == 0) {
            let message =
                format!("a store that joins names the cluster that it means; this one is {ours:016x}");
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        self.check_cluster(request.header.as_ref())?;
        let Some(dialer) = &self.dialer else {
            let message = "no store of this node can dial the one that joins; see the log of the node";
            return Err(Status::new(Code::Unavailable, message));
        };
        let wanted = described(&request.store.ok_or_else(|| Status::invalid("no store is named"))?)?;
        let joining = match self.control.may_join(&wanted) {
            Ok(joining) => joining,
            Err(why) => return self.not_entered(why),
        };
        if joining != Joining::Known {
            let _dial = dialer.begin()?;
            let dialled = dialer.dial(wanted.id, &wanted.address).await;
            let there = dialled.map_err(|error| unreachable(&wanted, &error))?;
            if let Joining::MovedFrom(before) = &joining
                && let Ok(opening) = dialer.dial(wanted.id, before).await
                && (opening != there || there.drawn == 0)
            {
                return Err(in_use(&wanted, before));
            }
            if let Err(why) = self.control.admit(wanted).await {
                return self.not_entered(why);
            }
            dialer.note_open();
        }
        Ok(pdpb::PutStoreResponse { header: self.header() })
    }

    /// Why a store is not entered. That it was taken out of use for good has a type of its own, as PD has it: its node may have others.
    fn not_entered(&self, why: Denied) -> Result<pdpb::PutStoreResponse, Status> {
        match why {
            Denied::Refused(StateRefusal::Store(gone @ StoreRefusal::Tombstone(_))) => {
                let header = self.failed(ErrorType::StoreTombstone, gone.to_string());
                Ok(pdpb::PutStoreResponse { header })
            }
            why => Err(denied(why)),
        }
    }
}

fn unreachable(wanted: &StoreDescriptor, error: &LinkError) -> Status {
    let StoreDescriptor { id, address, .. } = wanted;
    let message = format!(
        "{id} cannot be dialled back at {address}: {error}. Start it with an `advertise` address that every node of the cluster \
         can reach, and with its ports open"
    );
    Status::new(Code::FailedPrecondition, message)
}

fn in_use(wanted: &StoreDescriptor, before: &str) -> Status {
    let StoreDescriptor { id, address, .. } = wanted;
    let message = format!(
        "the identity of {id} is in use: it answers at {before} and wants to move to {address}. Was a data directory copied? Stop one of \
         the two; start the copy empty, so that it joins with a new identity"
    );
    Status::new(Code::FailedPrecondition, message)
}

/// The store of a request.
fn described(store: &metapb::Store) -> Result<StoreDescriptor, Status> {
    let metapb::Store { id, address, labels, .. } = store;
    if !is_address(address) {
        return Err(Status::invalid(format!(
            "the address of store {id} is {address:?}; give it as HOST:PORT, with a name or an IP address as host"
        )));
    }
    let node = labels.iter().find(|label| label.key == NODE_LABEL).and_then(|label| label.value.parse().ok());
    let node = node.ok_or_else(|| {
        Status::invalid(format!("store {id} does not say its node; give its id in the label {NODE_LABEL:?}"))
    })?;
    let others = labels.iter().filter(|label| label.key != NODE_LABEL);
    let bare = StoreDescriptor::new(StoreId(*id), NodeId(node), address.clone());
    Ok(others.fold(bare, |descriptor, label| descriptor.with_label(&label.key, &label.value)))
}
