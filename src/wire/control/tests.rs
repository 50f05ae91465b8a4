use proptest::prelude::*;

use super::*;

fn encoded(body: Body) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode(body, &mut out);
    out.to_vec()
}

fn decoder(bytes: &[u8]) -> Decoder {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(bytes);
    decoder
}

fn record() -> ExportRecord {
    ExportRecord {
        namespace: "shop".into(),
        name: "web".into(),
        created_ms: 1_700_000_000_000,
        service_type: ServiceTypeCode::ClusterSetIp.into(),
        ports: vec![PortRecord {
            name: "http".into(),
            protocol: ProtocolCode::Tcp.into(),
            port: 80,
            app_protocol: Some("http".into()),
            ready: 3,
        }],
        client_ip_timeout_seconds: Some(10_800),
        ip_families: vec![IpFamilyCode::V4.into(), IpFamilyCode::V6.into()],
        internal_traffic_policy: Some("Cluster".into()),
        traffic_distribution: None,
        labels: [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into(),
        annotations: BTreeMap::new(),
        settings: Some(SettingsRecord {
            policy: PolicyCode::Pinned.into(),
            pinned: vec!["oregon".into()],
            fence: FenceCode::Region.into(),
            dns: DnsCode::Vip.into(),
            weight: Some(0),
            early_data: true,
            proxy_protocol: ProxyCode::V2.into(),
            local: LocalCode::Direct.into(),
            share: None,
        }),
    }
}

fn hello() -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        cluster: "paris".into(),
        replica: 0x0102_0304_0506_0708,
        features: 0,
        addresses: vec!["127.0.1.1:8443".into()],
        network: "flat".into(),
        version: "0.1.0".into(),
        replicas: vec![0x0102_0304_0506_0708, 9],
        region: "eu".into(),
        zone: "a".into(),
    }
}

fn bodies() -> impl Strategy<Value = Body> {
    let blob = || prop::collection::vec(any::<u8>(), 0..80).prop_map(Bytes::from);
    let blobs = move || prop::collection::vec(blob(), 0..6);
    let removal = ("[a-z]{1,8}", "[a-z]{1,8}", blob())
        .prop_map(|(namespace, name, hash)| Removal { namespace, name, hash });
    prop_oneof![
        (
            any::<u32>(),
            any::<u64>(),
            ".{0,20}",
            prop::collection::vec(".{0,20}", 0..4),
            prop::collection::vec(any::<u64>(), 0..4)
        )
            .prop_map(|(protocol_max, replica, cluster, addresses, replicas)| {
                Body::Hello(Hello {
                    protocol_max,
                    replica,
                    cluster,
                    addresses,
                    replicas,
                    ..hello()
                })
            }),
        (blob(), any::<u64>())
            .prop_map(|(digest, revision)| Body::Subscribe(Subscribe { digest, revision })),
        (blob(), any::<u64>()).prop_map(|(digest, revision)| Body::Same(Same { digest, revision })),
        any::<u64>().prop_map(|revision| Body::SnapshotBegin(SnapshotBegin { revision })),
        blobs().prop_map(|records| Body::SnapshotChunk(SnapshotChunk { records })),
        (blob(), any::<u64>())
            .prop_map(|(digest, revision)| Body::SnapshotEnd(SnapshotEnd { revision, digest })),
        (any::<u64>(), prop::collection::vec(removal, 0..4), blobs(), blob()).prop_map(
            |(revision, removals, upserts, digest)| Body::Delta(Delta {
                revision,
                removals,
                upserts,
                digest
            })
        ),
        (blob(), any::<u64>())
            .prop_map(|(digest, revision)| Body::Digest(Digest { digest, revision })),
        any::<bool>().prop_map(|synced| Body::Synced(Synced { synced })),
        any::<bool>().prop_map(|draining| Body::Drain(Drain { draining })),
    ]
}

proptest! {
    #[test]
    fn messages_survive_any_cutting_of_the_stream(
        sent in prop::collection::vec(bodies(), 1..6),
        cut in 1_usize..40,
    ) {
        let bytes: Vec<u8> = sent.iter().cloned().flat_map(encoded).collect();
        let mut decoder = Decoder::default();
        let mut read = Vec::new();
        for piece in bytes.chunks(cut) {
            decoder.buffer().extend_from_slice(piece);
            while let Some(message) = decoder.next_message().unwrap() {
                prop_assert!(!message.unknown_fields);
                read.push(message.body.unwrap());
            }
        }
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = decoder(&bytes);
        while let Ok(Some(_)) = decoder.next_message() {}
        let _parsed = Record::decode(bytes.as_slice());
    }

    #[test]
    fn chunks_keep_every_record_in_order_within_the_cap(
        sizes in prop::collection::vec(0_usize..40_000, 0..20)
    ) {
        let records: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect();
        let groups: Vec<Vec<Bytes>> = chunks(records.clone()).collect();
        for group in &groups {
            let size = SnapshotChunk { records: group.clone() }.encoded_len();
            prop_assert!(group.len() == 1 || size <= CHUNK_BYTES);
        }
        prop_assert_eq!(groups.concat(), records);
    }
}

#[test]
fn a_message_cut_at_any_byte_is_not_yet_a_message() {
    let record = Record { body: Some(RecordBody::Export(record())) }.encode_to_vec();
    let delta = Body::Delta(Delta {
        revision: 7,
        removals: vec![Removal {
            namespace: "shop".into(),
            name: "web".into(),
            hash: Bytes::from_static(&[1; 32]),
        }],
        upserts: vec![record.into()],
        digest: Bytes::from_static(&[2; 32]),
    });
    for body in [Body::Hello(hello()), delta] {
        let bytes = encoded(body.clone());
        for end in 0..bytes.len() {
            assert_eq!(decoder(&bytes[..end]).next_message(), Ok(None), "cut at {end}");
        }
        assert_eq!(decoder(&bytes).next_message().unwrap().unwrap().body, Some(body));
    }
}

