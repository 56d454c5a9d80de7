//! Groups of regions that a client asked to be spread, such as those of a table before it is loaded.
//!
//! Clients name the regions of a group one by one, and a single region cannot be uneven, so the latest of each group are remembered here and
//! spread together. Only for a while, and only up to a bound: what is forgotten is spread by the policies for the whole cluster.
//!
//! Not here: which region moves where ([`scheduler::ask::scatter`]).

use std::collections::{BTreeMap, VecDeque};

use scheduler::operator::{BuildError, Status};
use scheduler::scheduler::AdmitError;
use scheduler::{Operator, RegionId};

use super::denied::Denied;
use super::{Control, time};

/// Groups that are remembered.
const GROUPS_MAX: usize = 64;
/// Regions of a group that are remembered.
const REGIONS_MAX: usize = 1024;

/// The groups by name.
#[derive(Debug, Default)]
pub(super) struct Scattered {
    groups: BTreeMap<String, VecDeque<RegionId>>,
    /// The names, the one that was asked for last at the end.
    recent: VecDeque<String>,
}

impl Scattered {
    /// Adds regions to a group; the whole group as it is now.
    fn add(&mut self, name: &str, regions: &[RegionId]) -> Vec<RegionId> {
        self.recent.retain(|known| known != name);
        self.recent.push_back(name.to_owned());
        if self.recent.len() > GROUPS_MAX
            && let Some(oldest) = self.recent.pop_front()
        {
            self.groups.remove(&oldest);
        }
        let group = self.groups.entry(name.to_owned()).or_default();
        group.retain(|known| !regions.contains(known));
        group.extend(regions);
        let surplus = group.len().saturating_sub(REGIONS_MAX);
        group.drain(..surplus);
        group.iter().copied().collect()
    }
}

/// What is known of the last operator of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastOperator {
    /// The operator.
    pub operator: Operator,
    /// How it ended, if it has.
    pub outcome: Option<scheduler::operator::Outcome>,
}

impl Control {
    /// Spreads regions over the stores together with those of the same group. Gives how many of them are known.
    ///
    /// # Errors
    /// There are no ids for new replicas, because the state cannot be changed.
    pub async fn scatter(&self, name: &str, regions: &[RegionId]) -> Result<usize, Denied> {
        let known: Vec<RegionId> =
            self.map(|map| regions.iter().copied().filter(|region| map.region(*region).is_some()).collect());
        let group = self.0.scattered.borrow_mut().add(name, &known);
        // What lacks ids is proposed again once there are some.
        for _ in 0..2 {
            let tick = self.0.scheduler.borrow_mut().scatter(&group, time(&self.0.rt));
            let lacks = |error: &AdmitError| matches!(error, AdmitError::Build(BuildError::OutOfIds));
            if !tick.declined.iter().any(|(_, error)| lacks(error)) {
                break;
            }
            let Some(count) = self.0.scheduler.borrow().ids_wanted() else { break };
            self.grant_ids(count).await?;
        }
        Ok(known.len())
    }

    /// The operator that runs on a region, or the last one that did.
    pub fn last_operator(&self, region: RegionId) -> Option<LastOperator> {
        let scheduler = self.0.scheduler.borrow();
        Some(match scheduler.operators().status(region)? {
            Status::Running(operator) => LastOperator { operator: operator.clone(), outcome: None },
            Status::Ended(ended) => {
                LastOperator { operator: ended.operator.clone(), outcome: Some(ended.outcome) }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_regions_of_the_latest_groups_are_remembered() {
        let mut scattered = Scattered::default();
        let ids = |ids: &[u64]| ids.iter().copied().map(RegionId).collect::<Vec<_>>();
        assert_eq!(scattered.add("a", &ids(&[1, 2])), ids(&[1, 2]));
        assert_eq!(scattered.add("b", &ids(&[1])), ids(&[1]));
        assert_eq!(scattered.add("a", &ids(&[1, 3])), ids(&[2, 1, 3]));
        let many: Vec<u64> = (10..10 + REGIONS_MAX as u64).collect();
        assert_eq!(scattered.add("a", &ids(&many)), ids(&many));
        (0..GROUPS_MAX).for_each(|number| drop(scattered.add(&format!("c{number}"), &ids(&[5]))));
        assert_eq!((scattered.groups.len(), scattered.recent.len()), (GROUPS_MAX, GROUPS_MAX));
        assert_eq!(scattered.add("a", &ids(&[6])), ids(&[6]), "it was forgotten");
    }
}
