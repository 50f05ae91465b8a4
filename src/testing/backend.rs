//! Backends that do what a test tells them.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A TCP server whose every connection runs the same script.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    accepted: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Backend {
    /// Listens on a free port of `host` and runs `script` on every connection.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub async fn start<F, Fut>(host: IpAddr, script: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((host, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let accepted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&accepted);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                streams.spawn(script(stream));
                while streams.try_join_next().is_some() {}
            }
        });
        Self { address, accepted, tasks }
    }

    /// Says its name and closes.
    pub async fn naming(host: IpAddr, name: &'static str) -> Self {
        Self::start(host, move |mut stream| async move {
            // A client that went away needs no answer.
            let _gone = stream.write_all(name.as_bytes()).await;
            let _gone = stream.shutdown().await;
            drain(&mut stream).await;
        })
        .await
    }

    /// Sends back whatever it reads, and ends when its client does.
    pub async fn echo(host: IpAddr) -> Self {
        Self::start(host, |mut stream| async move {
            let (mut read, mut write) = stream.split();
            if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                let _gone = write.shutdown().await;
            }
        })
        .await
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Stops listening and cuts every connection.
    pub fn stop(mut self) {
        self.tasks.abort_all();
    }
}

/// Reads until the other side ends, so that closing does not reset what was just written.
pub async fn drain(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
}
