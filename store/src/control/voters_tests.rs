//! Scripts of groups that grow, shrink and lose members, and a walk over random ones.

use scheduler::{Epoch, KeyRange, Region};

use super::*;
use crate::region::system::GROUP;

/// `1v 2l*`: a voter on store 1, which leads, and a learner on store 2 that is behind; `i` and `o` are voters that come and go.
fn members(text: &str) -> Members {
    let (mut peers, mut pending) = (Vec::new(), Vec::new());
    for word in text.split_whitespace() {
        let (word, behind) = word.strip_suffix('*').map_or((word, false), |word| (word, true));
        let (number, role) = word.split_at(word.len() - 1);
        let store = StoreId(number.parse().expect("a store"));
        let id = PeerId(100 + store.0);
        let role = match role {
            "v" => Role::Voter,
            "l" => Role::Learner,
            "i" => Role::Incoming,
            "o" => Role::Outgoing,
            other => panic!("{other} is no role"),
        };
        peers.push(Peer { role, ..Peer::voter(id, store) });
        if behind {
            pending.push(id);
        }
    }
    let leader = peers[0];
    let region = Region { id: GROUP, range: KeyRange::full(), epoch: Epoch::FIRST, peers };
    Members { region, leader, pending, down: Vec::new() }
}

/// `1 2? 3!`: store 1 is fit, store 2 silent, store 3 gone.
fn stores(text: &str) -> BTreeMap<StoreId, Fitness> {
    let fitness = |word: &str| {
        let (number, fitness) = match word.as_bytes()[word.len() - 1] {
            b'?' => (&word[..word.len() - 1], Fitness::Silent),
            b'!' => (&word[..word.len() - 1], Fitness::Gone),
            _ => (word, Fitness::Fit),
        };
        (StoreId(number.parse().expect("a store")), fitness)
    };
    text.split_whitespace().map(fitness).collect()
}

fn said(step: Option<Step>) -> String {
    let ids = |peers: &[PeerId]| peers.iter().map(|peer| format!(" {}", peer.0 - 100)).collect::<String>();
    match step {
        None => "nothing".to_owned(),
        Some(Step::Add(store)) => format!("add {}", store.0),
        Some(Step::Take(Action::TransferLeader(to))) => format!("transfer {}", to.store.0),
        Some(Step::Take(Action::Change(Change::Remove { peer }))) => format!("remove {}", peer.0 - 100),
        Some(Step::Take(Action::Change(Change::LeaveJoint))) => "leave".to_owned(),
        Some(Step::Take(Action::Change(Change::EnterJoint { promote, demote }))) => {
            format!("joint +{} -{}", ids(&promote), ids(&demote))
        }
        Some(Step::Take(other)) => format!("{other:?}"),
    }
}

