//! The own identity at start, before anything is watched.
//!
//! The Secret is read. Where there is none, whichever replica comes first makes one with a fresh
//! authority: creation is atomic, and the others take what the first wrote. A Secret that exists
//! is never changed or replaced here, whatever it holds: it may be cert-manager's, and to replace
//! an authority is to lose every peer.
//!
//! Without an identity nothing can be served, so what may still become right is waited for: an API
//! server that is away, a right that is not granted yet, a Secret that is not filled yet. The
//! Secret of another cluster ends the start at once.
//!
//! Not here: what certificates say (`tls`), and later changes (`ClusterView::secret`).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use thiserror::Error as ThisError;
use zeroize::Zeroizing;

use super::client::{CallError, Clients};
use super::view::SecretData;
use crate::backoff::Backoff;
use crate::clock;
use crate::model::{ClusterId, DnsName, Namespace};
use crate::objects::{LABEL_MANAGED_BY, MANAGER};

/// The type of Secret that cert-manager writes.
const SECRET_TYPE: &str = "kubernetes.io/tls";
/// Its certificate, key, and the authorities by which others verify it.
const ENTRIES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// The first two must be there.
const REQUIRED: [&str; 2] = ["tls.crt", "tls.key"];
/// Whose identity it is; a Secret without is taken as it is.
const ANNOTATION_CLUSTER: &str = "portolan.dev/cluster";
/// The cluster set of that cluster.
const ANNOTATION_CLUSTERSET: &str = "portolan.dev/clusterset";
/// Between attempts. An agent that starts does nothing else, but all agents may start at once.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// A server that asks for patience gets no more than this.
const MOST_PATIENCE: Duration = Duration::from_secs(60);

/// Whose identity is wanted, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The own cluster.
    pub cluster: ClusterId,
    /// Its cluster set.
    pub clusterset: DnsName,
    /// The namespace we run in.
    pub namespace: Namespace,
    /// The Secret there.
    pub secret: Box<str>,
}

/// A fresh authority, PEM.
#[derive(Clone)]
pub struct NewAuthority {
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub key: Zeroizing<String>,
}

/// Why there can be no identity, however long one waits.
#[derive(Debug, ThisError)]
pub enum IdentityError {
    /// It is somebody else's.
    #[error(
        "Secret {secret} is of {what} '{found}', the configuration says '{expected}'; correct the \
         configuration, or name another Secret in 'source.kubernetes.secret'"
    )]
    OfAnother {
        /// `namespace/name`.
        secret: String,
        /// `cluster` or `cluster set`.
        what: &'static str,
        /// What the Secret says.
        found: String,
        /// What is configured.
        expected: String,
    },
    /// No authority can be made.
    #[error("no authority can be made: {0}")]
    Make(String),
}

/// Reads the Secret with the own identity, or makes it; waits until either succeeded. `make` gives
/// a fresh authority each time it is called. Dropping the future leaves nothing half done.
///
/// # Errors
/// The Secret is of another cluster, or no authority can be made.
pub async fn identity<E: fmt::Display>(
    clients: &Clients,
    wanted: &Wanted,
    make: impl Fn() -> Result<NewAuthority, E>,
) -> Result<SecretData, IdentityError> {
    let backoff = Backoff::try_new(PAUSES.0, PAUSES.1).expect("ascending and not zero");
    with_pauses(clients, wanted, make, backoff).await
}

async fn with_pauses<E: fmt::Display>(
    clients: &Clients,
    wanted: &Wanted,
    make: impl Fn() -> Result<NewAuthority, E>,
    mut backoff: Backoff,
) -> Result<SecretData, IdentityError> {
    let began = clock::now();
    let secrets: Api<Secret> = Api::namespaced(clients.write.clone(), wanted.namespace.as_str());
    loop {
        let patience = match attempt(&secrets, wanted, &make).await? {
            Ok(entries) => return Ok(entries),
            Err(trouble) => {
                let waited = clock::now().duration_since(began).as_secs();
                let problem = trouble.shown(wanted);
                tracing::warn!(%wanted, problem, waited, "no own identity yet; waiting for it");
                trouble.patience()
            }
        };
        tokio::time::sleep(backoff.pause().max(patience)).await;
    }
}

