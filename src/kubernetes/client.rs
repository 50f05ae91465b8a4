//! How the API server is reached: one client for watches, one for writes.
//!
//! Neither repeats a call by itself: kube's default policy hides an outage for minutes. Whoever
//! calls has a deadline and a pause of his own. Tokens and the server's CA are read from their
//! files again at least once a minute.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use thiserror::Error as ThisError;
use tokio::time::timeout;

use super::Error;
use super::kinds::Resource;
use crate::objects::McsVersion;

/// How long one call may take that is not a watch or a list.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Where the API server is and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// The pod's service account.
    InCluster,
    /// The current context of a kubeconfig.
    Kubeconfig(PathBuf),
    /// `http://` without credentials: a server of a test, or a proxy of this host.
    Url(String),
}

/// The clients, and which versions of the custom kinds the server has.
pub struct Clients {
    /// For lists and watches: no deadline of its own.
    pub(super) watch: kube::Client,
    /// For everything else; every call has a deadline.
    pub(super) write: kube::Client,
    served: Mutex<BTreeMap<Resource, &'static str>>,
}

/// Why a call failed.
#[derive(Debug, ThisError)]
pub(super) enum CallError {
    /// No answer in time.
    #[error("the API server did not answer within {} s", CALL_DEADLINE.as_secs())]
    Deadline,
    /// The server refused, or could not be reached.
    #[error(transparent)]
    Call(#[from] kube::Error),
}

impl Clients {
    /// Makes the clients; the server is not called.
    pub async fn open(access: &Access) -> Result<Self, Error> {
        let mut config = config(access).await?;
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_DEADLINE);
        config.write_timeout = Some(CALL_DEADLINE);
        // Two pools: a write never waits behind the connections of the watches.
        let client = |config| kube::Client::try_from(config).map_err(Error::client);
        Ok(Self {
            watch: client(config.clone())?,
            write: client(config)?,
            served: Mutex::default(),
        })
    }

    /// One call of the write client, with its deadline.
    pub(super) async fn within<T>(
        call: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, CallError> {
        Ok(timeout(CALL_DEADLINE, call).await.map_err(|_| CallError::Deadline)??)
    }

    /// The version in which the server was last seen to serve a kind; `None` before it was listed,
    /// and where the kind is not installed.
    pub(super) fn served(&self, resource: Resource) -> Option<&'static str> {
        self.lock().get(&resource).copied()
    }

    /// The version of the Multi-Cluster Services API to write a kind of it in.
    #[must_use]
    pub(super) fn mcs(&self, resource: Resource) -> McsVersion {
        match self.served(resource) {
            Some("v1alpha1") => McsVersion::V1alpha1,
            _ => McsVersion::V1beta1,
        }
    }

    /// Notes what the server serves.
    pub(super) fn serves(&self, resource: Resource, version: Option<&'static str>) {
        let mut served = self.lock();
        match version {
            Some(version) => served.insert(resource, version),
            None => served.remove(&resource),
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Resource, &'static str>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("served", &*self.lock()).finish_non_exhaustive()
    }
}

async fn config(access: &Access) -> Result<kube::Config, Error> {
    match access {
        Access::InCluster => kube::Config::incluster().map_err(|error| Error::Access {
            what: format!("the pod's service account cannot be used: {error}"),
            remedy: "run in a pod with automountServiceAccountToken, or set 'source.kubernetes.kubeconfig'",
        }),
        Access::Kubeconfig(path) => {
            let refused = |error: &dyn fmt::Display| Error::Access {
                what: format!("{} cannot be used: {error}", path.display()),
                remedy: "correct 'source.kubernetes.kubeconfig' or the file",
            };
            let file = Kubeconfig::read_from(path).map_err(|error| refused(&error))?;
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(file, &options).await;
            config.map_err(|error| refused(&error))
        }
        Access::Url(url) => {
            let uri = url.parse().map_err(|error| Error::Access {
                what: format!("'{}' is not a URL: {error}", url.escape_default()),
                remedy: "write 'source.kubernetes.server' as http://HOST:PORT",
            })?;
            Ok(kube::Config::new(uri))
        }
    }
}
