//! The server over TCP: frames, pipelining, deadlines, caps.

use super::*;

#[tokio::test]
async fn tcp_frames_come_split_at_every_octet() {
    let running = start();
    let mut stream = running.connect().await;
    stream.set_nodelay(true).unwrap();
    for octet in query(WEB, A).framed() {
        stream.write_all(&[octet]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(read_frame(&mut stream).await.answers.len(), 1);
}

#[tokio::test]
async fn tcp_pipelines_and_answers_in_order() {
    let running = start();
    let mut stream = running.connect().await;
    let frames: Vec<u8> = (0..2000).flat_map(|id| numbered(id, WEB, A).framed()).collect();
    // Merged, then split at an odd place.
    let (first, second) = frames.split_at(frames.len() / 2 + 1);
    stream.write_all(first).await.unwrap();
    for id in 0..1000 {
        assert_eq!(read_frame(&mut stream).await.metadata.id, id);
    }
    stream.write_all(second).await.unwrap();
    for id in 1000..2000 {
        assert_eq!(read_frame(&mut stream).await.metadata.id, id);
    }
    let counted = "portolan_dns_queries_total{qtype=\"A\",rcode=\"NOERROR\",transport=\"tcp\"}";
    assert_eq!(running.metric(counted), 2000.0);
}

#[tokio::test]
async fn several_answers_go_out_in_one_write() {
    let running = start();
    let mut stream = running.connect().await;
    let frames: Vec<u8> = (0..50).flat_map(|id| numbered(id, WEB, A).framed()).collect();
    stream.write_all(&frames).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut octets = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut octets)).await.unwrap().unwrap();
    assert_eq!(octets.len(), frames.len() + 50 * 16, "half-closed, and still answered");
}

#[tokio::test]
async fn tcp_carries_what_is_too_long_for_udp() {
    let running = start();
    let mut stream = running.connect().await;
    let name = "more.data.svc.clusterset.local";
    let frames: Vec<u8> = (0..40).flat_map(|id| numbered(id, name, A).framed()).collect();
    stream.write_all(&frames).await.unwrap();
    for id in 0..40 {
        let message = read_frame(&mut stream).await;
        assert_eq!((message.metadata.id, message.answers.len()), (id, 600));
        assert!(!message.metadata.truncation);
    }
}

#[tokio::test]
async fn a_malformed_query_over_tcp_is_answered_and_the_connection_goes_on() {
    let running = start();
    let mut stream = running.connect().await;
    for (wire, code) in [
        (query(WEB, A).raw(&[0]), ResponseCode::FormErr),
        (query("example.org", A), ResponseCode::Refused),
        (query(WEB, AXFR), ResponseCode::NotImp),
        (query(WEB, A), ResponseCode::NoError),
    ] {
        stream.write_all(&wire.framed()).await.unwrap();
        assert_eq!(read_frame(&mut stream).await.metadata.response_code, code);
    }
}

#[tokio::test]
async fn a_frame_of_length_zero_closes_after_what_came_before() {
    let running = start();
    let mut stream = running.connect().await;
    let mut octets = query(WEB, A).framed();
    octets.extend([0, 0]);
    stream.write_all(&octets).await.unwrap();
    assert_eq!(read_frame(&mut stream).await.answers.len(), 1);
    ended(&mut stream).await;
}

#[tokio::test]
async fn the_first_query_has_three_seconds() {
    let _time = hold_time();
    let running = start();
    let mut silent = running.connect().await;
    let mut slow = running.connect().await;
    let mut quick = running.connect().await;
    slow.write_all(&query(WEB, A).framed()[..10]).await.unwrap();
    quick.write_all(&query(WEB, A).framed()).await.unwrap();
    read_frame(&mut quick).await;
    until(|| running.metric("portolan_dns_tcp_connections") == 3.0).await;
    tokio::time::advance(Duration::from_millis(2_900)).await;
    quick.write_all(&query(WEB, A).framed()).await.unwrap();
    read_frame(&mut quick).await;
    assert_eq!(running.metric("portolan_dns_tcp_connections"), 3.0);
    tokio::time::advance(Duration::from_millis(200)).await;
    for stream in [&mut silent, &mut slow] {
        let mut octet = [0];
        assert!(matches!(stream.read(&mut octet).await, Ok(0) | Err(_)));
    }
    quick.write_all(&query(WEB, A).framed()).await.unwrap();
    read_frame(&mut quick).await;
}

/// CoreDNS keeps an idle connection for 10 s and writes into it at the end of that.
#[tokio::test]
async fn an_idle_connection_outlives_ten_seconds() {
    let time = hold_time();
    let running = start();
    let mut stream = running.connect().await;
    for _ in 0..3 {
        stream.write_all(&query(WEB, A).framed()).await.unwrap();
        read_frame(&mut stream).await;
        tokio::time::advance(Duration::from_secs(15)).await;
    }
    assert_eq!(running.metric("portolan_dns_tcp_connections"), 1.0);
    tokio::time::advance(Duration::from_secs(6)).await;
    let mut octet = [0];
    assert!(matches!(stream.read(&mut octet).await, Ok(0) | Err(_)));
    drop(time);
}

