//! The scheduler's answers as the console's JSON. Every list has a bound, and says what it leaves out; a key is shown by its beginning, with
//! bytes that are not printable as `\xNN`.
//!
//! Ids of the cluster are text, because they do not fit into a number of JavaScript.

use serde_json::{Value, json};
use store::wire::pd::ask::{NoAnswer, SchedulerPlace};
use store::wire::proto::metapb::{Peer, PeerRole};
use store::wire::proto::ringkeep::{
    HeatResponse, Load, OperatorState, RegionCell, RegionMapResponse, RegionState, StoreState,
};

use super::wish::HEATS;
use crate::ctl::stores::{heard_in_words, is_gone, state};

/// Stores, operators and replicas of a region that are shown.
const STORES_MAX: usize = 512;
const OPERATORS_MAX: usize = 64;
const REPLICAS_MAX: usize = 16;
/// Steps of an operator that are shown, and characters of each.
const STEPS_MAX: usize = 16;
const STEP_CHARS_MAX: usize = 160;
/// Bytes of a key that are shown.
const KEY_BYTES_MAX: usize = 64;

/// Whether keys are shown to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// They are.
    Shown,
    /// They are not.
    Hidden,
}

impl Keys {
    /// A key, of which more than this may have been cut off.
    fn value(self, key: &[u8], is_cut: bool) -> Value {
        match self {
            Self::Hidden => Value::Null,
            Self::Shown => {
                let shown = &key[..key.len().min(KEY_BYTES_MAX)];
                json!({ "text": shown.escape_ascii().to_string(), "cut": is_cut || shown.len() < key.len() })
            }
        }
    }

    /// A step, in which keys may stand.
    fn step(self, step: &str) -> String {
        match self {
            Self::Hidden if step.starts_with("split at") => {
                "split at keys that are not shown here".to_owned()
            }
            Self::Hidden | Self::Shown => step.chars().take(STEP_CHARS_MAX).collect(),
        }
    }
}

/// Where the scheduler is, in words, too.
pub(super) fn place(place: &SchedulerPlace) -> Value {
    match place {
        SchedulerPlace::Here => {
            json!({ "here": true, "places": [], "error": null, "words": "The scheduler is on this node." })
        }
        SchedulerPlace::Elsewhere(places) => {
            let words = match places.first() {
                Some(first) => format!("The scheduler is on another node, whose PD port is {first}."),
                None => "The scheduler is on another node.".to_owned(),
            };
            json!({ "here": false, "places": places, "error": null, "words": words })
        }
    }
}

/// Why the scheduler says nothing.
pub(super) fn silence(none: &NoAnswer) -> Value {
    let (here, places): (bool, &[String]) = match &none.place {
        Some(SchedulerPlace::Here) => (true, &[]),
        Some(SchedulerPlace::Elsewhere(places)) => (false, places),
        None => (false, &[]),
    };
    let known = match places.first() {
        Some(first) => format!(" It was last looked for at the PD port {first}."),
        None => String::new(),
    };
    let words = format!("The scheduler does not answer: {}.{known}", none.why.trim_end_matches('.'));
    json!({ "here": here, "places": places, "error": none.why, "words": words })
}

/// The stores that are not gone, and how many are left out.
pub(super) fn stores(stores: &[StoreState]) -> (Vec<Value>, usize) {
    let in_use: Vec<&StoreState> = stores.iter().filter(|store| !is_gone(store)).collect();
    let shown = in_use.iter().take(STORES_MAX).map(|known| store(known)).collect();
    (shown, in_use.len().saturating_sub(STORES_MAX))
}

fn store(store: &StoreState) -> Value {
    let state = state(store);
    let words = match state {
        "up" => "answers",
        "evicted" => "answers, and is kept from leading",
        "busy" => "answers, and asks to be spared: its queues or its disk are full",
        "leaving" => "is being emptied",
        "gone" => "was taken out of use",
        "silent" => "has missed several reports",
        "disconnected" | "unhealthy" | "down" if !store.heard => "does not answer",
        "disconnected" => "is silent for a moment, and gets nothing new",
        "unhealthy" => "is silent for minutes",
        "down" => "is silent for so long that its replicas are made up elsewhere",
        other => other,
    };
    json!({
        "store": store.store, "node": store.node, "address": store.address, "state": state, "words": words,
        "silent_ms": store.heard.then_some(store.silent_ms), "heard": heard_in_words(store),
        "capacity_bytes": store.capacity_bytes, "used_bytes": store.used_bytes, "available_bytes": store.available_bytes,
        "regions": store.regions, "leaders": store.leaders, "load": load(store.load.as_ref()),
    })
}

