//! What operators ask for, as calls; `ringkeep ctl` makes them.

use scheduler::operator::{Intent, Operator, Outcome};
use scheduler::{ConfigChange, Key, Policy, RegionId, Setting, StoreId};

use super::{Pd, denied};
use crate::control::SeenOperator;
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::ringkeep::{self, RegionWish};

impl Pd {
    /// Begins an operator that does what is asked of a region.
    pub(super) async fn operate(
        &self,
        request: ringkeep::OperateRequest,
    ) -> Result<ringkeep::OperateResponse, Status> {
        let store = StoreId(request.store);
        let intent = match request.wish() {
            RegionWish::AddPeer => Intent::AddReplica { to: store },
            RegionWish::RemovePeer => Intent::RemoveReplica { from: store },
            RegionWish::TransferLeader => Intent::TransferLeader { to: store },
            RegionWish::Relocate => self
                .control
                .relocation(RegionId(request.region), store)
                .map_err(|why| Status::new(Code::FailedPrecondition, why.to_string()))?,
            RegionWish::Split if request.key.is_empty() => Intent::Split { keys: Vec::new() },
            RegionWish::Split => Intent::Split { keys: vec![Key::from(&request.key[..])] },
            RegionWish::Merge => Intent::Merge { into: RegionId(request.into) },
            RegionWish::Unknown => {
                return Err(Status::invalid(
                    "what is asked of the region is nothing that this version knows",
                ));
            }
        };
        let region = RegionId(request.region);
        let asked = match request.dry_run {
            true => self.control.rehearse(region, intent),
            false => self.control.operate(region, intent).await,
        };
        let asked = asked.map_err(|why| Status::new(Code::FailedPrecondition, why.to_string()))?;
        Ok(ringkeep::OperateResponse { operator: asked.operator, steps: asked.steps })
    }

    /// What is being done and was done last.
    pub(super) fn operators(
        &self,
        request: ringkeep::OperatorsRequest,
    ) -> Result<ringkeep::OperatorsResponse, Status> {
        let of = (request.region != 0).then_some(RegionId(request.region));
        let operators = self.control.operators(of).iter().map(operator_state).collect();
        Ok(ringkeep::OperatorsResponse { operators })
    }

    /// Ends the operator of a region.
    pub(super) fn cancel_operator(
        &self,
        request: ringkeep::CancelOperatorRequest,
    ) -> Result<ringkeep::CancelOperatorResponse, Status> {
        let region = RegionId(request.region);
        match self.control.cancel_operator(region) {
            Some(operator) => Ok(ringkeep::CancelOperatorResponse { operator: operator.0 }),
            None => Err(Status::new(Code::FailedPrecondition, format!("no operator of {region} runs"))),
        }
    }

    /// Takes a store out of use.
    pub(super) async fn remove_store(
        &self,
        request: &ringkeep::RemoveStoreRequest,
    ) -> Result<ringkeep::RemoveStoreResponse, Status> {
        self.control.remove_store(StoreId(request.store)).await.map_err(denied)?;
        Ok(ringkeep::RemoveStoreResponse {})
    }

    /// Whether a store may be taken out of use; nothing is changed.
    pub(super) async fn may_remove_store(
        &self,
        request: &ringkeep::RemoveStoreRequest,
    ) -> Result<ringkeep::RemoveStoreResponse, Status> {
        self.control.may_remove(StoreId(request.store)).await.map_err(denied)?;
        Ok(ringkeep::RemoveStoreResponse {})
    }

    /// Takes a store that is leaving back into use.
    pub(super) async fn keep_store(
        &self,
        request: &ringkeep::KeepStoreRequest,
    ) -> Result<ringkeep::KeepStoreResponse, Status> {
        self.control.keep_store(StoreId(request.store)).await.map_err(denied)?;
        Ok(ringkeep::KeepStoreResponse {})
    }

    /// Keeps leaders off a store, or no longer.
    pub(super) async fn evict(
        &self,
        request: &ringkeep::EvictRequest,
    ) -> Result<ringkeep::EvictResponse, Status> {
        self.control.set_evicting(StoreId(request.store), request.evicting).await.map_err(denied)?;
        Ok(ringkeep::EvictResponse {})
    }

    /// The configuration.
    pub(super) fn config(
        &self,
        request: ringkeep::ConfigRequest,
    ) -> Result<ringkeep::ConfigResponse, Status> {
        let changes = if request.changes { self.control.config_changes() } else { Vec::new() };
        let (settings, evicting) = self.control.settings();
        let setting = |Setting { name, value }: Setting| ringkeep::Setting { name: name.to_owned(), value };
        let policy =
            |(policy, enabled): (Policy, bool)| ringkeep::PolicyState { name: policy.to_string(), enabled };
        Ok(ringkeep::ConfigResponse {
            settings: settings.into_iter().map(setting).collect(),
            evicting: evicting.into_iter().map(StoreId::get).collect(),
            policies: self.control.policies().into_iter().map(policy).collect(),
            changes: changes.into_iter().map(config_change).collect(),
        })
    }

    /// Sets a value of the configuration.
    pub(super) async fn set_config(
        &self,
        request: &ringkeep::SetConfigRequest,
    ) -> Result<ringkeep::SetConfigResponse, Status> {
        let before =
            self.control.set_by_name(&request.name, &request.value, &request.by).await.map_err(denied)?;
        Ok(ringkeep::SetConfigResponse { before })
    }

    /// Switches a policy on or off.
    pub(super) async fn set_policy(
        &self,
        request: &ringkeep::SetPolicyRequest,
    ) -> Result<ringkeep::SetPolicyResponse, Status> {
        self.control.set_policy(&request.policy, request.enabled, &request.by).await.map_err(denied)?;
        Ok(ringkeep::SetPolicyResponse {})
    }
}

fn config_change(change: ConfigChange) -> ringkeep::ConfigChange {
    let ConfigChange { at_ms, by, name, before, after } = change;
    ringkeep::ConfigChange { at_ms, by, name, before, after }
}

fn operator_state(seen: &SeenOperator) -> ringkeep::OperatorState {
    let SeenOperator { operator, outcome, ago_ms } = seen;
    // What it was thought out against, what it moves and when it was made is the scheduler's own affair.
    let Operator { id, region, policy, steps, finished, origin: _, cause, kinds: _, created: _ } = operator;
    ringkeep::OperatorState {
        operator: id.0,
        region: region.0,
        policy: policy.to_string(),
        steps: steps.iter().map(ToString::to_string).collect(),
        finished: *finished as u64,
        ago_ms: *ago_ms,
        outcome: outcome.map(|outcome| outcome.to_string()).unwrap_or_default(),
        succeeded: *outcome == Some(Outcome::Success),
        cause: cause.to_string(),
    }
}
