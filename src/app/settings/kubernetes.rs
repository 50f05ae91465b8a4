//! What Kubernetes objects say in place of the configuration file: the peers and the trust.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, Pod, Source};
use crate::kubernetes::{self, PeerSpec, SecretData};
use crate::model::{ClusterId, Drain};
use crate::{peering, tls};

/// The watches, where the source is an API server.
///
/// # Errors
/// The own namespace is not known; the text says what to set.
pub(in crate::app) fn source(
    config: &Config,
    pod: &Pod,
) -> Result<Option<kubernetes::Config>, String> {
    let Source::Kubernetes(source) = &config.source else { return Ok(None) };
    Ok(Some(kubernetes::Config {
        cluster: config.cluster.clone(),
        namespace: source.namespace(pod)?,
        gateway_service: source.service.as_str().into(),
        secret: source.secret.clone(),
        access: source.access.clone(),
    }))
}

/// Whose identity is read or made at start.
pub(in crate::app) fn wanted(config: &Config, source: &kubernetes::Config) -> kubernetes::Wanted {
    kubernetes::Wanted {
        cluster: config.cluster.clone(),
        clusterset: config.clusterset.clone(),
        namespace: source.namespace.clone(),
        secret: source.secret.clone(),
    }
}

/// Trust that is supplied; messages name the Secret.
pub(in crate::app) fn trust(config: &Config, source: &kubernetes::Config) -> tls::Config {
    tls::Config {
        cluster: config.cluster.clone(),
        clusterset: config.clusterset.clone(),
        dir: PathBuf::from(format!("Secret {}/{}", source.namespace, source.secret)),
    }
}

/// The own identity as the Secret holds it; `name` is what messages call that.
///
/// # Errors
/// Names the entry that is missing.
pub(in crate::app) fn pair(secret: &SecretData, name: &Path) -> Result<tls::Pair, tls::Error> {
    tls::Pair::of_entries(|entry| secret.0.get(entry).map(|value| value.as_slice()), name)
}

/// The own identity with the bundles of all peers. A peer without one is not trusted.
pub(in crate::app) fn supply(
    own: Option<Arc<tls::Pair>>,
    peers: &BTreeMap<ClusterId, PeerSpec>,
) -> tls::Supply {
    let bundle = |(cluster, peer): (&ClusterId, &PeerSpec)| {
        Some((cluster.clone(), Arc::clone(peer.bundle.as_ref()?)))
    };
    tls::Supply { own, peers: peers.iter().filter_map(bundle).collect() }
}

/// The peers as Peer objects name them, in place of `peers`. One without addresses is only
/// listened to.
pub(in crate::app) fn peers_of_objects(
    peers: &BTreeMap<ClusterId, PeerSpec>,
) -> Vec<peering::PeerConfig> {
    let peer = |peer: &PeerSpec| peering::PeerConfig {
        cluster: peer.cluster.clone(),
        addresses: peer.addresses.clone(),
        networks: peer.networks.clone(),
        namespaces: peer.namespaces.clone(),
        trust_policy: peer.trust_policy,
    };
    peers.values().map(peer).collect()
}

/// The peers that their objects drain.
pub(in crate::app) fn drains_of_objects(
    peers: &BTreeMap<ClusterId, PeerSpec>,
) -> BTreeMap<ClusterId, Drain> {
    peers.iter().filter_map(|(cluster, peer)| Some((cluster.clone(), peer.drain?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::NamespaceRules;
    use crate::model::PeerAddress;
    use crate::testing::trust::{authority_pair, cluster, init};

    fn config(source: &str) -> Config {
        let text = format!("cluster: paris\nsource: {source}\n");
        Config::parse(&text, Path::new("/etc/portolan/paris.yaml")).unwrap()
    }

    fn peer(name: &str, bundle: Option<&str>) -> (ClusterId, PeerSpec) {
        let spec = PeerSpec {
            name: name.into(),
            uid: "u".into(),
            generation: None,
            cluster: cluster(name),
            addresses: vec![PeerAddress::parse("gw.example.org").unwrap()],
            networks: vec!["10.1.0.0/16".parse().unwrap()],
            bundle: bundle.map(Arc::from),
            namespaces: NamespaceRules::Any,
            trust_policy: true,
            dial_out: false,
            drain: None,
            conditions: Vec::new(),
        };
        (cluster(name), spec)
    }

    #[test]
    fn the_secret_the_namespace_and_the_service_are_those_configured() {
        let config = config("{ kubernetes: { namespace: mesh, service: gw, secret: ca } }");
        let source = source(&config, &Pod::default()).unwrap().unwrap();
        assert_eq!((source.namespace.as_str(), &*source.gateway_service), ("mesh", "gw"));
        assert_eq!(wanted(&config, &source).to_string(), "mesh/ca");
        assert_eq!(trust(&config, &source).dir, Path::new("Secret mesh/ca"));
    }

    #[test]
    fn peers_and_their_bundles_come_from_objects() {
        let mut peers = BTreeMap::from([peer("oregon", Some("pem")), peer("tokyo", None)]);
        peers.get_mut(&cluster("tokyo")).unwrap().trust_policy = false;
        let configured = peers_of_objects(&peers);
        assert_eq!(configured.iter().map(|of| of.trust_policy).collect::<Vec<_>>(), [true, false]);
        assert_eq!(configured.len(), 2);
        assert_eq!(configured[0].cluster, cluster("oregon"));
        assert_eq!(configured[0].addresses[0].to_string(), "gw.example.org:8443");
        assert_eq!(configured[0].networks.len(), 1);
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "paris");
        let whole = authority_pair(dir.path());
        let mut secret = SecretData::default();
        secret.0.insert("tls.crt".into(), whole.certificate.clone().into());
        let name = Path::new("Secret mesh/ca");
        let error = pair(&secret, name).unwrap_err().to_string();
        assert!(error.starts_with("Secret mesh/ca/tls.key: it is missing"), "{error}");
        secret.0.insert("tls.key".into(), whole.key.clone());
        let own = Arc::new(pair(&secret, name).unwrap());
        assert_eq!(own.key, whole.key);
        let supply = supply(Some(own), &peers);
        assert_eq!(supply.peers.keys().collect::<Vec<_>>(), [&cluster("oregon")]);
        assert!(supply.own.is_some());
    }
}
