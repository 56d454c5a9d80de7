//! Copies of `IDENT` in the directories of the stores, by which the stores of a node vouch for each other.
//!
//! ```text
//! store-N/IDENT    IDENT as it was when a start was last counted; the same bytes
//! ```
//!
//! `IDENT` says how often each log has been opened, which distinguishes a store from an older copy of it. Where both are put back from an
//! older copy, nothing there says so; the other stores do. So a start counts for each store what `IDENT` and all copies say at most, and the
//! same holds for the ids that were given out and for the end of the bootstrap.
//!
//! Invariants: a copy is written after `IDENT`, so it never counts more than the logs do; it only ever raises a count, so one that is gone,
//! damaged or of another directory says nothing; what cannot be written is written by the next start.

use std::path::{Path, PathBuf};

use engine::rt::Rt;

use super::identity::{FILE, Ident, IdentState, Identity};

/// Raises the counts of `ident` to those that the stores of `dir` vouch for.
pub(super) async fn raise(rt: &Rt, dir: &Path, ident: &mut Ident) {
    for path in places(dir, ident) {
        let copy = match rt.read_small(&path).await {
            Ok(bytes) => Ident::parse(&path, &bytes).map_err(|fault| fault.what),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => Err(error.to_string()),
        };
        match copy {
            Ok(copy) => raise_by(ident, &copy),
            Err(what) => {
                tracing::warn!(file = %path.display(), what, "a copy of IDENT says nothing; it is renewed")
            }
        }
    }
}

/// Writes the copies anew. A store vouches for the others from then on.
pub(super) async fn renew(rt: &Rt, dir: &Path, ident: &Ident) {
    let text = ident.render();
    for path in places(dir, ident) {
        if let Err(error) = rt.replace_small(&path, text.as_bytes()).await {
            // That directory may be gone or its disk full, which its store says itself.
            tracing::debug!(file = %path.display(), %error, "a copy of IDENT is not written");
        }
    }
}

fn places(dir: &Path, ident: &Ident) -> Vec<PathBuf> {
    let stores = (0..ident.holdings.len()).map(|index| ident.identity.store_id(index));
    stores.map(|store| Identity::store_dir(dir, store).join(FILE)).collect()
}

/// Counts what `copy` counts, if it is one of the same directory.
fn raise_by(ident: &mut Ident, copy: &Ident) {
    if copy.identity != ident.identity {
        return;
    }
    ident.ids = ident.ids.max(copy.ids);
    if copy.state == IdentState::Ready {
        ident.state = IdentState::Ready;
    }
    for (holding, vouched) in ident.holdings.iter_mut().zip(&copy.holdings) {
        if (holding.log, holding.tree) == (vouched.log, vouched.tree) {
            holding.opened = holding.opened.max(vouched.opened);
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::rt::sim;

    use super::*;

    #[test]
    fn a_copy_raises_counts_and_never_lowers_them_and_says_nothing_elsewhere() {
        sim::run(1, |rt| async move {
            let dir = Path::new("/data");
            rt.create_dir_all(dir).await.unwrap();
            let mut ident = Ident::open(&rt, dir, 3).await.unwrap();
            for store in ["store-1", "store-2"] {
                rt.create_dir_all(&dir.join(store)).await.unwrap();
            }
            let counts =
                |ident: &Ident| ident.holdings.iter().map(|holding| holding.opened).collect::<Vec<_>>();
            for (opened, holding) in [4, 5, 6].into_iter().zip(&mut ident.holdings) {
                holding.opened = opened;
            }
            (ident.ids, ident.state) = (40, IdentState::Ready);
            // The third has no directory, which makes none.
            renew(&rt, dir, &ident).await;
            assert!(!rt.exists(&dir.join("store-3")).await.unwrap());
            let mut older = ident.clone();
            (older.holdings[0].opened, older.holdings[1].opened) = (3, 9);
            (older.ids, older.state) = (3, IdentState::Bootstrap);
            raise(&rt, dir, &mut older).await;
            assert_eq!((counts(&older), older.ids, older.state), (vec![4, 9, 6], 40, IdentState::Ready));
            let mut other = ident.clone();
            other.identity.cluster += 1;
            other.holdings[0].opened = 1;
            raise(&rt, dir, &mut other).await;
            assert_eq!(counts(&other), [1, 5, 6]);
            // Of a store that was made anew it says nothing.
            let mut anew = ident.clone();
            (anew.holdings[0].log, anew.holdings[0].opened) = (77, 1);
            raise(&rt, dir, &mut anew).await;
            assert_eq!(counts(&anew), [1, 5, 6]);
            // One of the two is enough, and damage of both is none of the counts in IDENT.
            for (store, first) in [("store-1", 4), ("store-2", 3)] {
                rt.replace_small(&dir.join(store).join(FILE), b"ringkeep 2\n").await.unwrap();
                let mut older = ident.clone();
                older.holdings[0].opened = 3;
                raise(&rt, dir, &mut older).await;
                assert_eq!(counts(&older), [first, 5, 6]);
            }
        });
    }
}
