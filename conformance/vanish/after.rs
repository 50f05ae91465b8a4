//! Every point at which a peer can vanish after `REPLY`: an honest end for the client.

use std::io::ErrorKind;

use portolan::testing::peer::Stream;
use portolan::testing::wire::{Heard, aborted, open};
use portolan::wire::frame::{Control, Header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Stage, assert_no_panic, letter, read_to_end, reads, soon, until_metric};

/// How a peer ends a stream abnormally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The connection is closed in order, without `FIN`.
    Close,
    /// It is reset.
    TcpReset,
    /// A `RESET`, then the connection is closed.
    Reset,
    /// What no opener may receive.
    Illegal,
}

const EVERY_END: [End; 4] = [End::Close, End::TcpReset, End::Reset, End::Illegal];

impl End {
    async fn of(self, mut stream: Stream) {
        let number = stream.open.stream;
        match self {
            Self::Close => {}
            Self::TcpReset => return stream.wire.reset(),
            Self::Reset => stream.wire.control(aborted(number)).await.expect("paris is there"),
            Self::Illegal => {
                stream.wire.control(open(9, "shop/web", 80)).await.expect("paris is there");
            }
        }
        stream.wire.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n12_right_after_the_reply() {
    let mut stage = Stage::alone().await;
    for end in EVERY_END {
        let (mut client, mut stream) = stage.accepted().await;
        if end == End::TcpReset {
            // It would overtake the REPLY; the first octet tells that paris has that.
            client.write_all(b"1").await.unwrap();
            assert_eq!(stream.wire.octets(1).await, b"1");
        }
        end.of(stream).await;
        let (came, was_reset) = read_to_end("the reset", &mut client).await;
        assert!(came.is_empty() && was_reset, "{end:?}: {came:?}, reset: {was_reset}");
    }
    assert_no_panic(&stage.paris).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n12_in_the_middle_of_the_answer() {
    let mut stage = Stage::alone().await;
    for end in EVERY_END {
        let (mut client, mut stream) = stage.accepted().await;
        let half = letter(100_000);
        for part in half.chunks(30_000) {
            stream.wire.payload(part).await.unwrap();
        }
        let mut came = Vec::new();
        if end == End::TcpReset {
            // A reset overtakes what the receiver's kernel holds; what paris has read counts.
            reads("the first half", &mut client, &half).await;
            came.clone_from(&half);
        }
        end.of(stream).await;
        let (rest, was_reset) = read_to_end("the reset", &mut client).await;
        came.extend(rest);
        assert!(came == half, "{end:?}: {} of {} octets came", came.len(), half.len());
        assert!(was_reset, "{end:?}: a FIN after half an answer");
    }
    assert_no_panic(&stage.paris).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_frame() {
    let mut stage = Stage::alone().await;
    let (mut client, mut stream) = stage.accepted().await;
    let part = letter(400);
    stream.wire.raw(&Header::payload(4_000)).await.unwrap();
    stream.wire.raw(&part).await.unwrap();
    stream.wire.close().await;
    let (came, was_reset) = read_to_end("the reset", &mut client).await;
    assert!(came == part && was_reset, "{} octets, reset: {was_reset}", came.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_the_request() {
    let mut stage = Stage::alone().await;
    for end in EVERY_END {
        let (mut client, mut stream) = stage.accepted().await;
        let request = letter(20_000);
        soon("the request", client.write_all(&request)).await.unwrap();
        assert!(stream.wire.octets(request.len()).await == request, "{end:?}: altered");
        end.of(stream).await;
        let (came, was_reset) = read_to_end("the reset", &mut client).await;
        assert!(came.is_empty() && was_reset, "{end:?}: {came:?}, reset: {was_reset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn between_the_fins_the_client_first() {
    let mut stage = Stage::alone().await;
    for end in EVERY_END {
        let (mut client, mut stream) = stage.accepted().await;
        let request = letter(1_000);
        client.write_all(&request).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(stream.wire.octets(request.len()).await == request, "{end:?}: altered");
        assert_eq!(stream.wire.expect().await, Control::Fin, "{end:?}");
        let half = letter(1_000);
        stream.wire.payload(&half).await.unwrap();
        reads("the first half", &mut client, &half).await;
        end.of(stream).await;
        let (rest, was_reset) = read_to_end("the reset", &mut client).await;
        assert!(rest.is_empty() && was_reset, "{end:?}: a FIN after half an answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_servers_fin_no_end_of_the_peer_resets_the_client() {
    let mut stage = Stage::alone().await;
    for end in EVERY_END {
        let (mut client, mut stream) = stage.accepted().await;
        let answer = letter(10_000);
        stream.wire.payload(&answer).await.unwrap();
        stream.wire.control(Control::Fin).await.unwrap();
        let (came, was_reset) = read_to_end("the FIN", &mut client).await;
        assert!(came == answer && !was_reset, "{end:?}");
        end.of(stream).await;
        let open = "portolan_streams_open{direction=\"outbound\"}";
        until_metric(&stage.paris, open, 0.0).await;
        assert_eq!(soon("the end", client.read(&mut [0])).await.unwrap(), 0, "{end:?}");
        let pending = client.take_error().unwrap();
        assert!(pending.is_none(), "{end:?}: {pending:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_its_fin_and_the_reset_at_once_is_whole() {
    let mut stage = Stage::alone().await;
    let (mut client, mut stream) = stage.accepted().await;
    let answer = letter(60_000);
    let number = stream.open.stream;
    let frames = [
        Heard::Payload(answer.clone()),
        Heard::Control(Control::Fin),
        Heard::Control(aborted(number)),
    ];
    stream.wire.send(&frames).await.unwrap();
    stream.wire.close().await;
    let (came, was_reset) = read_to_end("the answer", &mut client).await;
    assert!(came == answer && !was_reset, "{} octets, reset: {was_reset}", came.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_after_the_servers_fin_learns_that_the_peer_is_gone() {
    let mut stage = Stage::alone().await;
    let (mut client, mut stream) = stage.accepted().await;
    stream.wire.control(Control::Fin).await.unwrap();
    assert_eq!(soon("the FIN", client.read(&mut [0])).await.unwrap(), 0);
    stream.wire.reset();
    let failed = soon("the reset", async {
        loop {
            if let Err(error) = client.write_all(b"more").await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(failed.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_both_fins_the_connection_carries_the_next_stream() {
    let mut stage = Stage::alone().await;
    let (mut client, mut stream) = stage.accepted().await;
    stream.wire.payload(b"all").await.unwrap();
    stream.wire.control(Control::Fin).await.unwrap();
    let (came, was_reset) = read_to_end("the FIN", &mut client).await;
    assert!(came == b"all" && !was_reset);
    client.shutdown().await.unwrap();
    assert_eq!(stream.wire.expect().await, Control::Fin);
    let first = stream.open.stream;
    let _client = stage.reuse(&mut stream).await;
    assert_eq!(stream.open.stream, first + 1);
    // Vanishing on a reused connection: a fresh one is tried, then the next candidate.
    stream.wire.reset();
}
