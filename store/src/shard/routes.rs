//! Which store of this node owns which keys: a full copy on every core, so that routing is one search in local memory.

use bytes::Bytes;

/// The node's regions in key order; together they cover the key space.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    places: Vec<Place>,
}

/// One region's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// First key.
    pub start: Bytes,
    /// First key behind the region; empty means no bound.
    pub end: Bytes,
    /// The region.
    pub region_id: u64,
    /// The index, on this node, of the store that owns it.
    pub store: usize,
}

impl Place {
    /// Whether `key` lies in the region.
    pub fn contains(&self, key: &[u8]) -> bool {
        *self.start <= *key && (self.end.is_empty() || *key < *self.end)
    }
}

impl Routes {
    /// Routes from the places of all regions, in any order.
    pub fn new(mut places: Vec<Place>) -> Self {
        places.sort_by(|left, right| left.start.cmp(&right.start));
        Self { places }
    }

    /// The region that contains `key`, if the node has it.
    pub fn find(&self, key: &[u8]) -> Option<&Place> {
        let behind = self.places.partition_point(|place| place.start.as_ref() <= key);
        let place = self.places.get(behind.checked_sub(1)?)?;
        (place.end.is_empty() || key < place.end.as_ref()).then_some(place)
    }

    /// The region that contains the greatest key below `key`; the empty key stands for the end of the key space.
    pub fn find_before(&self, key: &[u8]) -> Option<&Place> {
        if key.is_empty() {
            return self.places.last();
        }
        let behind = self.places.partition_point(|place| place.start.as_ref() < key);
        self.places.get(behind.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Routes {
        let place = |start: &'static str, end: &'static str, region_id| Place {
            start: Bytes::from_static(start.as_bytes()),
            end: Bytes::from_static(end.as_bytes()),
            region_id,
            store: 0,
        };
        Routes::new(vec![place("m", "", 3), place("", "c", 1), place("c", "m", 2)])
    }

    #[test]
    fn a_key_is_found_in_the_region_that_contains_it() {
        let routes = routes();
        for (key, region) in [("", 1), ("b", 1), ("c", 2), ("lz", 2), ("m", 3), ("zz", 3)] {
            assert_eq!(routes.find(key.as_bytes()).unwrap().region_id, region, "{key}");
            let containing: Vec<u64> = routes
                .places
                .iter()
                .filter(|place| place.contains(key.as_bytes()))
                .map(|place| place.region_id)
                .collect();
            assert_eq!(containing, [region], "{key}");
        }
    }

    #[test]
    fn the_region_before_a_boundary_is_the_one_that_ends_there() {
        let routes = routes();
        for (key, region) in [("", 3), ("c", 1), ("cc", 2), ("m", 2), ("n", 3)] {
            assert_eq!(routes.find_before(key.as_bytes()).unwrap().region_id, region, "{key}");
        }
    }
}