/// What one attempt came to, where waiting may help.
#[derive(Debug)]
enum Trouble {
    /// The server refused, or was not reached.
    Call(CallError),
    /// Another replica was faster: now it can be read.
    Raced,
    /// An entry is not there.
    Unfilled(&'static str),
}

/// Reads the Secret, and makes it where there is none.
async fn attempt<E: fmt::Display>(
    secrets: &Api<Secret>,
    wanted: &Wanted,
    make: impl Fn() -> Result<NewAuthority, E>,
) -> Result<Result<SecretData, Trouble>, IdentityError> {
    match Clients::within(secrets.get(&wanted.secret)).await {
        Ok(found) => taken(found, wanted),
        Err(error) if code(&error) == Some(404) => {
            let made = make().map_err(|error| IdentityError::Make(error.to_string()))?;
            let (fresh, params) = (fresh(made, wanted), PostParams::default());
            match Clients::within(secrets.create(&params, &fresh)).await {
                Ok(written) => {
                    tracing::info!(%wanted, "made an authority for this cluster");
                    taken(written, wanted)
                }
                Err(error) if code(&error) == Some(409) => Ok(Err(Trouble::Raced)),
                Err(error) => Ok(Err(Trouble::Call(error))),
            }
        }
        Err(error) => Ok(Err(Trouble::Call(error))),
    }
}

/// The entries that matter, of a Secret that is ours.
fn taken(secret: Secret, wanted: &Wanted) -> Result<Result<SecretData, Trouble>, IdentityError> {
    let annotations = secret.metadata.annotations.unwrap_or_default();
    let claims = [
        (ANNOTATION_CLUSTER, "cluster", wanted.cluster.as_str()),
        (ANNOTATION_CLUSTERSET, "cluster set", wanted.clusterset.as_str()),
    ];
    for (annotation, what, expected) in claims {
        if let Some(found) = annotations.get(annotation).filter(|found| *found != expected) {
            return Err(IdentityError::OfAnother {
                secret: wanted.to_string(),
                what,
                found: found.escape_default().to_string(),
                expected: expected.to_owned(),
            });
        }
    }
    // All of them, so that the keys among them are wiped.
    let entries = secret.data.unwrap_or_default().into_iter();
    let mut entries: BTreeMap<Box<str>, _> =
        entries.map(|(name, value)| (name.into(), Zeroizing::new(value.0))).collect();
    entries.retain(|name, value| ENTRIES.contains(&&**name) && !value.is_empty());
    match REQUIRED.iter().find(|name| !entries.contains_key(**name)) {
        Some(missing) => Ok(Err(Trouble::Unfilled(missing))),
        None => Ok(Ok(SecretData(entries))),
    }
}

/// The Secret of a fresh authority, as cert-manager would lay it out.
fn fresh(made: NewAuthority, wanted: &Wanted) -> Secret {
    let certificate = made.certificate.into_bytes();
    let [certificate_entry, key_entry, bundle_entry] = ENTRIES.map(str::to_owned);
    let data = BTreeMap::from([
        (bundle_entry, ByteString(certificate.clone())),
        (certificate_entry, ByteString(certificate)),
        (key_entry, ByteString(made.key.as_bytes().to_vec())),
    ]);
    let text = |pairs: &[(&str, &str)]| {
        let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Some(owned.collect::<BTreeMap<_, _>>())
    };
    Secret {
        metadata: ObjectMeta {
            name: Some(wanted.secret.to_string()),
            namespace: Some(wanted.namespace.to_string()),
            labels: text(&[(LABEL_MANAGED_BY, MANAGER)]),
            annotations: text(&[
                (ANNOTATION_CLUSTER, wanted.cluster.as_str()),
                (ANNOTATION_CLUSTERSET, wanted.clusterset.as_str()),
            ]),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

/// The HTTP status with which the server refused.
fn code(error: &CallError) -> Option<u16> {
    match error {
        CallError::Call(kube::Error::Api(status)) => Some(status.code),
        CallError::Call(_) | CallError::Deadline => None,
    }
}

impl Trouble {
    /// What is wrong and what to do.
    fn shown(&self, wanted: &Wanted) -> String {
        match self {
            Self::Raced => "another replica is making it".to_owned(),
            Self::Unfilled(entry) => format!(
                "the Secret has no {entry}; let cert-manager issue it, or delete the Secret to \
                 have an authority made"
            ),
            Self::Call(error) => match code(error) {
                Some(401) => {
                    format!("the API server does not know us: {error}; check the service account")
                }
                Some(403) => format!(
                    "{error}; grant the service account 'get' on the Secret '{}' and 'create' on \
                     Secrets in the namespace '{}'",
                    wanted.secret, wanted.namespace
                ),
                Some(_) => error.to_string(),
                None => format!("{error}; check that the API server can be reached"),
            },
        }
    }

    /// How long the server asked to be left alone.
    fn patience(&self) -> Duration {
        let Self::Call(CallError::Call(kube::Error::Api(status))) = self else {
            return Duration::ZERO;
        };
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        Duration::from_secs(seconds.into()).min(MOST_PATIENCE)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.secret)
    }
}

impl fmt::Debug for NewAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewAuthority(redacted)")
    }
}

#[cfg(test)]
mod tests;
