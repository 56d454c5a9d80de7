//! The replicated part of the scheduler's state, kept in one file that is replaced as a whole.
//!
//! What holds: the answer to a command is handed out only after a file that contains the command is on disk, so no id and no
//! timestamp bound is given out twice, whatever crashes. Commands that arrive while a save is in flight share the next one.
//!
//! One member hosts the state so far. A Raft group takes this file's place once several do; the commands are those of its log.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use engine::rt::Rt;
use engine::rt::local::{Answer, oneshot};
use scheduler::{State, StateAnswer, StateCommand, StateImage};

use super::Denied;
use super::image::{Damaged, decode, encode};

const NAME: &str = "STATE";

/// The file, what is known to be in it, and what will be.
#[derive(Debug)]
pub(super) struct StateFile {
    rt: Rt,
    path: PathBuf,
    /// What is on disk.
    saved: RefCell<State>,
    /// With the commands of the save in flight and of the next one.
    staged: RefCell<State>,
    waiting: RefCell<Vec<Answer<Result<(), String>>>>,
    saving: Cell<bool>,
}

impl StateFile {
    /// Reads the file in `dir`, or begins one for `cluster` in which ids below `first_free_id` are taken. Above zero,
    /// `next_id_min` says that there is a file, and that it has given out the ids below.
    ///
    /// # Errors
    /// The file is gone or an older copy, cannot be read or written, is damaged, or belongs to another cluster; the text names the file and a remedy.
    pub(super) async fn open(
        rt: &Rt,
        dir: &Path,
        cluster: u64,
        first_free_id: u64,
        next_id_min: u64,
    ) -> io::Result<Rc<Self>> {
        rt.create_dir_all(dir).await?;
        let path = dir.join(NAME);
        let state = match read(rt, &path).await? {
            Some(state) => state,
            None if next_id_min > 0 => return Err(gone(&path)),
            None => {
                let state = begin(cluster, first_free_id);
                rt.replace_small(&path, &encode(state.image())).await?;
                state
            }
        };
        belongs(&path, &state, cluster, next_id_min)?;
        Ok(Rc::new(Self {
            rt: rt.clone(),
            path,
            staged: RefCell::new(state.clone()),
            saved: RefCell::new(state),
            waiting: RefCell::default(),
            saving: Cell::new(false),
        }))
    }

    /// Reads from what is on disk.
    pub(super) fn saved<T>(&self, ask: impl FnOnce(&StateImage) -> T) -> T {
        ask(self.saved.borrow().image())
    }

    /// Carries a command out and returns its answer once it is on disk.
    ///
    /// # Errors
    /// The command makes no sense, or the file could not be replaced; nothing has changed then.
    pub(super) async fn apply(self: &Rc<Self>, command: StateCommand) -> Result<StateAnswer, Denied> {
        let answer = self.staged.borrow_mut().apply(command).map_err(Denied::Refused)?;
        let (done, saved) = oneshot();
        self.waiting.borrow_mut().push(done);
        if !self.saving.replace(true) {
            drop(self.rt.spawn(self.clone().save()));
        }
        let verdict = saved.await.unwrap_or_else(|| Err("the save was abandoned".to_owned()));
        verdict.map_err(Denied::NotSaved)?;
        Ok(answer)
    }

    async fn save(self: Rc<Self>) {
        loop {
            let mut waiting = std::mem::take(&mut *self.waiting.borrow_mut());
            if waiting.is_empty() {
                self.saving.set(false);
                return;
            }
            let state = self.staged.borrow().clone();
            let replaced = self.rt.replace_small(&self.path, &encode(state.image())).await;
            let verdict = replaced.map_err(|error| format!("{}: {error}", self.path.display()));
            if verdict.is_ok() {
                *self.saved.borrow_mut() = state;
            } else {
                // What arrived meanwhile was computed from commands that are now void.
                waiting.append(&mut self.waiting.borrow_mut());
                *self.staged.borrow_mut() = self.saved.borrow().clone();
            }
            for answer in waiting {
                answer.send(verdict.clone());
            }
        }
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

/// Asks of the file what opening it would ask, and changes nothing.
///
/// # Errors
/// As [`StateFile::open`].
pub(super) async fn check(rt: &Rt, dir: &Path, cluster: u64, next_id_min: u64) -> io::Result<()> {
    let path = dir.join(NAME);
    match read(rt, &path).await? {
        Some(state) => belongs(&path, &state, cluster, next_id_min),
        None if next_id_min > 0 => Err(gone(&path)),
        None => Ok(()),
    }
}

/// Whether it is the state of this cluster, and no older one.
fn belongs(path: &Path, state: &State, cluster: u64, next_id_min: u64) -> io::Result<()> {
    let StateImage { cluster: known, next_id, .. } = state.image();
    if *known != Some(cluster) {
        let what = format!(
            "it belongs to cluster {:016x}, the directory to {cluster:016x}; restore both from one backup",
            known.unwrap_or(0)
        );
        return Err(invalid(path, &what));
    }
    if *next_id < next_id_min {
        let what = format!(
            "it is an older copy: it goes on with id {next_id}, but ids below {next_id_min} are taken; put the newer one back, or \
             restore the whole data directory from one backup"
        );
        return Err(invalid(path, &what));
    }
    Ok(())
}

fn gone(path: &Path) -> io::Error {
    invalid(path, "it is gone; restore the whole data directory from a backup")
}

async fn read(rt: &Rt, path: &Path) -> io::Result<Option<State>> {
    if !rt.exists(path).await? {
        return Ok(None);
    }
    restore(path, decode(&rt.read_small(path).await?)).map(Some)
}

fn restore(path: &Path, image: Result<StateImage, Damaged>) -> io::Result<State> {
    let image = image.map_err(|Damaged(what)| {
        invalid(path, &format!("{what}; restore the file or the whole directory from a backup"))
    })?;
    State::restore(image).map_err(|refusal| {
        invalid(path, &format!("it contradicts itself: {refusal}; restore the whole directory from a backup"))
    })
}

fn invalid(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()))
}
