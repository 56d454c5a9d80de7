//! The system group on this store: its state after a start, and its commands.
//!
//! They go the way of every write: proposed in the next turn, one write of the log with all else that moved, applied, answered. Nothing
//! here is reachable from a client's request.

use std::sync::Arc;

use engine::error::{Fault, Result};
use engine::lsm::{Cf, Direction};
use engine::rt::local::oneshot;
use scheduler::{PeerId, StateImage};

use super::reply::Reply;
use super::{Due, Inner, Queued, Shard};
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::guard;
use crate::region::peers::Behind;
use crate::region::replica::Replica;
use crate::region::system::fence::Fence;
use crate::region::system::{Decided, GROUP, Members, StateStanding, SystemCommand, SystemState, codec};
use crate::request::Out;

impl Shard {
    /// Reads what the tables have of the state: that as of the index from which the replica goes on.
    ///
    /// # Errors
    /// Corruption that names the tree if the rows are no state.
    pub(super) async fn load_system(&self) -> Result<()> {
        let inner = &*self.inner;
        if inner.state.borrow().table.get(GROUP).is_none() {
            return Ok(());
        }
        let mut rows = inner.tree.iter(Cf::System, b"", b"", Direction::Forward);
        let mut found = Vec::new();
        while let Some(row) = rows.next().await? {
            found.push(row);
        }
        let state = codec::restore(found.iter().map(|(key, value)| (&key[..], &value[..])));
        let damaged =
            |what| Fault::corruption(&inner.dir.join("tree"), format!("the scheduler's state: {what}"));
        let state = SystemState::new(state.map_err(damaged)?);
        if let Some(replica) = inner.state.borrow_mut().table.get_mut(GROUP) {
            replica.load_system(state);
        }
        Ok(())
    }

    /// The scheduler's state as applied here, or none if it has not begun. Waits until this replica, which leads or is the only voter, has
    /// applied what was acknowledged before.
    ///
    /// # Errors
    /// If the store has stopped, has no replica of the group, or another one leads it.
    pub async fn system_state(&self) -> std::result::Result<Option<StateImage>, Refusal> {
        let inner = &*self.inner;
        loop {
            inner.health.check_running()?;
            {
                let state = inner.state.borrow();
                let no_replica = Refusal::RegionNotFound { region_id: GROUP.0 };
                let replica = state.table.get(GROUP).ok_or(no_replica)?;
                if replica.is_current() {
                    return Ok(replica.system().and_then(SystemState::image).cloned());
                }
                if !replica.is_sole_voter() {
                    guard::lead(replica.here())?;
                }
            }
            inner.rt.sleep(super::upkeep::TICK / 10).await;
        }
    }

    /// From now on says in `fence` until when this replica leads alone.
    pub fn keep_fence(&self, fence: Arc<Fence>) {
        *self.inner.fence.borrow_mut() = Some(fence);
        self.inner.state.borrow_mut().table.mark_dirty(GROUP);
        self.inner.bell.ring();
    }

    /// What the replica of the group here says of itself, if there is one.
    pub fn system_standing(&self) -> Option<StateStanding> {
        let state = self.inner.state.borrow();
        state.table.get(GROUP).map(Replica::standing)
    }

    /// Rings when the standing may have changed. One waiter at a time.
    pub async fn system_moved(&self) {
        self.inner.system_moved.wait().await;
    }

    /// The members of the group as their leader knows them, if it is here.
    ///
    /// # Errors
    /// If there is no replica, or it does not lead.
    pub fn system_members(&self) -> std::result::Result<Members, Refusal> {
        let (region, leader) = {
            let state = self.inner.state.borrow();
            let replica = state.table.get(GROUP).ok_or(Refusal::RegionNotFound { region_id: GROUP.0 })?;
            guard::lead(replica.here())?;
            let leader = replica.here().leader.expect("it is checked just now");
            (replica.region().clone(), leader)
        };
        let Behind { pending, down } = self.behind(GROUP);
        let down: Vec<PeerId> = down.into_iter().map(|silent| silent.peer).collect();
        Ok(Members { region, leader, pending, down })
    }

    /// Proposes a command of the system group and returns what it came to once it is durable and applied. One that names a `term` is only
    /// proposed by the leader of that term.
    ///
    /// # Errors
    /// The store has stopped, has no space left even for what is small, has no replica that leads the group, or takes no more commands
    /// now; nothing has changed then. [`Refusal::Unknown`] if it stops before the command is decided.
    pub async fn system_command(
        &self,
        command: SystemCommand,
        term: Option<u64>,
    ) -> std::result::Result<Decided, Refusal> {
        let inner = &*self.inner;
        inner.health.check_running()?;
        if inner.is_out_of_room() || !inner.openings.is_counted() {
            return Err(inner.no_space());
        }
        let (answer, pending) = oneshot();
        let refused = {
            let state = &mut *inner.state.borrow_mut();
            let due = Due { reply: Reply::system(answer), out: Out::Done, since: inner.rt.now() };
            let no_replica = Refusal::RegionNotFound { region_id: GROUP.0 };
            let submitted = match state.table.get_mut(GROUP) {
                Some(replica) if term.is_some_and(|term| term != replica.term().0) => {
                    // Whoever asks leads no more, or again.
                    Err((due, Refusal::NotLeader { region_id: GROUP.0, leader: None }))
                }
                Some(replica) => replica.submit_command(&command, due),
                None => Err((due, no_replica)),
            };
            state.table.mark_dirty(GROUP);
            submitted.err()
        };
        if let Some((due, refusal)) = refused {
            inner.refuse(due.reply, refusal);
        }
        inner.bell.ring();
        pending.await.unwrap_or(Err(Refusal::Unknown))
    }
}

impl Inner {
    /// Before anything leaves that may end the leadership here, says until when it holds.
    pub(super) fn renew_fence(&self, replica: &Replica<Due, Queued>) {
        if let Some(fence) = &*self.fence.borrow() {
            let until = if planted(Bug::FenceOpen) { u64::MAX } else { replica.leads_until() };
            fence.set(replica.term().0, until);
        }
        self.system_moved.ring();
    }
}
