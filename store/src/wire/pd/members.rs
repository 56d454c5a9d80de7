//! Who may call what only nodes and operators of the cluster call, on a PD port.
//!
//! ```text
//! connection begins with     then                                   may call
//! RKNODE                     both prove the secret, then HTTP/2     everything
//! RKNODE, none is set here   it hears so                            -
//! HTTP/2                     -                                      what clients call
//! ```
//! The first bytes decide, so that a node proves the secret once per connection and its calls cost nothing more. What is asked of this
//! port and sent on to the scheduler was judged here, and comes there over a connection of this node.
//!
//! Invariants: whoever has not proved the secret is refused before his message is read; where none is set any caller is believed, as is said
//! in the log, except one that wants a secret proved.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

use engine::rt::{Rt, Stream};

use super::Method;
use crate::secret::{ClusterSecret, Unproven};
use crate::wire::grpc::{Code, Gate, Status};
use crate::wire::peer::authenticate;
use crate::wire::peer::counters::UnprovenCounts;
use crate::wire::peer::frame::{Decoder, FrameKind};
use crate::wire::peer::hello::Rejection;
use crate::wire::peer::inbound::HELLO_MAX;
use crate::wire::peer::link::LinkError;
use crate::wire::peer::notice::Notice;
use crate::wire::peer::open::{HELLO_BYTES_MAX, PREFACE_BYTES, read_frame};

/// What a connection begins with by which a node or an operator calls. No connection between stores begins so.
const PREFACE: [u8; PREFACE_BYTES] = *b"RKNODE\0\x01";

/// A caller of this port means the cluster and not one of its members, which a node that joins does not know.
const ANY_MEMBER: u64 = 0;

impl Method {
    /// Whether only nodes and operators of the cluster call it.
    pub fn is_for_members(self) -> bool {
        match self {
            Method::Join
            | Method::Report
            | Method::Locate
            | Method::Operate
            | Method::Operators
            | Method::CancelOperator
            | Method::Stores
            | Method::RemoveStore
            | Method::MayRemoveStore
            | Method::KeepStore
            | Method::Hosted
            | Method::Evict
            | Method::Config
            | Method::SetConfig
            | Method::SetPolicy
            | Method::Regions
            | Method::Why
            | Method::Cluster
            | Method::RegionMap
            | Method::Heat
            | Method::Forward
            // By which a store joins: an id, and where it is.
            | Method::Bootstrap
            | Method::AllocId
            | Method::PutStore => true,
            Method::GetMembers
            | Method::GetClusterInfo
            | Method::GetClusterConfig
            | Method::Tso
            | Method::GetRegion
            | Method::GetPrevRegion
            | Method::GetRegionById
            | Method::ScanRegions
            | Method::BatchScanRegions
            | Method::QueryRegion
            | Method::GetStore
            | Method::GetAllStores
            | Method::IsBootstrapped
            // These are refused whoever makes them: this cluster's nodes report otherwise.
            | Method::StoreHeartbeat
            | Method::RegionHeartbeat
            | Method::ReportBatchSplit
            | Method::AskSplit
            | Method::AskBatchSplit
            | Method::ScatterRegion
            | Method::SplitRegions
            | Method::SplitAndScatterRegions
            | Method::GetOperator
            | Method::GetGcSafePoint
            | Method::UpdateGcSafePoint
            | Method::UpdateServiceGcSafePoint
            | Method::GetGcState
            | Method::LoadKeyspace
            | Method::HealthCheck
            | Method::HealthWatch
            | Method::Reflection
            | Method::MetaStorageGet
            | Method::MemberList
            | Method::Range => false,
        }
    }
}

/// The gate of a port.
pub struct MemberGate {
    rt: Rt,
    secret: Option<ClusterSecret>,
    counts: UnprovenCounts,
    notice: Notice,
}

impl fmt::Debug for MemberGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} were refused", self.counts.get())
    }
}

impl MemberGate {
    /// Lets those in who prove `secret`; where there is none, no caller needs that.
    pub fn new(rt: &Rt, secret: Option<ClusterSecret>) -> Rc<Self> {
        Rc::new(Self { rt: rt.clone(), secret, counts: UnprovenCounts::default(), notice: Notice::default() })
    }

    /// How many calls and connections were refused, by reason.
    pub fn unproven(&self) -> [u64; Unproven::COUNT] {
        self.counts.get()
    }

