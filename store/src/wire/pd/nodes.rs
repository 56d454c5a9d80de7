//! What nodes say to the scheduler that do not host it: that they want to join, and what their cores report.
//!
//! ```text
//! Join     is it a version that we speak? ──► are its addresses free? ──► ids. Nothing is entered: its stores do that (`join`)
//! Report   is it our cluster? ──► has every store joined as it describes itself? ──► map ──► steps and addresses
//! ```
//!
//! Whoever calls has proved the secret of the cluster ([`members`](super::members)). Where none is set, whoever reaches this port can report
//! for a store that has joined if he knows its ids and its address, which the port shows; that is said in the log and by `doctor`.

use scheduler::NodeId;

use super::{Pd, beats, denied};
use crate::wire::grpc::{Code, Status};
use crate::wire::peer::book::is_address;
use crate::wire::peer::hello::{VERSION, VERSION_MIN};
use crate::wire::proto::ringkeep;

/// Stores that a node may have.
const STORES_MAX: u32 = 4096;

impl Pd {
    /// Gives ids to a node that wants to join, and says where the scheduler is and where it may be later.
    pub(super) async fn join(
        &self,
        request: ringkeep::JoinRequest,
    ) -> Result<ringkeep::JoinResponse, Status> {
        let ringkeep::JoinRequest { version, version_min, stores, addresses, cluster_id } = request;
        let ours = self.control.cluster_id();
        let urls = self.control.member().client_urls.iter();
        let own = urls.map(|url| url.trim_start_matches("http://").to_owned());
        let schedulers = own.chain(self.control.others().into_iter().map(|(_, place)| place)).collect();
        let answer = ringkeep::JoinResponse { cluster_id: ours, node: 0, first_store: 0, schedulers };
        if cluster_id != 0 {
            return if cluster_id == ours { Ok(answer) } else { Err(other_cluster(cluster_id, ours)) };
        }
        if version < VERSION_MIN || version_min > VERSION {
            let message = format!(
                "the node that joins speaks versions {version_min} to {version} of the protocol between nodes, the cluster {VERSION_MIN} to \
                 {VERSION}; update the older of the two first to a release between"
            );
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        if !(1..=STORES_MAX).contains(&stores) {
            return Err(Status::invalid(format!("a node has 1 to {STORES_MAX} stores, not {stores}")));
        }
        let granted = self.control.grant_node(u64::from(stores), &addresses).await.map_err(denied)?;
        Ok(ringkeep::JoinResponse { node: granted.node, first_store: granted.first_store, ..answer })
    }

    /// Takes the beat of a core of another node in.
    pub(super) async fn report(
        &self,
        request: ringkeep::ReportRequest,
    ) -> Result<ringkeep::ReportResponse, Status> {
        let ours = self.control.cluster_id();
        if request.cluster_id != ours {
            return Err(other_cluster(request.cluster_id, ours));
        }
        let (node, place) = (NodeId(request.node), request.place.clone());
        let beat = beats::beat(request).map_err(Status::invalid)?;
        let has_joined = !beat.stores.is_empty();
        let taken = self.control.take_remote(beat).await;
        let answer = taken.map_err(|not_joined| Status::new(Code::NotFound, not_joined.to_string()))?;
        if has_joined && is_address(&place) {
            self.control.learn_place(node, &place);
        }
        Ok(beats::answer(&answer))
    }
}

/// A node of another cluster.
pub(super) fn other_cluster(theirs: u64, ours: u64) -> Status {
    let message = format!(
        "the data directory belongs to cluster {theirs:016x}, and here is cluster {ours:016x}; name a member of its own cluster, or an \
         empty directory"
    );
    Status::new(Code::FailedPrecondition, message)
}
