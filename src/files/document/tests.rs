use super::*;
use crate::catalog::{IpFamily, ObjectKind, ServiceObject, SessionAffinity, SliceObject};
use crate::model::{Protocol, ServiceKey};

fn read(text: &str, syntax: Syntax) -> Result<Content, Mistake> {
    parse(text.as_bytes(), syntax, &Documents::new())
}

fn yaml_ok(text: &str) -> Content {
    read(text, Syntax::Yaml).unwrap_or_else(|mistake| panic!("{mistake:?} in {text}"))
}

/// Kind and name of every object, with its line.
fn told(content: &Content) -> Vec<(String, usize)> {
    content.objects.iter().map(|placed| (placed.id.shown(), placed.line)).collect()
}

fn service(content: &Content) -> ServiceObject {
    match &*content.objects[0].object {
        Object::Service(service) => service.clone(),
        other => panic!("{other:?}"),
    }
}

fn slice(content: &Content) -> SliceObject {
    match &*content.objects[0].object {
        Object::Slice(slice) => slice.clone(),
        other => panic!("{other:?}"),
    }
}

/// A Service `default/web` with this spec, written in flow style.
fn with_spec(spec: &str) -> Result<Content, Mistake> {
    let text =
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{{spec}}}\n");
    read(&text, Syntax::Yaml)
}

fn with_slice(fields: &str) -> Result<Content, Mistake> {
    let text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-1.x\n  namespace: shop\n  labels: {{app: yes, kubernetes.io/service-name: web}}\n{fields}"
    );
    read(&text, Syntax::Yaml)
}

#[test]
fn documents_are_told_apart_and_have_their_line() {
    let text = "\u{feff}# a comment\n%YAML 1.2\n---\n# only a comment\n---\napiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  annotations:\n    note: |\n      text\n      --- not a marker\n---   # a comment\n\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n...\n%YAML 1.2\n--- {apiVersion: v1, kind: Service, metadata: {name: c}}\n---x: 1\n";
    // `---x` is no marker, and so belongs to the document before it, which it spoils.
    let mistake = read(text, Syntax::Yaml).unwrap_err();
    assert_eq!(mistake.line, 22, "{mistake:?}");
    let good = yaml_ok(text.strip_suffix("---x: 1\n").unwrap());
    let want = [("Service default/a", 6), ("Service default/b", 16), ("Service default/c", 21)];
    assert_eq!(told(&good), want.map(|(id, line)| (id.to_owned(), line)));
    for empty in ["", "\n\n", "---\n", "# x\n---\n...\n", "---\r\n---\r\n", "\u{feff}"] {
        assert!(yaml_ok(empty).objects.is_empty(), "{empty:?}");
    }
    let crlf = "apiVersion: v1\r\nkind: Service\r\nmetadata:\r\n  name: a\r\n---\r\napiVersion: v1\r\nkind: Service\r\nmetadata:\r\n  name: b\r\n";
    assert_eq!(told(&yaml_ok(crlf)).len(), 2);
}

#[test]
fn a_service_is_read_with_the_defaults_of_the_api() {
    let plain = yaml_ok("apiVersion: v1\nkind: Service\nmetadata: {name: 9web, namespace: shop}\n");
    assert_eq!(plain.objects[0].id, ObjectId::Service(ServiceKey::parse("shop/9web").unwrap()));
    let empty = service(&plain);
    assert_eq!(
        (empty.kind, empty.ports, empty.ip_families),
        (ObjectKind::ClusterIp, vec![], vec![])
    );
    let full = service(
        &with_spec(
            "type: LoadBalancer, clusterIP: 10.0.0.1, ports: [{port: 80, targetPort: web, nodePort: 30000}, {name: dns, protocol: UDP, port: 53, appProtocol: x/y}], sessionAffinity: ClientIP, ipFamilies: [IPv6, IPv4], internalTrafficPolicy: Local, trafficDistribution: PreferClose",
        )
        .unwrap(),
    );
    assert_eq!(full.kind, ObjectKind::ClusterIp);
    assert_eq!(full.session_affinity, SessionAffinity::ClientIp { timeout_seconds: 10_800 });
    assert_eq!(full.ip_families, [IpFamily::V6, IpFamily::V4]);
    assert_eq!(full.internal_traffic_policy.as_deref(), Some("Local"));
    assert_eq!(full.traffic_distribution.as_deref(), Some("PreferClose"));
    let ports: Vec<_> = full.ports.iter().map(|p| (&*p.name, p.protocol, p.port.get())).collect();
    assert_eq!(ports, [("", Protocol::Tcp, 80), ("dns", Protocol::Udp, 53)]);
    assert_eq!(full.ports[1].app_protocol.as_deref(), Some("x/y"));
    for (spec, kind) in [
        ("clusterIP: None", ObjectKind::Headless),
        ("clusterIP: None, type: ClusterIP", ObjectKind::Headless),
        ("clusterIP: ''", ObjectKind::ClusterIp),
        ("clusterIP: null, ports: null", ObjectKind::ClusterIp),
        ("type: NodePort", ObjectKind::ClusterIp),
        ("type: ExternalName, externalName: example.org", ObjectKind::ExternalName),
    ] {
        assert_eq!(service(&with_spec(spec).unwrap()).kind, kind, "{spec}");
    }
}

