use super::*;

/// What every file must have, in five lines: what a case adds begins on line 6.
const MINIMAL: &str = "\
cluster: paris
source:
  files: ./registry
vips: 127.64.0.0/16
trust: { dir: /keys }
";

fn parse(source: &str) -> Result<Config, String> {
    Config::parse(source, Path::new("/etc/portolan/paris.yaml")).map_err(|e| e.to_string())
}

fn with(extra: &str) -> Result<Config, String> {
    parse(&format!("{MINIMAL}{extra}\n"))
}

#[test]
fn a_minimal_file_has_the_documented_defaults() {
    let config = with("").unwrap();
    assert_eq!(config.cluster.as_str(), "paris");
    assert_eq!(config.clusterset.as_str(), "clusterset.local");
    assert_eq!(config.source, Source::Files("/etc/portolan/./registry".into()));
    assert_eq!(config.state_dir, Path::new("/etc/portolan/paris.state"));
    assert_eq!(config.trust_dir.as_deref(), Some(Path::new("/keys")));
    assert_eq!(config.gateway, Gateway::default());
    assert_eq!(config.gateway.drain, Duration::from_secs(30));
    assert_eq!(config.gateway.shutdown_delay, Duration::from_secs(15));
    assert!(config.gateway.outbound);
    assert_eq!(config.dns, Dns::default());
    assert_eq!(config.dns.ttl, Duration::from_secs(5));
    assert_eq!(config.dns.shutdown_delay, Duration::from_secs(5));
    assert_eq!(config.admin, Admin::default());
    assert_eq!(config.log, Log::default());
    assert!(config.peers.is_empty() && config.network.is_empty());
    assert_eq!(with("peers:\ngateway: ~\nstate: {}\nnetwork: null").unwrap(), config);
}

