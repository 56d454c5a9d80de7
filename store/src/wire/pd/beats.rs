//! Beats of other nodes and their answers, as messages: both directions, for the scheduler and for the nodes that report to it.
//!
//! Beats and answers are taken apart by name, so a field that is added to them does not compile until it is sent. What arrives is checked
//! only as far as its form goes; whether it is believed is the scheduler's decision.

use bytes::Bytes;
use scheduler::operator::OperatorId;
use scheduler::{
    Action, DownPeer, Epoch, Instruction, Key, Load, LoadCut, NewRegion, NodeId, Peer, PeerId, Region,
    RegionId, RegionReport, StoreDescriptor, StoreId, StoreReport,
};

use crate::control::{Beat, BeatAnswer, StoreBeat};
use crate::region::change::Proposed;
use crate::wire::proto::ringkeep::load_cut::Found;
use crate::wire::proto::{metapb, ringkeep};

/// A message that is no beat or no answer: what is wrong with it.
pub(super) type Malformed = &'static str;

/// The beat of a core of `node`, whose PD port is at `place`.
pub(super) fn report(cluster_id: u64, node: NodeId, place: &str, beat: &Beat) -> ringkeep::ReportRequest {
    let Beat { core: _, stores, wanted } = beat;
    ringkeep::ReportRequest {
        cluster_id,
        node: node.0,
        stores: stores.iter().map(store_report).collect(),
        wanted: wanted.iter().map(|store| store.0).collect(),
        place: place.to_owned(),
    }
}

fn store_report(beat: &StoreBeat) -> ringkeep::StoreReport {
    let StoreBeat { descriptor, report, regions } = beat;
    let StoreReport {
        store,
        capacity_bytes,
        used_bytes,
        available_bytes,
        load,
        region_count,
        start_time_seconds,
        busy,
    } = report;
    ringkeep::StoreReport {
        store: store.0,
        address: descriptor.address.clone(),
        capacity_bytes: *capacity_bytes,
        used_bytes: *used_bytes,
        available_bytes: *available_bytes,
        load: Some(store_load(load)),
        region_count: *region_count,
        start_time_seconds: *start_time_seconds,
        busy: *busy,
        regions: regions.iter().map(region_report).collect(),
    }
}

fn region_report(report: &RegionReport) -> ringkeep::RegionReport {
    let RegionReport { region, leader, term, pending, down: silent, size_bytes, keys, load, uncut, cut } =
        report;
    let down = |DownPeer { peer, down_ms }: &DownPeer| ringkeep::DownPeer { peer: peer.0, down_ms: *down_ms };
    ringkeep::RegionReport {
        region: Some(metapb::Region::from(region)),
        leader: leader.map_or(0, |leader| leader.0),
        term: term.unwrap_or(0),
        pending: pending.iter().map(|peer| peer.0).collect(),
        down: silent.iter().map(down).collect(),
        size_bytes: *size_bytes,
        keys: *keys,
        load: Some(store_load(load)),
        uncut: uncut.map_or(0, |operator| operator.0),
        cut: store_cut(cut),
    }
}

fn store_cut(cut: &LoadCut) -> Option<ringkeep::LoadCut> {
    let found = match cut {
        LoadCut::Unknown => return None,
        LoadCut::At(key) => Found::Key(Bytes::copy_from_slice(key.as_bytes())),
        LoadCut::OneKey(percent) => Found::OneKeyPercent(*percent),
        LoadCut::Lopsided(percent) => Found::LesserPercent(*percent),
    };
    Some(ringkeep::LoadCut { found: Some(found) })
}

fn load_cut(cut: Option<ringkeep::LoadCut>) -> LoadCut {
    match cut.and_then(|cut| cut.found) {
        None => LoadCut::Unknown,
        Some(Found::Key(key)) => LoadCut::At(Key::from(&key[..])),
        Some(Found::OneKeyPercent(percent)) => LoadCut::OneKey(percent),
        Some(Found::LesserPercent(percent)) => LoadCut::Lopsided(percent),
    }
}

pub(super) fn store_load(Load { read_bytes, write_bytes, read_ops, write_ops }: &Load) -> ringkeep::Load {
    ringkeep::Load {
        read_bytes: *read_bytes,
        write_bytes: *write_bytes,
        read_ops: *read_ops,
        write_ops: *write_ops,
    }
}

fn load_load(load: Option<ringkeep::Load>) -> Load {
    let ringkeep::Load { read_bytes, write_bytes, read_ops, write_ops } = load.unwrap_or_default();
    Load { read_bytes, write_bytes, read_ops, write_ops }
}

/// The beat in a report of another node.
///
/// # Errors
/// A region is missing or its range is inverted.
pub(super) fn beat(request: ringkeep::ReportRequest) -> Result<Beat, Malformed> {
    let ringkeep::ReportRequest { cluster_id: _, node, stores, wanted, place: _ } = request;
    let stores: Result<Vec<StoreBeat>, Malformed> =
        stores.into_iter().map(|store| store_beat(NodeId(node), store)).collect();
    // The cores of another node are its own business.
    Ok(Beat { core: 0, stores: stores?, wanted: wanted.into_iter().map(StoreId).collect() })
}

