//! Whole writers, with the Lease, before one server.

use std::sync::Arc;

use serde_json::Value;
use tokio::task::JoinSet;

use super::super::{Writer, WriterConfig, WriterHandle, WriterMetrics};
use super::bench::{Ends, ends, feed};
use super::fixtures::{desired, key, proxied, whole};
use crate::clock;
use crate::drain::{self, Phase, Trigger};
use crate::kubernetes::client::{Access, Clients};
use crate::kubernetes::lease::RENEW_DEADLINE;
use crate::kubernetes::mirror::Mirror;
use crate::model::Namespace;
use crate::testing::kube::{ApiServer, Rule, Verb};

struct Replica {
    ends: Ends,
    handle: WriterHandle,
    trigger: Trigger,
    mirror: Arc<Mirror>,
}

async fn server() -> ApiServer {
    let server = ApiServer::start().await;
    for name in ["shop", "portolan-system"] {
        server.put(serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name },
        }));
    }
    server
}

async fn replica(server: &ApiServer, identity: &str, tasks: &mut JoinSet<()>) -> Replica {
    let clients = Arc::new(Clients::open(&Access::Url(server.url())).await.unwrap());
    let mirror = Arc::new(Mirror::default());
    feed(server, &mirror);
    let config = WriterConfig {
        namespace: Namespace::parse("portolan-system").unwrap(),
        lease: "portolan".into(),
        identity: identity.into(),
    };
    let metrics = WriterMetrics::register(&prometheus::Registry::new()).unwrap();
    let writer = Writer::new(config, clients, Arc::clone(&mirror), metrics);
    let handle = writer.handle();
    let (ends, inputs, outputs) = ends();
    let (trigger, drained) = drain::channel();
    tasks.spawn(writer.run(inputs, outputs, drained));
    Replica { ends, handle, trigger, mirror }
}

impl Replica {
    async fn leads(&mut self, leads: bool) {
        self.ends.leader.wait_for(|now| *now == leads).await.unwrap();
    }

    async fn say(&self, objects: Vec<crate::objects::Object>) {
        self.ends.desired.send(desired(&key("shop/web"), objects)).await.unwrap();
    }
}

fn with_endpoint(address: &str) -> Vec<crate::objects::Object> {
    let mut objects = whole(&key("shop/web"));
    objects[1] = proxied(&key("shop/web"), &[address, "10.1.0.9"]);
    objects
}

async fn await_endpoint(server: &ApiServer, address: &str) {
    let name = format!("shop/{}", proxied(&key("shop/web"), &[]).id().name);
    let has = |slice: Option<&Value>| {
        slice.is_some_and(|slice| slice["endpoints"][0]["addresses"][0] == address)
    };
    server.await_object("endpointslices", &name, has).await;
}

#[tokio::test]
async fn k16_two_writers_never_both_write() {
    let server = server().await;
    let mut tasks = JoinSet::new();
    let mut first = replica(&server, "portolan-0", &mut tasks).await;
    first.leads(true).await;
    let second = replica(&server, "portolan-1", &mut tasks).await;
    // They disagree; the holder of the Lease decides.
    first.say(with_endpoint("10.1.0.1")).await;
    second.say(with_endpoint("10.1.0.2")).await;
    await_endpoint(&server, "10.1.0.1").await;
    server.await_list("endpointslices", |slices| slices.len() == 2).await;
    server.await_list("serviceimports", |imports| imports.len() == 1).await;
    assert!(!*second.ends.leader.borrow());

    // It goes: the other need not wait for the Lease's end. Its mirror is empty, so it finds
    // what is there when it tries to make it.
    let mut second = second;
    let mark = server.mark();
    first.trigger.advance(Phase::Announced);
    second.leads(true).await;
    assert!(!*first.ends.leader.borrow());
    await_endpoint(&server, "10.1.0.2").await;
    let lease = server.get("leases", "portolan-system/portolan").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "portolan-1");
    assert_eq!(lease["spec"]["leaseTransitions"], 2);
    let made = server.requests_since(mark).into_iter();
    let made = made.filter(|of| of.verb == Verb::Create && of.code == 201).count();
    assert_eq!(made, 0, "everything was there");

    // Who no longer leads says what it wants in vain.
    first.say(with_endpoint("10.1.0.3")).await;
    second.say(with_endpoint("10.1.0.4")).await;
    await_endpoint(&server, "10.1.0.4").await;
    for replica in [first, second] {
        replica.trigger.advance(Phase::Draining);
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let lease = server.get("leases", "portolan-system/portolan").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "", "given back");
}

