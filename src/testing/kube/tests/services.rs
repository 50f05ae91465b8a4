use super::*;
use crate::catalog::IpFamily;

/// The spec of a Service as it is stored, or why it is not.
async fn created(server: &ApiServer, spec: Value) -> Result<Value, String> {
    let services = api::<Service>(server);
    let number = server.mark();
    let given = object(json!({ "metadata": { "name": format!("s{number}") }, "spec": spec }));
    match services.create(&PostParams::default(), &given).await {
        Ok(service) => Ok(serde_json::to_value(service.spec).expect("a spec")),
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
            Err(status.message)
        }
        Err(other) => panic!("{other}"),
    }
}

fn ports() -> Value {
    json!([{ "port": 80 }])
}

#[tokio::test]
async fn defaults_are_filled_in() {
    let server = ApiServer::start().await;
    let spec = created(&server, json!({ "ports": ports() })).await.expect("created");
    assert_eq!(
        spec,
        json!({
            "type": "ClusterIP",
            "clusterIP": "10.96.1.1",
            "clusterIPs": ["10.96.1.1"],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 80 }],
        })
    );
    let kubernetes = server.get("services", "default/kubernetes").expect("always there");
    assert_eq!(kubernetes["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

#[tokio::test]
async fn addresses_follow_families_and_policy() {
    let server = ApiServer::start().await;
    let families = |spec: &Value| spec["ipFamilies"].clone();
    let both = json!({ "ports": ports(), "ipFamilyPolicy": "PreferDualStack" });
    let spec = created(&server, both.clone()).await.expect("created");
    assert_eq!(families(&spec), json!(["IPv4", "IPv6"]));
    assert_eq!(spec["clusterIPs"][1], "fd00:96::101");
    let six_first = json!({ "ports": ports(), "ipFamilyPolicy": "RequireDualStack",
        "ipFamilies": ["IPv6"] });
    let spec = created(&server, six_first.clone()).await.expect("created");
    assert_eq!(families(&spec), json!(["IPv6", "IPv4"]));
    let by_address = json!({ "ports": ports(), "clusterIP": "fd00:96::10" });
    let spec = created(&server, by_address).await.expect("created");
    assert_eq!((families(&spec), &spec["clusterIPs"]), (json!(["IPv6"]), &json!(["fd00:96::10"])));
    let headless = json!({ "ports": ports(), "clusterIP": "None" });
    let spec = created(&server, headless).await.expect("created");
    assert_eq!(spec["clusterIPs"], json!(["None"]));

    let single = ApiServer::with_families(&[IpFamily::V6]).await;
    let spec = created(&single, both).await.expect("created");
    assert_eq!(families(&spec), json!(["IPv6"]));
    let why = created(&single, six_first).await.expect_err("one family only");
    assert!(why.contains("not configured for dual-stack"), "{why}");
    let four = json!({ "ports": ports(), "ipFamilies": ["IPv4"] });
    let why = created(&single, four).await.expect_err("not configured");
    assert!(why.contains("not configured on this cluster"), "{why}");
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let server = ApiServer::start().await;
    let taken = json!({ "ports": ports(), "clusterIP": "10.96.0.10" });
    created(&server, taken.clone()).await.expect("still free");
    for (spec, reason) in [
        (taken, "provided IP is already allocated"),
        (json!({ "ports": ports(), "clusterIP": "10.97.0.1" }), "does not match the current range"),
        (json!({ "ports": [] }), "spec.ports: Required value"),
        (json!({ "ports": [{ "port": 1 }, { "port": 2 }] }), "name: Required value"),
        (json!({ "ports": [{ "port": 70_000 }] }), "between 1 and 65535"),
        (
            json!({ "ports": ports(), "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "SingleStack" }),
            "multiple IP families",
        ),
    ] {
        let why = created(&server, spec.clone()).await.expect_err("refused");
        assert!(why.contains(reason), "{spec}: {why}");
    }
}

#[tokio::test]
async fn an_address_lives_as_long_as_its_service() {
    let server = ApiServer::start().await;
    let services = api::<Service>(&server);
    let post = PostParams::default();
    let first = services.create(&post, &object(service("web"))).await.expect("created");
    let address = first.spec.clone().and_then(|spec| spec.cluster_ip);
    // An update that does not speak of it keeps it.
    let again = services.replace("web", &post, &object(service("web"))).await.expect("kept");
    assert_eq!(again.resource_version(), first.resource_version());
    let mut other = service("web");
    other["spec"]["clusterIP"] = json!("10.96.7.7");
    let (code, _, why) = refused(services.replace("web", &post, &object(other)).await);
    assert_eq!((code, why.contains("may not change once set")), (422, true), "{why}");
    // A second family comes and goes.
    let both = server.change("services", "shop/web", |web| {
        web["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    });
    assert_eq!(both["spec"]["clusterIPs"].as_array().map(Vec::len), Some(2));
    let one = server.change("services", "shop/web", |web| {
        web["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    });
    assert_eq!(one["spec"]["clusterIPs"], json!([address]));
    server.delete("services", "shop/web");
    let mut heir = service("heir");
    heir["spec"]["clusterIP"] = json!(address);
    assert_eq!(server.put(heir)["spec"]["clusterIP"], json!(address));
}

#[tokio::test]
async fn load_balancers_have_node_ports_and_the_status_that_a_test_gives() {
    let server = ApiServer::start().await;
    let mut gateway = service("gateway");
    gateway["spec"]["type"] = json!("LoadBalancer");
    gateway["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } });
    let stored = server.put(gateway);
    assert_eq!(stored["spec"]["ports"][0]["nodePort"], 30_000);
    assert_eq!(stored["status"]["loadBalancer"]["ingress"][0]["ip"], "192.0.2.1");
}
