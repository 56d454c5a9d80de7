//! The bytes of the file in which 0.1 kept the scheduler's state.
//!
//! ```text
//! 0          8                        n          n + 4
//! +----------+------------------------+----------+
//! | RKCTRL01 | rkyv archive of Image  | crc32    |
//! +----------+------------------------+----------+
//!              unaligned, little-endian; the checksum covers everything before it
//! ```
//!
//! It is only read any more: the state lies in the system group, see [`region::system`](crate::region::system).

use rkyv::rancor::Error;
use scheduler::StateImage;

use crate::region::system::image::{DamagedState, Image};

const MAGIC: &[u8; 8] = b"RKCTRL01";

/// The state in a file's bytes.
///
/// # Errors
/// What is wrong with them, as the rest of a sentence about the file.
pub(super) fn decode(bytes: &[u8]) -> Result<StateImage, DamagedState> {
    let body = checked(bytes)?;
    let image = rkyv::from_bytes::<Image, Error>(&body[MAGIC.len()..])
        .map_err(|_| DamagedState("its archive is broken"))?;
    image.restore()
}

fn checked(bytes: &[u8]) -> Result<&[u8], DamagedState> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(DamagedState("it is too short"))?;
    if !body.starts_with(MAGIC) {
        return Err(DamagedState("it does not begin as a file of this version"));
    }
    if u32::from_le_bytes(*sum) != crc32fast::hash(body) {
        return Err(DamagedState("its checksum does not match"));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::system::image::sample;
    use scheduler::State;

    /// As 0.1 wrote it.
    fn encode(state: &StateImage) -> Vec<u8> {
        let archive =
            rkyv::to_bytes::<Error>(&Image::from(state)).expect("plain values in memory are archived");
        let mut bytes = [&MAGIC[..], &archive].concat();
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    #[test]
    fn no_flipped_bit_and_no_other_length_is_taken() {
        let bytes = encode(&sample());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "length {length}");
        }
        assert!(decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn the_file_of_0_1_is_still_read() {
        let fixture = include_bytes!("../../tests/fixtures/control-v1/state.bin");
        let read = decode(fixture).expect("it was written by 0.1");
        assert_eq!(read, sample());
        State::restore(read).expect("and it keeps the invariants");
        assert_eq!(encode(&sample()), fixture);
    }
}
