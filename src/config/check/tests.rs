use tempfile::TempDir;

use super::*;
use crate::model::{ClusterId, DnsName};

/// A folder with everything that a right configuration needs; `{registry}` and `{trust}` exist.
fn prepared() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("registry")).unwrap();
    let zone = DnsName::parse("clusterset.local").unwrap();
    tls::init(&dir.path().join("trust"), &ClusterId::parse("paris").unwrap(), &zone).unwrap();
    dir
}

fn config(dir: &TempDir, extra: &str) -> Config {
    let source = format!(
        "cluster: paris\nsource: {{ files: registry }}\nvips: 127.64.0.0/16\n\
         trust: {{ dir: trust }}\n{extra}\n"
    );
    Config::parse(&source, &dir.path().join("paris.yaml")).unwrap()
}

const EPHEMERAL: &str = "gateway: { listen: 127.0.0.1:0 }\ndns: { listen: 127.0.0.1:0 }\n\
                         admin: { listen: 127.0.0.1:0 }";

fn of<'a>(report: &'a Report, name: &str) -> Vec<&'a Finding> {
    report.checks.iter().filter(|finding| finding.name == name).collect()
}

#[test]
fn a_right_configuration_is_found_right() {
    let dir = prepared();
    let report = check(&config(&dir, EPHEMERAL), Agent::Absent);
    let wrong: Vec<_> = report.checks.iter().filter(|f| f.verdict == Verdict::Wrong).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(of(&report, "dns.listen").len(), 2, "UDP and TCP");
    assert!(!dir.path().join("paris.state").exists(), "a check writes nothing");
}

#[test]
fn a_taken_port_is_named_with_its_key_and_how_to_find_the_holder() {
    let dir = prepared();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let extra = EPHEMERAL.replacen("127.0.0.1:0", &address.to_string(), 1);
    let report = check(&config(&dir, &extra), Agent::Absent);
    let finding = of(&report, "gateway.listen")[0];
    assert_eq!(finding.verdict, Verdict::Wrong);
    let port = format!("sport = :{}", address.port());
    assert!(finding.text.contains(&port) && finding.text.contains("'gateway.listen'"));

    let report = check(&config(&dir, &extra), Agent::Running);
    assert_eq!(of(&report, "gateway.listen")[0].verdict, Verdict::Ok, "held by the agent itself");
}

#[test]
fn one_address_under_two_keys_is_found() {
    let dir = prepared();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let extra = format!("gateway: {{ listen: '{free}' }}\nadmin: {{ listen: '{free}' }}");
    let report = check(&config(&dir, &extra), Agent::Running);
    let finding = of(&report, "admin.listen")[0];
    assert_eq!(finding.verdict, Verdict::Wrong);
    assert!(finding.text.contains("named twice"), "{}", finding.text);
}

#[test]
fn foreign_addresses_are_not_local() {
    let dir = prepared();
    // TEST-NET-1 (RFC 5737): no machine has it.
    let extra = EPHEMERAL.replacen("127.0.0.1", "192.0.2.1", 1);
    let mut config = config(&dir, &extra);
    config.vips = vec!["192.0.2.0/24".parse().unwrap()];
    let report = check(&config, Agent::Absent);
    assert!(of(&report, "gateway.listen")[0].text.contains("no interface of this machine"));
    assert!(of(&report, "vips")[0].text.contains("ip route add local 192.0.2.0/24 dev lo"));
    config.gateway.outbound = false;
    let report = check(&config, Agent::Absent);
    assert_eq!(of(&report, "vips")[0].verdict, Verdict::Ok, "answered only");
}

#[test]
fn s21_keys_readable_by_others_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = prepared();
    let key = dir.path().join("trust/key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let report = check(&config(&dir, EPHEMERAL), Agent::Absent);
    let finding = of(&report, "trust.dir")[0];
    assert_eq!(finding.verdict, Verdict::Wrong);
    assert!(finding.text.contains("chmod 600"), "{}", finding.text);
}

#[test]
fn a_certificate_of_another_cluster_is_refused() {
    let dir = prepared();
    std::fs::remove_file(dir.path().join("trust/ca.key")).unwrap();
    let mut config = config(&dir, EPHEMERAL);
    config.cluster = ClusterId::parse("lyon").unwrap();
    let report = check(&config, Agent::Absent);
    assert_eq!(of(&report, "trust.dir")[0].verdict, Verdict::Wrong);
}

#[test]
fn peers_without_a_bundle_are_doubtful() {
    let dir = prepared();
    let own = dir.path().join("other");
    let zone = DnsName::parse("clusterset.local").unwrap();
    tls::init(&own, &ClusterId::parse("tokyo").unwrap(), &zone).unwrap();
    std::fs::copy(own.join("ca.pem"), dir.path().join("trust/peers/tokyo.pem")).unwrap();
    let peers = "peers: [{ cluster: oregon, addresses: a }, { cluster: tokyo, addresses: b }]";
    let report = check(&config(&dir, &format!("{EPHEMERAL}\n{peers}")), Agent::Absent);
    let verdicts: Vec<_> = of(&report, "peers").iter().map(|finding| finding.verdict).collect();
    assert_eq!(verdicts, [Verdict::Doubtful, Verdict::Ok]);
    assert!(of(&report, "peers")[0].text.contains("trust/peers/oregon.pem"));
}

#[test]
fn a_source_or_a_state_folder_that_cannot_be_used_is_named() {
    let dir = prepared();
    std::fs::write(dir.path().join("file"), "").unwrap();
    std::fs::write(dir.path().join("registry/bad.yaml"), "kind: [").unwrap();
    let mut config = config(&dir, EPHEMERAL);
    config.state_dir = dir.path().join("file/state");
    let report = check(&config, Agent::Absent);
    assert_eq!(of(&report, "state.dir")[0].verdict, Verdict::Wrong);
    let source = of(&report, "source")[0];
    assert_eq!(source.verdict, Verdict::Wrong);
    assert!(source.text.contains("bad.yaml"), "{}", source.text);
}

#[test]
fn a_kubernetes_source_is_judged_without_asking_it() {
    let dir = tempfile::tempdir().unwrap();
    let judge = |section: &str| {
        let source = format!("cluster: paris\nsource: {{ kubernetes: {section} }}\n{EPHEMERAL}\n");
        let config = Config::parse(&source, &dir.path().join("paris.yaml")).unwrap();
        let report = check(&config, Agent::Absent);
        let source = of(&report, "source")[0].clone();
        (source.verdict, source.text, report)
    };
    let (verdict, text, _) = judge("{ kubeconfig: absent }");
    assert_eq!(verdict, Verdict::Wrong);
    assert!(text.contains("absent") && text.contains("'source.kubernetes.kubeconfig'"), "{text}");
    std::fs::write(dir.path().join("admin.conf"), "kind: Config\n").unwrap();
    let (verdict, _, report) = judge("{ kubeconfig: admin.conf }");
    assert_eq!(verdict, Verdict::Ok);
    assert!(of(&report, "vips").is_empty());
    assert_eq!(of(&report, "trust.dir")[0].verdict, Verdict::Ok, "it is in a Secret");
    let (verdict, text, report) = judge("{ server: 'http://127.0.0.1:1', ports: 1024-65535 }");
    assert_eq!(verdict, Verdict::Doubtful, "{text}");
    let ports = of(&report, "source.kubernetes.ports")[0];
    assert_eq!(ports.verdict, Verdict::Doubtful, "the system's own ports lie in there");
}
