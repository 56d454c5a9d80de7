//! Scenarios of regions as text: `tests/regions/scripts/*.txt`, one rule each.
//!
//! A script is a comment that says what it shows, then blocks: commands, a line `---`, and what happened. Nothing moves by itself:
//! messages wait in one queue until `deliver`, disks are instant unless `hold`, state machines unless `hold-apply`. After every command
//! every store checks its invariants, and replicas that have applied the same must hold the same. Run with `RINGKEEP_REWRITE=1` to
//! write what happened into the scripts, and read the difference before you keep it; `RINGKEEP_SCRIPT=NAME` plays those so named.
//!
//! `S` is a store, `R` a region; a peer is written `ID@STORE`, a value of many bytes `bytes:N`.
//!
//! | command | meaning |
//! |---|---|
//! | `stores IDS [pre-vote] [check-quorum] [lease=N] [uncommitted=N] [quiet=N] [remember=N]` | starts stores; groups sleep after N ticks, and N regions that were taken in are remembered |
//! | `region R START..END PEERS [learn PEERS]` | all stores named begin with a replica, at base 5@t5 |
//! | `campaign S R`, `tick S [N]`, `resign S R`, `transfer S R PEER`, `clock N` | inputs; nanoseconds pass |
//! | `time N`, `idle N`, `part FROM>TO`, `join-link FROM>TO` | ticks of all stores, in turn; the same with all messages delivered and nothing shown; a link over which nothing comes, signs of life included |
//! | `unreachable S TO`, `wake S` | a store has not reached another; it has missed what should have waked its replicas |
//! | `put S R KEY VALUE`, `delete S R KEY`, `delete-range S R START..END`, `read S R NAME` | requests; reads by lease or index |
//! | `compare S R KEY NAME` | a request that writes nothing after all: answered from the state by lease, else by an entry |
//! | `known S R KEY` | what is in flight |
//! | `split S R KEY R2 PEERS ...` `[epoch=CONF,VERSION]` | a split at one key or several, with the ids of new peers by position |
//! | `cut S R KEY R2 PEER` | a split without an entry, of a region with one replica |
//! | `prepare S R R2`, `commit S R R2`, `refuse S R R2`, `rollback S R R2` | the steps of a merge of R2 into R, as the store knows both |
//! | `everywhere S R`, `fate S R` | whether all replicas have the prepare, and what the store knows of the merge |
//! | `change S R add-voter\|add-learner PEER`, `promote\|demote\|remove ID`, `enter +ID -ID ...`, `leave`, with `epoch=CONF,VERSION` | a change of membership |
//! | `deliver [FROM>TO]`, `lose [FROM>TO]`, `keep FROM>TO`, `replay` | deliver or lose what waits between stores; put aside, bring back |
//! | `hold S`, `write-one S`, `write S`, `hold-apply S`, `apply-one S`, `apply S` | stop a disk or a state machine, let it catch up |
//! | `flush S`, `compact S R`, `crash S`, `lose-tail S R INDEX`, `restart S [suspect=N]` | durability |
//! | `snapshot S R`, `snapshot-failed S R` | answers every snapshot that is wanted |
//! | `status R`, `data S` | prints |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raft::{Config, Time};
use scheduler::change::Change;
use scheduler::{Epoch, Key, KeyRange, NewRegion, Peer as Member, PeerId, Region, RegionId, StoreId};
use store::plant::{Bug, plant, remember};
use store::region::guard;
use store::region::inflight::Known;
use store::region::life::Life;
use store::region::message::{PeerMessage, Stray, Verdict};
use store::region::neighbours::Sign;
use store::region::reads::Access;
use store::region::split::Cut;
use store::region::submit::Edit;

use crate::kit::{Peer, Shipped, Store, show, show_message};
use crate::play;

#[path = "script_merges.rs"]
mod merges;

