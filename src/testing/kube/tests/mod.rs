//! The server driven by the real client.

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::ApiServer;
use crate::testing::PATIENCE;

mod script;
mod services;
mod watches;
mod writes;

fn client(server: &ApiServer) -> Client {
    let mut config = kube::Config::new(server.url().parse().expect("a URL"));
    config.default_retry = false;
    Client::try_from(config).expect("a client")
}

/// Objects of a namespace that exists.
fn api<K>(server: &ApiServer) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    if server.get("namespaces", "shop").is_none() {
        server.put(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" },
        }));
    }
    Api::namespaced(client(server), "shop")
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object")
}

fn config_map(name: &str, text: &str) -> ConfigMap {
    object(json!({ "metadata": { "name": name }, "data": { "text": text } }))
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "namespace": "shop", "name": name },
        "spec": { "ports": [{ "port": 80 }] },
    })
}

/// Code and message of a refused call.
fn refused<T>(result: kube::Result<T>) -> (u16, String, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason, status.message),
        Err(other) => panic!("not refused: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

async fn next<T>(events: &mut (impl Stream<Item = T> + Unpin)) -> T {
    let event = tokio::time::timeout(PATIENCE, events.next()).await;
    event.expect("an event in time").expect("watchers do not end")
}