#[tokio::test]
async fn k01_while_the_server_is_away_writes_wait_and_then_resume() {
    let server = server().await;
    let mut tasks = JoinSet::new();
    let mut writer = replica(&server, "portolan-0", &mut tasks).await;
    writer.leads(true).await;
    writer.say(with_endpoint("10.1.0.1")).await;
    await_endpoint(&server, "10.1.0.1").await;
    server.stop().await;
    writer.say(with_endpoint("10.1.0.2")).await;
    // It cannot renew, so it may not write.
    writer.leads(false).await;
    server.resume().await;
    writer.leads(true).await;
    await_endpoint(&server, "10.1.0.2").await;
}

#[tokio::test]
async fn k13_without_the_right_to_write_the_state_stays_and_it_resumes_when_granted() {
    let server = server().await;
    let mut tasks = JoinSet::new();
    let mut writer = replica(&server, "portolan-0", &mut tasks).await;
    writer.leads(true).await;
    let forbidden = server.fail(
        Rule::refuse(403).verb(Verb::Update).resource("leases").message("leases is forbidden"),
    );
    writer.leads(false).await;
    writer.say(with_endpoint("10.1.0.1")).await;
    server.take_back(forbidden);
    writer.leads(true).await;
    await_endpoint(&server, "10.1.0.1").await;
}

#[tokio::test]
async fn a_replica_that_does_not_lead_takes_a_silent_sibling_out() {
    let server = server().await;
    let mut tasks = JoinSet::new();
    let mut first = replica(&server, "portolan-0", &mut tasks).await;
    first.leads(true).await;
    first.say(with_endpoint("10.1.0.1")).await;
    await_endpoint(&server, "10.1.0.1").await;
    let second = replica(&server, "portolan-1", &mut tasks).await;
    assert!(second.mirror.synced());
    second.handle.remove_endpoints(&["10.1.0.1".parse().unwrap()]).await;
    await_endpoint(&server, "10.1.0.9").await;
    assert!(!*second.ends.leader.borrow());
}

#[tokio::test]
async fn at_the_end_what_is_under_way_is_ended_and_what_waits_is_not_begun() {
    let server = server().await;
    let mut tasks = JoinSet::new();
    let mut writer = replica(&server, "portolan-0", &mut tasks).await;
    writer.leads(true).await;
    let stalled = server.fail(Rule::stall().verb(Verb::Create).resource("services"));
    writer.say(whole(&key("shop/web"))).await;
    server.await_request(|of| of.verb == Verb::Create && of.resource == "services").await;
    writer.trigger.advance(Phase::Announced);
    writer.trigger.advance(Phase::Draining);
    server.take_back(stalled);
    tasks.join_next().await.unwrap().unwrap();
    assert_eq!(server.list("endpointslices").len(), 0);
    let lease = server.get("leases", "portolan-system/portolan").unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "");
    drop(writer);
}

#[tokio::test]
async fn k16_after_the_holder_died_another_takes_over_but_not_too_soon() {
    let server = server().await;
    let (mut tasks, mut others) = (JoinSet::new(), JoinSet::new());
    let mut first = replica(&server, "portolan-0", &mut tasks).await;
    first.leads(true).await;
    let mut second = replica(&server, "portolan-1", &mut others).await;
    let read = |of: &crate::testing::kube::Request| of.resource == "leases" && of.verb == Verb::Get;
    let mark = server.mark();
    server.await_request_since(mark, read).await;
    let died = clock::now();
    tasks.shutdown().await;
    second.leads(true).await;
    let after = clock::now() - died;
    assert!(after >= RENEW_DEADLINE, "{after:?}: the first might have written");
}
