//! Gateways in process, over loopback, with route tables made by hand.

mod affinity;
mod backends;
mod datagrams;
mod drain;
mod early;
mod ends;
mod fakes;
mod hostile;
mod memory;
mod overload;
mod pods;
mod ports;
mod probing;
mod proxy;
mod sites;
mod vanish;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(in crate::gateway) use self::sites::{key, local_export, port_key};

/// Longer than anything here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(in crate::gateway) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens")
}

/// Waits until the test holds.
pub(in crate::gateway) async fn until(mut test: impl FnMut() -> bool) {
    soon(async {
        while !test() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn backend() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    soon(listener.accept()).await.unwrap().0
}

async fn read_all(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    soon(socket.read_to_end(&mut all)).await.unwrap();
    all
}

async fn read_some(socket: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut some = vec![0; count];
    soon(socket.read_exact(&mut some)).await.unwrap();
    some
}

/// Reads until the reset, which must come; what came before.
async fn read_to_reset(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match soon(socket.read(&mut chunk)).await {
            Ok(0) => panic!("a FIN where a reset is honest"),
            Ok(count) => all.extend_from_slice(&chunk[..count]),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                return all;
            }
        }
    }
}

async fn write(socket: &mut TcpStream, octets: &[u8]) {
    soon(socket.write_all(octets)).await.unwrap();
}

/// Time passes, in which every look at stuck streams falls due.
async fn pass(seconds: u32) {
    tokio::time::pause();
    for _ in 0..seconds {
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
}
