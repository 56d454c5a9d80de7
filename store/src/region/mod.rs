//! One region as its store sees it: a machine that owns its consensus core, its descriptor, and everything that waits for it.
//! Pure: no IO, no clock, no randomness.
//!
//! ```text
//!              submit, ask, propose_change, transfer                    answers, reads due
//!  clients  ───────────────────────────────────────►  ┌─────────┐  ─────────────────────────►
//!              step                                    │         │     send
//!  stores   ───────────────────────────────────────►  │ Replica │  ─────────────────────────►
//!              durable, fetched, compacted             │         │     write, fetch
//!  log      ───────────────────────────────────────►  │         │  ─────────────────────────►
//!              apply, applied                          │         │     apply, install, death
//!  tree     ───────────────────────────────────────►  └─────────┘  ─────────────────────────►
//!              tick
//!  clock    ───────────────────────────────────────►
//! ```
//!
//! # The life of a replica
//!
//! | from | to | when |
//! |---|---|---|
//! | absent | initialising | a leader's message names a peer here, nothing remembers that peer, and the range is free |
//! | absent | live | the store starts with it, or finds it on its disk, or it is the right half of a split |
//! | absent | tombstone | a store finds on its disk that the peer was removed |
//! | initialising | receiving | its first snapshot goes into the tree |
//! | initialising | tombstone | another store says that it was removed, or a newer peer is to live here |
//! | live | receiving | a snapshot replaces its state, because it fell too far behind |
//! | receiving | live | the tree has the snapshot, and the log begins after it |
//! | live | splitting | a split is applied; both halves are one batch |
//! | splitting | live | the right half is published |
//! | live | merging | it waits for its neighbour to take it in |
//! | merging | live | the merge was rolled back |
//! | merging | receiving | a snapshot replaces its state |
//! | merging | tombstone | it was taken in by its neighbour, or has ended as a live one may |
//! | live | tombstone | a neighbour that has taken it in comes by a snapshot |
//! | live | tombstone | its own removal is applied, or another store says so, or a newer peer is to live here |
//!
//! Nothing follows a tombstone: peer ids are never used again. What the store has of a tombstone is a record, not a replica.
//!
//! # Rooms
//!
//! | file | what it decides |
//! |---|---|
//! | `replica` | the state, and the inputs |
//! | `leadership` | the beginning and the end of a leadership, and of the replica |
//! | `doubt` | what was proposed before a leadership ended, as long as its fate may be learnt |
//! | `elections` | what was seen of elections |
//! | `peers` | who the peers are, where they live, how they change |
//! | `shipping` | entries and snapshots for followers |
//! | `check` | the invariants as assertions |
//! | `life` | which state of life may follow which |
//! | `lineage` | whether a store is an older copy of itself |
//! | `effects` | what is to be done; the one place that takes what the core has ready |
//! | `stages` | how long proposals take |
//! | `submit` | writes until they are proposed |
//! | `apply` | entries to a batch, the next descriptor, answers |
//! | `inflight` | values of writes that are in flight |
//! | `samples` | which keys are asked for, and where a cut would leave load on either side |
//! | `reads` | may a read be served now, and those that wait |
//! | `change` | membership: the scheduler's word, the log's bytes, the core's steps |
//! | `split` | one region becomes several: the log's bytes, the judgement, what each new replica begins with |
//! | `merge` `merging` | two regions become one: the log's bytes, the judgement, what is kept of it; and what a replica does meanwhile |
//! | `neighbours` | which other stores are heard, and which sleeping replicas wake with news of them |
//! | `message` | the envelope between stores, and what becomes of one that arrives |
//! | `guard` | may this request run here? |
//! | `command` `record` | codecs |
//! | `system` | the group whose entries are applied to the scheduler's state instead of keys |

pub mod apply;
pub mod change;
mod check;
pub mod command;
mod doubt;
pub mod effects;
pub mod elections;
pub mod guard;
pub mod inflight;
pub mod invitation;
mod leadership;
pub mod life;
pub mod lineage;
pub mod merge;
pub mod merging;
pub mod message;
pub mod neighbours;
pub mod peers;
pub mod reads;
pub mod record;
pub mod replica;
pub mod samples;
pub mod shipping;
pub mod split;
pub mod stages;
pub mod submit;
pub mod system;
