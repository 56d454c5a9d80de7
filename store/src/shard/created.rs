//! What the log learns of a replica with the first that it has to write.
//!
//! A replica comes into being in memory, by a message of its leader or by a split, and costs the log nothing until it has something to
//! write. That first write says which peer it is and where it begins, and what a start could not find out otherwise: the split that it came
//! from, or who invited it.

use engine::log::Batch;
use raft::LogId;
use scheduler::{PeerId, RegionId};

use super::open::{TAG_BASE, TAG_INVITATION, TAG_ORIGIN, TAG_RECORD, encode_base};
use super::{Due, Queued, State};
use crate::plant::{Bug, planted};
use crate::region::invitation::Invitation;
use crate::region::record::RegionRecord;
use crate::region::replica::Replica;
use crate::region::split::{FIRST_BASE, SplitOrigin};

/// What the log does not know yet of a replica.
pub(super) struct Created {
    record: RegionRecord,
    base: LogId,
    origin: Option<SplitOrigin>,
    invitation: Option<Invitation>,
    /// What the log has of the region is of a peer that was removed.
    follows_another: bool,
}

impl Created {
    /// Of one that a message brought into being; `logged` is whose record the log has of the region.
    pub(super) fn by_message(replica: &Replica<Due, Queued>, logged: Option<PeerId>) -> Self {
        Self {
            record: replica.record().clone(),
            base: LogId::ZERO,
            origin: None,
            invitation: replica.invitation().filter(|_| !planted(Bug::InvitationLost)),
            follows_another: logged.is_some_and(|peer| peer != replica.me()),
        }
    }

    /// Of one that a split brought into being, if the log does not know it.
    pub(super) fn by_split(state: &mut State, region: RegionId) -> Option<Self> {
        let origin = state.unlogged.remove(&region)?;
        let record = state.table.get(region)?.record().clone();
        let origin = origin.filter(|_| !planted(Bug::OriginLost));
        Some(Self { record, base: FIRST_BASE, origin, invitation: None, follows_another: false })
    }

    /// Puts it into a batch of the log, before the write that it comes with.
    pub(super) fn put(&self, batch: &mut Batch) {
        let Self { record, base, origin, invitation, follows_another } = self;
        let group = record.region.id.0;
        if *follows_another && !planted(Bug::OldLogKept) {
            batch.remove(group);
        }
        batch.put_state(group, TAG_RECORD, &record.encode());
        batch.put_state(group, TAG_BASE, &encode_base(*base));
        if let Some(origin) = origin {
            batch.put_state(group, TAG_ORIGIN, &origin.encode());
        }
        if let Some(invitation) = invitation {
            batch.put_state(group, TAG_INVITATION, &invitation.encode());
        }
    }
}
