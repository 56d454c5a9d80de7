//! The commands of scripts about merges: each step as the store that is asked knows both regions.

use scheduler::RegionId;

use super::Stage;
use crate::kit::show;

impl Stage {
    /// A step of the merge of `source` into `target`, asked of whoever leads the region whose log it is for, which is on this store.
    pub(super) fn merge(&mut self, step: &str, id: u64, (target, source): (u64, u64)) {
        let neighbour = self.replica(id, target).region().clone();
        let (waits, record) = (self.replica(id, source).waits(), self.replica(id, source).record().clone());
        let label = format!("{step} {source}");
        let ready = self.replica(id, source).merge_ready();
        let room = self.replica(id, target).may_take(&record);
        let one = self.replica(id, if matches!(step, "prepare" | "rollback") { source } else { target });
        let proposed = match (step, waits) {
            ("prepare", _) => match room {
                Ok(()) => one.propose_prepare(&neighbour, record.region.epoch, label),
                Err(refusal) => Err((label, refusal)),
            },
            ("commit", Some(_)) => match ready {
                Ok(waits) => one.propose_commit(record, &waits, label),
                Err(refusal) => Err((label, refusal)),
            },
            ("refuse", Some(waits)) => one.propose_refuse(waits.epoch, label),
            ("rollback", Some(waits)) => one.propose_rollback(&waits, label),
            (step, None) => panic!("{step}: region {source} does not wait"),
            (step, Some(_)) => panic!("{step} is none"),
        };
        if let Err((label, refusal)) = proposed {
            self.say(format!("{id}: {label}: {}", show(&refusal)));
        }
        self.settle(id);
    }

    /// Says whether all replicas of a source have its prepare, or what the store knows of its merge.
    pub(super) fn merge_stands(&mut self, what: &str, id: u64, source: u64) {
        let replica = self.replica(id, source);
        let waits = replica.waits().expect("it waits");
        let line = match what {
            "everywhere" => {
                format!("{id}: {} is on every disk: {}", waits.prepare, replica.is_everywhere(waits.prepare))
            }
            "fate" => format!("{id}: {:?}", self.store(id).table.fate_of(RegionId(source), &waits)),
            other => panic!("{other} is not asked of a merge"),
        };
        self.say(line);
    }
}
