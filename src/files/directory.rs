//! What the directory holds: files, the objects they define, and the changes between two looks.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::document::{Content, Documents, MAX_FILE_BYTES, Mistake, Placed, Syntax, parse};
use super::object::{Object, ObjectId};
use super::spread::spread;
use super::{Reason, Trouble};
use crate::catalog::SourceEvent;

/// Most double definitions that are named at a time.
const MAX_NAMED_DOUBLES: usize = 10;

/// What is to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Entries that changed, by name.
    pub(super) names: BTreeSet<OsString>,
    /// Whether to look at every entry.
    pub(super) all: bool,
}

/// A file as it was when it was read: an equal stamp means that it need not be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// One file: its last good content, and what is wrong with it now.
#[derive(Debug, Default)]
struct Entry {
    /// Of the last read, good or bad; `None` where it could not even be read.
    stamp: Option<Stamp>,
    objects: HashMap<ObjectId, (Arc<Object>, usize)>,
    documents: Documents,
    /// Objects that an earlier document of the same file defines already, with their line.
    repeated: Vec<(ObjectId, usize)>,
    trouble: Option<Trouble>,
}

/// What reading one file came to.
enum Read1 {
    /// The stamp is the known one.
    Same,
    /// Read and understood.
    Good(Stamp, Content),
    /// Read but not understood, or not readable.
    Bad(Option<Stamp>, Trouble),
    /// No such file, or nothing that is a file.
    Gone,
}

/// The directory's state. Every call blocks on the file system.
#[derive(Debug)]
pub(super) struct Directory {
    dir: PathBuf,
    files: BTreeMap<Arc<OsStr>, Entry>,
    /// The files that define an object, ascending: the first one's counts.
    owners: HashMap<ObjectId, Vec<Arc<OsStr>>>,
    /// Objects that more than one file defines.
    doubles: BTreeSet<ObjectId>,
    /// The directory itself cannot be read.
    unreadable: Option<Trouble>,
}