#[test]
fn yaml_1_1_guesses_nothing() {
    let spec = "ports: [{name: no, port: 80}, {name: 1e3, port: 81}, {name: 0x1, port: 82}, {name: null, port: 83}]";
    let names: Vec<_> =
        service(&with_spec(spec).unwrap()).ports.into_iter().map(|port| port.name).collect();
    assert_eq!(names, ["no", "1e3", "0x1", ""].map(Into::into));
    let text = "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata:\n  name: on\n  namespace: no\n  annotations: {portolan.dev/weight: 010, portolan.dev/early-data: yes, other: [1]}\nspec:\n  exportedLabels: {no: off, y: 1.10, n: ~}\n";
    let content = yaml_ok(text);
    let Object::Export(export) = &*content.objects[0].object else { panic!("{content:?}") };
    let pairs = |map: &std::collections::BTreeMap<Box<str>, Box<str>>| {
        map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>()
    };
    assert_eq!(content.objects[0].id.shown(), "ServiceExport no/on");
    assert_eq!(pairs(&export.settings), ["early-data=yes", "weight=010"]);
    assert_eq!(pairs(&export.exported_labels), ["n=", "no=off", "y=1.10"]);
}

#[test]
fn a_service_export_may_be_metadata_only() {
    for (version, time, created) in [
        ("v1alpha1", "", 0),
        ("v1beta1", "  creationTimestamp: null\n", 0),
        ("v1beta1", "  creationTimestamp: 2026-01-01T00:00:00Z\n", 1_767_225_600_000),
        ("v1beta1", "  creationTimestamp: \"2026-01-01T01:00:00.5+01:00\"\n", 1_767_225_600_500),
    ] {
        let text = format!(
            "kind: ServiceExport\napiVersion: multicluster.x-k8s.io/{version}\nmetadata:\n  name: web\n{time}spec:\nstatus: {{conditions: []}}\n"
        );
        let content = yaml_ok(&text);
        let Object::Export(export) = &*content.objects[0].object else { panic!("{content:?}") };
        assert_eq!(export.created_ms, created, "{time}");
    }
}

#[test]
fn a_slice_is_read_for_its_ready_endpoints() {
    let read = slice(
        &with_slice(
            "addressType: IPv4\nports:\n- {name: web, port: 8080}\n- {name: all, port: null}\nendpoints:\n- addresses: ['10.0.0.1', '10.0.0.2']\n  hostname: pod-0\n  conditions: {ready: false, serving: true}\n- addresses: ['::ffff:10.0.0.3']\n  conditions: {ready: null}\n  nodeName: n\n  targetRef: {kind: Pod}\n- addresses: [10.0.0.4]\n  conditions: {}\n  hostname: null\n",
        )
        .unwrap(),
    );
    assert_eq!(read.service, ServiceKey::parse("shop/web").unwrap());
    assert_eq!((read.ports.len(), read.ports[0].port.get()), (1, 8080));
    let shown: Vec<_> = read
        .endpoints
        .iter()
        .map(|e| (e.addresses[0].to_string(), e.ready, e.hostname.is_some()))
        .collect();
    let want = [("10.0.0.1", false, true), ("10.0.0.3", true, false), ("10.0.0.4", true, false)];
    assert_eq!(shown, want.map(|(a, r, h)| (a.to_owned(), r, h)));
    assert!(slice(&with_slice("endpoints: null\nports: null\n").unwrap()).endpoints.is_empty());
}