fn load(load: Option<&Load>) -> Value {
    let Load { read_bytes, write_bytes, read_ops, write_ops } = load.copied().unwrap_or_default();
    json!({ "reads": read_ops, "writes": write_ops, "read_bytes": read_bytes, "written_bytes": write_bytes })
}

/// Operators, and how many are left out.
pub(super) fn operators(operators: &[OperatorState], keys: Keys) -> (Vec<Value>, usize) {
    let shown = operators.iter().take(OPERATORS_MAX).map(|it| operator(it, keys)).collect();
    (shown, operators.len().saturating_sub(OPERATORS_MAX))
}

fn operator(operator: &OperatorState, keys: Keys) -> Value {
    let OperatorState { operator, region, policy, steps, finished, ago_ms, outcome, succeeded, cause } =
        operator;
    let shown: Vec<String> = steps.iter().take(STEPS_MAX).map(|step| keys.step(step)).collect();
    json!({
        "operator": operator, "region": region, "policy": policy, "cause": cause, "steps": shown, "steps_in_all": steps.len(),
        "finished": finished, "ago_ms": ago_ms, "outcome": outcome, "succeeded": succeeded,
    })
}

/// The key space in cells.
pub(super) fn map(map: &RegionMapResponse, keys: Keys) -> Value {
    let cell = |cell: &RegionCell| {
        json!({
            "start": keys.value(&cell.start, cell.shortened), "first_region": cell.first_region, "regions": cell.regions,
            "size_bytes": cell.size_bytes, "keys": cell.keys, "load": load(cell.load.as_ref()),
            "leader_store": (cell.leader_store != 0).then_some(cell.leader_store), "leads": cell.leads, "leaders": cell.leaders,
            "leaderless": cell.leaderless, "short": cell.short, "unavailable": cell.unavailable,
        })
    };
    json!({ "regions": map.regions, "keys_shown": keys == Keys::Shown, "cells": map.cells.iter().map(cell).collect::<Vec<_>>() })
}

/// A page of regions, and the one behind which the next page begins.
pub(super) fn regions(regions: &[RegionState], next: Option<u64>, keys: Keys) -> Value {
    let all: Vec<Value> = regions.iter().map(|it| region(it, keys)).collect();
    json!({ "keys_shown": keys == Keys::Shown, "regions": all, "next": next })
}

fn region(state: &RegionState, keys: Keys) -> Value {
    let region = state.region.clone().unwrap_or_default();
    let is_lagging = |peer: &Peer| state.pending.contains(&peer.id);
    let silent = |peer: &Peer| state.down.iter().find(|down| down.peer == peer.id).map(|down| down.down_ms);
    let role = |peer: &Peer| match peer.role() {
        PeerRole::Voter => "voter",
        PeerRole::Learner => "learner",
        PeerRole::IncomingVoter | PeerRole::DemotingVoter => "changing",
    };
    let replica = |peer: &Peer| json!({ "store": peer.store_id, "peer": peer.id, "role": role(peer), "lagging": is_lagging(peer), "silent_ms": silent(peer) });
    json!({
        "region": region.id, "start": keys.value(&region.start_key, false), "end": keys.value(&region.end_key, false),
        "leader_store": state.leader.as_ref().map(|leader| leader.store_id),
        "replicas": region.peers.iter().take(REPLICAS_MAX).map(replica).collect::<Vec<_>>(),
        "size_bytes": state.size_bytes, "keys": state.keys, "load": load(state.load.as_ref()),
        "states": state.conditions, "operator": (state.operator != 0).then_some(state.operator),
    })
}

/// The last hour, of what has this index in [`HEATS`].
pub(super) fn heat(heat: &HeatResponse, of: usize, keys: Keys) -> Value {
    let (name, _, unit) = HEATS[of];
    let border = |border: &bytes::Bytes| keys.value(border, border.len() >= KEY_BYTES_MAX);
    let columns: Vec<Value> = heat
        .columns
        .iter()
        .map(|column| json!({ "ago_minutes": column.ago_minutes, "values": column.values }))
        .collect();
    json!({
        "of": name, "unit": unit, "keys_shown": keys == Keys::Shown,
        "borders": heat.borders.iter().map(border).collect::<Vec<_>>(), "columns": columns,
    })
}
