use tokio::net::TcpListener;

use super::super::backend::Backend;
use super::*;

const PERIOD: Duration = Duration::from_millis(20);

#[tokio::test]
async fn whole_answers_are_counted_by_who_gave_them() {
    let any = "127.0.0.1:0".parse().unwrap();
    let backend = Backend::bind(any, "oregon", "web-0").await.unwrap();
    let load = Load::new(backend.local_addr(), "/load");
    let (_stop, stopped) = crate::drain::channel();
    let mut running = JoinSet::new();
    running.spawn(backend.run(stopped));
    let begin = clock::now();
    running.spawn(load.clone().run(PERIOD));
    while load.scheduled(begin, begin + PERIOD * 20).iter().filter(|r| r.ended.is_some()).count()
        < 20
    {
        tokio::time::sleep(PERIOD).await;
    }

    let records = load.scheduled(begin, begin + PERIOD * 20);
    let tally = Tally::of(&records);
    assert_eq!((tally.total, tally.failed()), (20, 0), "{:?}", tally.failures);
    assert!((tally.share("oregon") - 100.0).abs() < f64::EPSILON);
    assert!(tally.first_byte(99.0).is_some());
    assert!(load.first_answer("oregon", begin).is_some());
    assert!(load.first_answer("paris", begin).is_none());
}

#[tokio::test(start_paused = true)]
async fn the_schedule_does_not_wait_for_answers_and_silence_is_a_failure() {
    // Accepted by the kernel, answered by nobody.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let load = Load::new(silent.local_addr().unwrap(), "/load");
    let mut running = JoinSet::new();
    let begin = clock::now();
    running.spawn(load.clone().run(PERIOD));
    tokio::time::sleep(Duration::from_secs(1)).await;

    let second = load.scheduled(begin, begin + Duration::from_secs(1));
    assert_eq!(second.len(), 50, "one every 20 ms");
    assert_eq!(load.open_at(begin + Duration::from_millis(990)).len(), 50);
    tokio::time::sleep(GIVE_UP).await;
    let second = load.scheduled(begin, begin + Duration::from_secs(1));
    let tally = Tally::of(&second);
    assert_eq!((tally.failed(), tally.first_byte(99.0)), (50, None));
    assert!(second.iter().all(|r| r.ended.unwrap() - r.scheduled >= GIVE_UP));
}

#[tokio::test]
async fn a_refused_connection_is_a_failure_with_its_cause() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let load = Load::new(taken.local_addr().unwrap(), "/load");
    drop(taken);
    let before = clock::now();
    load.clone().burst(3).await;
    let tally = Tally::of(&load.scheduled(before, clock::now()));
    assert_eq!((tally.total, tally.failed()), (3, 3));
    assert!(tally.failures.keys().all(|text| text.contains("refused")), "{:?}", tally.failures);
}

#[test]
fn only_the_whole_expected_body_is_an_answer() {
    let line = backend::line("tokyo", "web-1");
    let body = backend::load_body(&line);
    let answer = |status: &str, length: usize, body: &[u8]| {
        let mut all = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        all.extend_from_slice(body);
        all
    };
    assert_eq!(verify(&answer("200 OK", body.len(), &body)).as_deref(), Some("tokyo"));

    let mut flipped = body.clone();
    flipped[2000] ^= 1;
    assert_eq!(verify(&answer("200 OK", body.len(), &flipped)), None);
    assert_eq!(verify(&answer("503 No", body.len(), &body)), None);
    assert_eq!(verify(&answer("200 OK", body.len() + 1, &body)), None);
    let cut = &body[..body.len() - 1];
    assert_eq!(verify(&answer("200 OK", cut.len(), cut)), None);
    assert_eq!(verify(b"HTTP/1.1 200 OK\r\n"), None);
}