    /// Counts a refusal, and says it as often as it may be said.
    fn note(&self, why: Unproven, what: &str, from: SocketAddr) {
        self.counts.add(why);
        if let Some(unsaid) = self.notice.may_say(self.rt.now()) {
            tracing::warn!(%from, what, %why, unsaid, "a caller of the PD port is refused");
        }
    }

    async fn demand(&self, stream: &mut Stream, early: &[u8]) -> Result<(), LinkError> {
        let mut decoder = Decoder::new(HELLO_BYTES_MAX);
        decoder.feed(early);
        let (kind, payload) = read_frame(stream, &mut decoder).await?;
        if kind != FrameKind::Challenge {
            return Err(LinkError::Unexpected(kind));
        }
        let Some(secret) = &self.secret else { return Err(Rejection::Unproven(Unproven::Unset).into()) };
        let wanted = (secret, PREFACE, ANY_MEMBER);
        authenticate::demand(&self.rt, stream, &mut decoder, wanted, &payload).await?;
        // The connecting side has to hear the proof before it goes on.
        if decoder.waiting_bytes() == 0 { Ok(()) } else { Err(Rejection::NotAHello.into()) }
    }
}

impl Gate for MemberGate {
    fn is_meant(&self, first: &[u8]) -> Option<bool> {
        let common = first.len().min(PREFACE.len());
        if PREFACE[..common] != first[..common] {
            return Some(false);
        }
        (common == PREFACE.len()).then_some(true)
    }

    fn let_in<'a>(
        &'a self,
        stream: &'a mut Stream,
        from: SocketAddr,
        early: Vec<u8>,
    ) -> Pin<Box<dyn Future<Output = bool> + 'a>> {
        Box::pin(async move {
            let demanded = self.rt.timeout(HELLO_MAX, self.demand(stream, &early[PREFACE_BYTES..])).await;
            let error = match demanded.unwrap_or(Err(LinkError::Timeout)) {
                Ok(()) => return true,
                Err(error) => error,
            };
            if let LinkError::Rejected(rejection) = &error {
                if let Rejection::Unproven(why) = rejection {
                    self.note(*why, "a connection", from);
                }
                authenticate::refuse(&self.rt, stream, rejection).await;
            }
            tracing::debug!(%from, %error, "a connection of a node ended before it was let in");
            false
        })
    }

    fn is_closed(&self) -> bool {
        self.secret.is_some()
    }

    fn refuse(&self, path: &str, from: SocketAddr) -> Status {
        self.note(Unproven::Missing, path, from);
        Status::new(Code::Unauthenticated, Unproven::Missing.to_string())
    }
}

/// Proves `secret` at the beginning of a connection to a PD port; returns what has come already of what follows.
///
/// # Errors
/// Why the connection is of no use: [`LinkError::Refused`] and [`LinkError::Rejected`] where the secret is the reason.
pub(super) async fn prove(
    rt: &Rt,
    stream: &mut Stream,
    secret: &ClusterSecret,
) -> Result<Vec<u8>, LinkError> {
    let mut decoder = Decoder::new(HELLO_BYTES_MAX);
    authenticate::prove(rt, stream, &mut decoder, (secret, PREFACE, ANY_MEMBER)).await?;
    Ok(decoder.into_rest())
}

#[cfg(test)]
mod tests {
    use super::super::METHODS;
    use super::*;

    /// What lies in our own service is for members, a new method, too, and so is what lets a store in.
    #[test]
    fn all_that_nodes_say_to_the_scheduler_needs_the_secret() {
        for (path, method, _) in METHODS {
            let joins = ["/pdpb.PD/Bootstrap", "/pdpb.PD/AllocID", "/pdpb.PD/PutStore"].contains(&path);
            assert_eq!(method.is_for_members(), path.starts_with("/ringkeep.") || joins, "{path}");
        }
    }

    #[test]
    fn the_first_bytes_say_who_means_to_be_let_in() {
        let world = engine::rt::sim::World::new(1, engine::rt::sim::Options::default());
        let asked = world.node(0).start(0, |rt| async move {
            let gate = MemberGate::new(&rt, None);
            let is_meant = |first: &[u8]| gate.is_meant(first);
            [
                is_meant(b""),
                is_meant(b"RKN"),
                is_meant(&PREFACE),
                is_meant(b"RKNODE\0\x01more"),
                is_meant(b"PRI * HTTP"),
                is_meant(b"RKPEER\0\x01"),
            ]
        });
        let expected = [None, None, Some(true), Some(true), Some(false), Some(false)];
        assert_eq!(world.block_on(asked), Some(expected));
    }
}