#[tokio::test]
async fn a_source_holds_as_many_connections_as_its_cap_and_no_more() {
    let running = start_with(Config { tcp_per_source: 2, ..config(&["127.0.0.1:0"]) });
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = running.connect().await;
        stream.write_all(&query(WEB, A).framed()).await.unwrap();
        read_frame(&mut stream).await;
        held.push(stream);
    }
    let mut third = running.connect().await;
    ended(&mut third).await;
    assert_eq!(running.metric("portolan_dns_tcp_refused_total{cap=\"source\"}"), 1.0);
    // Another source is not affected.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.3:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(running.address).await.unwrap();
    other.write_all(&query(WEB, A).framed()).await.unwrap();
    read_frame(&mut other).await;
    // A place comes back with the connection's end.
    drop(held.pop());
    timeout(PATIENCE, async {
        loop {
            let mut stream = running.connect().await;
            let sent = stream.write_all(&query(WEB, A).framed()).await;
            if sent.is_ok() && stream.read_u16().await.is_ok() {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a free place");
}

/// A frame that never ends is no way to hold a place.
#[tokio::test]
async fn an_octet_a_second_ends_with_the_time_for_a_query() {
    let _time = hold_time();
    let running = start();
    let mut stream = running.connect().await;
    stream.write_all(&query(WEB, A).framed()).await.unwrap();
    read_frame(&mut stream).await;
    let mut seconds = 0;
    for octet in query(WEB, A).framed() {
        if stream.write_all(&[octet]).await.is_err() {
            break;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        seconds += 1;
        if running.metric("portolan_dns_tcp_connections") == 0.0 {
            break;
        }
    }
    assert!((20..=23).contains(&seconds), "{seconds} s for half a query");
    ended(&mut stream).await;
}

/// Nor is asking without reading: what waits is bounded, and not for long.
#[tokio::test]
async fn who_takes_no_answers_is_cut_and_its_queries_wait_with_it() {
    let _time = hold_time();
    let running = start();
    let mut stream = running.connect().await;
    let name = "more.data.svc.clusterset.local";
    let frames: Vec<u8> = (0..2000).flat_map(|id| numbered(id, name, A).framed()).collect();
    stream.write_all(&frames).await.unwrap();
    let counted = "portolan_dns_queries_total{qtype=\"A\",rcode=\"NOERROR\",transport=\"tcp\"}";
    // 10 kB each: what the kernel takes fills up long before the 2 000th.
    let mut before = -1.0;
    until(|| {
        let now = running.metric(counted);
        std::mem::replace(&mut before, now) == now && now > 0.0
    })
    .await;
    assert!(running.metric(counted) < 2000.0);
    tokio::time::advance(Duration::from_millis(4_900)).await;
    tokio::task::yield_now().await;
    assert_eq!(running.metric("portolan_dns_tcp_connections"), 1.0);
    tokio::time::advance(Duration::from_millis(200)).await;
    until(|| running.metric("portolan_dns_tcp_connections") == 0.0).await;
    let mut other = running.connect().await;
    other.write_all(&query(WEB, A).framed()).await.unwrap();
    assert_eq!(read_frame(&mut other).await.answers.len(), 1);
}

/// A client that never stops asking does not keep the server from stopping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_outlast_the_drain() {
    let running = start();
    let (mut read, mut write) = running.connect().await.into_split();
    let mut flood = JoinSet::new();
    flood.spawn(async move {
        let frames: Vec<u8> = (0..500).flat_map(|id| numbered(id, WEB, A).framed()).collect();
        while write.write_all(&frames).await.is_ok() {}
    });
    flood.spawn(async move {
        let mut octets = vec![0; 64 << 10];
        while matches!(read.read(&mut octets).await, Ok(1..)) {}
    });
    let counted = "portolan_dns_queries_total{qtype=\"A\",rcode=\"NOERROR\",transport=\"tcp\"}";
    until(|| running.metric(counted) > 2_000.0).await;
    running.stopped().await;
    flood.join_all().await;
}

#[tokio::test]
async fn of_a_crowd_as_many_as_the_cap_stay() {
    let running = start();
    let crowd = (0..400).map(|_| running.connect());
    let mut crowd = futures_util::future::join_all(crowd).await;
    until(|| running.metric("portolan_dns_tcp_refused_total{cap=\"source\"}") == 144.0).await;
    assert_eq!(running.metric("portolan_dns_tcp_connections"), 256.0);
    let mut served = 0;
    for stream in &mut crowd {
        let sent = stream.write_all(&query(WEB, A).framed()).await;
        served += u32::from(sent.is_ok() && stream.read_u16().await.is_ok());
    }
    assert_eq!(served, 256);
}

#[tokio::test]
async fn the_cap_in_all_holds_too() {
    let running = start_with(Config { tcp_total: 1, ..config(&["127.0.0.1:0"]) });
    let mut first = running.connect().await;
    first.write_all(&query(WEB, A).framed()).await.unwrap();
    read_frame(&mut first).await;
    let mut second = running.connect().await;
    ended(&mut second).await;
    assert_eq!(running.metric("portolan_dns_tcp_refused_total{cap=\"total\"}"), 1.0);
}
