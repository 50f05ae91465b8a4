//! The trust folder as bytes: read whole, compared by content, so that a symlink swap, a rename
//! and a write in place all look the same.
//!
//! Two sets of names are understood: those of `trust init`, and where none of them is there those
//! of a Secret of type `kubernetes.io/tls` as cert-manager writes it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::error::Error;
use super::pair::{self, Pair};
use crate::model::ClusterId;

/// Largest file read, in bytes: a bundle of 16 large certificates fits.
const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Most bundles.
const MAX_PEERS: usize = 4096;
/// The folder of the peers' bundles.
const PEERS: &str = "peers";

/// Who may read a key file. Nobody but these may, and nobody else may write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    /// Its owner.
    Owner,
    /// Its group too: the kubelet gives the files of a Secret volume to root and to the pod's
    /// `fsGroup`, which is the only way for a pod that is not root to read them.
    Group,
}

/// What a source of trust holds now; a part that cannot be read does not hide the other.
pub(super) struct Folder {
    /// The own identity.
    pub(super) own: Result<OwnFiles, Error>,
    /// The bundles; `None`: there is no `peers/`.
    pub(super) peers: Result<Option<PeerFiles>, Error>,
}

/// The files of the own identity. Keys are wiped when they are dropped.
pub(super) struct OwnFiles {
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) key: Option<Zeroizing<Vec<u8>>>,
    pub(super) authority: Option<Vec<u8>>,
    pub(super) authority_key: Option<Zeroizing<Vec<u8>>>,
    /// What they are called.
    pub(super) paths: Paths,
}

/// Where the own identity lies, for messages.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) authority: PathBuf,
    pub(super) authority_key: PathBuf,
}

/// The bundles of the peers.
#[derive(Debug, Default)]
pub(super) struct PeerFiles {
    /// By cluster; one that cannot be read is an error of its own.
    pub(super) bundles: BTreeMap<ClusterId, PeerFile>,
    /// Files whose name is no cluster's, and why.
    pub(super) strays: Vec<(PathBuf, String)>,
}

/// One bundle and where it lies.
#[derive(Debug)]
pub(super) struct PeerFile {
    pub(super) path: PathBuf,
    pub(super) content: Result<Vec<u8>, String>,
}

/// SHA-256 of a folder's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentHash([u8; 32]);

impl Paths {
    /// As `trust init` names them.
    fn of(dir: &Path) -> Self {
        Self {
            certificate: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            authority: dir.join("ca.pem"),
            authority_key: dir.join("ca.key"),
        }
    }
}

impl Readers {
    /// The permission bits by which anybody else could read or change a key.
    fn others(self) -> u32 {
        match self {
            Self::Owner => 0o077,
            Self::Group => 0o037,
        }
    }
}

impl Folder {
    /// Reads everything; keys for their owner only.
    pub(super) fn read(dir: &Path) -> Self {
        Self { own: OwnFiles::read(dir), peers: peers(&dir.join(PEERS)) }
    }

    /// The hash of all of it, with every part delimited.
    pub(super) fn hash(&self) -> ContentHash {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut part = |content: Option<&[u8]>| match content {
            None => context.update(&u64::MAX.to_be_bytes()),
            Some(content) => {
                context.update(&(content.len() as u64).to_be_bytes());
                context.update(content);
            }
        };
        match &self.own {
            Ok(own) => {
                part(own.certificate.as_deref());
                part(own.key.as_ref().map(|key| key.as_slice()));
                part(own.authority.as_deref());
                part(own.authority_key.as_ref().map(|key| key.as_slice()));
            }
            Err(error) => part(Some(error.to_string().as_bytes())),
        }
        match &self.peers {
            Ok(None) => part(None),
            Ok(Some(peers)) => {
                for (cluster, file) in &peers.bundles {
                    part(Some(cluster.as_str().as_bytes()));
                    match &file.content {
                        Ok(content) => part(Some(content)),
                        Err(_) => part(None),
                    }
                }
                for (path, _) in &peers.strays {
                    part(Some(path.as_os_str().as_bytes()));
                }
            }
            Err(error) => part(Some(error.to_string().as_bytes())),
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.finish().as_ref());
        ContentHash(hash)
    }
}

impl OwnFiles {
    /// A key that others may read is refused.
    fn read(dir: &Path) -> Result<Self, Error> {
        let paths = Paths::of(dir);
        let own = Self {
            certificate: optional(&paths.certificate)?,
            key: key(&paths.key, Readers::Owner)?,
            authority: optional(&paths.authority)?,
            authority_key: key(&paths.authority_key, Readers::Owner)?,
            paths,
        };
        let named = own.certificate.is_some() || own.key.is_some() || own.authority_key.is_some();
        if named {
            return Ok(own);
        }
        Ok(pair(dir, Readers::Owner)?.map_or(own, |pair| pair.into_files(dir)))
    }
}

/// The files of a mounted Secret of type `kubernetes.io/tls`; `None` without certificate and key.
pub(super) fn pair(dir: &Path, readers: Readers) -> Result<Option<Pair>, Error> {
    let certificate = optional(&dir.join(pair::CERTIFICATE))?;
    let key = key(&dir.join(pair::KEY), readers)?;
    let bundle = optional(&dir.join(pair::BUNDLE))?;
    Ok(match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Pair { certificate, key, bundle }),
        _ => None,
    })
}

/// A file that may be absent.
pub(super) fn optional(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match File::open(path) {
        Ok(file) => {
            let mut bytes = read(&file).map_err(Error::io("read", path))?;
            Ok(Some(std::mem::take(&mut *bytes)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// A private key that may be absent, but never readable by others. The bits are those of the
/// opened file, so that nothing can be swapped in between.
pub(super) fn key(path: &Path, readers: Readers) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mode = file.metadata().map_err(Error::io("read", path))?.permissions().mode() & 0o7777;
    if mode & readers.others() != 0 {
        return Err(Error::KeyReadable { path: path.to_path_buf(), mode });
    }
    read(&file).map(Some).map_err(Error::io("read", path))
}

/// Reads into a buffer of the file's size, so that no part of a key is left behind by growth.
fn read(file: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let size = file.metadata()?.len();
    if size > MAX_FILE_BYTES {
        let problem = format!("it has {size} bytes; at most {MAX_FILE_BYTES} are read");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    let room = usize::try_from(size).map_err(io::Error::other)?.saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bundles of `peers/`; hidden files and other endings are none of our business.
fn peers(dir: &Path) -> Result<Option<PeerFiles>, Error> {
    let mut found = PeerFiles::default();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", dir)(error)),
    };
    for entry in entries {
        let name = entry.map_err(Error::io("read", dir))?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".pem"));
        let Some(stem) = stem.filter(|stem| !stem.starts_with('.')) else {
            continue;
        };
        let path = dir.join(&name);
        let cluster = match ClusterId::parse(stem) {
            Ok(cluster) => cluster,
            Err(error) => {
                found.strays.push((path, format!("name it <cluster>.pem: {error}")));
                continue;
            }
        };
        if found.bundles.len() == MAX_PEERS {
            let problem = format!("more than {MAX_PEERS} bundles; remove those of past peers");
            return Err(Error::invalid(dir, problem));
        }
        let content = match optional(&path) {
            Ok(Some(bytes)) => Ok(bytes),
            // Gone between listing and opening: as good as removed.
            Ok(None) => continue,
            Err(error) => Err(error.to_string()),
        };
        found.bundles.insert(cluster, PeerFile { path, content });
    }
    found.strays.sort();
    Ok(Some(found))
}
