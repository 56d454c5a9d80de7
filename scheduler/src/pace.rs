//! How long the host waits before the next round: shortly while there is work, ever longer while there is none.
//!
//! A round costs a core some milliseconds, and an idle cluster needs few of them. After a round that began nothing the
//! wait grows by 30 percent up to a maximum; one that began an operator brings it back to the minimum, since what made
//! one move worth while usually makes the next one so.

const MIN_MS: u64 = 10;
const MAX_MS: u64 = 5_000;

/// The wait before the next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    wait_ms: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { wait_ms: MIN_MS }
    }
}

impl Pace {
    /// Takes note of a round that began this many operators, and answers how long to wait now, in milliseconds.
    pub fn after(&mut self, admitted: usize) -> u64 {
        self.wait_ms = if admitted > 0 { MIN_MS } else { (self.wait_ms * 13).div_ceil(10).min(MAX_MS) };
        self.wait_ms
    }
}

#[cfg(test)]
#[expect(non_snake_case, reason = "the test keeps the name under which the course knows it")]
mod tests {
    use super::*;

    #[test]
    fn TestInterval() {
        for seconds in [1, 5, 10] {
            let mut pace = Pace::default();
            let (mut idle_ms, mut wait_ms) = (0, 0);
            while idle_ms < seconds * 1_000 {
                wait_ms = pace.after(0);
                idle_ms += wait_ms;
            }
            assert!(wait_ms < seconds * 500, "{wait_ms} ms after {seconds} idle seconds");
        }
        let mut pace = Pace::default();
        assert_eq!([0; 4].map(|admitted| pace.after(admitted)), [13, 17, 23, 30]);
        assert!([0; 40].map(|admitted| pace.after(admitted)).iter().all(|wait_ms| *wait_ms <= 5_000));
        assert_eq!([pace.after(0), pace.after(1), pace.after(0)], [5_000, 10, 13]);
    }
}
