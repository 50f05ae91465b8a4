//! From an object that should exist and one that does to the one request between them.

use serde_json::{Value, json};

use super::target::Rank;
use crate::kubernetes::calls::{Call, Verb};
use crate::kubernetes::mirror::Existing;
use crate::model::Namespace;
use crate::objects::{Kind, LABEL_SLICE_SERVICE, McsVersion, Object, ObjectId};

/// The request that brings an object nearer to what it should be. All but the first carry the
/// uid and the version they were computed from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change<'a> {
    /// It is missing.
    Create(&'a Object),
    /// It differs.
    Replace(&'a Object, &'a Existing),
    /// Only its status differs.
    Status(&'a Object, &'a Existing),
    /// It should not be there.
    Delete(&'a Existing),
}

impl<'a> Change<'a> {
    /// What to do so that what `exists` becomes what is `wanted`; `None`: nothing.
    pub(super) fn between(
        wanted: Option<&'a Object>,
        exists: Option<&'a Existing>,
    ) -> Option<Self> {
        match (wanted, exists) {
            // On its way out already: it is made anew when it is gone.
            (_, Some(exists)) if exists.deleting => None,
            (None, None) => None,
            (Some(wanted), None) => Some(Self::Create(wanted)),
            (None, Some(exists)) => Some(Self::Delete(exists)),
            (Some(wanted), Some(exists)) => {
                if *wanted == *exists.object {
                    None
                } else if wanted.same_but_status(&exists.object) {
                    Some(Self::Status(wanted, exists))
                } else {
                    Some(Self::Replace(wanted, exists))
                }
            }
        }
    }

    /// How urgent it is.
    pub(super) fn rank(&self) -> Rank {
        match self {
            Self::Delete(_) => Rank::Removal,
            Self::Create(object) | Self::Replace(object, _) if feeds_proxy(object) => Rank::Switch,
            Self::Create(_) | Self::Replace(..) => Rank::Addition,
            Self::Status(..) => Rank::Status,
        }
    }

    /// As a request.
    pub(super) fn call(&self, id: &ObjectId, mcs: McsVersion) -> Call {
        let collection = collection(id.kind, &id.namespace, mcs);
        let path = format!("{collection}/{}", id.name);
        match self {
            Self::Create(object) => {
                Call { verb: Verb::Create, path: collection, body: versioned(object, mcs) }
            }
            Self::Replace(object, exists) => match object.patch_json(&exists.object) {
                Some(patch) => Call { verb: Verb::Merge, path, body: fence(patch, exists) },
                None => {
                    let body = fence(versioned(object, mcs), exists);
                    Call { verb: Verb::Replace, path, body }
                }
            },
            Self::Status(object, exists) => Call {
                verb: Verb::Merge,
                path: format!("{path}/status"),
                body: fence(json!({ "status": object.status_json() }), exists),
            },
            Self::Delete(exists) => Call {
                verb: Verb::Delete,
                path,
                body: json!({
                    "apiVersion": "v1",
                    "kind": "DeleteOptions",
                    "propagationPolicy": "Background",
                    "preconditions": { "uid": exists.uid, "resourceVersion": exists.version },
                }),
            },
        }
    }
}

/// Puts into `body` which object, at which version, it was computed from.
pub(super) fn fenced(mut body: Value, uid: &str, version: &str) -> Value {
    body["metadata"]["uid"] = json!(uid);
    body["metadata"]["resourceVersion"] = json!(version);
    body
}

fn fence(body: Value, exists: &Existing) -> Value {
    fenced(body, &exists.uid, &exists.version)
}

/// Whether kube-proxy reads it.
pub(super) fn feeds_proxy(object: &Object) -> bool {
    object.kind() == Kind::Slice && object.meta().labels.contains_key(LABEL_SLICE_SERVICE)
}

/// The request that reads an object.
pub(super) fn read(id: &ObjectId, mcs: McsVersion) -> Call {
    let path = format!("{}/{}", collection(id.kind, &id.namespace, mcs), id.name);
    Call { verb: Verb::Read, path, body: Value::Null }
}

fn collection(kind: Kind, namespace: &Namespace, mcs: McsVersion) -> String {
    match kind {
        Kind::Service => format!("/api/v1/namespaces/{namespace}/services"),
        Kind::Slice => format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
        Kind::Import => {
            format!("/apis/{}/namespaces/{namespace}/serviceimports", mcs.api_version())
        }
    }
}

fn versioned(object: &Object, mcs: McsVersion) -> Value {
    let mut value = object.to_json();
    if object.kind() == Kind::Import {
        value["apiVersion"] = json!(mcs.api_version());
    }
    value
}