fn store_beat(node: NodeId, report: ringkeep::StoreReport) -> Result<StoreBeat, Malformed> {
    let ringkeep::StoreReport {
        store,
        address,
        capacity_bytes,
        used_bytes,
        available_bytes,
        load,
        region_count,
        start_time_seconds,
        busy,
        regions,
    } = report;
    let regions: Result<Vec<RegionReport>, Malformed> = regions.into_iter().map(load_region).collect();
    let store = StoreId(store);
    Ok(StoreBeat {
        descriptor: StoreDescriptor::new(store, node, address),
        report: StoreReport {
            store,
            capacity_bytes,
            used_bytes,
            available_bytes,
            load: load_load(load),
            region_count,
            start_time_seconds,
            busy,
        },
        regions: regions?,
    })
}

fn load_region(report: ringkeep::RegionReport) -> Result<RegionReport, Malformed> {
    let ringkeep::RegionReport {
        region,
        leader,
        term,
        pending,
        down: silent,
        size_bytes,
        keys,
        load,
        uncut,
        cut,
    } = report;
    let region = region.ok_or("a report names no region")?;
    let down = |ringkeep::DownPeer { peer, down_ms }| DownPeer { peer: PeerId(peer), down_ms };
    Ok(RegionReport {
        region: Region::try_from(&region).map_err(|_| "the range of a region is inverted")?,
        leader: (leader != 0).then_some(PeerId(leader)),
        term: (term != 0).then_some(term),
        pending: pending.into_iter().map(PeerId).collect(),
        down: silent.into_iter().map(down).collect(),
        size_bytes,
        keys,
        load: load_load(load),
        uncut: (uncut != 0).then_some(OperatorId(uncut)),
        cut: load_cut(cut),
    })
}

/// What the scheduler answers to a beat. A step that has no form is left out: it would be refused where it arrives.
pub(super) fn answer(answer: &BeatAnswer) -> ringkeep::ReportResponse {
    let BeatAnswer { instructions, addresses, members, unknown, gone } = answer;
    let member =
        |(node, place): &(NodeId, String)| ringkeep::NodePlace { node: node.0, place: place.clone() };
    let address = |(store, address): &(StoreId, String)| ringkeep::StoreAddress {
        store: store.0,
        address: address.clone(),
    };
    ringkeep::ReportResponse {
        instructions: instructions.iter().filter_map(store_instruction).collect(),
        addresses: addresses.iter().map(address).collect(),
        members: members.iter().map(member).collect(),
        unknown: unknown.iter().map(|store| store.0).collect(),
        gone: gone.iter().map(|store| store.0).collect(),
    }
}

fn store_instruction(instruction: &Instruction) -> Option<ringkeep::Instruction> {
    let Instruction { region, epoch, leader, operator, action } = instruction;
    let (mut transfer, mut change, mut split, mut split_keys) = (None, Bytes::new(), Vec::new(), Vec::new());
    let mut merge = None;
    match action {
        Action::TransferLeader(to) => transfer = Some(metapb::Peer::from(to)),
        Action::Change(step) => {
            change = Proposed { epoch: *epoch, change: step.clone() }.encode()?.into();
        }
        Action::Split { keys, new } => {
            split = new.iter().map(new_region).collect();
            split_keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
        }
        Action::Merge(into) => merge = Some(metapb::Region::from(&**into)),
    }
    Some(ringkeep::Instruction {
        region: region.0,
        epoch: Some(metapb::RegionEpoch { conf_ver: epoch.conf_ver, version: epoch.version }),
        leader: Some(metapb::Peer::from(leader)),
        operator: operator.0,
        transfer,
        change,
        split,
        split_keys,
        merge,
    })
}

fn new_region(new: &NewRegion) -> ringkeep::NewRegion {
    let NewRegion { region, peers } = new;
    ringkeep::NewRegion { region: region.0, peers: peers.iter().map(|peer| peer.0).collect() }
}

fn load_split(split: Vec<ringkeep::NewRegion>, keys: &[Bytes]) -> Action {
    let new = split.into_iter().map(|ringkeep::NewRegion { region, peers }| NewRegion {
        region: RegionId(region),
        peers: peers.into_iter().map(PeerId).collect(),
    });
    Action::Split { keys: keys.iter().map(|key| Key::from(&key[..])).collect(), new: new.collect() }
}

/// The answer in a response.
///
/// # Errors
/// A step is none that is known.
pub(super) fn beat_answer(response: ringkeep::ReportResponse) -> Result<BeatAnswer, Malformed> {
    let ringkeep::ReportResponse { instructions, addresses, members, unknown, gone } = response;
    let instructions: Result<Vec<Instruction>, Malformed> =
        instructions.into_iter().map(load_instruction).collect();
    let address = |ringkeep::StoreAddress { store, address }| (StoreId(store), address);
    let member = |ringkeep::NodePlace { node, place }| (NodeId(node), place);
    Ok(BeatAnswer {
        instructions: instructions?,
        addresses: addresses.into_iter().map(address).collect(),
        members: members.into_iter().map(member).collect(),
        unknown: unknown.into_iter().map(StoreId).collect(),
        gone: gone.into_iter().map(StoreId).collect(),
    })
}