#[test]
fn a_record_cut_at_any_byte_never_panics() {
    let bytes = Record { body: Some(RecordBody::Export(record())) }.encode_to_vec();
    for end in 0..bytes.len() {
        let read = Record::decode(&bytes[..end]).ok().and_then(|record| record.body);
        assert_ne!(read, Some(RecordBody::Export(record())), "cut at {end}");
    }
}

#[test]
fn a_length_over_the_cap_is_refused_before_its_bytes_come() {
    let mut prefix = BytesMut::new();
    prost::encode_length_delimiter(MAX_MESSAGE_BYTES, &mut prefix).unwrap();
    assert_eq!(decoder(&prefix).next_message(), Ok(None));
    prefix.clear();
    prost::encode_length_delimiter(MAX_MESSAGE_BYTES + 1, &mut prefix).unwrap();
    assert_eq!(decoder(&prefix).next_message(), Err(DecodeError::TooLong));
    assert_eq!(decoder(&[0xff; 5]).next_message(), Err(DecodeError::TooLong));
    assert_eq!(decoder(&[0xff; 4]).next_message(), Ok(None));
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    // A length-delimited field of tag 1 that claims more than the message holds.
    let refused = decoder(&[2, 0x0a, 0x7f]).next_message();
    assert!(matches!(refused, Err(DecodeError::Malformed(_))), "{refused:?}");
}

#[test]
fn an_unknown_message_is_skipped_and_the_next_one_read() {
    // Tag 200, length-delimited, three bytes; then a known message.
    let mut bytes = vec![6, 0xc2, 0x0c, 3, 1, 2, 3];
    bytes.extend(encoded(Body::Synced(Synced { synced: true })));
    let mut decoder = decoder(&bytes);
    assert_eq!(decoder.next_message().unwrap().unwrap().body, None);
    let known = decoder.next_message().unwrap().unwrap();
    assert_eq!(known.body, Some(Body::Synced(Synced { synced: true })));
    assert!(!known.unknown_fields);
}

#[test]
fn an_unknown_field_is_skipped_and_reported() {
    // Synced{synced: true} with an additional varint field 15.
    let read = decoder(&[6, 0x4a, 4, 0x08, 1, 0x78, 5]).next_message().unwrap().unwrap();
    assert_eq!(read.body, Some(Body::Synced(Synced { synced: true })));
    assert!(read.unknown_fields);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What version 1 puts on the wire. A failure here means that older peers cannot read us: add a
/// field under a new tag instead of changing one.
#[test]
fn the_bytes_on_the_wire_do_not_change() {
    assert_eq!(hex(&encoded(Body::Hello(hello()))), GOLDEN_HELLO);
    let record = Record { body: Some(RecordBody::Export(record())) };
    assert_eq!(hex(&record.encode_to_vec()), GOLDEN_EXPORT);
    let endpoint = Record {
        body: Some(RecordBody::Endpoint(EndpointRecord {
            namespace: "shop".into(),
            name: "db".into(),
            address: Bytes::from_static(&[10, 0, 0, 1]),
            hostname: Some("db-0".into()),
            ports: vec![PortRef { protocol: ProtocolCode::Tcp.into(), port: 5432, target: 0 }],
        })),
    };
    assert_eq!(hex(&endpoint.encode_to_vec()), GOLDEN_ENDPOINT);
    let delta = Body::Delta(Delta {
        revision: 300,
        removals: vec![Removal {
            namespace: "shop".into(),
            name: "web".into(),
            hash: Bytes::from_static(&[1, 2]),
        }],
        upserts: vec![Bytes::from_static(&[3])],
        digest: Bytes::from_static(&[4]),
    });
    assert_eq!(hex(&encoded(delta)), "1c3a1a08ac02120f0a0473686f7012037765621a0201021a0103220104");
    for (body, golden) in [
        (
            Body::Subscribe(Subscribe { digest: Bytes::from_static(&[1]), revision: 2 }),
            "0712050a01011002",
        ),
        (Body::Same(Same { digest: Bytes::from_static(&[1]), revision: 2 }), "071a050a01011002"),
        (Body::SnapshotBegin(SnapshotBegin { revision: 2 }), "0422020802"),
        (
            Body::SnapshotChunk(SnapshotChunk { records: vec![Bytes::from_static(&[1])] }),
            "052a030a0101",
        ),
        (
            Body::SnapshotEnd(SnapshotEnd { revision: 2, digest: Bytes::from_static(&[1]) }),
            "0732050802120101",
        ),
        (
            Body::Digest(Digest { digest: Bytes::from_static(&[1]), revision: 2 }),
            "0742050a01011002",
        ),
        (Body::Synced(Synced { synced: true }), "044a020801"),
        (Body::Drain(Drain { draining: true }), "0452020801"),
    ] {
        assert_eq!(hex(&encoded(body.clone())), golden, "{body:?}");
    }
}

const GOLDEN_HELLO: &str = concat!(
    "4c0a4a080110011a057061726973210807060504030201320e3132372e302e312e313a383434333a",
    "04666c61744205302e312e304a1008070605040302010900000000000000520265755a0161",
);
const GOLDEN_EXPORT: &str = concat!(
    "0a600a0473686f7012037765621880d095ffbc3120012a120a046874747010011850220468747470",
    "280330b0543a0201024207436c757374657252060a016112013152060a0162120132621608041206",
    "6f7265676f6e180220012800300138024001",
);
const GOLDEN_ENDPOINT: &str = "121d0a0473686f70120264621a040a000001220464622d302a05080110b82a";
