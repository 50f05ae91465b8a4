//! Dialling a peer.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::bundle::Bundle;
use super::error::DialError;
use super::identity::{PeerIdentity, dns_name};
use super::kind::Kind;
use super::refusal::Refusal;
use super::trust::Trust;
use super::verify::{identify, identity_reason, reason, tls_error};
use super::{Stream, socket};
use crate::model::ClusterId;

/// For the connection and the handshake together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Handshakes in flight to one address, so that a storm of clients is no flood for the peer.
const MAX_HANDSHAKES: usize = 400;
/// Addresses remembered before those without a handshake in flight are forgotten.
const MAX_ADDRESSES: usize = 1024;

/// Dials peers; cheap to clone, and the clones share the cap of handshakes in flight.
#[derive(Debug, Clone)]
pub struct Dialer {
    trust: Trust,
    in_flight: Arc<Mutex<HashMap<SocketAddr, Arc<Semaphore>>>>,
}

/// A connection to a peer whose identity was verified.
#[derive(Debug)]
pub struct Dialed {
    /// The connection: TCP_NODELAY and keepalive are set.
    pub stream: Stream,
    /// Whom it leads to.
    pub peer: PeerIdentity,
}

impl Dialer {
    /// A dialer with the own identity.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self { trust, in_flight: Arc::default() }
    }

    /// Connects and shakes hands within 3 s. A TLS 1.3 client learns of the peer's refusal only
    /// with its first read: wait for the first frame before relying on the connection. The own
    /// cluster is dialled with [`Kind::Sibling`] only, and nobody else is.
    pub async fn dial(
        &self,
        peer: &ClusterId,
        address: SocketAddr,
        kind: Kind,
    ) -> Result<Dialed, DialError> {
        let slots = self.slots(address);
        let attempt = async {
            // The semaphore is never closed.
            let _slot = slots.acquire().await;
            self.shake(peer, address, kind).await
        };
        match timeout(DIAL_TIMEOUT, attempt).await {
            Ok(Ok(dialed)) => {
                if kind != Kind::Sibling {
                    self.trust.metrics().expires(peer, dialed.peer.expires());
                }
                Ok(dialed)
            }
            Ok(Err(error)) => {
                if let DialError::Refused { reason, problem, .. } = &error {
                    self.trust.metrics().refuse(*reason, address, problem);
                }
                Err(error)
            }
            Err(_) => Err(DialError::Timeout(address)),
        }
    }

    async fn shake(
        &self,
        peer: &ClusterId,
        address: SocketAddr,
        kind: Kind,
    ) -> Result<Dialed, DialError> {
        let material = self.trust.material();
        let unknown = || match kind {
            Kind::Sibling if peer == self.trust.cluster() => DialError::NoAuthority,
            _ => DialError::UnknownPeer(peer.clone()),
        };
        let (config, bundle) = material.client(kind, peer).ok_or_else(unknown)?;
        let name = ServerName::try_from(dns_name(peer)).map_err(|_| unknown())?;

        let broken = |source| DialError::Connect { address, source: Arc::new(source) };
        let tcp = TcpStream::connect(address).await.map_err(broken)?;
        socket::prepare(&tcp).map_err(broken)?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, tcp).await.map_err(|error| failed(address, error))?;
        let stream = Stream::from(stream);
        let refused = |(reason, problem): (Refusal, String)| DialError::Refused {
            address,
            reason,
            problem: problem.into(),
        };
        let peer = check(&stream, kind, bundle).map_err(refused)?;
        // Whoever closes what is no longer trusted does not know of this connection yet.
        if !self.trust.still_trusts(&peer) {
            return Err(refused((Refusal::UnknownCa, "its bundle was removed just now".into())));
        }
        Ok(Dialed { stream, peer })
    }

    /// The slots of an address.
    fn slots(&self, address: SocketAddr) -> Arc<Semaphore> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if in_flight.len() >= MAX_ADDRESSES && !in_flight.contains_key(&address) {
            in_flight.retain(|_, slots| Arc::strong_count(slots) > 1);
        }
        let slots = in_flight.entry(address);
        Arc::clone(slots.or_insert_with(|| Arc::new(Semaphore::new(MAX_HANDSHAKES))))
    }
}

/// After the handshake, on either side: the ALPN is the one meant, the leaf's names are right.
pub(super) fn check(
    stream: &Stream,
    kind: Kind,
    bundle: &Bundle,
) -> Result<PeerIdentity, (Refusal, String)> {
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(kind.alpn()) {
        return Err((Refusal::Alpn, format!("the other side did not agree to {}", kind.as_str())));
    }
    let leaf = connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or_else(|| (Refusal::NoClientCertificate, "no certificate was shown".to_owned()))?;
    identify(leaf, bundle).map_err(|error| (identity_reason(&error), error.to_string()))
}

/// What a failed handshake means.
fn failed(address: SocketAddr, error: io::Error) -> DialError {
    match tls_error(&error) {
        Some(rustls::Error::AlertReceived(alert)) => {
            DialError::Rejected { address, problem: format!("alert {alert:?}").into() }
        }
        Some(refused) => {
            let problem = refused.to_string().into();
            DialError::Refused { address, reason: reason(refused), problem }
        }
        None => DialError::Connect { address, source: Arc::new(error) },
    }
}