fn load_instruction(instruction: ringkeep::Instruction) -> Result<Instruction, Malformed> {
    let ringkeep::Instruction { region, epoch, leader, operator, transfer, change, split, split_keys, merge } =
        instruction;
    let epoch = epoch.unwrap_or_default();
    let action = match (transfer, merge) {
        (Some(to), _) => Action::TransferLeader(Peer::from(&to)),
        (None, Some(into)) => {
            let into = Region::try_from(&into).map_err(|_| "the range of a neighbour is inverted")?;
            Action::Merge(Box::new(into))
        }
        (None, None) if !split.is_empty() => load_split(split, &split_keys),
        (None, None) => {
            Action::Change(Proposed::decode(&change).ok_or("a step is none that this version knows")?.change)
        }
    };
    Ok(Instruction {
        region: RegionId(region),
        epoch: Epoch::new(epoch.conf_ver, epoch.version),
        leader: Peer::from(&leader.ok_or("a step names no leader")?),
        operator: OperatorId(operator),
        action,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{Change, KeyRange};

    fn region() -> Region {
        Region {
            id: RegionId(9),
            range: KeyRange::new("b", "m").unwrap(),
            epoch: Epoch::new(4, 5),
            peers: vec![Peer::voter(PeerId(11), StoreId(1)), Peer::learner(PeerId(12), StoreId(2))],
        }
    }

    #[test]
    fn a_beat_arrives_as_it_left() {
        let load = Load { read_bytes: 1, write_bytes: 2, read_ops: 3, write_ops: 4 };
        let cuts = [LoadCut::Unknown, LoadCut::At(Key::from("g")), LoadCut::OneKey(90), LoadCut::Lopsided(3)];
        let regions = cuts.into_iter().map(|cut| RegionReport {
            term: Some(6),
            pending: vec![PeerId(12)],
            down: vec![DownPeer { peer: PeerId(12), down_ms: 900 }],
            size_bytes: 7,
            keys: 8,
            load,
            uncut: Some(OperatorId(31)),
            cut,
            ..RegionReport::new(region(), Some(PeerId(11)))
        });
        let report = StoreReport {
            store: StoreId(1),
            capacity_bytes: 100,
            used_bytes: 40,
            available_bytes: 60,
            load,
            region_count: 3,
            start_time_seconds: 12,
            busy: true,
        };
        let descriptor = StoreDescriptor::new(StoreId(1), NodeId(5), "127.0.0.1:7");
        let store = StoreBeat { descriptor, report, regions: regions.collect() };
        let sent = Beat { core: 0, stores: vec![store], wanted: vec![StoreId(8)] };
        let got = beat(super::report(77, NodeId(5), "127.0.0.1:6", &sent)).unwrap();
        assert_eq!(format!("{got:?}"), format!("{sent:?}"));
    }

    #[test]
    fn an_answer_arrives_as_it_left_and_a_step_without_a_form_is_left_out() {
        let step = |action| Instruction {
            region: RegionId(9),
            epoch: Epoch::new(4, 5),
            leader: region().peers[0],
            operator: OperatorId(31),
            action,
        };
        let new = NewRegion { region: RegionId(40), peers: vec![PeerId(41), PeerId(42)] };
        let sent = BeatAnswer {
            instructions: vec![
                step(Action::TransferLeader(region().peers[1])),
                step(Action::Change(Change::AddLearner { peer: PeerId(13), store: StoreId(3) })),
                step(Action::Change(Change::LeaveJoint)),
                step(Action::Split { keys: vec![Key::from("g")], new: vec![new.clone()] }),
                step(Action::Split { keys: Vec::new(), new: vec![new] }),
                step(Action::Merge(Box::new(region()))),
            ],
            addresses: vec![(StoreId(3), "127.0.0.1:9".to_owned())],
            members: vec![(NodeId(5), "127.0.0.1:6".to_owned())],
            unknown: vec![StoreId(77), StoreId(78)],
            gone: vec![StoreId(4), StoreId(6)],
        };
        assert_eq!(beat_answer(answer(&sent)), Ok(sent.clone()));
        let swap = Change::EnterJoint { promote: vec![PeerId(11); 1 << 16], demote: Vec::new() };
        let more = BeatAnswer { instructions: vec![step(Action::Change(swap))], ..BeatAnswer::default() };
        assert_eq!(beat_answer(answer(&more)), Ok(BeatAnswer::default()));
        let mut broken = answer(&sent);
        broken.instructions[1].change = Bytes::from_static(b"no change");
        assert!(beat_answer(broken).is_err());
    }
}