#[derive(Default)]
struct Stage {
    stores: BTreeMap<u64, Store>,
    down: BTreeSet<u64>,
    queue: VecDeque<PeerMessage>,
    aside: Vec<PeerMessage>,
    shipped: Shipped,
    /// Links over which nothing comes.
    parted: BTreeSet<(u64, u64)>,
    /// Links over which something has come since both ends were started.
    linked: BTreeSet<(u64, u64)>,
    now: u64,
    out: String,
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// `CONF,VERSION`.
fn epoch(word: &str) -> Epoch {
    let (conf_ver, version) = word.split_once(',').expect("CONF,VERSION");
    Epoch::new(number(conf_ver), number(version))
}

fn range(word: &str) -> (&str, &str) {
    word.split_once("..").unwrap_or_else(|| panic!("not a range: {word}"))
}

/// `ID@STORE`.
fn peer(word: &str) -> (PeerId, StoreId) {
    let (id, store) = word.split_once('@').unwrap_or_else(|| panic!("not a peer: {word}"));
    (PeerId(number(id)), StoreId(number(store)))
}

impl Stage {
    fn say(&mut self, text: impl AsRef<str>) {
        self.out += text.as_ref();
        self.out += "\n";
    }

    fn store(&mut self, id: u64) -> &mut Store {
        assert!(!self.down.contains(&id), "store {id} is down");
        self.stores.get_mut(&id).unwrap_or_else(|| panic!("no store {id}"))
    }

    fn replica(&mut self, store: u64, region: u64) -> &mut Peer {
        let found = self.store(store).table.get_mut(RegionId(region));
        found.unwrap_or_else(|| panic!("no region {region} on store {store}"))
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let id = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        let region = words.get(2).and_then(|word| word.parse().ok()).unwrap_or(0);
        let now = Time(self.now);
        match words[0] {
            "stores" => {
                remember(option(&words, "remember").map(|taken| number(taken) as usize));
                self.start(&words[1..]);
            }
            "region" => self.region(&words[1..]),
            "campaign" => {
                self.command(id, region, |one| one.campaign(now).map_err(|refusal| refusal.to_string()))
            }
            "resign" => {
                self.command(id, region, |one| one.resign(now).map_err(|refusal| refusal.to_string()))
            }
            "transfer" => self.command(id, region, |one| {
                let epoch = one.region().epoch;
                one.transfer(PeerId(number(words[3])), epoch).map_err(|refusal| show(&refusal))
            }),
            "tick" | "time" | "idle" | "part" | "join-link" | "unreachable" | "wake" | "clock" => {
                self.pass(&words, id, region);
            }
            "put" | "delete" | "delete-range" => self.edit(&words, id, region),
            "read" => self.read(id, region, words[3]),
            "compare" => self.compare(id, region, words[3], words[4]),
            "split" => self.split(id, region, &words[3..]),
            "cut" => self.cut(id, region, &words[3..]),
            "everywhere" | "fate" => self.merge_stands(words[0], id, region),
            "prepare" | "commit" | "rollback" | "refuse" => {
                self.merge(words[0], id, (region, number(words[3])))
            }
            "known" => {
                let known = match self.replica(id, region).known(words[3].as_bytes()) {
                    Known::Nothing => "the tree has the answer".to_owned(),
                    Known::Absent => "absent".to_owned(),
                    Known::Value(timed) => text(&timed.value),
                };
                self.say(format!("{id}: {} {known}", words[3]));
            }
            "change" => self.change(id, region, &words[3..]),
            "deliver" => self.deliver(words.get(1).copied(), false),
            "lose" => self.deliver(words.get(1).copied(), true),
            "keep" => {
                let (aside, rest) =
                    std::mem::take(&mut self.queue).into_iter().partition(|one| is_on(one, words[1]));
                self.queue = rest;
                let aside: VecDeque<PeerMessage> = aside;
                self.aside.extend(aside);
            }
            "replay" => self.queue.extend(std::mem::take(&mut self.aside)),
            "status" => {
                for (store, one) in &self.stores {
                    if !self.down.contains(store) {
                        self.out += &format!("{store}: {}\n", one.status(RegionId(id), now));
                    }
                }
            }
            "data" => {
                let data = self.store(id).tree.data.clone();
                let pairs: Vec<String> =
                    data.iter().map(|(key, value)| format!("{}={}", text(key), text(value))).collect();
                self.say(format!("{id}: {}", pairs.join(" ")));
            }
            _ => self.disk(&words, id, region),
        }
        self.settle_all();
    }

