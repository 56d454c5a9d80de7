//! What one seed means, expanded. Printed with every failure; limits are small so that rare paths run often.

use std::sync::Arc;

use raft::Config;

use crate::rng::Rng;

/// One tick of a replica, in units of simulated time.
pub(crate) const TICK: u64 = 10;
/// Nanoseconds per unit.
pub(crate) const UNIT: u64 = 1_000;

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) voters: u64,
    pub(crate) learners: u64,
    /// Replicas outside the group at first, waiting to be added.
    pub(crate) spares: u64,
    pub(crate) fault_units: u64,
    pub(crate) config: Arc<Config>,
    /// Chances per message, in per mille.
    pub(crate) loss: u64,
    pub(crate) duplicate: u64,
    pub(crate) delay_max: u64,
    pub(crate) late: u64,
    pub(crate) late_max: u64,
    /// Maximum time of a write, in units, and that of a slow disk.
    pub(crate) write_max: u64,
    pub(crate) slow_write_max: u64,
    pub(crate) apply_max: u64,
    /// Chances per unit, in 1/100 of a per mille.
    pub(crate) crash: u64,
    pub(crate) pause: u64,
    pub(crate) partition: u64,
    pub(crate) change: u64,
    pub(crate) transfer: u64,
    pub(crate) campaign: u64,
    pub(crate) duel: u64,
    /// In per mille of votes given.
    pub(crate) crash_after_vote: u64,
    pub(crate) flush: u64,
    pub(crate) propose: u64,
    pub(crate) read: u64,
    /// Highest deviation of a clock's rate, in per mille.
    pub(crate) drift: u64,
    pub(crate) priorities: bool,
}

impl Options {
    pub(crate) fn from_seed(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let voters = if rng.chance(150) { 1 } else { rng.between(1, 5).max(3) };
        let check_quorum = rng.chance(800);
        let lease = check_quorum && rng.chance(600);
        let message_bytes_max = *rng.pick(&[1, 150, 1 << 20]);
        let config = Config {
            election_ticks: rng.between(5, 10) as u32,
            heartbeat_ticks: rng.between(1, 2) as u32,
            pre_vote: rng.chance(700),
            check_quorum,
            lease_nanos: if lease { UNIT * rng.between(40, 200) } else { 0 },
            lease_drift_percent: 10,
            message_bytes_max,
            inflight_messages_max: rng.between(1, 8) as usize,
            inflight_bytes_max: message_bytes_max * rng.between(1, 4),
            entry_bytes_max: 1 << 20,
            uncommitted_bytes_max: 1 << 20,
            cache_bytes_max: *rng.pick(&[0, 200, 1 << 20]),
            apply_bytes_max: *rng.pick(&[1, 100, 1 << 20]),
            snapshot_ticks_max: rng.between(10, 30) as u32,
            quiet_after_ticks: if rng.chance(300) { rng.between(12, 20) as u32 } else { 0 },
            commits_at_once: seed % 4 != 3,
        };
        config.validate().expect("a sound configuration");
        let often = |rng: &mut Rng, chance, max| if rng.chance(chance) { rng.between(1, max) } else { 0 };
        Self {
            seed,
            voters,
            learners: if voters == 1 { 2 } else { rng.between(0, 1) },
            spares: rng.between(0, 2),
            fault_units: 2500,
            config: Arc::new(config),
            loss: often(rng, 600, 200),
            duplicate: often(rng, 600, 200),
            delay_max: rng.between(1, 15),
            late: if rng.chance(300) { rng.between(50, 300) } else { often(rng, 500, 60) },
            late_max: rng.between(50, 400),
            write_max: rng.between(0, 8),
            slow_write_max: rng.between(20, 300),
            apply_max: rng.between(0, 40),
            crash: often(rng, 700, 300),
            pause: often(rng, 400, 200),
            partition: often(rng, 700, 600),
            change: often(rng, 600, 1500),
            transfer: often(rng, 600, 600),
            campaign: often(rng, 400, 300),
            duel: often(rng, 400, 600),
            crash_after_vote: often(rng, 300, 300),
            flush: often(rng, 800, 3000),
            propose: rng.between(3000, 20000),
            read: rng.between(2000, 10000),
            drift: if rng.chance(500) { 40 } else { 0 },
            priorities: rng.chance(200),
        }
    }
}
