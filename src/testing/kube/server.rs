//! The listener and its connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use super::http;
use super::shared::Shared;
use super::store::Store;
use crate::catalog::IpFamily;

/// As many clients may be waiting to be accepted.
const BACKLOG: u32 = 1024;

/// A fake API server. It ends when it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    pub(super) shared: Arc<Shared>,
    address: SocketAddr,
    /// Bound and never listening: the port stays ours while the server is stopped.
    _port: TcpSocket,
    tasks: Mutex<JoinSet<()>>,
}

impl ApiServer {
    /// Of a cluster with both families, IPv4 the default.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start() -> Self {
        Self::with_families(&[IpFamily::V4, IpFamily::V6]).await
    }

    /// Of a cluster with these families, the default first.
    ///
    /// There are the namespaces `default` and `kube-system`, and the Service `kubernetes`.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn with_families(families: &[IpFamily]) -> Self {
        let port = socket();
        port.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = port.local_addr().expect("bound");
        let shared = Arc::new(Shared::new(Store::new(families.to_vec())));
        let server = Self { shared, address, _port: port, tasks: Mutex::default() };
        for name in ["default", "kube-system"] {
            server.put(json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name },
            }));
        }
        server.put(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "namespace": "default", "name": "kubernetes" },
            "spec": {
                "ports": [{ "name": "https", "port": 443, "targetPort": 6443 }],
                "ipFamilyPolicy": "PreferDualStack",
            },
        }));
        server.resume().await;
        server
    }

    /// `http://127.0.0.1:PORT`; the same for the whole life.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and cuts every connection; the objects stay and can be changed.
    ///
    /// # Panics
    /// When a test has panicked in it.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().expect("no panic while locked"));
        tasks.shutdown().await;
    }

    /// Listens again at the same address.
    ///
    /// # Panics
    /// When it is not stopped.
    pub async fn resume(&self) {
        let socket = socket();
        socket.bind(self.address).expect("the port is ours");
        let listener = socket.listen(BACKLOG).expect("stopped before");
        let shared = Arc::clone(&self.shared);
        let mut tasks = self.tasks.lock().expect("no panic while locked");
        tasks.spawn(accept(listener, shared));
    }
}

fn socket() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option that every socket has");
    socket
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Without it lines would only wait a little longer.
        let _slower = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| http::answer(Arc::clone(&shared), request));
            // A client that went away, or a connection that a rule broke.
            let _broken =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}
