use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::catalog::Assembly;
use crate::drain;
use crate::model::ServiceKey;

/// Longest wait for an update: far over the debounce, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn web(port: u32) -> String {
    service("web", port)
}

fn service(name: &str, port: u32) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports:\n  - port: {port}\n"
    )
}

const BAD: &str =
    "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  ports:\n  - port: none\n";

/// A running source over a directory of its own.
struct Running {
    home: tempfile::TempDir,
    updates: mpsc::Receiver<SourceUpdate>,
    trigger: drain::Trigger,
    task: JoinHandle<Result<(), Error>>,
    metrics: Metrics,
    /// Port by service name, as the updates tell it.
    ports: std::collections::BTreeMap<String, u16>,
}

impl Running {
    /// Opens the directory `registry` with these files, and waits until it is synced.
    async fn with(files: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("registry");
        fs::create_dir(&dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
        Self::over(home, dir).await
    }

    #[allow(clippy::disallowed_methods, reason = "a test owns its task")]
    async fn over(home: tempfile::TempDir, dir: PathBuf) -> Self {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let (source, events) = Source::open(Config { dir }).unwrap();
        let (sender, updates) = mpsc::channel(4);
        let (trigger, drain) = drain::channel();
        let task = tokio::spawn(source.with_metrics(metrics.clone()).run(sender, drain));
        let mut running = Self { home, updates, trigger, task, metrics, ports: Default::default() };
        running.take(events);
        assert_eq!(running.next().await, SourceUpdate::Synced);
        running
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join("registry").join(name)
    }

    /// Writes a file in place.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn next(&mut self) -> SourceUpdate {
        timeout(PATIENCE, self.updates.recv()).await.expect("an update in time").expect("a source")
    }

    /// Takes changes until the services are these.
    async fn until(&mut self, want: &[(&str, u16)]) {
        let want = want.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect();
        while self.ports != want {
            match self.next().await {
                SourceUpdate::Changed(events) => self.take(events),
                other => panic!("{other:?} while waiting for {want:?} from {:?}", self.ports),
            }
        }
    }

    async fn failed(&mut self) -> String {
        self.fault().await.0
    }

    /// What is wrong, and whether something cannot be read at all.
    async fn fault(&mut self) -> (String, bool) {
        match self.next().await {
            SourceUpdate::Failed { error, away } => (error, away),
            other => panic!("{other:?}"),
        }
    }

