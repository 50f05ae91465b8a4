//! One connection over a stream that is cut as the test says and counts how it is used.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use prometheus::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::*;
use crate::dns::connection::Connection;
use crate::dns::shared::Shared;
use crate::dns::slots::{Slot, Slots};
use crate::drain;

/// What came of a stream.
#[derive(Debug, Default)]
struct Seen {
    reads: usize,
    writes: usize,
    written: Vec<u8>,
}

/// Gives these pieces, one per read, then ends; takes `room` octets per write.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    room: usize,
    seen: Arc<Mutex<Seen>>,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let seen = Arc::clone(&self.seen);
        seen.lock().unwrap().reads += 1;
        if let Some(mut piece) = self.pieces.pop_front() {
            let left = piece.split_off(piece.len().min(into.remaining()));
            into.put_slice(&piece);
            if !left.is_empty() {
                self.pieces.push_front(left);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut seen = self.seen.lock().unwrap();
        seen.writes += 1;
        // Every other write finds no room.
        if self.room < octets.len() && seen.writes.is_multiple_of(2) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let taken = octets.len().min(self.room);
        seen.written.extend_from_slice(&octets[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn shared() -> (Arc<Shared>, Slot) {
    let (_writer, answers) = SharedAnswers::new(&table(), &zone());
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let slots = Slots::new(9, 9, metrics.clone());
    let slot = slots.take([127, 0, 0, 1].into()).unwrap();
    let policy = arc_swap::ArcSwap::from_pointee(policy());
    (Arc::new(Shared { policy, answers, metrics, slots }), slot)
}

/// What a connection does with these pieces, until their end.
async fn served(pieces: Vec<Vec<u8>>, room: usize) -> Seen {
    let seen = Arc::<Mutex<Seen>>::default();
    let stream = Pieces { pieces: pieces.into(), room, seen: Arc::clone(&seen) };
    let (shared, slot) = shared();
    let (_trigger, watch) = drain::channel();
    let source = [127, 0, 0, 1].into();
    Connection::new(stream, Transport::Tcp, source, slot, shared).serve(watch).await;
    std::mem::take(&mut *seen.lock().unwrap())
}

fn frames(count: u16, name: &str) -> Vec<u8> {
    let numbered = |id: u16| {
        let mut wire = query(name, A);
        wire.0[..2].copy_from_slice(&id.to_be_bytes());
        wire.framed()
    };
    (0..count).flat_map(numbered).collect()
}

/// The ids of the answers, all of them whole.
fn ids(mut octets: &[u8]) -> Vec<u16> {
    let mut ids = Vec::new();
    while let Some((length, rest)) = octets.split_first_chunk::<2>() {
        let (message, rest) = rest.split_at(u16::from_be_bytes(*length).into());
        ids.push(Message::from_vec(message).unwrap().metadata.id);
        octets = rest;
    }
    ids
}

#[tokio::test]
async fn frames_come_cut_anywhere_and_merged_in_any_way() {
    let all = frames(3, WEB);
    let expected = served(vec![all.clone()], usize::MAX).await.written;
    assert_eq!(ids(&expected), [0, 1, 2]);
    for first in 0..all.len() {
        let mut rest = all.clone();
        let head: Vec<u8> = rest.drain(..first).collect();
        let tail = rest.split_off(rest.len() / 2);
        let pieces: Vec<_> = [head, rest, tail].into_iter().filter(|p| !p.is_empty()).collect();
        assert_eq!(served(pieces, usize::MAX).await.written, expected, "cut at {first}");
    }
    let octets = all.iter().map(|octet| vec![*octet]).collect();
    assert_eq!(served(octets, usize::MAX).await.written, expected);
}

#[tokio::test]
async fn what_is_read_at_once_is_answered_at_once() {
    let seen = served(vec![frames(50, WEB), frames(1, WEB)], usize::MAX).await;
    // Two with something, one with the end.
    assert_eq!((seen.reads, seen.writes), (3, 2));
    assert_eq!(ids(&seen.written).len(), 51);
}

#[tokio::test]
async fn a_client_that_takes_little_gets_everything_in_order() {
    let long = "more.data.svc.clusterset.local";
    let all = [frames(200, long), frames(2_000, WEB)].concat();
    let seen = served(all.chunks(9_000).map(<[u8]>::to_vec).collect(), 1_000).await;
    let expected: Vec<u16> = (0..200).chain(0..2_000).collect();
    assert_eq!(ids(&seen.written), expected);
}

#[tokio::test]
async fn the_longest_frame_is_answered() {
    // EDNS padding up to the last octet that a frame can have.
    let rest = usize::from(u16::MAX) - query(WEB, A).0.len() - 11 - 4;
    let padding = [&[0, 12][..], &u16::try_from(rest).unwrap().to_be_bytes(), &vec![0; rest]];
    let long = query(WEB, A).opt(1232, 0, &padding.concat());
    assert_eq!(long.0.len(), usize::from(u16::MAX));
    let all = [long.framed(), frames(1, WEB)].concat();
    for size in [all.len(), 1_000, 40_000] {
        let pieces = all.chunks(size).map(<[u8]>::to_vec).collect();
        assert_eq!(ids(&served(pieces, usize::MAX).await.written), [ID, 0]);
    }
}

/// Four thousand of them wait at a time.
#[test]
fn a_connection_that_waits_is_small() {
    let (shared, slot) = shared();
    let (_trigger, watch) = drain::channel();
    let pieces = Pieces { pieces: VecDeque::new(), room: 0, seen: Arc::default() };
    let source = [127, 0, 0, 1].into();
    let serving = Connection::new(pieces, Transport::Tcp, source, slot, shared).serve(watch);
    let octets = size_of_val(&serving);
    assert!(octets <= 1_024, "{octets}");
}
