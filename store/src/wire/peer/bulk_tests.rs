//! The parts of a snapshot as bytes: they survive their codec, their bytes stay as they are, and no other bytes are taken for them.

use raft::{GroupId, LogId, Membership, Message, NodeId, Payload, Snapshot, Term};
use scheduler::{Epoch, KeyRange, Peer, PeerId, RegionId, StoreId};

use super::super::frame::{self, Decoder, FrameKind};
use super::*;
use crate::region::message::{Body, PeerMessage};

fn offer() -> Offer {
    let membership = Membership::of([NodeId(11), NodeId(12)]);
    let snapshot = Snapshot { last: LogId::new(6, 99), membership, context: Payload::from("record") };
    let raft = Message {
        group: GroupId(7),
        from: NodeId(11),
        to: NodeId(12),
        term: Term(8),
        body: raft::Body::Snapshot(Box::new(snapshot)),
    };
    let message = PeerMessage {
        region: RegionId(7),
        from: Peer::voter(PeerId(11), StoreId(1)),
        to: Peer::voter(PeerId(12), StoreId(2)),
        epoch: Epoch::new(3, 4),
        range: Some(KeyRange::new("b", "m").unwrap()),
        body: Body::Raft(Box::new(raft)),
    };
    Offer { identity: 0x0102_0304, bytes: 77, message }
}

fn piece() -> Piece {
    Piece {
        cf: Cf::Write,
        start: b"ba".to_vec(),
        end: b"bz".to_vec(),
        file_bytes: 8192,
        entries: 5,
        identity: 6,
        body_crc: 0x0a0b_0c0d,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_a_bulk_connection_says_survives_its_codec() {
    assert_eq!(decode_offer(&encode_offer(&offer(), Vec::new())), Ok(offer()));
    assert_eq!(decode_piece(&encode_piece(3, &piece(), Vec::new())), Ok((3, piece())));
    let block = [7; BLOCK_BYTES];
    assert_eq!(decode_chunk(&encode_chunk(4096, &block, Vec::new())), Ok((4096, &block[..])));
    assert_eq!(decode_count(&encode_count(9, Vec::new())), Ok(9));
}

/// Nodes of different versions meet: these bytes must stay readable.
#[test]
fn the_bytes_stay_as_they_are() {
    let said = [encode_offer(&offer(), Vec::new()), encode_piece(3, &piece(), Vec::new())];
    let lines: Vec<String> = said.iter().map(|bytes| hex(bytes)).collect();
    let fixture = include_str!("../../../tests/fixtures/bulk-v1.hex");
    assert_eq!(lines.join("\n"), fixture.trim_end());
}

#[test]
fn what_is_cut_short_anywhere_is_refused() {
    let (offered, piece_frame) = (encode_offer(&offer(), Vec::new()), encode_piece(3, &piece(), Vec::new()));
    for cut in 0..offered.len() {
        assert!(decode_offer(&offered[..cut]).is_err(), "an offer cut at {cut}");
    }
    for cut in 0..piece_frame.len() {
        // The end is whatever remains; it is compared with the file later.
        assert!(decode_piece(&piece_frame[..cut]) != Ok((3, piece())), "a piece cut at {cut}");
    }
    let chunk = encode_chunk(0, &[7; BLOCK_BYTES], Vec::new());
    for cut in 0..chunk.len() {
        assert!(decode_chunk(&chunk[..cut]).is_err(), "a chunk cut at {cut}");
    }
    for bytes in 0..20 {
        assert_eq!(decode_count(&vec![1; bytes]).is_ok(), bytes == 8, "a number of {bytes} bytes");
    }
}

/// The frame's checksum finds every flipped bit. If it did not, the decoder would still not panic, and what it takes is within bounds.
#[test]
fn every_flipped_byte_is_found_by_the_frame_and_harmless_behind_it() {
    let parts: [(FrameKind, Vec<u8>); 4] = [
        (FrameKind::Offer, encode_offer(&offer(), Vec::new())),
        (FrameKind::Piece, encode_piece(3, &piece(), Vec::new())),
        (FrameKind::Chunk, encode_chunk(0, &[7; BLOCK_BYTES], Vec::new())),
        (FrameKind::Have, encode_count(9, Vec::new())),
    ];
    for (kind, good) in parts {
        let mut framed = Vec::new();
        frame::push(&mut framed, kind, |mut out| {
            out.extend_from_slice(&good);
            out
        });
        for at in 0..framed.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = framed.clone();
                bad[at] ^= flip;
                let mut decoder = Decoder::new(BULK_FRAME_BYTES_MAX);
                decoder.feed(&bad);
                assert!(!matches!(decoder.next_frame(), Ok(Some(_))), "{kind:?}: byte {at} ^ {flip}");
            }
        }
        for at in 0..good.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                if let Ok((_, piece)) = decode_piece(&bad) {
                    assert!(piece.file_bytes.is_multiple_of(BLOCK_BYTES as u64));
                    assert!(piece.file_bytes <= FILE_BYTES_MAX && piece.start.len() <= KEY_BYTES_MAX);
                }
                if let Ok((_, bytes)) = decode_chunk(&bad) {
                    assert!(bytes.len() <= CHUNK_BYTES && bytes.len().is_multiple_of(BLOCK_BYTES));
                }
                assert!(decode_offer(&bad).is_err() || kind == FrameKind::Offer);
                assert!(decode_count(&bad).is_err() || kind == FrameKind::Have);
            }
        }
    }
}

#[test]
fn no_file_is_believed_to_be_as_long_as_it_likes() {
    let with = |change: &dyn Fn(&mut Piece)| {
        let mut changed = piece();
        change(&mut changed);
        decode_piece(&encode_piece(0, &changed, Vec::new()))
    };
    for file_bytes in [0, 1, 4095, 4097, FILE_BYTES_MAX + 4096, u64::MAX] {
        assert!(with(&|piece| piece.file_bytes = file_bytes).is_err(), "{file_bytes} bytes");
    }
    assert!(with(&|piece| piece.start = vec![1; KEY_BYTES_MAX + 1]).is_err());
    assert!(with(&|piece| piece.end = vec![1; KEY_BYTES_MAX + 2]).is_err());
    assert!(with(&|piece| piece.end = vec![1; KEY_BYTES_MAX + 1]).is_ok());
}
