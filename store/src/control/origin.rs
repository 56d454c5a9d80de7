//! Where the state comes from when the system group has none yet: the file in which 0.1 kept it, or a new cluster.
//!
//! ```text
//! group      file STATE    then
//! has one    gone          it goes on
//! has one    there         a start ended between taking over and removing: the file is removed, unread
//! none       there         the file is taken over with one command, and removed once that is durable and applied
//! none       gone          a new cluster begins, unless the directory has given out ids: then the state is lost, and that is refused
//! ```
//!
//! What holds: the file is removed only after the group has what it held; it is read only while the group has nothing, so it is taken over
//! once; and the state refuses a second beginning by itself.

use std::io;
use std::path::Path;

use engine::rt::Rt;
use scheduler::{State, StateCommand, StateImage};

use super::Member;
use super::image::decode;
use super::link::StateLink;
use crate::plant::{Bug, planted};
use crate::region::system::image::DamagedState;

const NAME: &str = "STATE";

/// Sees to it that the group has the state of this member's cluster, and that it is no older than the directory says. `begun` says
/// whether the group has one.
///
/// # Errors
/// It is gone, damaged, an older copy or that of another cluster, or it cannot be saved; the text names the place and a remedy.
pub(super) async fn settle(
    rt: &Rt,
    dir: &Path,
    member: &Member,
    link: &StateLink,
    begun: bool,
) -> io::Result<()> {
    let path = dir.join(NAME);
    let there = rt.exists(&path).await?;
    let Member { cluster_id, first_free_id, next_id_min, .. } = *member;
    let place = "the system group of store 1";
    if !begun || (there && planted(Bug::FileTakenTwice)) {
        let image = match read(rt, &path).await? {
            Some(state) => {
                belongs(&path.display().to_string(), state.image(), cluster_id, next_id_min)?;
                tracing::info!(file = %path.display(), "the scheduler's state is taken over from the file of an older version");
                state.image().clone()
            }
            None if next_id_min > 0 || first_free_id == 0 => return Err(gone(&path)),
            None => begin(cluster_id, first_free_id).image().clone(),
        };
        if there && planted(Bug::FileRemovedEarly) {
            remove(rt, dir, &path).await;
        }
        link.begin(image).await.map_err(io::Error::other)?;
    }
    if there {
        remove(rt, dir, &path).await;
    }
    let belongs = link.known(|state| belongs(place, state, cluster_id, next_id_min));
    belongs.unwrap_or_else(|| Err(gone(&path)))
}

/// Removes the file, whose content is durable elsewhere. If that fails the next start tries again.
async fn remove(rt: &Rt, dir: &Path, path: &Path) {
    let removed = async {
        rt.remove(path).await?;
        rt.sync_dir(dir).await
    };
    if let Err(error) = removed.await {
        tracing::warn!(file = %path.display(), %error, "it is taken over and could not be removed; the next start tries again");
    }
}

/// Asks of the file what taking it over would ask, and changes nothing. `held` says whether the system group has entries.
///
/// # Errors
/// As [`settle`].
pub(super) async fn check(rt: &Rt, dir: &Path, cluster: u64, next_id_min: u64, held: bool) -> io::Result<()> {
    let path = dir.join(NAME);
    if held {
        return Ok(());
    }
    match read(rt, &path).await? {
        Some(state) => belongs(&path.display().to_string(), state.image(), cluster, next_id_min),
        None if next_id_min > 0 => Err(gone(&path)),
        None => Ok(()),
    }
}

/// The state of a new cluster, in which ids below `first_free_id` are taken.
fn begin(cluster: u64, first_free_id: u64) -> State {
    let mut state = State::new(super::initial_config());
    let taken = first_free_id.saturating_sub(state.image().next_id);
    let commands = [
        Some(StateCommand::Bootstrap { cluster }),
        (taken > 0).then_some(StateCommand::AllocateIds { count: taken }),
    ];
    for command in commands.into_iter().flatten() {
        state.apply(command).expect("a new state takes its name, and a node bootstraps with few ids");
    }
    state
}

/// Whether it is the state of this cluster, and no older one.
fn belongs(place: &str, state: &StateImage, cluster: u64, next_id_min: u64) -> io::Result<()> {
    let StateImage { cluster: known, next_id, .. } = state;
    if *known != Some(cluster) {
        let what = format!(
            "it belongs to cluster {:016x}, the directory to {cluster:016x}; restore both from one backup",
            known.unwrap_or(0)
        );
        return Err(invalid(place, &what));
    }
    if *next_id < next_id_min {
        let what = format!(
            "it is an older copy: it goes on with id {next_id}, but ids below {next_id_min} are taken; put the newer one back, or \
             restore the whole data directory from one backup"
        );
        return Err(invalid(place, &what));
    }
    Ok(())
}

fn gone(path: &Path) -> io::Error {
    let what = "the scheduler's state is gone: it is neither here nor in store 1; restore the whole data directory from a backup";
    invalid(&path.display().to_string(), what)
}

async fn read(rt: &Rt, path: &Path) -> io::Result<Option<State>> {
    if !rt.exists(path).await? {
        return Ok(None);
    }
    let place = path.display().to_string();
    let image = decode(&rt.read_small(path).await?).map_err(|DamagedState(what)| {
        invalid(&place, &format!("{what}; restore the file or the whole directory from a backup"))
    })?;
    let state = State::restore(image).map_err(|refusal| {
        invalid(
            &place,
            &format!("it contradicts itself: {refusal}; restore the whole directory from a backup"),
        )
    })?;
    Ok(Some(state))
}

fn invalid(place: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{place}: {what}"))
}
