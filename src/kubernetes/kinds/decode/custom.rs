//! The custom kinds, namespaces and the one Secret.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::text::{
    ExportText, ImportText, NamespaceText, PeerText, PropertyText, SecretText,
};
use super::{Decoded, Decoder, Seen, Sent, addresses, conditions, shown};
use crate::catalog::{ExportObject, Guidance, NamespaceRules, SourceEvent};
use crate::kubernetes::view::{PeerSpec, SecretData};
use crate::model::{ClusterId, Drain, Namespace, PeerAddress};
use crate::objects::{Kind, LABEL_MANAGED_BY, MANAGER, ObservedExport, ObservedImport};

/// The ClusterProperty that names the cluster (KEP-2149).
const PROPERTY_CLUSTER_ID: &str = "cluster.clusterset.k8s.io";

impl Decoder {
    pub(super) fn peer(&self, object: &mut Sent<'_>) -> Result<Decoded, String> {
        let PeerText { spec, status } = object.parse()?;
        let cluster = spec.cluster.as_deref().unwrap_or(&object.name.name);
        let cluster =
            ClusterId::parse(cluster).map_err(|error| format!("spec.cluster: {error}"))?;
        if cluster == self.cluster {
            return Err(format!("'{cluster}' is this cluster; remove the Peer"));
        }
        let namespaces = match spec.import.namespaces {
            Some(listed) if listed.iter().all(|name| **name != *"*") => NamespaceRules::Only(
                each("import.namespaces", &listed, Namespace::parse)?.into_iter().collect(),
            ),
            _ => NamespaceRules::Any,
        };
        let drain = object.take_settings().remove("drain");
        // A slip in it must not cost the peer.
        let drain = drain.and_then(|text| {
            let parsed = Drain::parse(&text);
            let told = |error: &_| tracing::warn!(peer = %cluster, %error, "portolan.dev/drain of this Peer is not understood; nothing is drained by it");
            parsed.inspect_err(told).ok()
        });
        let peer = PeerSpec {
            name: object.name.name.clone(),
            uid: object.uid.into(),
            generation: object.head.generation,
            cluster,
            addresses: each("addresses", &spec.addresses, PeerAddress::parse)?,
            networks: each("networks", &spec.networks, str::parse)?,
            bundle: spec.bundle.filter(|pem| !pem.trim().is_empty()).map(Into::into),
            namespaces,
            trust_policy: spec.trust_policy.unwrap_or(true),
            dial_out: spec.dial_out.unwrap_or(true),
            drain,
            conditions: conditions(&status),
        };
        Ok(Seen::Peer(Box::new(peer)).into())
    }

    pub(super) fn secret(&self, object: &Sent<'_>) -> Result<Decoded, String> {
        if *object.name.namespace != *self.namespace.as_str() || object.name.name != self.secret {
            return Ok(Decoded::default());
        }
        let SecretText { data } = object.parse()?;
        let data = data.into_iter().map(|(entry, value)| (entry, Zeroizing::new(value.0)));
        Ok(Seen::Secret(Arc::new(SecretData(data.collect()))).into())
    }
}

pub(super) fn namespace(mut object: Sent<'_>) -> Result<Decoded, String> {
    let name =
        Namespace::parse(&object.name.name).map_err(|error| format!("metadata.name: {error}"))?;
    let NamespaceText { status } = object.parse()?;
    if object.head.deletion_timestamp.is_some() || status.phase.as_deref() == Some("Terminating") {
        return Ok(Decoded::default());
    }
    let (said, problems) = Guidance::parse(&object.take_settings());
    for problem in problems {
        tracing::warn!(namespace = %name, field = %problem.field, "{}", problem.message);
    }
    Ok(Seen::Namespace(name, said).into())
}

pub(super) fn export(mut object: Sent<'_>) -> Result<Decoded, String> {
    let key = object.service_key()?;
    let ExportText { spec, status } = object.parse()?;
    let created = object.head.creation_timestamp.as_deref().map(|text| {
        let at = text.parse::<jiff::Timestamp>();
        at.map_err(|_| format!("metadata.creationTimestamp: '{}' is not a time", shown(text)))
    });
    let observed = ObservedExport {
        uid: object.uid.into(),
        generation: object.head.generation,
        conditions: conditions(&status),
    };
    let export = ExportObject {
        created_ms: created.transpose()?.map_or(0, jiff::Timestamp::as_millisecond),
        exported_labels: spec.exported_labels.0,
        exported_annotations: spec.exported_annotations.0,
        settings: object.take_settings(),
    };
    Ok(Decoded {
        source: Some(SourceEvent::Export(key.clone(), Some(export))),
        seen: Some(Seen::Export(key, observed)),
        ..Decoded::default()
    })
}

pub(super) fn import(object: Sent<'_>) -> Result<Decoded, String> {
    let key = object.service_key()?;
    let ImportText { spec, status } = object.parse()?;
    let is_ours = object.label(LABEL_MANAGED_BY) == Some(MANAGER);
    let observed = ObservedImport {
        uid: object.uid.into(),
        ips: addresses(&spec.ips),
        conditions: conditions(&status),
        foreign: !is_ours,
    };
    let ours = is_ours.then(|| object.ours(Kind::Import)).transpose()?;
    Ok(Decoded { ours, seen: Some(Seen::Import(key, observed)), ..Decoded::default() })
}

pub(super) fn property(object: &Sent<'_>) -> Result<Decoded, String> {
    if *object.name.name != *PROPERTY_CLUSTER_ID {
        return Ok(Decoded::default());
    }
    let PropertyText { spec } = object.parse()?;
    Ok(spec.value.map(|value| Seen::ClusterId(value).into()).unwrap_or_default())
}

/// Every text of a list of a Peer's spec, parsed; the first that is wrong refuses the object.
fn each<T, E: fmt::Display>(
    field: &str,
    texts: &[Box<str>],
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, String> {
    let parse = |text: &str| {
        parse(text).map_err(|error| format!("spec.{field}: '{}': {error}", shown(text)))
    };
    texts.iter().map(|text| parse(text)).collect()
}
