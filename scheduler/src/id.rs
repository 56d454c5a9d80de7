//! Identities: one newtype per kind of thing that is counted.
//!
//! All ids of a cluster come from one allocator (see [`crate::state`]), so a number names at most one thing over the
//! whole life of the cluster; a peer id in particular is never used twice. Zero is an ordinary value. "No leader" and
//! "no store" are `Option`s; only a wire format that has no other way may translate zero to `None`, at its own edge.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The bare number, for codecs and metrics.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}

id!(
    /// A region: a key range and its Raft group. Any `u64`; none is reserved.
    RegionId, "region"
);
id!(
    /// One replica of a region. Any `u64`; none is reserved; never used again once its peer is removed.
    PeerId, "peer"
);
id!(
    /// One store: a core's regions, log and tree. Any `u64`; none is reserved.
    StoreId, "store"
);
id!(
    /// One process, which holds one or more stores; they fail together. Any `u64`; none is reserved.
    NodeId, "node"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_an_ordinary_id_and_differs_from_absence() {
        assert_ne!(Some(StoreId(0)), None);
        assert_eq!(StoreId::from(0).get(), 0);
        assert_eq!(RegionId(0).to_string(), "region 0");
    }
}
