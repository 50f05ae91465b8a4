//! Against a whole API server: who makes the Secret, who takes it, and what is waited for.

use std::convert::Infallible;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::kubernetes::Access;
use crate::testing::kube::{ApiServer, Rule, Verb};
use crate::testing::trust;
use crate::tls;

const KEY: &str = "mesh/portolan-ca";

fn wanted(cluster: &str) -> Wanted {
    Wanted {
        cluster: trust::cluster(cluster),
        clusterset: DnsName::parse(trust::CLUSTERSET).unwrap(),
        namespace: Namespace::parse("mesh").unwrap(),
        secret: "portolan-ca".into(),
    }
}

/// A server with the namespace.
async fn server() -> ApiServer {
    let server = ApiServer::start().await;
    server.put(json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "mesh" },
    }));
    server
}

fn authority(cluster: &str) -> Result<NewAuthority, tls::Error> {
    let (certificate, key) = tls::new_authority(&trust::cluster(cluster))?;
    Ok(NewAuthority { certificate, key })
}

/// One replica that starts, with pauses that a test can afford.
async fn start(url: String, cluster: &'static str) -> Result<SecretData, IdentityError> {
    let clients = Clients::open(&Access::Url(url)).await.unwrap();
    let ms = Duration::from_millis;
    let backoff = Backoff::try_new(ms(1), ms(20)).unwrap();
    with_pauses(&clients, &wanted(cluster), || authority(cluster), backoff).await
}

fn starting(server: &ApiServer) -> JoinHandle<Result<SecretData, IdentityError>> {
    #[expect(clippy::disallowed_methods, reason = "a replica of the test")]
    tokio::spawn(start(server.url(), "paris"))
}

/// The agent's next step: an identity that is in force.
fn trust_of(data: &SecretData, cluster: &str) -> Result<tls::Trust, tls::Error> {
    let name = std::path::Path::new("Secret mesh/portolan-ca");
    let pair =
        tls::Pair::of_entries(|entry| data.0.get(entry).map(|value| value.as_slice()), name)?;
    let supply = tls::Supply { own: Some(Arc::new(pair)), ..tls::Supply::default() };
    let (_, supply) = tokio::sync::watch::channel(Arc::new(supply));
    let metrics = tls::Metrics::register(&prometheus::Registry::new()).unwrap();
    tls::Trust::supplied(trust::config(name, cluster), supply, metrics)
}

fn creates(server: &ApiServer) -> usize {
    server.requests().iter().filter(|request| request.verb == Verb::Create).count()
}

/// Another's Secret.
fn put(server: &ApiServer, annotations: &Value, data: &[(&str, &[u8])]) {
    let data: BTreeMap<_, _> =
        data.iter().map(|(name, value)| (*name, ByteString(value.to_vec()))).collect();
    server.put(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "namespace": "mesh", "name": "portolan-ca", "annotations": annotations },
        "data": data,
    }));
}

#[tokio::test]
async fn the_first_replica_makes_the_authority_and_the_next_takes_it() {
    let server = server().await;
    let first = start(server.url(), "paris").await.unwrap();
    let stored = server.get("secrets", KEY).unwrap();
    assert_eq!(stored["type"], "kubernetes.io/tls");
    assert_eq!(stored["metadata"]["labels"]["app.kubernetes.io/managed-by"], "portolan.dev");
    assert_eq!(stored["metadata"]["annotations"]["portolan.dev/cluster"], "paris");
    assert_eq!(stored["metadata"]["annotations"]["portolan.dev/clusterset"], "clusterset.local");
    assert_eq!(stored["data"]["tls.crt"], stored["data"]["ca.crt"], "what peers pin");
    assert!(trust_of(&first, "paris").unwrap().renews());
    assert_eq!(start(server.url(), "paris").await.unwrap(), first);
    assert_eq!(creates(&server), 1);
}

#[tokio::test]
async fn the_loser_of_a_race_takes_what_the_winner_wrote() {
    let server = server().await;
    let hidden = server.fail(Rule::refuse(404).verb(Verb::Get).resource("secrets"));
    let winner = starting(&server).await.unwrap().unwrap();
    let loser = starting(&server);
    server.await_request(|request| request.verb == Verb::Create && request.code == 409).await;
    server.take_back(hidden);
    assert_eq!(loser.await.unwrap().unwrap(), winner);
}

#[tokio::test]
async fn a_created_secret_whose_answer_was_lost_is_the_one_taken() {
    let server = server().await;
    server.fail(Rule::lose().verb(Verb::Create).times(1));
    let taken = start(server.url(), "paris").await.unwrap();
    assert_eq!(creates(&server), 1);
    assert!(trust_of(&taken, "paris").is_ok());
}

