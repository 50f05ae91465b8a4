use super::*;

const ANY: &str = "127.0.0.1:0";

struct Ends {
    near: TcpStream,
    far: TcpStream,
    link: Arc<Link>,
    at: SocketAddr,
    target: TcpListener,
    _line: JoinSet<()>,
}

async fn ends(round_trip: Duration) -> Ends {
    let target = TcpListener::bind(ANY).await.unwrap();
    let link = Link::new(round_trip);
    let any = ANY.parse().unwrap();
    let line = Line::bind(any, target.local_addr().unwrap(), link.clone()).await.unwrap();
    let at = line.local_addr();
    let mut running = JoinSet::new();
    running.spawn(line.run());
    let near = TcpStream::connect(at).await.unwrap();
    let (far, _) = target.accept().await.unwrap();
    Ends { near, far, link, at, target, _line: running }
}

async fn read_exactly(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_round_trip_takes_the_round_trip_time() {
    let mut ends = ends(Duration::from_millis(60)).await;
    let start = clock::now();
    ends.near.write_all(b"ping").await.unwrap();
    assert_eq!(read_exactly(&mut ends.far, 4).await, b"ping");
    ends.far.write_all(b"pong").await.unwrap();
    assert_eq!(read_exactly(&mut ends.near, 4).await, b"pong");
    let took = clock::now() - start;
    assert!(took >= Duration::from_millis(54), "{took:?}");
    assert!(took < Duration::from_millis(600), "{took:?}");
}

#[tokio::test]
async fn bytes_keep_their_order_and_the_end_follows_them() {
    let Ends { near, far, link: _link, _line, .. } = ends(Duration::from_millis(10)).await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|i| (i / 7 % 251) as u8).collect();
    let (mut reader, mut writer) = (far, near);
    let (sent_again, mut received) = (sent.clone(), Vec::new());
    let send = async {
        for piece in sent_again.chunks(70_001) {
            writer.write_all(piece).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    };
    let (_, read) = tokio::join!(send, reader.read_to_end(&mut received));
    assert_eq!(read.unwrap(), sent.len());
    assert!(received == sent);

    // Half-closed: the other direction goes on and ends by itself.
    reader.write_all(b"still here").await.unwrap();
    reader.shutdown().await.unwrap();
    let mut answer = Vec::new();
    writer.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"still here");
}

#[tokio::test]
async fn swallowed_bytes_are_counted_and_flow_on_after_healing() {
    let mut ends = ends(Duration::from_millis(2)).await;
    ends.link.swallow();
    ends.near.write_all(b"lost?").await.unwrap();
    let mut byte = [0];
    let silent = tokio::time::timeout(Duration::from_millis(150), ends.far.peek(&mut byte)).await;
    assert!(silent.is_err(), "bytes or an end passed a cut link");
    while ends.link.swallowed().bytes < 5 {
        sleep(Duration::from_millis(1)).await;
    }

    ends.link.heal();
    assert_eq!(read_exactly(&mut ends.far, 5).await, b"lost?");
    let before = ends.link.swallowed();
    ends.far.write_all(b"no").await.unwrap();
    assert_eq!(read_exactly(&mut ends.near, 2).await, b"no");
    assert_eq!(ends.link.swallowed(), before);
}

#[tokio::test]
async fn connections_to_a_cut_link_are_accepted_and_held() {
    let ends = ends(Duration::from_millis(2)).await;
    ends.link.swallow();
    let given_up = TcpStream::connect(ends.at).await.unwrap();
    let mut patient = TcpStream::connect(ends.at).await.unwrap();
    patient.write_all(b"hello").await.unwrap();
    while ends.link.swallowed().connections < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    drop(given_up);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), ends.target.accept()).await.is_err(),
        "a connection passed a cut link"
    );

    ends.link.heal();
    let (mut arrived, _) = ends.target.accept().await.unwrap();
    assert_eq!(read_exactly(&mut arrived, 5).await, b"hello");
    assert!(
        tokio::time::timeout(Duration::from_millis(100), ends.target.accept()).await.is_err(),
        "who gave up during the cut arrived after it"
    );
}

#[tokio::test]
async fn a_reset_is_passed_on_as_a_reset() {
    let mut ends = ends(Duration::from_millis(2)).await;
    reset(ends.far);
    let failed = ends.near.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_target_that_refuses_is_a_reset_after_a_round_trip() {
    let ends = ends(Duration::from_millis(30)).await;
    drop(ends.target);
    let start = clock::now();
    let mut refused = TcpStream::connect(ends.at).await.unwrap();
    let failed = refused.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::ConnectionReset);
    assert!(clock::now() - start >= Duration::from_millis(25));
}
