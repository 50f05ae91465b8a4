use super::*;
use crate::peering::fixtures::{full, headless, key, plain};

fn read(record: &Bytes) -> Parsed {
    let (parsed, skipped) = parse(record).unwrap();
    assert!(!skipped);
    parsed
}

fn body(export: &Export) -> ExportRecord {
    match Record::decode(export_record(export)).unwrap().body.unwrap() {
        RecordBody::Export(record) => record,
        RecordBody::Endpoint(_) => panic!("an export is no endpoint"),
    }
}

fn refused(change: impl FnOnce(&mut ExportRecord)) -> BadRecord {
    let mut record = body(&full("shop/web"));
    change(&mut record);
    let bytes = Record { body: Some(RecordBody::Export(record)) }.encode_to_vec();
    parse(&bytes.into()).unwrap_err()
}

#[test]
fn every_field_travels() {
    for export in [full("shop/web"), plain("shop/api", 0), headless("shop/db", &["10.0.0.1"])] {
        let mut back = match read(&export_record(&export)) {
            Parsed::Export(back) => back,
            Parsed::Endpoint(..) => panic!("an export is no endpoint"),
        };
        assert_eq!(back.endpoints, [], "endpoints are records of their own");
        for endpoint in &export.endpoints {
            match read(&endpoint_record(&export.key, endpoint)) {
                Parsed::Endpoint(name, endpoint) => {
                    assert_eq!(name, export.key);
                    back.endpoints.push(endpoint);
                }
                Parsed::Export(_) => panic!("an endpoint is no export"),
            }
        }
        assert_eq!(back, export);
    }
}

#[test]
fn one_bad_field_refuses_the_record_with_its_reason() {
    let port = |port, protocol| PortRecord { port, protocol, ..PortRecord::default() };
    let long = "x".repeat(MAX_TEXT_OCTETS + 1);
    for (reason, bad) in [
        (BadRecord::Name, refused(|record| record.namespace = "Shop".into())),
        (BadRecord::Name, refused(|record| record.name.clear())),
        (BadRecord::Name, refused(|record| record.name = "x".repeat(64))),
        (BadRecord::Type, refused(|record| record.service_type = 0)),
        (BadRecord::Type, refused(|record| record.service_type = 77)),
        (BadRecord::Port, refused(|record| record.ports = vec![port(0, 1)])),
        (BadRecord::Port, refused(|record| record.ports = vec![port(65_536, 1)])),
        (BadRecord::Port, refused(|record| record.ports = vec![port(80, 9)])),
        (BadRecord::Port, refused(|record| record.ports = vec![port(80, 1), port(80, 1)])),
        (
            BadRecord::Port,
            refused(|record| record.ports = (1..=1001).map(|number| port(number, 1)).collect()),
        ),
        (BadRecord::Port, refused(|record| record.ports[0].name = "a b".into())),
        (BadRecord::Text, refused(|record| record.ports[0].app_protocol = Some("a\nb".into()))),
        (BadRecord::Affinity, refused(|record| record.client_ip_timeout_seconds = Some(0))),
        (BadRecord::Affinity, refused(|record| record.client_ip_timeout_seconds = Some(86_401))),
        (BadRecord::Family, refused(|record| record.ip_families = vec![1, 1])),
        (BadRecord::Family, refused(|record| record.ip_families = vec![3])),
        (BadRecord::Family, refused(|record| record.ip_families = vec![1, 2, 1])),
        (BadRecord::Text, refused(|record| record.traffic_distribution = Some(long.clone()))),
        (BadRecord::Text, refused(|record| record.internal_traffic_policy = Some("ü".into()))),
        (
            BadRecord::Weight,
            refused(|record| record.settings.as_mut().unwrap().weight = Some(1001)),
        ),
        (BadRecord::Share, refused(|record| record.settings.as_mut().unwrap().share = Some(101))),
        (
            BadRecord::Pinned,
            refused(|record| record.settings.as_mut().unwrap().pinned = vec!["A".into()]),
        ),
        (
            BadRecord::Pinned,
            refused(|record| record.settings.as_mut().unwrap().pinned = vec!["a".into(); 65]),
        ),
    ] {
        assert_eq!(bad, reason);
    }
    assert_eq!(parse(&Bytes::from_static(b"\x0a\xff")).unwrap_err(), BadRecord::Unreadable);
    assert_eq!(parse(&Bytes::from_static(b"\x7a\x00")).unwrap_err(), BadRecord::UnknownKind);
    assert_eq!(parse(&Bytes::new()).unwrap_err(), BadRecord::UnknownKind);
}

#[test]
fn a_bad_endpoint_is_refused() {
    let good = EndpointRecord {
        namespace: "shop".into(),
        name: "db".into(),
        address: Bytes::from_static(&[10, 0, 0, 1]),
        hostname: Some("db-0".into()),
        ports: vec![PortRef { protocol: 1, port: 80, target: 8080 }],
    };
    let refused = |change: fn(&mut EndpointRecord)| {
        let mut record = good.clone();
        change(&mut record);
        let bytes = Record { body: Some(RecordBody::Endpoint(record)) }.encode_to_vec();
        parse(&bytes.into()).unwrap_err()
    };
    assert_eq!(refused(|r| r.address = Bytes::from_static(&[1; 5])), BadRecord::Address);
    assert_eq!(refused(|r| r.address = Bytes::new()), BadRecord::Address);
    assert_eq!(refused(|r| r.hostname = Some("Ä".into())), BadRecord::Hostname);
    assert_eq!(refused(|r| r.ports[0].port = 0), BadRecord::Port);
    assert_eq!(refused(|r| r.ports[0].target = 65_536), BadRecord::Port);
    assert_eq!(refused(|r| r.namespace = "..".into()), BadRecord::Name);
}

#[test]
fn settings_of_a_newer_peer_fall_back_to_their_defaults() {
    let mut record = body(&full("shop/web"));
    record.settings = Some(SettingsRecord {
        policy: 99,
        fence: 99,
        dns: 99,
        proxy_protocol: 99,
        local: 99,
        ..SettingsRecord::default()
    });
    let bytes: Bytes = Record { body: Some(RecordBody::Export(record)) }.encode_to_vec().into();
    let Parsed::Export(export) = read(&bytes) else { panic!("an export") };
    assert_eq!(export.settings, Settings::default());
}

#[test]
fn a_field_of_a_newer_peer_is_skipped_and_told() {
    let mut bytes = export_record(&plain("shop/web", 1)).to_vec();
    // The record is tag 1 with a one-octet length; append field 15 to its inside.
    bytes[1] += 2;
    bytes.extend([0x78, 5]);
    let (parsed, skipped) = parse(&bytes.into()).unwrap();
    assert!(skipped);
    assert_eq!(parsed.key(), &key("shop/web"));
}

#[test]
fn a_mapped_address_is_folded() {
    let mut export = headless("shop/db", &["10.0.0.1"]);
    export.endpoints[0].address = "::ffff:10.0.0.1".parse().unwrap();
    let Parsed::Endpoint(_, endpoint) = read(&endpoint_record(&export.key, &export.endpoints[0]))
    else {
        panic!("an endpoint")
    };
    assert_eq!(endpoint.address, "10.0.0.1".parse::<IpAddr>().unwrap());
}
