use super::super::{Config, Source};
use super::*;

fn parse(section: &str, rest: &str) -> Result<Config, String> {
    let source = format!("cluster: paris\nsource: {{ kubernetes: {section} }}\n{rest}\n");
    Config::parse(&source, Path::new("/etc/portolan/paris.yaml")).map_err(|e| e.to_string())
}

fn section(text: &str) -> Kubernetes {
    match parse(text, "").unwrap().source {
        Source::Kubernetes(kubernetes) => *kubernetes,
        Source::Files(dir) => panic!("{}", dir.display()),
    }
}

#[test]
fn every_key_has_its_documented_default() {
    let config = parse("{}", "").unwrap();
    assert_eq!(config.trust_dir, None);
    assert!(config.vips.is_empty() && config.peers.is_empty());
    let kubernetes = section("{}");
    assert_eq!(kubernetes.namespace, None);
    assert_eq!(kubernetes.service.as_str(), "portolan");
    assert_eq!((&*kubernetes.secret, &*kubernetes.lease), ("portolan-ca", "portolan"));
    assert_eq!(kubernetes.ports.start().get(), 20_000);
    assert_eq!(kubernetes.ports.end().get(), 29_999);
    assert_eq!(kubernetes.access, Access::InCluster);
}

#[test]
fn every_key_is_read_as_written() {
    let kubernetes = section(
        "{ namespace: mesh, service: gateways, secret: mesh.ca, lease: writer, ports: 1024 - 1039, \
         kubeconfig: admin.conf }",
    );
    assert_eq!(kubernetes.namespace, Some(Namespace::parse("mesh").unwrap()));
    assert_eq!(kubernetes.service.as_str(), "gateways");
    assert_eq!((&*kubernetes.secret, &*kubernetes.lease), ("mesh.ca", "writer"));
    assert_eq!((kubernetes.ports.start().get(), kubernetes.ports.end().get()), (1024, 1039));
    assert_eq!(kubernetes.access, Access::Kubeconfig("/etc/portolan/admin.conf".into()));
    let server = section("{ server: 'http://127.0.0.1:8001' }");
    assert_eq!(server.access, Access::Url("http://127.0.0.1:8001".to_owned()));
    let mounted = parse("{}", "trust: { dir: trust }").unwrap().trust_dir;
    assert_eq!(mounted.as_deref(), Some(Path::new("/etc/portolan/trust")));
}

#[test]
fn every_fault_names_its_field_and_the_remedy() {
    let table = [
        ("{ namespace: A }", "", "kubernetes.namespace: 'A' is not an RFC 1123 label; use a-z"),
        ("{ service: '' }", "", "kubernetes.service: the name is empty; give 1 to 63"),
        ("{ secret: CA }", "", "kubernetes.secret: 'CA' is not an object's name; write ca"),
        ("{ lease: a_b }", "", "kubernetes.lease: 'a_b' is not an RFC 1123 label; use a-z"),
        ("{ ports: 20000 }", "", "'20000' is not a range of ports; write for example 20000-29999"),
        ("{ ports: 80-90 }", "", "'80-90' begins below 1024; write for example 20000-29999"),
        ("{ ports: 3000-2000 }", "", "'3000-2000' holds fewer than 16 ports; write for example"),
        ("{ ports: 60000-70000 }", "", "'60000-70000' is not a range of ports; write for example"),
        ("{ server: 'https://a' }", "", "'https://a' is not a plain server; write for example"),
        ("{ server: 'http://a/b' }", "", "'http://a/b' is not a plain server; write for example"),
        (
            "{ kubeconfig: a, server: 'http://a' }",
            "",
            "2:48: source.kubernetes.server: stands beside 'kubeconfig', which names a server too;",
        ),
        ("{ portz: 1 }", "", "source.kubernetes.portz: unknown key; did you mean 'ports'?"),
        ("5", "", "source.kubernetes: a scalar stands here; give a mapping"),
        ("{}, files: a", "", "source.files: stands beside 'kubernetes'; an agent has one source"),
        ("{}", "vips: 127.64.0.0/16", "3:7: vips: has no meaning with 'source.kubernetes': cluste"),
        ("{}", "peers: []", "3:8: peers: has no meaning with 'source.kubernetes': peers are Peer"),
        (
            "{}",
            "gateway: { listen: [0.0.0.0:8443, '[::]:20000'] }",
            "3:35: gateway.listen: port 20000 lies inside the range 20000-29999 of 'source.kube",
        ),
        ("{ ports: 9000-9999 }", "", "admin.listen: port 9900 lies inside the range 9000-9999"),
    ];
    for (section, rest, want) in table {
        let text = parse(section, rest).unwrap_err();
        assert!(text.contains(want), "{section} {rest}\n{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

fn pod(variables: &[(&str, &str)]) -> Result<Pod, String> {
    Pod::read(|name| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

#[test]
fn a_pod_knows_itself_by_the_downward_api() {
    assert_eq!(pod(&[]).unwrap(), Pod::default());
    assert_eq!(pod(&[("POD_NAME", ""), ("POD_IPS", "")]).unwrap(), Pod::default());
    let known = pod(&[
        ("POD_NAME", "portolan-0"),
        ("POD_NAMESPACE", "mesh"),
        ("POD_UID", "u"),
        ("POD_IPS", "10.0.0.1,fd00::1"),
        ("NODE_NAME", "n1"),
    ])
    .unwrap();
    assert_eq!(known.namespace, Some(Namespace::parse("mesh").unwrap()));
    assert_eq!(known.addresses, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(known.name.as_deref(), Some("portolan-0"));
    assert_eq!((known.uid.as_deref(), known.node.as_deref()), (Some("u"), Some("n1")));
    for (name, value) in [("POD_NAMESPACE", "A B"), ("POD_IPS", "10.0.0.1,x")] {
        let error = pod(&[(name, value)]).unwrap_err();
        assert!(error.starts_with(name), "{error}");
    }
}

#[test]
fn the_namespace_is_the_configured_one_else_the_pod_s_else_the_service_account_s() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("namespace");
    let inside = pod(&[("POD_NAMESPACE", "pods")]).unwrap();
    let (configured, silent) = (section("{ namespace: mesh }"), section("{}"));
    assert_eq!(configured.namespace_or(&inside, &file).unwrap().as_str(), "mesh");
    assert_eq!(silent.namespace_or(&inside, &file).unwrap().as_str(), "pods");
    let unknown = silent.namespace_or(&Pod::default(), &file).unwrap_err();
    assert!(unknown.contains("set 'source.kubernetes.namespace'"), "{unknown}");
    std::fs::write(&file, "account\n").unwrap();
    assert_eq!(silent.namespace_or(&Pod::default(), &file).unwrap().as_str(), "account");
    std::fs::write(&file, "A B").unwrap();
    assert!(silent.namespace_or(&Pod::default(), &file).unwrap_err().contains("POD_NAMESPACE"));
}