    fn take(&mut self, events: Vec<SourceEvent>) {
        for event in events {
            match event {
                SourceEvent::Service(key, Some(object)) => {
                    self.ports.insert(key.name.to_string(), object.ports[0].port.get());
                }
                SourceEvent::Service(key, None) => _ = self.ports.remove(key.name.as_str()),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn refused(dir: &Path) -> String {
    Source::open(Config { dir: dir.into() }).map(|(_, events)| events).unwrap_err().to_string()
}

#[test]
fn a_bad_file_at_start_refuses_with_every_file_and_line() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a.yaml"), web(80)).unwrap();
    fs::write(home.path().join("b.yml"), BAD).unwrap();
    fs::write(home.path().join("c.json"), "{\n\n]").unwrap();
    symlink("nowhere", home.path().join("d.yaml")).unwrap();
    let text = refused(home.path());
    let lines: Vec<_> = text.lines().collect();
    let at = |name: &str| home.path().join(name).display().to_string();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with(&format!("{}:7:", at("b.yml"))), "{text}");
    assert!(lines[0].contains("1 to 65535"), "{text}");
    assert!(lines[1].starts_with(&format!("{}:3:", at("c.json"))), "{text}");
    assert!(lines[2].starts_with(&at("d.yaml")) && lines[2].contains("cannot be read"), "{text}");
    assert!(refused(&home.path().join("absent")).contains("source.files"));
    assert!(refused(&home.path().join("a.yaml")).contains("source.files"));
}

#[test]
fn a_file_over_the_cap_is_refused_and_names_the_cap() {
    let home = tempfile::tempdir().unwrap();
    let file = File::create(home.path().join("big.yaml")).unwrap();
    file.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(refused(home.path()).contains("64 MiB"));
    // At the cap it is read (and is nothing but zeros).
    file.set_len(0).unwrap();
    assert!(Source::open(Config { dir: home.path().into() }).is_ok());
}

#[test]
fn only_manifests_directly_in_the_directory_are_read() {
    let home = tempfile::tempdir().unwrap();
    for name in [".hidden.yaml", "web.yaml~", "web.yaml.swp", "readme.md", "yaml"] {
        fs::write(home.path().join(name), BAD).unwrap();
    }
    fs::create_dir_all(home.path().join("sub.yaml")).unwrap();
    fs::create_dir(home.path().join("deeper")).unwrap();
    fs::write(home.path().join("deeper/a.yaml"), BAD).unwrap();
    let status = std::process::Command::new("mkfifo").arg(home.path().join("pipe.yaml")).status();
    assert!(status.unwrap().success());
    let (_, events) = Source::open(Config { dir: home.path().into() }).unwrap();
    assert_eq!(events, []);
}

#[test]
fn a_whole_registry_becomes_exports() {
    let home = tempfile::tempdir().unwrap();
    let json = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"},"spec":{"ports":[{"name":"http","port":80}]}},{"apiVersion":"multicluster.x-k8s.io/v1beta1","kind":"ServiceExport","metadata":{"name":"web","namespace":"shop"}}]}"#;
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints: [{addresses: [127.0.3.1]}]\n";
    fs::write(home.path().join("web.json"), json).unwrap();
    fs::write(home.path().join("pods.yml"), slice).unwrap();
    let (_, events) = Source::open(Config { dir: home.path().into() }).unwrap();
    let mut assembly = Assembly::new();
    assert_eq!(assembly.apply(events).len(), 1);
    let local = assembly.export(&ServiceKey::parse("shop/web").unwrap()).unwrap();
    let backends = local.backends.values().next().unwrap();
    assert_eq!(backends[0].address.to_string(), "127.0.3.1:8080");
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut source = Running::with(&[("a.yaml", &(web(80) + &service("db", 5432)))]).await;
    source.until(&[("db", 5432), ("web", 80)]).await;
    source.write("b.yml", &service("mail", 25));
    source.until(&[("db", 5432), ("mail", 25), ("web", 80)]).await;
    source.write("a.yaml", &(web(81) + &service("db", 5432)));
    match source.next().await {
        SourceUpdate::Changed(events) => {
            assert_eq!(events.len(), 1, "only what changed is told: {events:?}");
            source.take(events);
        }
        other => panic!("{other:?}"),
    }
    // Editors write beside the file and rename.
    source.write(".a.yaml.tmp", &web(82));
    fs::rename(source.path(".a.yaml.tmp"), source.path("a.yaml")).unwrap();
    source.until(&[("mail", 25), ("web", 82)]).await;
    fs::remove_file(source.path("b.yml")).unwrap();
    source.until(&[("web", 82)]).await;
    fs::rename(source.path("a.yaml"), source.path("a.off")).unwrap();
    source.until(&[]).await;
    fs::hard_link(source.path("a.off"), source.path("a.yaml")).unwrap();
    source.until(&[("web", 82)]).await;
}

#[tokio::test]
async fn a_file_is_read_when_its_writer_is_done() {
    use std::io::Write;
    let mut source = Running::with(&[("a.yaml", &(web(1) + &service("db", 1)))]).await;
    let mut slow = File::create(source.path("a.yaml")).unwrap();
    slow.write_all(web(2).as_bytes()).unwrap();
    slow.sync_all().unwrap();
    let mut new = File::create(source.path("new.yaml")).unwrap();
    new.write_all(b"apiVersion: v1\nkind: Ser").unwrap();
    new.sync_all().unwrap();
    source.write("b.yaml", &service("mail", 25));
    source.until(&[("db", 1), ("mail", 25), ("web", 1)]).await;
    slow.write_all(service("db", 2).as_bytes()).unwrap();
    drop(slow);
    source.until(&[("db", 2), ("mail", 25), ("web", 2)]).await;
    new.write_all(b"vice\nmetadata: {name: new}\nspec: {ports: [{port: 7}]}\n").unwrap();
    drop(new);
    source.until(&[("db", 2), ("mail", 25), ("new", 7), ("web", 2)]).await;
}

#[tokio::test]
async fn o03_a_malformed_change_is_reported_and_the_last_good_state_stays() {
    let mut source = Running::with(&[("a.yaml", &web(80)), ("b.yaml", &service("db", 1))]).await;
    source.write("a.yaml", BAD);
    let error = source.failed().await;
    let place = format!("{}:7:", source.path("a.yaml").display());
    assert!(error.starts_with(&place) && error.contains("65535"), "{error}");
    assert_eq!(source.metrics.errors.with_label_values(&["parse"]).get(), 1);
    // Other files are taken all the while; a new bad one joins the report.
    source.write("b.yaml", &service("db", 2));
    source.until(&[("db", 2), ("web", 80)]).await;
    source.write("c.yaml", "a: b\n");
    let (error, away) = source.fault().await;
    assert!(!away, "read, but refused");
    assert_eq!(error.lines().count(), 2, "{error}");
    fs::remove_file(source.path("c.yaml")).unwrap();
    assert_eq!(source.failed().await.lines().count(), 1);
    // The next good change is taken, and then all is well.
    source.write("a.yaml", &web(90));
    source.until(&[("db", 2), ("web", 90)]).await;
    assert_eq!(source.next().await, SourceUpdate::Recovered);
    // A bad file that is removed takes its last good objects with it.
    source.write("a.yaml", BAD);
    source.failed().await;
    fs::remove_file(source.path("a.yaml")).unwrap();
    source.until(&[("db", 2)]).await;
    assert_eq!(source.next().await, SourceUpdate::Recovered);
}

#[tokio::test]
async fn of_two_definitions_the_first_file_counts_and_the_other_is_reported() {
    let mut source = Running::with(&[("a.yaml", &web(1)), ("b.yaml", &web(2))]).await;
    source.until(&[("web", 1)]).await;
    let error = source.failed().await;
    let place = format!("{}:2: Service default/web", source.path("b.yaml").display());
    assert!(error.starts_with(&place) && error.contains("a.yaml"), "{error}");
    // A change of the one that does not count is no change.
    source.write("b.yaml", &(web(3) + &service("db", 3)));
    source.until(&[("db", 3), ("web", 1)]).await;
    // An even earlier file wins; when it goes, the next one counts again.
    source.write("0.yaml", &web(0xa));
    source.until(&[("db", 3), ("web", 10)]).await;
    assert_eq!(source.failed().await.lines().count(), 2);
    fs::remove_file(source.path("0.yaml")).unwrap();
    source.until(&[("db", 3), ("web", 1)]).await;
    source.failed().await;
    fs::remove_file(source.path("a.yaml")).unwrap();
    source.until(&[("db", 3), ("web", 3)]).await;
    assert_eq!(source.next().await, SourceUpdate::Recovered);
    source.write("b.yaml", &(web(3) + &web(4) + &service("db", 3)));
    let error = source.failed().await;
    assert!(error.starts_with(&format!("{}:9: ", source.path("b.yaml").display())), "{error}");
}

#[tokio::test]
async fn links_are_followed_and_a_swapped_volume_is_seen() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("registry");
    for (version, port) in [("..v1", 1), ("..v2", 2)] {
        fs::create_dir_all(dir.join(version)).unwrap();
        fs::write(dir.join(version).join("a.yaml"), web(port)).unwrap();
    }
    symlink("..v1", dir.join("..data")).unwrap();
    symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    let mut source = Running::over(home, dir.clone()).await;
    source.until(&[("web", 1)]).await;
    symlink("..v2", dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    source.until(&[("web", 2)]).await;
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_followed_and_one_that_is_gone_keeps_its_objects() {
    let home = tempfile::tempdir().unwrap();
    for (version, port) in [("v1", 1), ("v2", 2)] {
        fs::create_dir(home.path().join(version)).unwrap();
        fs::write(home.path().join(version).join("a.yaml"), web(port)).unwrap();
    }
    let dir = home.path().join("registry");
    symlink("v1", &dir).unwrap();
    let mut source = Running::over(home, dir.clone()).await;
    let home = source.home.path().to_owned();
    symlink("v2", home.join("next")).unwrap();
    fs::rename(home.join("next"), &dir).unwrap();
    source.until(&[("web", 2)]).await;
    // The new one is watched.
    source.write("a.yaml", &web(3));
    source.until(&[("web", 3)]).await;
    fs::remove_file(&dir).unwrap();
    let (error, away) = source.fault().await;
    assert!(error.contains("source.files") && away, "{error}");
    fs::create_dir(&dir).unwrap();
    source.write("b.yaml", &(web(3) + &service("db", 1)));
    source.until(&[("db", 1), ("web", 3)]).await;
    assert_eq!(source.next().await, SourceUpdate::Recovered);
}

#[tokio::test]
async fn a_file_that_becomes_unreadable_is_reported() {
    let mut source = Running::with(&[("a.yaml", &web(1))]).await;
    // A link to itself cannot be followed, whoever asks (root reads every mode).
    fs::remove_file(source.path("a.yaml")).unwrap();
    source.until(&[]).await;
    symlink("a.yaml", source.path("a.yaml")).unwrap();
    assert!(source.failed().await.contains("cannot be read"));
    fs::remove_file(source.path("a.yaml")).unwrap();
    assert_eq!(source.next().await, SourceUpdate::Recovered);
    assert_eq!(source.metrics.errors.with_label_values(&["read"]).get(), 1);
}

#[tokio::test]
async fn it_ends_with_the_drain_and_when_nobody_listens() {
    let source = Running::with(&[]).await;
    source.trigger.advance(Phase::Announced);
    source.trigger.advance(Phase::Draining);
    timeout(PATIENCE, source.task).await.unwrap().unwrap().unwrap();
    let source = Running::with(&[]).await;
    drop(source.updates);
    timeout(PATIENCE, source.task).await.unwrap().unwrap().unwrap();
}

#[test]
fn a_refresh_reads_only_files_whose_stamp_changed() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.yaml");
    fs::write(&path, web(1)).unwrap();
    let every = || Work { all: true, ..Work::default() };
    let mut directory = Directory::new(home.path().into());
    assert_eq!(directory.refresh(every()).len(), 1);
    // What was read stays as it was read: were it opened again, this would be trouble.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(directory.refresh(every()), []);
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, web(2)).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    // The time of change betrays a write that put the time of modification back.
    assert_eq!(directory.refresh(every()).len(), 1);
    fs::remove_file(&path).unwrap();
    assert_eq!(directory.refresh(every()).len(), 1);
    assert_eq!(directory.counts(), (0, 0));
}