#[test]
fn the_documented_file_is_read_as_written() {
    let source = r#"
cluster: paris
clusterset: Mesh.Example.
network: "flat-1"
locality: { region: eu, zone: eu-1 }
source: { files: ../registry }
state: { dir: ./kept }
vips: [127.64.0.0/16, "fd00:64::/64"]
gateway: { listen: ["127.0.1.1:8443", "[::1]:0"], advertise: gw.example.org, outbound: false, congestion: system, drain: 300ms, shutdown_delay: 1h }
dns: { listen: 127.0.1.1:5353, ttl: 30s, io: portable, allow: 10.0.0.0/8, forwarders: [10.0.0.10, "::1"], localities: [{ networks: [10.1.0.0/16, "2001:db8::/48"], locality: { region: eu, zone: paris-1 } }, { networks: 10.1.2.0/24, locality: { region: us } }], tcp_per_source: 16, tcp_total: 64, tls_listen: 127.0.1.1:853, tls_certificate: dns/tls.crt, tls_key: /keys/tls.key, shutdown_delay: 0s }
admin: { listen: 127.0.1.1:9900, probes: 0.0.0.0:9901 }
trust: { dir: ./trust }
peers:
  - { cluster: oregon, addresses: ["127.0.2.1:8443", "[2001:db8::1]:8443"], networks: 127.0.0.0/8, namespaces: [shop, web] }
  - { cluster: tokyo, addresses: gw.example.org:9443, namespaces: [] }
log: { filter: "info,portolan::tls=debug", format: json }
"#;
    let config = parse(source).unwrap();
    assert_eq!(config.clusterset.as_str(), "mesh.example");
    assert_eq!(&*config.network, "flat-1");
    assert_eq!((&*config.locality.region, &*config.locality.zone), ("eu", "eu-1"));
    assert_eq!(config.vips.len(), 2);
    assert_eq!(config.gateway.listen.len(), 2);
    assert_eq!(config.gateway.advertise[0].to_string(), "gw.example.org:8443");
    assert!(!config.gateway.outbound);
    assert_eq!(config.gateway.congestion, Congestion::System);
    assert_eq!(config.gateway.drain, Duration::from_millis(300));
    assert_eq!(config.gateway.shutdown_delay, Duration::from_secs(3600));
    assert_eq!(config.dns.forwarders[0].to_string(), "10.0.0.10/32");
    assert_eq!((config.dns.tcp_per_source, config.dns.tcp_total), (16, 64));
    assert_eq!(config.dns.tls.listen, ["127.0.1.1:853".parse().unwrap()]);
    let files = ("/etc/portolan/dns/tls.crt".into(), "/keys/tls.key".into());
    assert_eq!(config.dns.tls.files, Some(files));
    assert_eq!(config.dns.shutdown_delay, Duration::ZERO);
    let [paris, other] = &config.dns.localities[..] else { panic!("two places") };
    assert_eq!(paris.networks[1].to_string(), "2001:db8::/48");
    assert_eq!((&*paris.locality.region, &*paris.locality.zone), ("eu", "paris-1"));
    assert_eq!((&*other.locality.region, &*other.locality.zone), ("us", ""));
    assert_eq!(config.dns.io, Io::Portable);
    assert_eq!(config.admin.probes, Some("0.0.0.0:9901".parse().unwrap()));
    let [oregon, tokyo] = &config.peers[..] else { panic!("two peers") };
    assert_eq!(oregon.addresses[1].to_string(), "[2001:db8::1]:8443");
    assert_eq!(oregon.networks[0].to_string(), "127.0.0.0/8");
    assert!(matches!(&oregon.namespaces, NamespaceRules::Only(set) if set.len() == 2));
    assert!(matches!(&tokyo.namespaces, NamespaceRules::Only(set) if set.is_empty()));
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn scalars_are_taken_as_written_never_as_yaml_numbers_or_booleans() {
    for name in ["007", "1e3", "0x10", "true", "no", "1.0", ".5", "1_000", "\"12\"", "'no'"] {
        let config = with(&format!("network: {name}")).unwrap();
        assert_eq!(&*config.network, name.trim_matches(['"', '\'']), "{name}");
    }
    let anchored = with("locality: { region: &r 010, zone: *r }").unwrap().locality;
    assert_eq!((&*anchored.region, &*anchored.zone), ("010", "010"));
}

#[test]
fn places_and_their_networks_are_counted() {
    let entry = |networks: &[String]| {
        format!("  - {{ networks: [{}], locality: {{ region: eu }} }}\n", networks.join(", "))
    };
    let net = |n: usize| format!("10.{}.{}.0/24", n / 256, n % 256);
    let config = |entries: usize, networks: usize| {
        let each = networks / entries;
        let entries = (0..entries).map(|e| {
            let networks: Vec<_> = (e * each..(e + 1) * each).map(net).collect();
            entry(&networks)
        });
        with(&format!("dns:\n  localities:\n{}", entries.collect::<String>()))
    };
    let most = config(16, 256).unwrap();
    assert_eq!(most.dns.localities.iter().map(|place| place.networks.len()).sum::<usize>(), 256);
    let text = config(17, 34).unwrap_err();
    assert!(text.contains("dns.localities: has 17 entries, more than the 16 places"), "{text}");
    let text = config(1, 257).unwrap_err();
    assert!(text.contains("dns.localities: has 257 networks, more than the 256"), "{text}");
}

/// Each fault with its place, its field, and a piece of problem and remedy.
#[test]
fn every_fault_names_its_line_its_field_and_the_remedy() {
    let table = [
        ("clusters: x", "6:1: clusters: unknown key; did you mean 'cluster'?"),
        ("colour: x", "6:1: colour: unknown key; remove it, or use one of: cluster, clusterset"),
        ("dns:\n  tll: 5s", "7:3: dns.tll: unknown key; did you mean 'ttl'?"),
        ("cluster: lyon", "6:1: the key 'cluster' stands here a second time; remove one"),
        ("clusterset: a..b", "6:13: clusterset: the name is empty; give 1 to 63"),
        ("network: [a]", "6:10: network: a list stands here; give one scalar"),
        ("gateway: 5", "6:10: gateway: a scalar stands here; give a mapping, 'key: value'"),
        ("gateway: { listen: [] }", "6:20: gateway.listen: has 0 addresses; give 1 to 256"),
        ("gateway: { listen: [localhost] }", "6:21: gateway.listen[0]: 'localhost' is not an"),
        ("gateway: { listen: 127.64.0.1:1 }", "6:20: gateway.listen: 127.64.0.1:1 lies inside"),
        ("gateway: { advertise: 'a b' }", "6:23: gateway.advertise: 'a b' is not a peer's"),
        ("gateway: { outbound: yes }", "6:22: gateway.outbound: 'yes' is not a boolean; write"),
        (
            "gateway: { congestion: vegas }",
            "6:24: gateway.congestion: 'vegas' is not a choice; use bbr",
        ),
        ("gateway: { drain: 5 }", "6:19: gateway.drain: '5' is not a duration; write a number"),
        ("gateway: { drain: 2h }", "6:19: gateway.drain: '2h' is out of range; give a duration"),
        ("dns: { ttl: 0s }", "6:13: dns.ttl: '0s' is out of range; give a duration from 1s to 1h"),
        ("dns: { ttl: 1500ms }", "6:13: dns.ttl: is not in whole seconds, as DNS counts them;"),
        ("dns: { io: uring }", "6:12: dns.io: 'uring' is not a way to drive sockets; use auto,"),
        ("dns: { allow: 10.0.0.1/8 }", "6:15: dns.allow: 10.0.0.1/8 has host bits set; write 10"),
        ("dns: { forwarders: x }", "6:20: dns.forwarders: 'x' is not a network; write it as"),
        (
            "dns: { localities: [{ networks: 10.0.0.0/8 }] }",
            "6:21: dns.localities[0].locality.region: is",
        ),
        (
            "dns: { localities: [{ networks: [], locality: { region: eu } }] }",
            "6:33: dns.localities[0].networks: is empty; give at least one",
        ),
        ("dns: { localities: { locality: { region: eu } } }", "6:20: dns.localities.networks: is"),
        (
            "dns: { localities: [{ networks: 10.0.0.1/8, locality: { region: eu } }] }",
            "6:33: dns.localities[0].networks: 10.0.0.1/8 has host bits set; write 10.0.0.0/8",
        ),
        (
            "dns:\n  localities:\n  - { networks: 10.0.0.0/8, locality: { region: eu } }\n  - { networks: [10.1.0.0/16, 10.0.0.0/8], locality: { region: us } }",
            "9:31: dns.localities[1].networks[1]: 10.0.0.0/8 stands in dns.localities[0].networks already; keep",
        ),
        ("dns: { tcp_per_source: 0 }", "6:24: dns.tcp_per_source: '0' is not usable; give a"),
        ("dns: { tcp_total: x }", "6:19: dns.tcp_total: 'x' is not usable; give a whole number"),
        ("dns: { tls_listen: x }", "6:20: dns.tls_listen: 'x' is not an address with a port;"),
        ("dns: { tls_key: k }", "6:17: dns.tls_key: stands without 'dns.tls_certificate'; give"),
        ("dns: { tls_certificate: c }", "6:25: dns.tls_certificate: stands without 'dns.tls_key'"),
        ("dns: { tls_certificate: c, tls_key: k }", "6:25: dns.tls_certificate: has no meaning"),
        (
            "dns: { tls_listen: '127.64.0.1:853' }",
            "6:20: dns.tls_listen: 127.64.0.1:853 lies inside",
        ),
        ("admin: { listen: 9900 }", "6:18: admin.listen: '9900' is not an address with a port;"),
        ("log: { filter: 'a=loud' }", "6:16: log.filter: 'a=loud' is not a log filter"),
        ("log: { format: xml }", "6:16: log.format: 'xml' is not a log format; use text or json"),
        ("peers: [{ addresses: a }]", "6:9: peers[0].cluster: is missing; name the peer"),
        ("peers: [{ cluster: a }]", "6:9: peers[0].addresses: is missing; give at least one"),
        ("peers: { cluster: a, addresses: [] }", "6:33: peers.addresses: is empty; give at least"),
        ("peers: [{ cluster: paris, addresses: a }]", "6:20: peers[0].cluster: 'paris' is this"),
        ("peers: [{ cluster: A, addresses: a }]", "6:20: peers[0].cluster: 'A' is not an RFC"),
        (
            "peers:\n- { cluster: a, addresses: b }\n- { cluster: a, addresses: c }",
            "8:3: peers[1].cluster: 'a' is named in peers[0] already; put all its addresses into",
        ),
        (
            "peers: [{ cluster: a, addresses: a, namespaces: [x, X] }]",
            "6:53: peers[0].namespaces[1]: 'X' is not an RFC 1123 label; use a-z",
        ),
        ("a: [", "6:4: unclosed bracket '['"),
        ("---\ncluster: lyon", "7:1: a second YAML document begins here; one file holds one"),
    ];
    for (extra, want) in table {
        let text = with(extra).unwrap_err();
        assert!(text.starts_with(&format!("/etc/portolan/paris.yaml:{want}")), "{extra}\n{text}");
        assert_eq!(text.lines().count(), 1, "{extra}\n{text}");
    }
}

#[test]
fn ranges_for_services_must_be_sane() {
    let table = [
        ("[]", "4:7: vips: is empty; name a range"),
        ("10.0.0.0/7", "4:7: vips: 10.0.0.0/7 is not a usable size; give a /8 to a /28"),
        ("10.0.0.0/31", "4:7: vips: 10.0.0.0/31 is not a usable size; give a /8"),
        ("fd00::/32", "4:7: vips: fd00::/32 is not a usable size; give a /48 to a /120"),
        ("10.0.0.1", "4:7: vips: 10.0.0.1/32 is not a usable size"),
        ("224.0.0.0/8", "4:7: vips: 224.0.0.0/8 holds addresses that no service can have"),
        ("0.0.0.0/8", "4:7: vips: 0.0.0.0/8 holds addresses that no service can have"),
        ("[10.1.0.0/16, 10.2.0.0/16]", "4:21: vips[1]: 10.2.0.0/16 is a second range of the same"),
        ("127.0.0.0/8", "dns.listen: 127.0.0.1:5353 lies inside the range 127.0.0.0/8 of 'vips'"),
    ];
    for (vips, want) in table {
        let text = parse(&MINIMAL.replace("127.64.0.0/16", vips)).unwrap_err();
        assert!(text.contains(want), "{vips}\n{text}");
    }
}

#[test]
fn a_source_is_one_of_two_and_neither_is_refused_with_what_to_write() {
    for (source, want) in [
        ("kubernetes: ~", "3:3: source.files: is missing; name a directory of manifests"),
        ("{}", "3:3: source.files: is missing; name a directory of manifests"),
        ("files: ''", "source.files: is empty; name a directory"),
    ] {
        let text = parse(&MINIMAL.replace("files: ./registry", source)).unwrap_err();
        assert!(text.contains(want), "{source}\n{text}");
    }
}

#[test]
fn all_faults_of_a_file_are_reported_in_the_order_of_their_lines() {
    let text = parse(
        "vips: 10.0.0.0/16\nsource: { file: x }\ndns: { ttl: 1 }\npeers: [{ cluster: a }, 7]\n",
    )
    .unwrap_err();
    let places: Vec<_> = text
        .lines()
        .map(|line| {
            let rest = line.strip_prefix("/etc/portolan/paris.yaml:").unwrap();
            rest.splitn(4, ": ").take(2).collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(
        places,
        [
            "1:1 cluster",
            "1:1 trust.dir",
            "2:9 source.files",
            "2:11 source.file",
            "3:13 dns.ttl",
            "4:9 peers[0].addresses",
            "4:25 peers[1]",
        ],
        "{text}"
    );
}

#[test]
fn files_that_are_no_mapping_or_cannot_be_read_are_said_to_be_so() {
    assert!(parse("- a").unwrap_err().contains("1:1: a list stands here; give a mapping"));
    assert!(parse("").unwrap_err().contains("1:1: cluster: is missing"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("paris.yaml");
    let absent = Config::load(&path).unwrap_err().to_string();
    assert!(absent.contains("cannot be read") && absent.contains("--config"), "{absent}");
    std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    let broken = Config::load(&path).unwrap_err().to_string();
    assert!(broken.contains(":2:1: is not UTF-8; save the file as UTF-8"), "{broken}");
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(Config::load(&path).unwrap().state_dir, dir.path().join("paris.state"));
}
