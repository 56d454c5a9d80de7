//! When the requests of a connection are due. In an open loop that follows from the rate alone, never from answers.

use std::time::Duration;

use engine::rt::Mono;

use super::Options;

/// When a connection's requests are due.
#[derive(Debug)]
pub(super) struct Pace {
    began: Mono,
    /// Nanoseconds between two requests of this connection, for an open loop.
    every_ns: Option<f64>,
    /// Where this connection's first request lies within that interval.
    offset_ns: f64,
    pub(super) sent: u64,
}

impl Pace {
    pub(super) fn new(options: &Options, began: Mono, lane: usize) -> Self {
        let lanes = options.connections as f64;
        let every_ns = options.rate.map(|rate| lanes * 1e9 / rate);
        let offset_ns = every_ns.map_or(0.0, |every| every * lane as f64 / lanes);
        Self { began, every_ns, offset_ns, sent: 0 }
    }

    /// When the next request is due; in a closed loop that is `now`.
    pub(super) fn due(&self, now: Mono) -> Mono {
        match self.every_ns {
            None => now,
            Some(every) => {
                self.began + Duration::from_nanos((self.offset_ns + every * self.sent as f64) as u64)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tests;

    #[test]
    fn an_open_loop_spreads_its_connections_over_the_interval() {
        let options = tests::options(4, Some(1000.0));
        let mut due = Vec::new();
        for lane in 0..4 {
            let mut pace = Pace::new(&options, Mono(0), lane);
            for sent in 0..3 {
                pace.sent = sent;
                due.push(pace.due(Mono(u64::MAX)).0);
            }
        }
        due.sort_unstable();
        let expected: Vec<u64> = (0..12).map(|n| n * 1_000_000).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn a_late_open_loop_keeps_the_time_that_was_due() {
        let options = tests::options(1, Some(1000.0));
        let mut pace = Pace::new(&options, Mono(0), 0);
        pace.sent = 7;
        assert_eq!(pace.due(Mono(900_000_000)), Mono(7_000_000), "the stall is part of the latency");
        let closed = Pace::new(&tests::options(1, None), Mono(0), 0);
        assert_eq!(closed.due(Mono(5)), Mono(5));
    }
}
