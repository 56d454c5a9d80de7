//! A snapshot for a follower on a sibling, a store of the same node: its tables are handed over as they are, under second names.
//!
//! ```text
//! leader:   announced by the core ─► the tree shares the range as of then ─► second names in the sibling's folder ─► handed over ─┐
//! sibling:  judged ─► judged again, stepped ─► tree and log have it, as any snapshot ([`super::installing`]) ─► said ◄─────────────┘
//! leader:   the names are removed, whatever was said
//! ```
//!
//! No byte of a table is read, written or sent. All else is as for a snapshot that travels: who is judged by what, what is reserved, and the
//! order in which tree and log have it, so a crash leaves either nothing or a replica with all of its data.
//!
//! Invariants: the names are the leader's, which made them, and are there until the sibling has answered; what the sibling's tree has, it has
//! under names of its own by then; a start removes those that a crash has left ([`super::staging`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::error::Fault;
use engine::lsm::{BegunShare, SharedTable};
use raft::{LogId, Term};
use scheduler::RegionId;

use super::Shard;
use super::outbox::Transport;
use super::receiving::{Offer, Unwanted};
use super::shipping::Failed;
use super::staging::{self, Way};
use super::turn::SHORTAGE_PAUSE;
use crate::plant::{Bug, planted};
use crate::region::message::PeerMessage;

/// A snapshot that is handed over.
#[derive(Debug)]
pub struct Handed {
    /// What it is.
    pub offer: Offer,
    /// Its tables, by names in the folder of the store that it is for.
    pub tables: Vec<SharedTable>,
}

impl Shard {
    /// Hands the tables of a share over to the store of the follower that `message` is for.
    pub(super) async fn hand_over(
        &self,
        transport: &dyn Transport,
        message: PeerMessage,
        (term, last): (Term, LogId),
        share: BegunShare,
    ) -> Result<(), Failed> {
        let inner = &*self.inner;
        let (region, to) = (message.region, message.to.store);
        let dir = transport.sibling_dir(to).ok_or(Failed::NoTransport)?;
        let share = share.tables().await.map_err(|fault| {
            drop(inner.unreadable(&fault));
            Failed::Fault(fault)
        })?;
        // What the tables were when the leadership had ended may be of another history.
        self.check_leads(region, term)?;
        staging::prepare(&inner.rt, &dir, Way::In).await.map_err(Failed::Fault)?;
        let identity = inner.rt.random();
        let bytes: u64 = share.tables().iter().map(SharedTable::bytes).sum();
        let mut named = BTreeMap::new();
        let handed =
            match self.name_all(share.tables(), (&dir, region, last, identity), term, &mut named).await {
                Ok(tables) => {
                    if planted(Bug::NamesRemovedEarly) {
                        staging::remove(&inner.rt, named.values().cloned().collect()).await;
                        named.clear();
                    }
                    let handed = Handed { offer: Offer { identity, bytes: 0, message }, tables };
                    transport.hand_over(to, handed).await
                }
                Err(failed) => Err(failed),
            };
        staging::remove(&inner.rt, named.into_values().collect()).await;
        handed?;
        inner.counters.snapshots.relocated_bytes.add(bytes);
        Ok(())
    }

    /// Gives every file a name for the sibling; `named` has them by file, also where it fails.
    async fn name_all(
        &self,
        tables: &[SharedTable],
        (dir, region, last, identity): (&Path, RegionId, LogId, u64),
        term: Term,
        named: &mut BTreeMap<u64, PathBuf>,
    ) -> Result<Vec<SharedTable>, Failed> {
        let rt = &self.inner.rt;
        let budget = rt.budget();
        let mut all = Vec::with_capacity(tables.len());
        for table in tables {
            if !named.contains_key(&table.file()) {
                let path = staging::piece_path(dir, Way::In, region, last, identity, named.len() as u64);
                while let Err(error) = rt.link(table.path(), &path).await {
                    let attempt = format!("giving it the second name {}", path.display());
                    let fault = Fault::io(table.path(), &attempt, &error);
                    if !fault.is_passing() {
                        return Err(Failed::Fault(fault));
                    }
                    rt.sleep(SHORTAGE_PAUSE).await;
                    self.check_leads(region, term)?;
                }
                named.insert(table.file(), path);
            }
            all.push(table.clone().named(named[&table.file()].clone()));
            budget.tick().await;
        }
        Ok(all)
    }

    /// Takes in what a sibling hands over. Returns once tree and log have it, or something as new.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn take_handed(&self, Handed { offer, tables }: Handed) -> Result<(), Unwanted> {
        match self.offered(offer).await {
            Ok(incoming) => incoming.take_tables(tables).await,
            Err(Unwanted::Known) => Ok(()),
            Err(unwanted) => Err(unwanted),
        }
    }
}