    /// Commands about time, and about what stores hear of each other.
    fn pass(&mut self, words: &[&str], id: u64, region: u64) {
        let now = Time(self.now);
        match words[0] {
            "tick" => (0..words.get(2).map_or(1, |n| number(n))).for_each(|_| self.tick(id)),
            "time" => (0..id).for_each(|_| {
                let up = self.stores.keys().copied().filter(|id| !self.down.contains(id));
                up.collect::<Vec<u64>>().into_iter().for_each(|id| self.tick(id));
            }),
            "idle" => {
                let shown = self.out.len();
                for _ in 0..id {
                    self.run("time 1");
                    self.run("deliver");
                }
                self.out.truncate(shown);
            }
            "part" | "join-link" => {
                let link = link(words[1]);
                let changed =
                    if words[0] == "part" { self.parted.insert(link) } else { self.parted.remove(&link) };
                assert!(changed, "{} is like that", words[1]);
                self.linked.remove(&link);
            }
            "unreachable" => self.store(id).table.report_unreachable(StoreId(region), now),
            "wake" => self.store(id).table.iter_mut().for_each(|one| _ = one.wake()),
            "clock" => self.now += id,
            other => unreachable!("{other} is no command about time"),
        }
    }

    /// Commands that write keys.
    fn edit(&mut self, words: &[&str], id: u64, region: u64) {
        let key = words[3].to_owned();
        let (name, edit) = match words[0] {
            "put" => {
                let (name, value) = (format!("{key}={}", words[4]), words[4].to_owned());
                let value =
                    value.strip_prefix("bytes:").map(|n| "v".repeat(number(n) as usize)).unwrap_or(value);
                (name, Edit::Put(key.into(), bytes::Bytes::from(value).into()))
            }
            "delete" => (format!("-{key}"), Edit::Delete(key.into())),
            _ => {
                let (start, end) = range(words[3]);
                (format!("-{key}"), Edit::DeleteRange(start.to_owned().into(), end.to_owned().into()))
            }
        };
        self.submit(id, region, name, edit);
    }

    /// Commands about disks, state machines and crashes.
    fn disk(&mut self, words: &[&str], id: u64, region: u64) {
        match words[0] {
            "hold" => self.store(id).hold = true,
            "write" => self.store(id).hold = false,
            "hold-apply" => self.store(id).lag = true,
            "apply" => self.store(id).lag = false,
            "write-one" => {
                let shipped = std::mem::take(&mut self.shipped);
                self.store(id).write_one(&shipped);
                self.shipped = shipped;
            }
            "apply-one" => {
                let now = Time(self.now);
                self.store(id).apply_one(now);
            }
            "flush" => self.store(id).flush(),
            "compact" => self.store(id).compact(RegionId(region)),
            "lose-tail" => {
                let store = self.stores.get_mut(&id).expect("a store");
                store.lose_tail(RegionId(region), number(words[3]));
            }
            "crash" => {
                let lost = self.store(id).crash();
                self.down.insert(id);
                self.linked.retain(|(from, to)| ![*from, *to].contains(&id));
                self.say(format!("{id}: down, {lost} writes lost"));
            }
            "restart" => {
                assert!(self.down.remove(&id), "store {id} is not down");
                let (suspect, now) = (option(words, "suspect").map_or(0, number), Time(self.now));
                self.store(id).restart(suspect, now);
            }
            "snapshot" => {
                let mut shipped = std::mem::take(&mut self.shipped);
                self.store(id).snapshot(RegionId(region), &mut shipped);
                self.shipped = shipped;
            }
            "snapshot-failed" => self.store(id).fail_snapshots(RegionId(region)),
            other => panic!("unknown command {other}"),
        }
    }

    /// A tick of a store, and the signs of life that it sends with it, which arrive at once.
    fn tick(&mut self, id: u64) {
        let now = Time(self.now);
        let signs = self.store(id).table.tick(now, false).signs;
        self.settle(id);
        signs.into_iter().for_each(|to| self.hear(id, to.0));
    }