#[test]
fn what_is_not_ours_is_passed_over_whatever_its_shape() {
    for other in [
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {ports: 3}\n",
        // The kind comes after fields that we would read otherwise.
        "metadata: {name: [x]}\nspec: 7\nkind: Service\napiVersion: serving.knative.dev/v1\n",
        "spec: {type: {a: b}}\nports: web\nitems: {}\nkind: Thing\napiVersion: example.org/v1\n",
        // A slice of names, and one that belongs to no Service.
        "addressType: FQDN\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nendpoints: [{addresses: [example.org]}]\nmetadata: {name: x, labels: {kubernetes.io/service-name: x}}\n",
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\n",
    ] {
        let text = format!("{other}---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n");
        let content = yaml_ok(&text);
        assert_eq!((content.objects.len(), content.ignored), (1, 1), "{other}");
    }
}

#[test]
fn lists_are_unpacked() {
    let item =
        |name: &str| format!("- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}}}\n");
    let list = format!(
        "apiVersion: v1\nkind: List\nmetadata: {{}}\nitems:\n{}- apiVersion: apps/v1\n  kind: Deployment\n  spec: 1\n{}",
        item("a"),
        item("b")
    );
    let content = yaml_ok(&list);
    assert_eq!((content.objects.len(), content.ignored), (2, 1));
    let typed = "apiVersion: v1\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n  kind: Service\nkind: ServiceList\n";
    assert_eq!(yaml_ok(typed).objects.len(), 2);
    let inner = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Service, metadata: {name: c}}]}\n";
    assert_eq!(yaml_ok(inner).objects.len(), 1);
    let empty = "apiVersion: v1\nkind: List\nitems: null\n";
    assert!(yaml_ok(empty).objects.is_empty());
    let bad = format!("{list}- apiVersion: v1\n  kind: Service\n  metadata:\n    name: B\n");
    assert_eq!(read(&bad, Syntax::Yaml).unwrap_err().line, 14);
    let bare = read("apiVersion: v1\nkind: List\nitems: [{metadata: {name: a}}]\n", Syntax::Yaml);
    assert!(bare.unwrap_err().what.contains("kind"));
}

#[test]
fn o03_a_mistake_has_its_line_and_says_what_is_wrong() {
    let good = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n";
    let head = "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: web\n";
    for (text, line, part) in [
        (
            format!("{head}spec:\n  ports:\n  - name: a\n    port: 80\n  - port: 70000\n"),
            10,
            "70000",
        ),
        (format!("{head}spec:\n  ports:\n  - port: http\n"), 8, "65535"),
        (format!("{head}spec:\n  ports:\n  - name: a\n"), 8, "port"),
        (format!("{head}spec:\n  type: Cluster\n"), 7, "ClusterIP"),
        (format!("{head}spec:\n  ports:\n  - {{port: 80, protocol: tcp}}\n"), 8, "TCP"),
        (
            format!(
                "{head}spec: {{sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: 0}}}}}}\n"
            ),
            2,
            "timeoutSeconds",
        ),
        (format!("{head}spec: {{ipFamilies: [IPv4, IPv4]}}\n"), 2, "ipFamilies"),
        (format!("{head}spec:\n\tports: []\n"), 7, "tab"),
        (format!("{head}spec:\n  ports: [\n"), 7, "bracket"),
        (format!("{head}kind: Service\n"), 6, "kind"),
        (format!("{head}  name: twice\n"), 6, "name"),
        (format!("{good}{head}spec: 5\n"), 10, ""),
        ("---\n\n# c\na: b\n".to_owned(), 4, "apiVersion"),
        ("- a\n".to_owned(), 1, "mapping"),
        ("x\n".to_owned(), 1, "mapping"),
        ("apiVersion: v1\nkind: Service\n".to_owned(), 1, "metadata.name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: a.b}\n".to_owned(), 1, "RFC 1123"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: ''}\n".to_owned(),
            1,
            "namespace",
        ),
        ("apiVersion: v2\nkind: Service\nmetadata: {name: a}\n".to_owned(), 1, "apiVersion v1"),
        (
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n".to_owned(),
            1,
            "discovery.k8s.io/v1",
        ),
        ("apiVersion: multicluster.x-k8s.io/v1\nkind: ServiceExport\n".to_owned(), 1, "v1beta1"),
        (format!("{good}--- \u{7}\n"), 5, ""),
    ] {
        let mistake = read(&text, Syntax::Yaml).map(|c| told(&c)).expect_err(&text);
        assert_eq!(mistake.line, line, "{mistake:?} in {text}");
        assert!(mistake.what.contains(part), "{mistake:?} in {text}");
        assert!(!mistake.what.contains(" at line "), "{mistake:?}");
    }
    let mistake = with_slice("endpoints:\n- addresses: [10.0.0.300]\n").unwrap_err();
    assert_eq!((mistake.line, mistake.column), (8, Some(15)), "{mistake:?}");
    assert_eq!(with_slice("endpoints:\n- hostname: A\n  addresses: []\n").unwrap_err().line, 8);
    let bytes = b"a: b\nc: \xff\n";
    let mistake = parse(bytes, Syntax::Yaml, &Documents::new()).unwrap_err();
    assert_eq!(mistake.line, 2, "{mistake:?}");
}

