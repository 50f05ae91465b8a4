//! What can be wrong with the own trust folder, and with a dial.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;
use thiserror::Error;

use super::identity::IdentityError;
use super::refusal::Refusal;
use crate::health::DialFault;
use crate::model::ClusterId;

/// Why the own identity, a bundle or the listener cannot be used.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}: {source}; check that it exists and who may read it", path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A private key that others could read.
    #[error(
        "{} may be read by others (mode {mode:04o}); run: chmod 600 {}, or mount the Secret with \
         defaultMode 0400",
        path.display(), path.display()
    )]
    KeyReadable {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// `trust init` never replaces keys.
    #[error("{} exists already; choose another folder, or move it away first", .0.display())]
    Exists(PathBuf),
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The own certificate does not speak for the configured cluster.
    #[error("{}: {source}; issue it for the configured cluster, or correct `cluster`", path.display())]
    Identity {
        /// The certificate.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: IdentityError,
    },
    /// A certificate could not be made.
    #[error("cannot issue a certificate: {0}")]
    Issue(String),
    /// The port between clusters cannot be opened.
    #[error("cannot listen on {address}: {source}; free the port or change gateway.listen")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    pub(super) fn invalid(path: &Path, problem: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_path_buf(), problem: problem.into() }
    }
}

/// Why a dial gave no connection.
#[derive(Debug, Clone, Error)]
pub enum DialError {
    /// No bundle is pinned for that cluster.
    #[error(
        "no certificate authority is pinned for {0}; copy its ca.pem to peers/{0}.pem or to its Peer"
    )]
    UnknownPeer(ClusterId),
    /// Nothing vouches for the own cluster's certificates, so no sibling can be believed.
    #[error("there is no usable ca.pem of this cluster; put it beside cert.pem")]
    NoAuthority,
    /// The connection could not be made.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// No connection, or no handshake, in time.
    #[error("{0} did not answer in time; check that the port is open and not filtered")]
    Timeout(SocketAddr),
    /// We refused the peer.
    #[error("{address} was refused ({reason}): {problem}", reason = reason.as_str())]
    Refused {
        /// Where.
        address: SocketAddr,
        /// The metric's reason.
        reason: Refusal,
        /// The whole text.
        problem: Arc<str>,
    },
    /// The peer refused us, or ended the connection in the handshake.
    #[error("{address} ended the handshake: {problem}; see its log for the reason")]
    Rejected {
        /// Where.
        address: SocketAddr,
        /// What it said.
        problem: Arc<str>,
    },
}

impl DialError {
    /// What health makes of it. What this machine lacks says nothing of the peer: it is no
    /// refusal, so that agents out of descriptors do not find everybody Down.
    #[must_use]
    pub fn fault(&self) -> DialFault {
        match self {
            Self::Connect { source, .. }
                if source.kind() == io::ErrorKind::TimedOut || is_ours(source) =>
            {
                DialFault::Timeout
            }
            Self::Connect { .. } => DialFault::Refused,
            Self::Timeout(_) => DialFault::Timeout,
            Self::UnknownPeer(_)
            | Self::NoAuthority
            | Self::Refused { .. }
            | Self::Rejected { .. } => DialFault::Tls,
        }
    }

    /// Whether nobody listens there, or whoever did reset the connection.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if matches!(
            source.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
        ))
    }

    /// Whether this machine lacked something (a descriptor, memory, a local port), so that
    /// nothing was learned of the peer.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if is_ours(source))
    }
}

/// Whether the error is of this machine: no descriptor, memory or local port left.
fn is_ours(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| ours.contains(&Errno::from_raw_os_error(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_no_refusal_by_the_peer() {
        let error = |errno: Errno| {
            let address = ([127, 0, 0, 1], 8443).into();
            DialError::Connect { address, source: Arc::new(errno.into()) }
        };
        let fault = |errno: Errno| error(errno).fault();
        for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::HOSTUNREACH] {
            assert_eq!(fault(errno), DialFault::Refused, "{errno}");
            assert!(!error(errno).is_ours(), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::ADDRNOTAVAIL] {
            assert_ne!(fault(errno), DialFault::Refused, "{errno}");
            assert!(error(errno).is_ours(), "{errno}");
        }
    }
}