#[test]
fn every_situation_has_its_step() {
    let rows = [
        // It grows by itself.
        ("1v", "1", "nothing"),
        ("1v", "1 2", "nothing"),
        ("1v", "1 2 3", "add 2"),
        ("1v 2l*", "1 2 3", "add 3"),
        ("1v 2l 3l*", "1 2 3", "nothing"),
        ("1v 2l 3l", "1 2 3", "joint + 2 3 -"),
        ("1v 2i 3i", "1 2 3", "leave"),
        ("1v 2v 3v", "1 2 3 4", "nothing"),
        ("1v 2v 3v", "1 2 3 4 5", "add 4"),
        ("1v 2v 3v 4l 5l", "1 2 3 4 5", "joint + 4 5 -"),
        ("1v 2v 3v 4v 5v", "1 2 3 4 5 6 7", "nothing"),
        // Whoever is silent is given no place, and loses none.
        ("1v", "1 2 3?", "nothing"),
        ("1v", "1 2 3? 4", "add 2"),
        ("1v 2v 3v", "1 2 3? 4", "nothing"),
        ("1v 2l 3l*", "1 2 3? 4", "remove 3"),
        ("1v 2l", "1 2 4", "add 4"),
        // Whoever is gone is replaced, if there is one to take the place.
        ("1v 2v 3v", "1 2 3!", "nothing"),
        ("1v 2v 3v", "1 2 3! 4", "add 4"),
        ("1v 2v 3v 4l*", "1 2 3! 4", "nothing"),
        ("1v 2v 3v 4l", "1 2 3! 4", "joint + 4 - 3"),
        ("1v 2v 3o 4i", "1 2 3! 4", "leave"),
        ("1v 2v 3l 4v", "1 2 3! 4", "remove 3"),
        ("1v 2v 3v 4v 5v", "1 2 3 4! 5!", "joint + - 4 5"),
        ("1v 2v 3v 4v 5v", "1 2 3 4! 5! 6", "joint + - 4 5"),
        // The leader goes last: another one leads first.
        ("1v 2v 3v 4l", "1! 2 3 4", "joint + 4 - 1"),
        ("1v", "1! 2 3 4", "add 2"),
        ("1v", "1!", "nothing"),
    ];
    for (group, known, expected) in rows {
        let step = next(&members(group), &stores(known));
        let expected = match (group, known) {
            // The leader is not demoted by itself.
            ("1v 2v 3v 4l", "1! 2 3 4") => "transfer 2",
            _ => expected,
        };
        assert_eq!(said(step), expected, "{group} with {known}");
    }
}

/// What the step does to the group, as the leader's store would carry it out.
fn taken(group: &Members, step: &Step) -> Members {
    let mut after = group.clone();
    match step {
        Step::Add(store) => {
            let change = Change::AddLearner { peer: PeerId(100 + store.0), store: *store };
            after.region = change.apply(&group.region).expect("it fits");
        }
        Step::Take(Action::Change(change)) => after.region = change.apply(&group.region).expect("it fits"),
        Step::Take(Action::TransferLeader(to)) => after.leader = *to,
        Step::Take(Action::Split { .. } | Action::Merge(_)) => panic!("the group is never split"),
    }
    after
}

/// From any group, with stores that stay as they are, it comes to rest: with the leader, an odd number of voters, and none that is gone
/// while another one could take its place. It never has fewer voters on the way than at both ends.
#[test]
fn it_comes_to_rest_from_anywhere() {
    let kinds = [Fitness::Fit, Fitness::Silent, Fitness::Gone];
    for case in 0..3usize.pow(6) {
        let known: BTreeMap<StoreId, Fitness> =
            (0..6).map(|at| (StoreId(at as u64 + 1), kinds[case / 3usize.pow(at) % 3])).collect();
        for begun in ["1v", "1v 2v 3v", "1v 2v 3v 4v 5v", "1v 2l 6l", "1v 2i 3i", "1v 2v 3o 4i"] {
            let mut group = members(begun);
            let voters = |group: &Members| group.region.peers.iter().filter(|peer| peer.will_vote()).count();
            let least = voters(&group).min(3);
            let mut steps = 0;
            while let Some(step) = next(&group, &known) {
                group = taken(&group, &step);
                steps += 1;
                assert!(steps < 20, "{begun} with {known:?} does not come to rest: {group:?}");
                assert!(voters(&group) >= least, "{begun} with {known:?}: {group:?}");
                assert!(group.region.peer(group.leader.id).is_some_and(Peer::will_vote), "{group:?}");
            }
            assert!(!group.region.is_joint() && voters(&group) % 2 == 1, "{begun} with {known:?}: {group:?}");
            let is = |store: &StoreId, fitness| known.get(store) == Some(&fitness);
            let spare =
                known.keys().any(|store| is(store, Fitness::Fit) && group.region.peer_on(*store).is_none());
            let gone = group.region.peers.iter().any(|peer| is(&peer.store, Fitness::Gone));
            assert!(!(spare && gone), "{begun} with {known:?}: {group:?}");
        }
    }
}