#[test]
fn json_files_hold_one_value_after_the_other() {
    let one = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","creationTimestamp":null},"spec":{"ports":[{"port":80,"targetPort":"x"}]}}"#;
    let foreign = r#"{"metadata":{"name":7},"kind":"Thing","apiVersion":"example.org/v1"}"#;
    let text = format!(
        "{one}\n\n{}\n{foreign}\n{}",
        one.replace("\"a\"", "\"b\""),
        one.replace("\"a\"", "\"c\"")
    );
    let content = read(&text, Syntax::Json).unwrap();
    assert_eq!((content.objects.len(), content.ignored), (3, 1));
    assert_eq!(service(&content).ports[0].port.get(), 80);
    assert!(read(" \n", Syntax::Json).unwrap().objects.is_empty());
    for (bad, line) in [
        (format!("{one}\n{{\"kind\":\n\"Service\""), 3),
        (format!("{one}\n{foreign}\n{{}}"), 3),
        (format!("{foreign}\n{foreign}\n\n[1]"), 4),
        ("{\"apiVersion\":\"v1\",\"kind\":\"Service\",\n\"metadata\":{\"name\":3}}".to_owned(), 2),
    ] {
        let mistake = read(&bad, Syntax::Json).map(|c| told(&c)).expect_err(&bad);
        assert_eq!(mistake.line, line, "{mistake:?} in {bad}");
        assert!(!mistake.what.contains(" at line "), "{mistake:?}");
    }
    // JSON is YAML too.
    assert_eq!(yaml_ok(&format!("{one}\n---\n{one}")).objects.len(), 2);
}

#[test]
fn an_unchanged_document_is_taken_over_and_not_parsed_again() {
    let document =
        |name: &str| format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n");
    let before = yaml_ok(&(document("a") + &document("b")));
    let text = document("new") + &document("b") + &document("a");
    let after = parse(text.as_bytes(), Syntax::Yaml, &before.documents).unwrap();
    assert!(Arc::ptr_eq(&before.objects[0].object, &after.objects[2].object));
    assert!(Arc::ptr_eq(&before.objects[1].object, &after.objects[1].object));
    assert_eq!(after.objects[2].line, 10);
    assert_eq!(after.documents.len(), 3);
}

#[test]
fn the_caps_are_the_files_and_not_the_parsers() {
    // More nodes, and more documents, than the parser's own budgets allow.
    let nodes = "x,".repeat(260_000);
    let text = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nx: [{nodes}]\n");
    assert_eq!(yaml_ok(&text).objects.len(), 1);
    let other = "--- {apiVersion: v1, kind: Pod}\n";
    assert_eq!(yaml_ok(&other.repeat(1_100)).ignored, 1_100);
    let mistake = split_yaml(&"--- 1\n".repeat(MAX_DOCUMENTS + 1)).unwrap_err();
    assert_eq!(mistake.line, MAX_DOCUMENTS + 1);
    assert!(mistake.what.contains("200000"), "{mistake:?}");
    // Nesting and alias bombs end as mistakes.
    let deep =
        format!("apiVersion: v1\nkind: Service\nx: {}{}\n", "[".repeat(500), "]".repeat(500));
    assert!(read(&deep, Syntax::Yaml).is_err());
    assert!(read(&deep.replace("apiVersion: v1\nkind: Service\nx: ", ""), Syntax::Json).is_err());
    let bomb: String =
        (1..30).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1)).collect();
    let bomb =
        format!("a0: &a0 [x, x, x]\n{bomb}apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\n");
    assert!(read(&bomb, Syntax::Yaml).is_err());
}