    /// A store hears something of another one, if the link is whole.
    fn hear(&mut self, from: u64, to: u64) {
        if self.parted.contains(&(from, to)) || self.down.contains(&to) || !self.stores.contains_key(&to) {
            return;
        }
        let is_first = self.linked.insert((from, to));
        let sign = Sign { store: StoreId(from), incarnation: self.stores[&from].incarnation, is_first };
        let now = Time(self.now);
        self.store(to).table.hear(sign, now);
        self.settle(to);
    }

    fn start(&mut self, words: &[&str]) {
        let config = Config {
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: words.contains(&"pre-vote"),
            check_quorum: words.contains(&"check-quorum"),
            lease_nanos: option(words, "lease").map_or(0, number),
            entry_bytes_max: 1 << 20,
            uncommitted_bytes_max: option(words, "uncommitted").map_or(1 << 22, number).max(1 << 20),
            snapshot_ticks_max: 20,
            quiet_after_ticks: option(words, "quiet").map_or(0, |n| number(n) as u32),
            commits_at_once: !words.contains(&"commits-along"),
            ..Config::default()
        };
        config.validate().expect("a sound configuration");
        let config = Arc::new(config);
        for id in words[0].split(',').map(number) {
            self.stores.insert(id, Store::new(StoreId(id), config.clone()));
        }
    }

    fn region(&mut self, words: &[&str]) {
        let (start, end) = range(words[1]);
        let member = |learner: bool| {
            move |word: &str| {
                let (id, store) = peer(word);
                if learner { Member::learner(id, store) } else { Member::voter(id, store) }
            }
        };
        let mut peers: Vec<Member> = words[2].split(',').map(member(false)).collect();
        if let Some(["learn", learners]) = words.get(3..5) {
            peers.extend(learners.split(',').map(member(true)));
        }
        let range = KeyRange::new(start, end).expect("a range");
        let region = Region { id: RegionId(number(words[0])), range, epoch: Epoch::FIRST, peers };
        let now = Time(self.now);
        for member in &region.peers {
            self.store(member.store.0).bootstrap(&region, now);
        }
    }

    fn command(&mut self, id: u64, region: u64, input: impl FnOnce(&mut Peer) -> Result<(), String>) {
        if let Err(refusal) = input(self.replica(id, region)) {
            self.say(format!("{id}: {refusal}"));
        }
    }

    fn submit(&mut self, id: u64, region: u64, name: String, edit: Edit) {
        let submitted = self.replica(id, region).submit(edit, name);
        if let Err((name, refusal)) = submitted {
            self.say(format!("{id}: {name}: {}", show(&refusal)));
        }
    }

    /// A read as the store does it: by lease if there is one, else by index.
    fn read(&mut self, id: u64, region: u64, name: &str) {
        let now = Time(self.now);
        let replica = self.replica(id, region);
        let outcome = match guard::lead(replica.here()).and_then(|()| replica.access(|| now)) {
            Ok(Access::Now) => Some(format!("{name} is served at {}", replica.applied_index())),
            Ok(Access::Ask) => {
                replica.ask(name.to_owned()).err().map(|(name, no)| format!("{name}: {}", show(&no)))
            }
            Err(refusal) => Some(format!("{name}: {}", show(&refusal))),
        };
        if let Some(line) = outcome {
            self.say(format!("{id}: {line}"));
        }
    }

    /// A request that turned out to write nothing, as the store answers it: from its state if it may, else behind an entry of its own.
    fn compare(&mut self, id: u64, region: u64, key: &str, name: &str) {
        let now = Time(self.now);
        let replica = self.replica(id, region);
        let nothing_in_flight = replica.known(key.as_bytes()) == Known::Nothing;
        if let Err(refusal) = guard::lead(replica.here()) {
            return self.say(format!("{id}: {name}: {}", show(&refusal)));
        }
        if nothing_in_flight && replica.access(|| now) == Ok(Access::Now) {
            let applied = replica.applied_index();
            return self.say(format!("{id}: {name} is answered at {applied}"));
        }
        self.submit(id, region, name.to_owned(), Edit::Nothing);
    }

