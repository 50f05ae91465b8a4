use std::path::Path;

use super::*;

const BASE: &str = "\
cluster: paris
source: { files: r }
vips: 127.64.0.0/16
trust: { dir: t }
peers: [{ cluster: oregon, addresses: 127.0.2.1 }]
";

fn config(source: &str) -> Config {
    Config::parse(source, Path::new("paris.yaml")).unwrap()
}

fn reload() -> Reload {
    let mut reload = Reload::new("paris.yaml".into(), Arc::new(config(BASE)));
    assert_eq!(reload.consider(Ok(BASE.to_owned())), Outcome::Kept(Change::default()));
    reload
}

#[test]
fn each_key_is_live_or_needs_a_restart() {
    let live = [
        ("peers: []", Live::Peers),
        ("locality: { region: eu }", Live::Locality),
        ("dns: { ttl: 6s }", Live::DnsTtl),
        ("log: { filter: debug }", Live::LogFilter),
    ];
    let without_peers = |extra: &str| {
        let base =
            if extra.starts_with("peers") { &BASE[..BASE.find("peers").unwrap()] } else { BASE };
        config(&format!("{base}{extra}\n"))
    };
    for (extra, part) in live {
        let change = changes(&config(BASE), &without_peers(extra));
        assert_eq!(change, Change { live: vec![part], restart: vec![] }, "{extra}");
    }
    let restart = [
        ("clusterset: a.b", "clusterset"),
        ("network: a", "network"),
        ("state: { dir: s }", "state.dir"),
        ("gateway: { listen: 127.0.0.1:1 }", "gateway.listen"),
        ("gateway: { advertise: a }", "gateway.advertise"),
        ("gateway: { outbound: false }", "gateway.outbound"),
        ("gateway: { drain: 1s }", "gateway.drain"),
        ("gateway: { shutdown_delay: 1s }", "gateway.shutdown_delay"),
        ("dns: { listen: 127.0.0.1:1 }", "dns.listen"),
        ("dns: { io: portable }", "dns.io"),
        ("dns: { allow: 10.0.0.0/8 }", "dns.allow"),
        ("dns: { forwarders: 10.0.0.0/8 }", "dns.forwarders"),
        (
            "dns: { localities: { networks: 10.0.0.0/8, locality: { region: eu } } }",
            "dns.localities",
        ),
        ("dns: { tcp_per_source: 1 }", "dns.tcp_per_source"),
        ("dns: { tcp_total: 1 }", "dns.tcp_total"),
        ("dns: { tls_listen: 127.0.0.1:1 }", "dns.tls_listen"),
        ("dns: { shutdown_delay: 1s }", "dns.shutdown_delay"),
        ("admin: { listen: 127.0.0.1:1 }", "admin.listen"),
        ("admin: { probes: 127.0.0.1:1 }", "admin.probes"),
        ("log: { format: json }", "log.format"),
    ];
    for (extra, key) in restart {
        let change = changes(&config(BASE), &config(&format!("{BASE}{extra}\n")));
        assert_eq!(change, Change { live: vec![], restart: vec![key] }, "{extra}");
    }
    for (from, to, key) in [
        ("cluster: paris", "cluster: lyon", "cluster"),
        ("files: r", "files: q", "source"),
        ("dir: t", "dir: u", "trust.dir"),
        ("64", "65", "vips"),
    ] {
        let changed = config(&format!("{}state: {{ dir: paris.state }}\n", BASE.replace(from, to)));
        assert_eq!(changes(&config(BASE), &changed).restart, [key]);
    }
}

#[test]
fn o03_bad_reload_keeps_the_old() {
    let mut reload = reload();
    let before = Arc::clone(&reload.in_force);

    let bad = BASE.replace("127.0.2.1", "'not an address'");
    assert!(matches!(reload.consider(Ok(bad.clone())), Outcome::Refused(_)));
    assert_eq!(reload.in_force, before);
    assert_eq!(reload.status.generation, 0);
    let text = reload.status.error.clone().unwrap();
    assert!(text.contains("paris.yaml:5:39: peers[0].addresses: 'not an address'"), "{text}");
    assert_eq!(reload.consider(Ok(bad)), Outcome::Unchanged, "said once");

    let gone = Problem::new(None, "", "cannot be read");
    assert!(matches!(reload.consider(Err(gone)), Outcome::Refused(_)));
    assert_eq!(reload.in_force, before);

    let good = format!("{BASE}locality: {{ zone: eu-1 }}\n");
    assert!(matches!(reload.consider(Ok(good)), Outcome::Taken(_)), "the next good change");
    assert_eq!(&*reload.in_force.locality.zone, "eu-1");
    assert_eq!(reload.status, Status { generation: 1, error: None, restart: vec![] });
}

#[test]
fn a_mixed_change_takes_the_live_part_and_names_the_rest() {
    let mut reload = reload();
    let mixed = format!("{BASE}dns: {{ ttl: 9s, listen: 127.0.0.1:1 }}\n");
    let Outcome::Taken(change) = reload.consider(Ok(mixed)) else { panic!("taken") };
    assert_eq!((change.live, change.restart), (vec![Live::DnsTtl], vec!["dns.listen"]));
    assert_eq!(reload.in_force.dns.ttl, Duration::from_secs(9));
    assert_eq!(reload.in_force.dns.listen, config(BASE).dns.listen);
    assert_eq!(reload.status.restart, ["dns.listen"]);
    let Outcome::Taken(_) = reload.consider(Ok(BASE.to_owned())) else { panic!("taken back") };
    assert!(reload.status.restart.is_empty());
}

#[test]
fn under_another_name_no_peer_is_taken() {
    let mut reload = reload();
    let renamed = BASE.replace("oregon", "tokyo").replace("paris", "oregon");
    let swapped = renamed.replace("tokyo", "paris");
    assert!(matches!(reload.consider(Ok(swapped)), Outcome::Kept(_)));
    assert_eq!(reload.in_force.peers[0].cluster.as_str(), "oregon");
}

#[tokio::test]
async fn the_file_is_watched_and_a_bad_one_only_changes_the_status() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("paris.yaml");
    std::fs::write(&path, BASE).unwrap();
    let (watcher, mut watched) = watch(path.clone(), Arc::new(Config::load(&path).unwrap()));
    let (trigger, drain) = drain::channel();
    let script = async {
        std::fs::write(&path, format!("{BASE}dns: {{ ttl: 7s }}\n")).unwrap();
        let taken = watched.configs.wait_for(|c| c.dns.ttl == Duration::from_secs(7)).await;
        drop(taken.unwrap());
        std::fs::write(&path, "cluster: [").unwrap();
        let refused = watched.status.wait_for(|status| status.error.is_some()).await;
        assert_eq!(refused.unwrap().generation, 1);
        assert_eq!(watched.configs.borrow().dns.ttl, Duration::from_secs(7));
        trigger.advance(drain::Phase::Announced);
    };
    tokio::join!(watcher.run(drain), script);
}
