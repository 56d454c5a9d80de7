//! The scheduler: the map of regions and stores, and what should change in it.
//!
//! Every region's leader reports to the scheduler who holds the region, how large it is and who lags; every store
//! reports how full and how busy it is. From this the scheduler keeps a map of the whole cluster, and a handful of
//! policies compare the map with what it should look like: every region fully replicated on distinct nodes, sizes,
//! leaders and load even, nothing on stores that are leaving. What should change becomes an *operator*, a list of small
//! safe steps, and the answer to a region's next report is the next step of its operator.
//!
//! ```text
//!   reports ──▶ cluster ──▶ view ──▶ check · balance · ask ──▶ Proposal ──▶ Operator ──▶ Instruction
//!               (the map)            (policies)                 (what)       (steps)      (to a leader)
//!                                         └──▶ Refusal (why not)
//! ```
//!
//! The crate has no dependencies, does no IO, reads no clock and draws no randomness that was not handed in. Equal
//! inputs give equal outputs, so a whole cluster's life can be replayed from a seed. It is hosted by `store`, which
//! gives it reports, ids, time and a Raft group for what must not be forgotten.
//!
//! # Where to look
//! | for | see |
//! |---|---|
//! | words shared with `store` | [`id`], [`range`], [`region`], [`epoch`], [`change`] |
//! | what is known | [`cluster`], [`store`], [`load`] |
//! | what the host calls, and how often | [`scheduler`] (soft), [`state`] and [`tso`] (replicated), [`pace`] |
//! | what is repaired | [`check`] |
//! | what would be nicer | [`balance`] |
//! | what was asked for | [`ask`] |
//! | where a replica may go | [`placement`], [`filter`] |
//! | how it is done safely | [`operator`] |
//! | what garbage collection must not pass | [`services`] |
//! | the configuration by name | [`settings`] |
//! | why nothing happens | [`verdict`] in one sentence, [`why`] by policy |
//!
//! # Words
//! - **region**: a key range and its Raft group; **peer**: one replica; **store**: one core's regions; **node**: one
//!   process, whose stores fail together.
//! - **epoch**: `(conf_ver, version)`, the incarnation of a region's membership and range.
//! - **relocation**: moving a peer to another store of its node, which moves no bytes over the network.
//! - **influence**: what running operators are about to change, counted in by every policy.
//! - **lagging** or *pending* peer: one that is not caught up; **down** peer: one that its leader does not hear.
//!
//! # Invariants
//! - The map's counters equal a recount at any time ([`Cluster::check`]).
//! - A region has at most one operator, and a step is sent only after it was found safe against the latest report.
//! - No step sent by us leaves a region with fewer than a majority of its voters live, as far as we know; and the rule
//!   itself, [`change::keeps_quorum`], is for the region's leader to ask again, since it knows more.
//! - Two replicas of a region are never put on one node.
//! - At rest nothing moves: every balancing proposal lowers one common number ([`balance`] says which).
//!
//! # Not done here, on purpose
//! - **Placement rules per key range**, follower-only or witness replicas. One number of replicas and one list of
//!   location labels hold for all regions.
//! - **Persisting the map.** It is rebuilt from reports faster than it could be loaded.
//! - **Guessing.** A store that is silent is waited for, and a region without a known leader is left alone: who holds
//!   the only good copy cannot be seen from here.

#![warn(clippy::wildcard_enum_match_arm)]

pub mod ask;
pub mod audit;
pub mod balance;
pub mod change;
pub mod check;
pub mod cluster;
pub mod config;
pub mod epoch;
pub mod filter;
pub mod heat;
pub mod id;
pub mod load;
pub mod merge;
pub mod operator;
pub mod pace;
pub mod placement;
pub mod prepare;
pub mod range;
pub mod region;
pub mod rng;
pub mod scheduler;
pub mod services;
pub mod settings;
pub mod state;
pub mod store;
pub mod time;
pub mod tso;
pub mod verdict;
pub mod why;

pub use audit::{ConfigChange, ConfigChanges};
pub use change::{Change, ChangeError};
pub use cluster::{Cluster, DownPeer, RegionInfo, RegionRefusal, RegionReport, StoreRefusal};
pub use config::Config;
pub use epoch::{Command, Epoch, EpochMismatch};
pub use filter::{Reason, Refusal, View};
pub use id::{NodeId, PeerId, RegionId, StoreId};
pub use load::{Load, LoadCut};
pub use operator::{Action, Instruction, NewRegion, Operator, Operators, Policy, Proposal};
pub use range::{Key, KeyRange, RangeError};
pub use region::{Peer, Region, RegionError, Role};
pub use rng::Rng;
pub use scheduler::{Scheduler, Tick};
pub use services::{ServiceRefusal, ServiceSafePoint, Services};
pub use settings::{Setting, SettingError};
pub use state::{State, StateAnswer, StateCommand, StateImage, StateRefusal};
pub use store::{Health, Lifecycle, Store, StoreDescriptor, StoreReport};
pub use time::Time;
pub use tso::{Oracle, Timestamp, TsoRefusal};
pub use verdict::Verdict;
