//! Majorities, single and joint. Pure arithmetic over member lists.

use crate::id::NodeId;

/// Votes counted so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A quorum said yes.
    Won,
    /// A quorum of yes can no longer be reached.
    Lost,
    /// Neither yet.
    Open,
}

/// How many of `n` are a majority.
#[must_use]
pub const fn majority(n: usize) -> usize {
    n / 2 + 1
}

/// The highest value that a majority of `voters` has reached, where `value` says how far each is.
///
/// An empty list agrees to everything: it is the missing half of a joint configuration.
pub(crate) fn reached(voters: &[NodeId], mut value: impl FnMut(NodeId) -> u64) -> u64 {
    const STACK: usize = 9;
    match voters.len() {
        0 => u64::MAX,
        1 => value(voters[0]),
        2 => value(voters[0]).min(value(voters[1])),
        3 => {
            let (a, b, c) = (value(voters[0]), value(voters[1]), value(voters[2]));
            a.max(b).min(a.min(b).max(c))
        }
        n if n <= STACK => {
            let mut values = [0; STACK];
            for (slot, voter) in values.iter_mut().zip(voters) {
                *slot = value(*voter);
            }
            kth_of(&mut values[..n])
        }
        _ => kth_of(&mut voters.iter().map(|voter| value(*voter)).collect::<Vec<_>>()),
    }
}

/// The value that a majority of the slice is at or above.
fn kth_of(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values[values.len() - majority(values.len())]
}

/// The state of a vote among `voters`, where `vote` says each one's answer, if it has come.
///
/// An empty list has won: it is the missing half of a joint configuration.
pub(crate) fn verdict(voters: &[NodeId], mut vote: impl FnMut(NodeId) -> Option<bool>) -> Verdict {
    let (mut yes, mut no) = (0, 0);
    for voter in voters {
        match vote(*voter) {
            Some(true) => yes += 1,
            Some(false) => no += 1,
            None => {}
        }
    }
    let needed = majority(voters.len());
    if voters.is_empty() || yes >= needed {
        Verdict::Won
    } else if voters.len() - no < needed {
        Verdict::Lost
    } else {
        Verdict::Open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(n: u64) -> Vec<NodeId> {
        (1..=n).map(NodeId).collect()
    }

    #[test]
    fn reached_agrees_with_counting() {
        let mut rng = crate::rng::SplitMix::new(7, 7, 7);
        for round in 0..2000 {
            let n = 1 + round % 11;
            let values: Vec<u64> = (0..n).map(|_| u64::from(rng.below(8))).collect();
            let got = reached(&ids(n), |id| values[id.0 as usize - 1]);
            let counted = (0..8)
                .rev()
                .find(|v| values.iter().filter(|x| *x >= v).count() >= majority(values.len()))
                .unwrap_or(0);
            assert_eq!(got, counted, "{values:?}");
        }
    }

    #[test]
    fn verdict_of_every_small_vote() {
        for n in 1..=5_usize {
            for code in 0..3_usize.pow(n as u32) {
                let votes: Vec<Option<bool>> = (0..n)
                    .map(|i| [None, Some(true), Some(false)][code / 3_usize.pow(i as u32) % 3])
                    .collect();
                let yes = votes.iter().filter(|v| **v == Some(true)).count();
                let no = votes.iter().filter(|v| **v == Some(false)).count();
                let expected = if yes * 2 > n {
                    Verdict::Won
                } else if no * 2 >= n {
                    Verdict::Lost
                } else {
                    Verdict::Open
                };
                assert_eq!(verdict(&ids(n as u64), |id| votes[id.0 as usize - 1]), expected, "{votes:?}");
            }
        }
    }

    #[test]
    fn an_empty_half_agrees() {
        assert_eq!(reached(&[], |_| 0), u64::MAX);
        assert_eq!(verdict(&[], |_| None), Verdict::Won);
    }
}