#[tokio::test]
async fn a_leaf_of_cert_manager_is_used_as_it_is() {
    let server = server().await;
    let dir = tempfile::tempdir().unwrap();
    trust::init(dir.path(), "paris");
    let leaf = trust::Leaf::of("paris").signed_by(dir.path()).pair(dir.path());
    let bundle = leaf.bundle.clone().unwrap();
    let data: [(&str, &[u8]); 4] = [
        ("tls.crt", &leaf.certificate),
        ("tls.key", &leaf.key),
        ("ca.crt", &bundle),
        ("keystore.p12", b"not ours"),
    ];
    put(&server, &json!({ "cert-manager.io/certificate-name": "paris" }), &data);
    let taken = start(server.url(), "paris").await.unwrap();
    assert_eq!(
        taken.0.keys().map(|name| &**name).collect::<Vec<_>>(),
        ["ca.crt", "tls.crt", "tls.key"]
    );
    let trust = trust_of(&taken, "paris").unwrap();
    assert!(!trust.renews(), "cert-manager does");
    assert_eq!(creates(&server), 0);
    assert!(trust_of(&taken, "lyon").unwrap_err().to_string().contains("it speaks for 'paris'"));
}

#[tokio::test]
async fn the_secret_of_another_cluster_ends_the_start_and_stays_as_it_is() {
    let server = server().await;
    start(server.url(), "paris").await.unwrap();
    let before = server.get("secrets", KEY);
    let error = start(server.url(), "lyon").await.unwrap_err().to_string();
    assert!(
        error.starts_with(
            "Secret mesh/portolan-ca is of cluster 'paris', the configuration says 'lyon'; correct"
        ),
        "{error}"
    );
    assert_eq!(server.get("secrets", KEY), before);
    server.change("secrets", KEY, |secret| {
        secret["metadata"]["annotations"]["portolan.dev/clusterset"] = json!("other.set");
    });
    let error = start(server.url(), "paris").await.unwrap_err().to_string();
    assert!(error.contains("is of cluster set 'other.set'"), "{error}");
    // Without the annotation the authority's own name tells.
    server.change("secrets", KEY, |secret| secret["metadata"]["annotations"] = json!({}));
    let taken = start(server.url(), "lyon").await.unwrap();
    let error = trust_of(&taken, "lyon").unwrap_err().to_string();
    assert!(error.contains("it is the authority of 'paris'"), "{error}");
}

#[tokio::test]
async fn an_unfilled_secret_is_waited_for_and_never_replaced() {
    let server = server().await;
    put(&server, &json!({}), &[("tls.crt", b""), ("tls.key", b"key")]);
    let replica = starting(&server);
    let asked =
        |request: &crate::testing::kube::Request| request.verb == Verb::Get && request.code == 200;
    server.await_request(asked).await;
    server.await_request_since(server.mark(), asked).await;
    put(&server, &json!({}), &[("tls.crt", b"certificate"), ("tls.key", b"key")]);
    let taken = replica.await.unwrap().unwrap();
    assert_eq!(**taken.0["tls.crt"], *b"certificate");
    assert_eq!(creates(&server), 0);
}

#[tokio::test]
async fn a_server_that_is_away_or_refuses_is_waited_for() {
    let server = server().await;
    server.stop().await;
    let replica = starting(&server);
    for rule in [
        Rule::refuse(401).times(1),
        Rule::refuse(403).times(1),
        Rule::refuse(503).times(1),
        Rule::reset().times(1),
        Rule::refuse(403).verb(Verb::Create).times(1),
    ] {
        server.fail(rule);
    }
    server.resume().await;
    assert!(trust_of(&replica.await.unwrap().unwrap(), "paris").is_ok());
    assert_eq!(server.list("secrets").len(), 1);
}

#[tokio::test]
async fn without_randomness_there_is_no_authority() {
    let server = server().await;
    let clients = Clients::open(&Access::Url(server.url())).await.unwrap();
    let error = identity(&clients, &wanted("paris"), || Err("no randomness")).await.unwrap_err();
    assert_eq!(error.to_string(), "no authority can be made: no randomness");
    assert_eq!(creates(&server), 0);
}

#[test]
fn trouble_says_what_to_grant_and_how_long_to_wait() {
    let status = |code: u16, seconds: u32| {
        let status = json!({
            "status": "Failure", "message": "no", "reason": "Reason", "code": code,
            "details": { "retryAfterSeconds": seconds },
        });
        let status: kube::core::Status = serde_json::from_value(status).unwrap();
        Trouble::Call(CallError::Call(kube::Error::Api(Box::new(status))))
    };
    let shown = status(403, 0).shown(&wanted("paris"));
    assert!(
        shown.contains("'get' on the Secret 'portolan-ca' and 'create' on Secrets in"),
        "{shown}"
    );
    assert_eq!(status(429, 7).patience(), Duration::from_secs(7));
    assert_eq!(status(429, 7_000).patience(), MOST_PATIENCE);
    assert_eq!(Trouble::Raced.patience(), Duration::ZERO);
    let none: Result<NewAuthority, Infallible> =
        Ok(NewAuthority { certificate: String::new(), key: "secret".to_owned().into() });
    assert_eq!(format!("{none:?}"), "Ok(NewAuthority(redacted))");
}
