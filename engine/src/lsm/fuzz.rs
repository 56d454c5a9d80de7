//! Every decoder of the tree's files behind one function per format, for fuzzing: whatever the bytes are, an answer, never a
//! panic and never an allocation that the bytes do not pay for.

use bytes::Bytes;

use super::key::{Direction, SeqNo};
use super::manifest;
use super::table::block::BlockView;
use super::table::handles::Handles;
use super::table::{Footer, PartView, Place, locate, open_frame, walk_index};

/// Decodes `bytes` as a data block: walks all of it and searches in it.
pub fn block(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let Ok(view) = BlockView::parse(&bytes) else { return };
    for interval in 0..view.intervals() {
        let Ok(chunk) = view.decode(interval, &bytes) else { return };
        for at in 0..chunk.len() {
            if let Some(entry) = chunk.get(at) {
                // What a search lands on depends on the order, which damage may break; that it ends does not.
                let _ = view.seek(entry.key, entry.seq);
            }
        }
    }
    let _ = view.seek(b"", SeqNo::MAX);
}

/// Decodes `bytes` as a part: its index and its filter.
pub fn index(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(view) = PartView::parse(&bytes) {
        let _ = super::filter::may_contain(view.filter, 0x1234_5678_9ABC_DEF0);
        let _ = locate(&bytes, view.index, b"key");
        let _ = walk_index(&view.index_bytes(&bytes), b"k", |_, _| true);
    }
    let _ = walk_index(&bytes, b"", |_, _| true);
    for direction in [Direction::Forward, Direction::Reverse] {
        let Ok(mut walk) = Handles::new(bytes.clone(), direction, b"a", b"k") else { continue };
        while let Ok(Some(_)) = walk.next(direction, b"a", b"k") {}
    }
}

/// Decodes `bytes` as a footer, and as a frame at offset 0 of the file with identity 0.
pub fn footer(bytes: &[u8]) {
    let _ = Footer::decode(bytes);
    let _ = open_frame(bytes, Place { identity: 0, offset: 0 });
}

/// Decodes `bytes` as a manifest with number 1.
pub fn manifest(bytes: &[u8]) {
    let _ = manifest::replay(bytes, 1);
}
