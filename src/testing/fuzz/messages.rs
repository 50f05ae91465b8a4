//! Messages of control and sibling connections, and the records that they carry.
//!
//! The first octet of an input says into what pieces the rest is cut before it is read.

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::peering;
use crate::wire::{control, sibling};

/// Pieces of so many octets, by the first octet of the input.
const PIECES: [usize; 4] = [1, 7, 512, usize::MAX];

fn pieces(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (how, rest) = input.split_first().unwrap_or((&0, &[]));
    rest.chunks(PIECES[usize::from(how & 3)])
}

/// What a peer sends on a control connection.
pub(super) fn control(input: &[u8]) {
    let mut decoder = control::Decoder::default();
    for piece in pieces(input) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next_message() {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(message)) => told(message),
            }
        }
        assert!(decoder.buffer().len() <= control::MAX_MESSAGE_BYTES + 8, "more than a message");
    }
}

fn told(message: control::Received) {
    assert!(message.size <= control::MAX_MESSAGE_BYTES);
    let Some(body) = message.body else { return };
    if let control::Body::SnapshotChunk(chunk) = &body {
        chunk.records.iter().for_each(record);
    }
    let mut written = BytesMut::new();
    control::encode(body.clone(), &mut written);
    let mut again = control::Decoder::default();
    again.buffer().extend_from_slice(&written);
    match again.next_message() {
        Ok(Some(message)) => {
            assert!(!message.unknown_fields, "a field of our own is not known");
            assert_eq!(message.body, Some(body));
        }
        // Fields given twice are read as one, so what is written may only be shorter; defaults
        // are left out; maps are deduplicated. Longer would be a loss of the cap.
        other => panic!("{other:?} for what was read before"),
    }
}

/// One record of a catalog, as a subscriber judges it.
pub(super) fn records(input: &[u8]) {
    record(&Bytes::copy_from_slice(input));
}

fn record(octets: &Bytes) {
    let Some(written) = peering::reread(octets) else { return };
    assert_eq!(peering::reread(&written).as_ref(), Some(&written), "read as another record");
    assert!(control::Record::decode(written).is_ok());
}

/// What a replica of the own cluster sends.
pub(super) fn sibling(input: &[u8]) {
    let mut decoder = sibling::Decoder::default();
    for piece in pieces(input) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next_message() {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(None)) => {}
                Ok(Some(Some(body))) => said(body),
            }
        }
        assert!(decoder.buffer().len() <= sibling::MAX_MESSAGE_BYTES + 8, "more than a message");
    }
}

fn said(body: sibling::Body) {
    if let sibling::Body::State(state) = &body
        && let Ok(open) = state.open()
    {
        let open: Vec<_> = open.collect();
        assert!(open.len() < 2 * 65_536);
        let again = sibling::State::new(&open, state.draining);
        assert_eq!(again.open().expect("ports that exist").collect::<Vec<_>>(), open);
    }
    let mut written = BytesMut::new();
    sibling::encode(body.clone(), &mut written);
    let mut again = sibling::Decoder::default();
    again.buffer().extend_from_slice(&written);
    assert_eq!(again.next_message(), Ok(Some(Some(body))));
}