impl Directory {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            files: BTreeMap::new(),
            owners: HashMap::new(),
            doubles: BTreeSet::new(),
            unreadable: None,
        }
    }

    /// Looks again; returns the objects that changed. A file that went bad keeps its last good
    /// objects, and a directory that cannot be listed all of them.
    pub(super) fn refresh(&mut self, work: Work) -> Vec<SourceEvent> {
        // A name from an event is read even if its stamp is the same: the clock of the file
        // system may be coarser than two writes are apart.
        let mut look: Vec<(Arc<OsStr>, bool)> = work
            .names
            .iter()
            .filter(|name| is_manifest(name))
            .map(|n| (n.as_os_str().into(), true))
            .collect();
        if work.all {
            match self.list() {
                Ok(names) => {
                    let told = |name: &&Arc<OsStr>| work.names.contains(&***name);
                    let gone = self.files.keys().filter(|name| !names.contains(*name));
                    let every = gone.chain(&names).filter(|name| !told(name));
                    look.extend(every.map(|name| (Arc::clone(name), false)));
                    self.unreadable = None;
                }
                Err(error) => {
                    self.unreadable = Some(Trouble::dir(&self.dir, &error));
                    return Vec::new();
                }
            }
        }
        let read = spread(&look, |(name, changed)| self.read(name, *changed));
        let mut events = Vec::new();
        for ((name, _), read) in look.into_iter().zip(read) {
            self.take(name, read, &mut events);
        }
        events
    }

    /// What is wrong now: first what cannot be read or understood, then double definitions.
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        let bad = self.files.values().filter_map(|entry| entry.trouble.clone());
        let repeated = self.files.iter().flat_map(|(name, entry)| {
            entry.repeated.iter().map(|(id, line)| self.double(name, *line, id, name))
        });
        let doubles = self.doubles.iter().flat_map(|id| {
            let owners = self.owners.get(id).map_or(&[][..], Vec::as_slice);
            let winner = owners.first();
            owners.iter().skip(1).filter_map(move |name| {
                let (_, line) = self.files.get(name)?.objects.get(id)?;
                Some(self.double(name, *line, id, winner?))
            })
        });
        let doubles = repeated.chain(doubles).take(MAX_NAMED_DOUBLES);
        self.unreadable.clone().into_iter().chain(bad).chain(doubles).collect()
    }

    /// How many files and objects are known, for the log.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.files.len(), self.owners.len())
    }

    fn double(&self, name: &OsStr, line: usize, id: &ObjectId, winner: &OsStr) -> Trouble {
        let what = format!(
            "{} is defined in {} too, and that one counts; remove one of them",
            id.shown(),
            winner.display()
        );
        let mistake = Mistake { line, column: None, what };
        Trouble::mistake(Reason::Duplicate, &self.dir.join(name), &mistake)
    }

    fn list(&self) -> io::Result<BTreeSet<Arc<OsStr>>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            if is_manifest(&name) {
                names.insert(name.into());
            }
        }
        Ok(names)
    }

    fn read(&self, name: &OsStr, changed: bool) -> Read1 {
        let path = self.dir.join(name);
        let known = self.files.get(name);
        let stamp = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Stamp::from(&metadata),
            Ok(_) => return Read1::Gone,
            Err(error) => return missing_or_bad(&path, &error),
        };
        if !changed && known.is_some_and(|entry| entry.stamp == Some(stamp)) {
            return Read1::Same;
        }
        let (stamp, bytes) = match read_file(&path) {
            Ok(read) => read,
            Err(error) => return missing_or_bad(&path, &error),
        };
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Read1::Bad(Some(stamp), Trouble::too_large(&path));
        }
        let none = Documents::new();
        let documents = known.map_or(&none, |entry| &entry.documents);
        match parse(&bytes, syntax(name), documents) {
            Ok(content) => Read1::Good(stamp, content),
            Err(mistake) => {
                Read1::Bad(Some(stamp), Trouble::mistake(Reason::Parse, &path, &mistake))
            }
        }
    }

    fn take(&mut self, name: Arc<OsStr>, read: Read1, events: &mut Vec<SourceEvent>) {
        match read {
            Read1::Same => {}
            Read1::Gone => {
                if let Some(entry) = self.files.remove(&name) {
                    self.replace(&name, entry.objects, &HashMap::new(), events);
                }
            }
            Read1::Bad(stamp, trouble) => {
                let entry = self.files.entry(name).or_default();
                entry.stamp = stamp;
                entry.trouble = Some(trouble);
            }
            Read1::Good(stamp, content) => {
                if content.ignored > 0 {
                    tracing::debug!(file = %name.display(), count = content.ignored, "objects of other kinds are passed over");
                }
                let mut entry =
                    Entry { stamp: Some(stamp), documents: content.documents, ..Entry::default() };
                for Placed { id, object, line } in content.objects {
                    match entry.objects.entry(id) {
                        Slot::Occupied(first) => entry.repeated.push((first.key().clone(), line)),
                        Slot::Vacant(free) => _ = free.insert((object, line)),
                    }
                }
                let now = entry.objects.clone();
                let before = self.files.insert(Arc::clone(&name), entry).unwrap_or_default();
                self.replace(&name, before.objects, &now, events);
            }
        }
    }

    /// A file's objects were replaced: says what that changes. `self.files` has the new ones.
    fn replace(
        &mut self,
        name: &Arc<OsStr>,
        before: HashMap<ObjectId, (Arc<Object>, usize)>,
        now: &HashMap<ObjectId, (Arc<Object>, usize)>,
        events: &mut Vec<SourceEvent>,
    ) {
        for (id, (old, _)) in before {
            match now.get(&id) {
                Some((new, _)) => {
                    let first = self.owners.get(&id).and_then(|owners| owners.first());
                    if first == Some(name) && !Arc::ptr_eq(&old, new) && old != *new {
                        events.push(new.event(&id));
                    }
                }
                None => self.disown(name, &id, &old, events),
            }
        }
        // Ordered, so that the same directory always yields the same events.
        let mut added: Vec<_> = now.iter().filter(|(id, _)| !self.owns(name, id)).collect();
        added.sort_by_key(|(_, (_, line))| *line);
        for (id, (object, _)) in added {
            let owners = self.owners.entry(id.clone()).or_default();
            let place = owners.binary_search(name).unwrap_or_else(|place| place);
            let before = owners.first().cloned();
            owners.insert(place, Arc::clone(name));
            if owners.len() > 1 {
                self.doubles.insert(id.clone());
            }
            let changed = match before {
                None => true,
                Some(before) => place == 0 && self.object(&before, id) != Some(object),
            };
            if changed {
                events.push(object.event(id));
            }
        }
    }

    /// A file no longer defines an object: the next file's counts, if there is one.
    fn disown(
        &mut self,
        name: &Arc<OsStr>,
        id: &ObjectId,
        old: &Arc<Object>,
        events: &mut Vec<SourceEvent>,
    ) {
        let Some(owners) = self.owners.get_mut(id) else { return };
        let was_first = owners.first() == Some(name);
        owners.retain(|owner| owner != name);
        if owners.len() < 2 {
            self.doubles.remove(id);
        }
        let next = owners.first().cloned();
        match next {
            Some(next) if was_first => {
                if let Some(object) = self.object(&next, id)
                    && object != old
                {
                    events.push(object.event(id));
                }
            }
            Some(_) => {}
            None => {
                self.owners.remove(id);
                events.push(id.gone());
            }
        }
    }

    fn owns(&self, name: &Arc<OsStr>, id: &ObjectId) -> bool {
        self.owners.get(id).is_some_and(|owners| owners.binary_search(name).is_ok())
    }

    fn object(&self, name: &OsStr, id: &ObjectId) -> Option<&Arc<Object>> {
        self.files.get(name)?.objects.get(id).map(|(object, _)| object)
    }
}

/// Whether an entry of this name is read. Hidden ones are not: editors and `kubelet` keep their
/// unfinished work there.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn syntax(name: &OsStr) -> Syntax {
    let json = Path::new(name).extension().is_some_and(|extension| extension == "json");
    if json { Syntax::Json } else { Syntax::Yaml }
}

/// A dangling link is something that should be there, a name without an entry is not.
fn missing_or_bad(path: &Path, error: &io::Error) -> Read1 {
    if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() {
        return Read1::Gone;
    }
    Read1::Bad(None, Trouble::io(path, error))
}

/// Reads a file, one byte over the cap at most. Its stamp is taken before its bytes: a write in
/// between shows as another stamp at the next look.
fn read_file(path: &Path) -> io::Result<(Stamp, Vec<u8>)> {
    // Without O_NONBLOCK a pipe put in the file's place would hold us for ever.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes =
        Vec::with_capacity(usize::try_from(metadata.len().min(MAX_FILE_BYTES)).unwrap_or(0) + 1);
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((Stamp::from(&metadata), bytes))
}
