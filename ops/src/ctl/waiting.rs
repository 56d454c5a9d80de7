//! A scheduler that has just moved, or is about to: what is waited for, and for how long.
//!
//! Both waits are bounded by [`WAIT_MAX`], are said once, and only read.

use std::time::Duration;

use engine::rt::Rt;
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::pdpb::{GetMembersRequest, GetMembersResponse};
use store::wire::proto::ringkeep::StoreState;

use crate::output::remark;

/// Longer than an election and the first reports after it take.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(6);
/// The pause between two looks.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Waits until a node hosts the scheduler. What it refuses is for the command itself to say.
///
/// # Errors
/// None does in time, or no member answers at all.
pub(super) async fn for_host(rt: &Rt, scheduler: &SchedulerClient) -> Result<(), CallError> {
    let began = rt.now();
    let (mut is_said, request) = (false, GetMembersRequest::default());
    loop {
        match scheduler.call::<GetMembersResponse>("/pdpb.PD/GetMembers", &request).await {
            Err(error @ CallError::NoHost(_)) if rt.now().since(began) >= WAIT_MAX => return Err(error),
            Err(CallError::NoHost(_)) => {
                if !std::mem::replace(&mut is_said, true) {
                    remark(
                        "no node hosts the scheduler at this moment: one is being elected, or it moves; waiting",
                    );
                }
                rt.sleep(LOOK_EVERY).await;
            }
            Err(error @ CallError::Unreachable(_)) => return Err(error),
            Err(CallError::Refused(_)) | Ok(_) => return Ok(()),
        }
    }
}

/// Stores in use that a scheduler has not heard that has just begun: it knows nothing of them yet, and they are no failures.
pub(super) fn not_heard_yet(stores: &[StoreState]) -> Vec<u64> {
    let is_new = |store: &&StoreState| {
        !store.heard && u128::from(store.silent_ms) < WAIT_MAX.as_millis() && store.health != "tombstone"
    };
    stores.iter().filter(is_new).map(|store| store.store).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_waited_for_only_where_the_scheduler_has_just_begun() {
        let store = |store, heard, silent_ms, health: &str| StoreState {
            store,
            heard,
            silent_ms,
            health: health.to_owned(),
            ..StoreState::default()
        };
        let all = [
            store(1, true, 900, "up"),
            store(2, false, 900, "disconnected"),
            store(3, false, 60_000, "disconnected"),
            store(4, false, 900, "tombstone"),
        ];
        assert_eq!(not_heard_yet(&all), [2]);
    }
}
