//! Every point at which a peer can vanish before `REPLY`: another candidate serves the client,
//! and no byte is lost or doubled.

use portolan::testing::peer::{Fault, Manner, Point};
use portolan::wire::frame::Verdict;

use crate::stage::{Stage, assert_no_panic};

/// On a busy machine health may turn away from tokyo between the look and the stream, which then
/// does not meet the fault: it is set up again.
const ATTEMPTS: u32 = 5;

async fn vanishes_at(point: Point, manners: &[Manner]) {
    let stage = Stage::new().await;
    for manner in manners {
        let what = format!("{point:?}, {manner:?}");
        let mut left = ATTEMPTS;
        loop {
            stage.tokyo_leads().await;
            let met = stage.tokyo.met();
            stage.tokyo.set(Fault::Vanish(point, *manner));
            stage.oregon_serves(&what).await;
            stage.tokyo.heal();
            if point == Point::Listening || stage.tokyo.met() > met {
                break;
            }
            left -= 1;
            assert!(left > 0, "{what}: was not met in {ATTEMPTS} attempts");
        }
    }
    assert_no_panic(&stage.paris).await;
}

const EVERY_MANNER: &[Manner] = &[Manner::Close, Manner::Reset, Manner::Silence];

#[tokio::test(flavor = "multi_thread")]
async fn before_tls() {
    vanishes_at(Point::Listening, &[Manner::Close]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n12_after_the_client_hello() {
    vanishes_at(Point::Hello, EVERY_MANNER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n12_in_mid_handshake() {
    vanishes_at(Point::Flight, EVERY_MANNER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_handshake_before_ready() {
    vanishes_at(Point::Shaken, EVERY_MANNER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_ready() {
    vanishes_at(Point::Ready, EVERY_MANNER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_open_was_read() {
    vanishes_at(Point::Asked, EVERY_MANNER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_the_reply() {
    vanishes_at(Point::HalfReply, EVERY_MANNER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_moves_on() {
    let stage = Stage::new().await;
    for verdict in [
        Verdict::Overloaded,
        Verdict::NoEndpoint,
        Verdict::NotExported,
        Verdict::Refused,
        // The last: a replica that drains is not asked again.
        Verdict::Draining,
    ] {
        let what = format!("{verdict:?}");
        stage.tokyo_leads().await;
        let met = stage.tokyo.met();
        stage.tokyo.set(Fault::Refuse(verdict));
        stage.oregon_serves(&what).await;
        assert!(stage.tokyo.met() > met, "{what}: was not met");
        stage.tokyo.heal();
    }
    assert_no_panic(&stage.paris).await;
}
