use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};

use super::*;
use crate::drain::Trigger;
use crate::model::ReplicaId;
use crate::peering::fixtures::{cluster, open_catalog, plain};
use crate::peering::mirror::Mirror;
use crate::wire::control::Hello;

/// A publisher, played against by hand.
struct Stage {
    local: watch::Sender<Arc<LocalCatalog>>,
    trigger: Trigger,
    reader: Reader<ReadHalf<DuplexStream>>,
    writer: Writer<WriteHalf<DuplexStream>>,
    heard: mpsc::Receiver<Report>,
    session: JoinSet<Result<(), SessionError>>,
    _presence: watch::Sender<Presence>,
}

fn web(revision: u64, ready: u32) -> LocalCatalog {
    open_catalog(revision, vec![plain("shop/web", ready)])
}

impl Stage {
    /// A session over a line that holds so many bytes, past the hellos.
    async fn open(line: usize, catalog: LocalCatalog) -> Self {
        let (ours, theirs) = duplex(line);
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let (local, local_seen) = watch::channel(Arc::new(catalog));
        let (presence, presence_seen) = watch::channel(Presence::default());
        let (trigger, drain) = drain::channel();
        let (reports, heard) = mpsc::channel(8);
        let config = Config {
            cluster: cluster("oregon"),
            replica: ReplicaId::from_u64(2),
            network: "".into(),
            presence: Presence::default(),
            version: "test".into(),
            own_ranges: Vec::new(),
        };
        let publication = Publication {
            config: Arc::new(config),
            local: local_seen,
            presence: presence_seen,
            reports,
            metrics: metrics.clone(),
            drain,
        };
        let (reader, writer) = split(theirs);
        let mut session = JoinSet::new();
        session.spawn(publication.serve(cluster("paris"), reader, writer));
        let (reader, writer) = split(ours);
        let mut stage = Self {
            local,
            trigger,
            reader: Reader::new(reader, metrics.clone()),
            writer: Writer::new(writer, metrics),
            heard,
            session,
            _presence: presence,
        };
        let hello = Hello {
            protocol_min: 1,
            protocol_max: 1,
            cluster: "paris".into(),
            replica: 1,
            ..Hello::default()
        };
        stage.writer.send(Body::Hello(hello)).await.unwrap();
        assert!(matches!(stage.next().await, Body::Hello(_)));
        assert_eq!(stage.next().await, Body::Drain(Drain { draining: false }));
        assert!(matches!(stage.heard.recv().await, Some(Report::Greeted { .. })));
        stage
    }

    async fn next(&mut self) -> Body {
        self.reader.next().await.unwrap().body
    }

    async fn subscribe(&mut self) {
        self.writer.send(Body::Subscribe(Subscribe::default())).await.unwrap();
    }

    /// Reads a whole snapshot.
    async fn snapshot(&mut self) -> Mirror {
        let mut mirror = Mirror::default();
        loop {
            match self.next().await {
                Body::SnapshotBegin(_) => {}
                Body::SnapshotChunk(chunk) => {
                    for record in &chunk.records {
                        mirror.add(record).unwrap();
                    }
                }
                Body::SnapshotEnd(end) => {
                    assert_eq!(end.digest, mirror.digest().to_bytes());
                    return mirror;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn synced(synced: bool) -> Body {
    Body::Synced(Synced { synced })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_it_is_asked_for_and_a_digest_every_30_s_after() {
    let mut stage = Stage::open(64 * 1024, web(1, 1)).await;
    let quiet = tokio::time::timeout(Duration::from_secs(100), stage.reader.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    stage.subscribe().await;
    let mirror = stage.snapshot().await;
    assert_eq!(stage.next().await, synced(true));
    let mut last = None;
    for _ in 0..4 {
        let Body::Digest(digest) = stage.next().await else { panic!("a digest") };
        assert_eq!(digest.digest, mirror.digest().to_bytes());
        let now = clock::now();
        if let Some(last) = last.replace(now) {
            let pause = now.duration_since(last);
            assert!(pause > DIGEST_EVERY.mul_f64(0.89) && pause <= DIGEST_EVERY, "{pause:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_read_misses_steps_and_not_the_result() {
    let mut stage = Stage::open(512, web(1, 1)).await;
    stage.subscribe().await;
    let mut mirror = stage.snapshot().await;
    assert_eq!(stage.next().await, synced(true));
    for revision in 2..=2_000_u64 {
        let catalog = web(revision, u32::try_from(revision).unwrap());
        stage.local.send_replace(Arc::new(catalog));
        sleep(Duration::from_millis(5)).await;
    }
    let mut steps = 0;
    loop {
        let Body::Delta(delta) = stage.next().await else { panic!("a change") };
        steps += 1;
        for removal in &delta.removals {
            let hash = super::super::digest::RecordHash::parse(&removal.hash).unwrap();
            let key = super::super::convert::service_key(&removal.namespace, &removal.name);
            assert!(mirror.remove(key.as_ref(), hash));
        }
        for record in &delta.upserts {
            mirror.add(record).unwrap();
        }
        assert_eq!(delta.digest, mirror.digest().to_bytes());
        if delta.revision == 2_000 {
            break;
        }
    }
    assert!(steps < 20, "{steps} messages waited for it");
}

#[tokio::test(start_paused = true)]
async fn synced_is_taken_back_before_a_change_and_given_after_it() {
    let unsynced = |catalog| LocalCatalog { synced: false, ..catalog };
    let mut stage = Stage::open(64 * 1024, unsynced(web(1, 1))).await;
    stage.subscribe().await;
    assert_eq!(stage.next().await, synced(false));
    stage.snapshot().await;
    stage.local.send_replace(Arc::new(web(2, 2)));
    assert!(matches!(stage.next().await, Body::Delta(_)));
    assert_eq!(stage.next().await, synced(true));
    stage.local.send_replace(Arc::new(unsynced(web(3, 3))));
    assert_eq!(stage.next().await, synced(false));
    assert!(matches!(stage.next().await, Body::Delta(_)));
}

#[tokio::test(start_paused = true)]
async fn the_drain_notice_comes_at_once() {
    let mut stage = Stage::open(64 * 1024, web(1, 1)).await;
    stage.subscribe().await;
    stage.snapshot().await;
    assert_eq!(stage.next().await, synced(true));
    stage.trigger.advance(Phase::Announced);
    assert_eq!(stage.next().await, Body::Drain(Drain { draining: true }));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_never_reads_again_is_given_up() {
    let mut stage = Stage::open(64, web(1, 1)).await;
    stage.subscribe().await;
    let ended = stage.session.join_next().await.unwrap().unwrap();
    assert!(matches!(ended, Err(SessionError::Stalled)), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_hello_is_given_up() {
    let (ours, theirs) = duplex(64);
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let (reader, _writer) = split(theirs);
    let greeting = Reader::new(reader, metrics).greeting(&cluster("paris")).await;
    assert!(matches!(greeting, Err(SessionError::Silent)), "{greeting:?}");
    drop(ours);
}
