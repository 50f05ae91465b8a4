//! paris opens; the test is tokyo.

use portolan::testing::peer::Stream;
use portolan::testing::wire::{Heard, aborted, cancelled, reply};
use portolan::wire::frame::{Control, Ready, Verdict};
use tokio::io::AsyncWriteExt;

use crate::stage::{Stage, assert_no_panic, letter, read_to_end, reads, soon};

fn control(frame: Control) -> Heard {
    Heard::Control(frame)
}

/// The next control frame that is no `PING`; those are answered.
async fn past_pings(stream: &mut Stream) -> Control {
    loop {
        match stream.wire.expect().await {
            Control::Ping(number) => stream.wire.control(Control::Pong(number)).await.unwrap(),
            other => return other,
        }
    }
}

/// Ends an accepted stream in order, so that its connection is idle.
async fn end(stream: &mut Stream, client: &mut tokio::net::TcpStream) {
    stream.wire.control(Control::Fin).await.unwrap();
    let (came, was_reset) = read_to_end("the FIN", client).await;
    assert!(came.is_empty() && !was_reset, "{came:?}, reset: {was_reset}");
    client.shutdown().await.unwrap();
    assert_eq!(past_pings(stream).await, Control::Fin);
}

#[tokio::test(flavor = "multi_thread")]
async fn late_words_about_the_last_stream_are_ignored_until_the_next_reply() {
    let mut stage = Stage::alone().await;
    let (mut client, mut stream) = stage.accepted().await;
    end(&mut stream, &mut client).await;
    for _ in 0..3 {
        let last = stream.open.stream;
        let mut client = stage.reuse(&mut stream).await;
        let number = stream.open.stream;
        assert_eq!(number, last + 1);
        let frames = [
            Heard::Payload(vec![66; 5_000]),
            control(aborted(last)),
            control(Control::Fin),
            control(Control::Pong(3)),
            control(cancelled(last)),
            Heard::Payload(vec![67; 5]),
            control(reply(number, Verdict::Accepted)),
            control(aborted(last)),
            Heard::Payload(b"its own".to_vec()),
        ];
        stream.wire.send(&frames).await.unwrap();
        reads("the stream's own octets", &mut client, b"its own").await;
        client.write_all(b"heard").await.unwrap();
        assert_eq!(stream.wire.octets(5).await, b"heard");
        end(&mut stream, &mut client).await;
    }
    assert_no_panic(&stage.paris).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stray_frame_on_an_idle_connection_costs_that_connection_only() {
    let mut stage = Stage::alone().await;
    for frame in [reply(1, Verdict::Accepted), Control::Cancel(1), aborted(9)] {
        let (mut client, mut stream) = stage.accepted().await;
        end(&mut stream, &mut client).await;
        stream.wire.control(frame).await.unwrap();
        let (mut client, mut other) = stage.accepted().await;
        other.wire.payload(b"fine").await.unwrap();
        reads("another connection", &mut client, b"fine").await;
        end(&mut other, &mut client).await;
    }
    assert_no_panic(&stage.paris).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_illegal_before_the_reply_moves_the_client_on() {
    let mut stage = Stage::new().await;
    let ready = Control::Ready(Ready { replica: portolan::model::ReplicaId::from_u64(7) });
    let illegal = [
        control(reply(99, Verdict::Accepted)),
        control(aborted(1_000)),
        control(Control::Cancel(1)),
        control(ready),
        control(portolan::testing::wire::open(1, "shop/web", 80)),
    ];
    for frame in illegal {
        stage.tokyo_leads().await;
        let letter = letter(1_000);
        let mut client = stage.connect().await;
        client.write_all(&letter).await.unwrap();
        client.shutdown().await.unwrap();
        // First a spare, then perhaps a fresh connection.
        let what = format!("{frame:?}");
        let Stage { tokyo, .. } = &mut stage;
        let mut stream = tokyo.stream().await;
        stream.wire.send(std::slice::from_ref(&frame)).await.unwrap();
        stream.wire.until_closed().await;
        tokyo.set(portolan::testing::peer::Fault::Refuse(Verdict::Overloaded));
        // It may have been asked again before that.
        while let Ok(mut again) = tokyo.try_stream() {
            let number = again.open.stream;
            again.wire.control(reply(number, Verdict::Overloaded)).await.unwrap();
        }
        stage.oregon_answers(&what, client, &letter).await;
        stage.tokyo.heal();
    }
    assert_no_panic(&stage.paris).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_before_the_reply_moves_the_client_on() {
    let stage = Stage::new().await;
    stage.tokyo.set(portolan::testing::peer::Fault::Reset);
    for _ in 0..3 {
        stage.tokyo_leads().await;
        stage.oregon_serves("reset before the reply").await;
    }
    assert_no_panic(&stage.paris).await;
}

/// A client whose `OPEN` tokyo leaves unanswered, so that oregon takes it: what tokyo was told.
async fn hedged(stage: &mut Stage) -> Stream {
    stage.tokyo_leads().await;
    let letter = letter(10);
    let mut client = stage.connect().await;
    client.write_all(&letter).await.unwrap();
    client.shutdown().await.unwrap();
    let mut stream = stage.tokyo.stream().await;
    let cancel = past_pings(&mut stream).await;
    assert_eq!(cancel, Control::Cancel(stream.open.stream));
    stage.oregon_answers("hedged", client, &letter).await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_losers_reply_that_crosses_its_cancel_reaches_nobody() {
    let mut stage = Stage::new().await;
    let mut stream = hedged(&mut stage).await;
    let number = stream.open.stream;
    let crossing = [
        control(reply(number, Verdict::Accepted)),
        Heard::Payload(vec![9; 7_000]),
        control(Control::Ping(12)),
        control(cancelled(number)),
    ];
    stream.wire.send(&crossing).await.unwrap();
    assert_eq!(stream.wire.expect().await, Control::Pong(12));
    serve_again(&mut stage, stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_losers_refusal_that_crosses_its_cancel_ends_the_stream() {
    let mut stage = Stage::new().await;
    let mut stream = hedged(&mut stage).await;
    let number = stream.open.stream;
    stream.wire.control(reply(number, Verdict::NoEndpoint)).await.unwrap();
    serve_again(&mut stage, stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loser_that_fins_before_its_reset_is_answered_is_used_again() {
    let mut stage = Stage::new().await;
    let mut stream = hedged(&mut stage).await;
    let number = stream.open.stream;
    let crossing = [
        control(reply(number, Verdict::Accepted)),
        Heard::Payload(b"whole answer".to_vec()),
        control(Control::Fin),
        control(cancelled(number)),
    ];
    stream.wire.send(&crossing).await.unwrap();
    serve_again(&mut stage, stream).await;
}

/// The connection of a cancelled stream carries another.
async fn serve_again(stage: &mut Stage, mut stream: Stream) {
    let last = stream.open.stream;
    loop {
        stage.tokyo_leads().await;
        let mut client = stage.reuse(&mut stream).await;
        assert!(stream.open.stream > last);
        if wins(&mut stream, &mut client, &[]).await {
            stream.wire.payload(b"again").await.unwrap();
            reads("on the same connection", &mut client, b"again").await;
            break;
        }
    }
    assert_no_panic(&stage.paris).await;
}

/// Accepts, after these frames; whether paris had not yet given tokyo up, as on a slow machine.
async fn wins(stream: &mut Stream, client: &mut tokio::net::TcpStream, before: &[Heard]) -> bool {
    let number = stream.open.stream;
    stream.wire.send(before).await.unwrap();
    stream.wire.control(reply(number, Verdict::Accepted)).await.unwrap();
    client.write_all(b"?").await.unwrap();
    loop {
        match stream.wire.heard().await {
            Heard::Payload(octets) => {
                assert_eq!(octets, b"?");
                return true;
            }
            Heard::Control(Control::Ping(ping)) => {
                stream.wire.control(Control::Pong(ping)).await.unwrap();
            }
            Heard::Control(Control::Cancel(late)) if late == number => {
                stream.wire.control(cancelled(number)).await.unwrap();
                return false;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_crosses_open_reply_payload_and_fin_and_no_stream_is_lost() {
    let drain = || control(Control::Drain);
    let (stage, mut client, mut stream) = loop {
        let mut stage = Stage::new().await;
        let mut client = stage.connect().await;
        let mut stream = stage.tokyo.stream().await;
        if wins(&mut stream, &mut client, &[drain()]).await {
            break (stage, client, stream);
        }
    };
    let frames =
        [drain(), Heard::Payload(b"one ".to_vec()), drain(), Heard::Payload(b"two".to_vec())];
    stream.wire.send(&frames).await.unwrap();
    reads("both parts", &mut client, b"one two").await;
    // From now on new streams go elsewhere.
    for _ in 0..3 {
        stage.oregon_serves("tokyo drains").await;
    }
    client.write_all(b"still here").await.unwrap();
    assert_eq!(stream.wire.octets(10).await, b"still here");
    stream.wire.send(&[control(Control::Fin), drain()]).await.unwrap();
    let (rest, was_reset) = read_to_end("the FIN", &mut client).await;
    assert!(rest.is_empty() && !was_reset);
    client.write_all(b"more").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(stream.wire.octets(4).await, b"more");
    assert_eq!(past_pings(&mut stream).await, Control::Fin);
    // Idle connections to a draining replica are closed by the opener.
    soon("the close", stream.wire.until_closed()).await;
    assert_no_panic(&stage.paris).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_as_the_last_word_of_a_refusal_moves_on_and_says_no_failure() {
    let mut stage = Stage::new().await;
    stage.tokyo_leads().await;
    let letter = letter(100);
    let mut client = stage.connect().await;
    client.write_all(&letter).await.unwrap();
    client.shutdown().await.unwrap();
    let mut stream = stage.tokyo.stream().await;
    let number = stream.open.stream;
    let frames = [control(reply(number, Verdict::Draining)), control(Control::Drain)];
    stream.wire.send(&frames).await.unwrap();
    stage.oregon_answers("refused as draining", client, &letter).await;
    let service = stage.paris.explain(crate::stage::NAME).await.expect("known");
    let state = |cluster: &str| {
        service.candidates.iter().find(|c| c.cluster.as_str() == cluster).map(|c| c.state)
    };
    use portolan::health::PeerState;
    assert!(
        matches!(state("tokyo"), Some(PeerState::Draining | PeerState::Up)),
        "{:?}",
        service.candidates
    );
}