    /// `KEY R2 PEER`.
    fn cut(&mut self, id: u64, left: u64, words: &[&str]) {
        let (me, store) = peer(words[2]);
        let region = self.replica(id, left).region().clone();
        let end = region.range.end().as_bytes().to_vec();
        let right = Region {
            id: RegionId(number(words[1])),
            range: KeyRange::new(words[0], end).expect("a range"),
            epoch: Epoch::new(region.epoch.conf_ver, region.epoch.version + 1),
            peers: vec![Member::voter(me, store)],
        };
        let now = Time(self.now);
        self.store(id).cut(RegionId(left), &right, now);
    }

    /// `KEY R2 PEERS`, once or several times.
    fn split(&mut self, id: u64, region: u64, words: &[&str]) {
        let cuts: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with("epoch=")).collect();
        let cut = |cut: &[&str]| Cut {
            key: Key::from(cut[0]),
            new: NewRegion {
                region: RegionId(number(cut[1])),
                peers: cut[2].split(',').map(|peer| PeerId(number(peer))).collect(),
            },
        };
        let cuts = cuts.chunks(3).map(cut).collect();
        let replica = self.replica(id, region);
        let epoch = option(words, "epoch").map_or(replica.region().epoch, epoch);
        let proposed = replica.propose_split(cuts, epoch, format!("split at {}", words[0]));
        if let Err((name, refusal)) = proposed {
            self.say(format!("{id}: {name}: {}", show(&refusal)));
        }
    }

    fn change(&mut self, id: u64, region: u64, words: &[&str]) {
        let one = || PeerId(number(words[1]));
        let all = |sign: char| {
            let named = words[1..].iter().filter_map(move |word| word.strip_prefix(sign));
            named.map(|word| PeerId(number(word))).collect()
        };
        let change = match words[0] {
            "add-voter" => Change::AddVoter { peer: peer(words[1]).0, store: peer(words[1]).1 },
            "add-learner" => Change::AddLearner { peer: peer(words[1]).0, store: peer(words[1]).1 },
            "promote" => Change::Promote { peer: one() },
            "demote" => Change::Demote { peer: one() },
            "remove" => Change::Remove { peer: one() },
            "enter" => Change::EnterJoint { promote: all('+'), demote: all('-') },
            "leave" => Change::LeaveJoint,
            other => panic!("unknown change {other}"),
        };
        let replica = self.replica(id, region);
        let epoch = option(words, "epoch").map_or(replica.region().epoch, epoch);
        let proposed = replica.propose_change(change, epoch, words.join(" "));
        if let Err((name, refusal)) = proposed {
            self.say(format!("{id}: {name}: {}", show(&refusal)));
        }
    }

    fn settle_all(&mut self) {
        let ids: Vec<u64> = self.stores.keys().copied().filter(|id| !self.down.contains(id)).collect();
        ids.into_iter().for_each(|id| self.settle(id));
        self.check();
    }

    fn settle(&mut self, id: u64) {
        let (shipped, now) = (std::mem::take(&mut self.shipped), Time(self.now));
        let store = self.store(id);
        store.settle(&shipped, now);
        let (sent, said) = (std::mem::take(&mut store.sent), std::mem::take(&mut store.said));
        self.shipped = shipped;
        self.queue.extend(sent);
        said.into_iter().for_each(|line| self.say(line));
    }

    /// Replicas that have applied the same hold the same, and say the same of themselves.
    fn check(&self) {
        let mut states = BTreeMap::new();
        for store in self.stores.iter().filter(|(id, _)| !self.down.contains(id)).map(|(_, store)| store) {
            for replica in store.table.iter().filter(|replica| replica.life() == Life::Live) {
                let state = (replica.region().clone(), store.tree.of(replica.region()));
                let known =
                    states.entry((replica.id(), replica.applied_index())).or_insert_with(|| state.clone());
                assert_eq!(*known, state, "two replicas of {} differ", replica.id());
            }
        }
    }

