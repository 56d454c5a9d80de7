//! The scenarios of the TinyKV course, under the course's own names. They presume that neither pre-vote nor
//! check-quorum is on, and that a node's disk is done after every step. The one deliberate difference: a leader counts
//! its own entry only when it is durable, see `raw_node_start_2ac`.

mod aa_election;
mod ab_replication;
mod ac_driver;
mod c_snapshot;
mod transfer_and_members_3a;
