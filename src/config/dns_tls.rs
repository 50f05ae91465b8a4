//! `dns.tls_*`: DNS over TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::fields::{Field, Fields, Problems};
use super::load::sockets;

/// DNS over TLS, where it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DnsTls {
    /// Where questions are taken over TLS; empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// What is shown instead of the cluster's own certificate: a certificate with its chain, and
    /// its key.
    pub files: Option<(PathBuf, PathBuf)>,
}

pub(super) fn dns_tls(section: &mut Fields<'_>, base: &Path, problems: &mut Problems) -> DnsTls {
    let listen = section.take("tls_listen").map(|field| sockets(&field, problems));
    let listen = listen.unwrap_or_default();
    let certificate = section.take("tls_certificate");
    let key = section.take("tls_key");
    for (field, other, is_there) in
        [(&certificate, "tls_key", key.is_some()), (&key, "tls_certificate", certificate.is_some())]
    {
        let Some(field) = field else { continue };
        if !is_there {
            let text = format!("stands without 'dns.{other}'; give both, or neither");
            problems.add(Some(field.node.at), &field.path, text);
        }
    }
    if let (Some(field), Some(_), []) = (&certificate, &key, listen.as_slice()) {
        let text = "has no meaning without 'dns.tls_listen'; give an address there, for example \
                    '0.0.0.0:853', or remove the key";
        problems.add(Some(field.node.at), &field.path, text);
    }
    let path = |field: &Field<'_>, problems: &mut Problems| {
        let parser = |text: &str| match text {
            "" => Err("is empty; name a PEM file"),
            path => Ok(base.join(path)),
        };
        field.parse(parser, problems)
    };
    let certificate = certificate.and_then(|field| path(&field, problems));
    let key = key.and_then(|field| path(&field, problems));
    DnsTls { listen, files: certificate.zip(key) }
}
