//! The safe points of services: what backups and change feeds still need, so that garbage collection does not pass it.
//!
//! A service names a timestamp and until when that stands. The collector is one of them, always there and at 0 until it says more; up to the
//! least of all, versions may be collected.
//!
//! What holds: nothing is entered below the least one, because that may be collected already; there are at most [`SERVICES_MAX`], and
//! what has expired makes room. Time is the caller's, as part of the replicated command, so that replicas agree.

use std::collections::BTreeMap;
use std::fmt;

/// Services that may have a safe point.
pub const SERVICES_MAX: usize = 1024;
/// The longest name of one, bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// The name of the collector.
pub const COLLECTOR: &[u8] = b"gc_worker";
/// Until when a safe point stands that does not expire.
pub const NEVER: u64 = u64::MAX;

/// The safe point of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSafePoint {
    /// Its name.
    pub service: Vec<u8>,
    /// From this timestamp on it needs versions.
    pub timestamp: u64,
    /// When that ends, milliseconds since the Unix epoch; [`NEVER`] if it does not.
    pub expires_ms: u64,
}

/// The safe points by service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services(BTreeMap<Vec<u8>, (u64, u64)>);

/// Why a safe point is not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceRefusal {
    /// The name is empty or too long; its bytes.
    Name(usize),
    /// The collector's safe point does not expire and is not removed.
    Collector,
    /// There are [`SERVICES_MAX`] already.
    Full,
}

impl fmt::Display for ServiceRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(bytes) => {
                write!(f, "the name of a service has 1 to {NAME_BYTES_MAX} bytes, not {bytes}")
            }
            Self::Collector => {
                f.write_str("the safe point of gc_worker is not removed and does not expire; give it no TTL")
            }
            Self::Full => write!(
                f,
                "{SERVICES_MAX} services have a safe point; remove one first, or wait until one expires"
            ),
        }
    }
}

impl Services {
    /// Those that were [listed](Self::list).
    ///
    /// # Errors
    /// One of them could not have been entered.
    pub fn of(all: impl IntoIterator<Item = ServiceSafePoint>) -> Result<Self, ServiceRefusal> {
        let mut services = Self::default();
        for ServiceSafePoint { service, timestamp, expires_ms } in all {
            services.admit(&service, expires_ms)?;
            services.0.insert(service, (timestamp, expires_ms));
        }
        Ok(services)
    }

    /// Every safe point that was entered, by name.
    pub fn list(&self) -> impl Iterator<Item = ServiceSafePoint> {
        self.0.iter().map(|(service, (timestamp, expires_ms))| ServiceSafePoint {
            service: service.clone(),
            timestamp: *timestamp,
            expires_ms: *expires_ms,
        })
    }

    /// Whether nothing was entered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The least safe point.
    #[must_use]
    pub fn least(&self) -> ServiceSafePoint {
        let collector = ServiceSafePoint { service: COLLECTOR.to_vec(), timestamp: 0, expires_ms: NEVER };
        let implied = (!self.0.contains_key(COLLECTOR)).then_some(collector);
        let all = self.list().chain(implied);
        all.min_by_key(|known| known.timestamp).expect("the collector always has one")
    }

    /// Enters a safe point, or removes it if it has expired `now_ms`; answers the least one then. One below the least is not entered, which
    /// the answer shows.
    ///
    /// # Errors
    /// The name is none, or there are too many; nothing is changed then.
    pub fn set(&mut self, new: ServiceSafePoint, now_ms: u64) -> Result<ServiceSafePoint, ServiceRefusal> {
        let ServiceSafePoint { service, timestamp, expires_ms } = new;
        let mut after = self.clone();
        after.0.retain(|_, (_, until)| *until > now_ms);
        if expires_ms <= now_ms && service != COLLECTOR {
            after.0.remove(&service);
        } else {
            after.admit(&service, expires_ms)?;
            if timestamp >= after.least().timestamp {
                after.0.insert(service, (timestamp, expires_ms));
            }
        }
        *self = after;
        Ok(self.least())
    }

    fn admit(&self, service: &[u8], expires_ms: u64) -> Result<(), ServiceRefusal> {
        if service.is_empty() || service.len() > NAME_BYTES_MAX {
            return Err(ServiceRefusal::Name(service.len()));
        }
        if service == COLLECTOR && expires_ms != NEVER {
            return Err(ServiceRefusal::Collector);
        }
        match self.0.len() >= SERVICES_MAX && !self.0.contains_key(service) {
            true => Err(ServiceRefusal::Full),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(service: &str, timestamp: u64, expires_ms: u64) -> ServiceSafePoint {
        ServiceSafePoint { service: service.into(), timestamp, expires_ms }
    }

    #[test]
    fn the_least_one_decides_until_it_expires() {
        let mut services = Services::default();
        let collector = |timestamp| point("gc_worker", timestamp, NEVER);
        assert_eq!(services.set(point("backup", 5, 100), 10), Ok(collector(0)));
        assert_eq!(services.set(collector(9), 10), Ok(point("backup", 5, 100)));
        // What the collector may have passed is not promised any more.
        assert_eq!(services.set(point("feed", 4, 100), 20), Ok(point("backup", 5, 100)));
        assert_eq!(services.list().count(), 2);
        assert_eq!(services.set(point("feed", 6, 200), 20), Ok(point("backup", 5, 100)));
        assert_eq!(services.set(collector(20), 100), Ok(point("feed", 6, 200)));
        assert_eq!(services.set(point("feed", 0, 0), 100), Ok(collector(20)), "it is removed");
        assert_eq!(Services::of(services.list()), Ok(services));
    }

    #[test]
    fn names_and_numbers_are_bounded() {
        let mut services = Services::default();
        assert_eq!(services.set(point("", 5, 100), 10), Err(ServiceRefusal::Name(0)));
        assert_eq!(services.set(point(&"x".repeat(257), 5, 100), 10), Err(ServiceRefusal::Name(257)));
        for expires_ms in [0, 100] {
            assert_eq!(services.set(point("gc_worker", 5, expires_ms), 10), Err(ServiceRefusal::Collector));
        }
        for number in 0..SERVICES_MAX {
            services.set(point(&number.to_string(), 5, 100), 10).expect("there is room");
        }
        let full = services.clone();
        assert_eq!(services.set(point("more", 5, 100), 10), Err(ServiceRefusal::Full));
        assert_eq!(services, full);
        services.set(point("7", 6, 200), 10).expect("it is there already");
        services.set(point("more", 5, 200), 100).expect("most have expired");
        assert_eq!(services.list().count(), 2);
    }
}
