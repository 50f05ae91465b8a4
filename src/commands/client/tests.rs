use super::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Serves one connection with a canned answer and gives back the request.
async fn serve_once(listener: TcpListener, answer: &str) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1);
        request.extend(byte);
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(request).unwrap()
}

async fn listener() -> (TcpListener, Admin) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = Admin::new(listener.local_addr().unwrap());
    (listener, admin)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_state_is_read_back() {
    let (listener, admin) = listener().await;
    let body = r#"{"cluster":"paris","clusterset":"clusterset.local","version":"0.1.0",
        "revision":3,"source":{"kind":"files","synced":true,"ageSeconds":1.5,"error":null},
        "peers":[{"cluster":"oregon","state":"up","rttMs":20.5,"lossPercent":0,"sessions":1,
        "revision":7,"lastError":null}],"services":[]}"#;
    let answer = ok(body);
    let (state, request) = tokio::join!(admin.state(), serve_once(listener, &answer));
    let state = state.unwrap();
    assert_eq!(state.peers[0].rtt_ms, Some(20.5));
    assert!(request.starts_with("GET /state HTTP/1.1\r\n"), "{request}");
}

#[tokio::test]
async fn an_unknown_name_is_not_found_and_the_question_is_encoded() {
    let (listener, admin) = listener().await;
    let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 8\r\n\r\nno such\n";
    let (explained, request) = tokio::join!(admin.explain("a&b:80"), serve_once(listener, answer));
    assert!(matches!(explained, Err(Error::NotFound(text)) if text == "no such"));
    assert!(request.starts_with("GET /explain?name=a%26b%3A80 HTTP/1.1\r\n"), "{request}");
}

#[test]
fn the_reason_is_taken_out_of_its_json() {
    assert_eq!(said(br#"{"error":"no cluster exports it"}"#), "no cluster exports it");
    assert_eq!(said(b"plain\n"), "plain");
    assert_eq!(said(br#"{"other":1}"#), r#"{"other":1}"#);
}

#[tokio::test]
async fn nobody_there_is_unreachable_with_the_address_and_the_remedy() {
    let (listener, admin) = listener().await;
    drop(listener);
    let error = admin.state().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }));
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:") && text.contains("--admin"), "{text}");
    assert!(!admin.ready().await);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_never_answers_is_unreachable_after_two_seconds() {
    let (listener, admin) = listener().await;
    let mute = async {
        let _held = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = admin.metrics() => assert!(matches!(answer, Err(Error::Unreachable { .. }))),
        () = mute => unreachable!(),
    }
}

#[tokio::test]
async fn something_else_on_the_port_is_said_to_be_something_else() {
    for answer in [ok("{}"), ok("hello"), "SSH-2.0-x\r\n\r\n".to_owned(), String::new()] {
        let (listener, admin) = listener().await;
        let (state, _) = tokio::join!(admin.state(), serve_once(listener, &answer));
        assert!(matches!(state, Err(Error::NotOurs { .. })), "{answer:?}: {state:?}");
    }
}

#[tokio::test]
async fn an_agent_that_is_not_ready_is_not_ready() {
    let (listener, admin) = listener().await;
    let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let (ready, _) = tokio::join!(admin.ready(), serve_once(listener, answer));
    assert!(!ready);
}