    fn deliver(&mut self, link: Option<&str>, lose: bool) {
        for _ in 0..10_000 {
            let place = self.queue.iter().position(|one| link.is_none_or(|link| is_on(one, link)));
            let Some(message) = place.and_then(|place| self.queue.remove(place)) else { return };
            let text = show_message(&message);
            if lose {
                self.say(format!("{text}  (lost)"));
                continue;
            }
            let (from, to) = (message.from.store.0, message.to.store.0);
            if self.parted.contains(&(from, to)) {
                self.say(format!("{text}  (lost)"));
                continue;
            }
            if self.down.contains(&to) || !self.stores.contains_key(&to) {
                self.say(format!("{text}  (down)"));
                continue;
            }
            if !self.down.contains(&from) {
                self.hear(from, to);
            }
            let note = self.arrive(to, message);
            self.say(format!("{text}{note}"));
            self.settle_all();
        }
        panic!("the stores talk for ever");
    }

    /// What a store does with a message, as a note if it did not simply take it.
    fn arrive(&mut self, to: u64, message: PeerMessage) -> String {
        let now = Time(self.now);
        let store = self.store(to);
        match store.table.admit(&message) {
            Verdict::Step => {
                let replica = store.table.get_mut(message.region).expect("the verdict says so");
                let stepped = replica.step(now, message);
                stepped.map_or_else(|dropped| format!("  ({})", dropped.name()), |()| String::new())
            }
            Verdict::Create if store.is_unburied(message.region) => "  (unburied)".to_owned(),
            Verdict::Create => {
                store.create(&message, now);
                format!("  (created){}", self.arrive(to, message))
            }
            Verdict::Destroy if store.is_needed_by_halves(message.region) => "  (splitting)".to_owned(),
            Verdict::Destroy => {
                let replica = store.table.get_mut(message.region).expect("the verdict says so");
                replica.destroy(message.epoch);
                self.settle(to);
                format!("  (destroyed){}", self.arrive(to, message))
            }
            Verdict::TellRemoved => {
                let answer = match store.table.get(message.region) {
                    Some(replica) => replica.tell_removed(&message),
                    None => {
                        let record = store.table.tombstone(message.region).expect("the verdict says so");
                        Peer::tell_removed_before(&message, record)
                    }
                };
                self.queue.push_back(answer);
                "  (sender is removed)".to_owned()
            }
            Verdict::TellMerged(into) => {
                let record = store.table.tombstone(message.region).expect("the verdict says so");
                let answer = Peer::tell_merged(&message, record, into);
                self.queue.push_back(answer);
                format!("  (taken in by {into})")
            }
            Verdict::HearMerged(into) => {
                let has_ended = store.table.get(into).is_none() && store.table.tombstone(into).is_some();
                if !has_ended || store.is_needed_by_halves(message.region) {
                    return "  (waits)".to_owned();
                }
                let replica = store.table.get_mut(message.region).expect("the verdict says so");
                replica.destroy(message.epoch);
                self.settle(to);
                "  (destroyed)".to_owned()
            }
            Verdict::Drop(Stray::Absent) if store.table.keep_vote(&message) => "  (Absent, kept)".to_owned(),
            Verdict::Drop(stray) => format!("  ({stray:?})"),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `FROM>TO`.
fn link(word: &str) -> (u64, u64) {
    let (from, to) = word.split_once('>').expect("FROM>TO");
    (number(from), number(to))
}

/// Whether the message travels from one store of `FROM>TO` to the other.
fn is_on(message: &PeerMessage, link: &str) -> bool {
    (message.from.store.0, message.to.store.0) == self::link(link)
}

impl play::Stage for Stage {
    fn run(&mut self, line: &str) {
        Self::run(self, line);
    }

    fn take_said(&mut self) -> String {
        std::mem::take(&mut self.out)
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regions/scripts")
}

#[test]
fn scripts_show_what_happens() {
    play::play_all::<Stage>(&folder(), 30);
}

/// A planted bug makes the output of some script differ, or an invariant fail.
#[test]
fn bugs_in_regions_are_caught() {
    let mut missed = Vec::new();
    for bug in Bug::REGION.into_iter().chain(Bug::SPLIT).chain(Bug::QUIET).chain(Bug::MERGE_STEPS) {
        let caught = play::scripts(&folder(), 30).into_iter().any(|(_, text)| {
            let planted = move || {
                plant(Some(bug));
                play::play::<Stage>(&text) != text
            };
            std::thread::spawn(planted).join().unwrap_or(true)
        });
        if !caught {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
