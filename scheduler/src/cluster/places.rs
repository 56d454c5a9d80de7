//! Where each peer of a region is in its store's array, by position of the region's peers.
//!
//! Nearly every region has three peers, and a million of them would pay 32 bytes each for an allocation of twelve. So up
//! to three places are kept inline. How many count is known from the region's peers alone.

use std::ops::{Deref, DerefMut};

const FEW: usize = 3;

#[derive(Clone, Debug)]
pub(super) enum Places {
    Few([u32; FEW]),
    /// Boxed twice, so that the rare case is a thin pointer and costs the others nothing.
    Many(Box<Box<[u32]>>),
}

impl Default for Places {
    fn default() -> Self {
        Self::Few([0; FEW])
    }
}

impl Deref for Places {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        match self {
            Self::Few(places) => places,
            Self::Many(places) => places,
        }
    }
}

impl DerefMut for Places {
    fn deref_mut(&mut self) -> &mut [u32] {
        match self {
            Self::Few(places) => places,
            Self::Many(places) => places,
        }
    }
}

impl FromIterator<u32> for Places {
    fn from_iter<I: IntoIterator<Item = u32>>(places: I) -> Self {
        let mut places = places.into_iter();
        let mut few = [0; FEW];
        for slot in &mut few {
            let Some(place) = places.next() else { return Self::Few(few) };
            *slot = place;
        }
        match places.next() {
            None => Self::Few(few),
            Some(next) => Self::Many(Box::new(few.into_iter().chain([next]).chain(places).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_places_comes_back_and_three_cost_two_words() {
        for count in 0..9 {
            let mut places: Places = (1..=count).collect();
            assert_eq!(places[..count as usize], (1..=count).collect::<Vec<_>>());
            assert_eq!(matches!(places, Places::Few(_)), count <= 3);
            if count > 0 {
                places[count as usize - 1] = 77;
                assert_eq!(places[count as usize - 1], 77);
            }
        }
        assert_eq!(size_of::<Places>(), 16);
    }
}
