//! Saved state: one file per name, atomic, checksummed, versioned.
//!
//! A file is either the whole of one [`Store::save`] or absent: written beside its place, synced,
//! renamed, and the directory synced too. What does not match its SHA-256 is [`Error::Corrupt`],
//! never data; the caller then starts cold. Files are readable by the owner only. No keys belong
//! in here. The calls block: from async code run them on the blocking pool.
//!
//! Not here: what is saved and when (`app`), retention, locking between processes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use thiserror::Error as ThisError;

/// First bytes of every file; the digit is the layout of the header, not of the payload.
const MAGIC: &[u8; 8] = b"portoln1";
/// Magic, version (u32), payload length (u64), SHA-256.
const HEADER_BYTES: usize = 8 + 4 + 8 + 32;
/// Where the checksum stands in the header.
const CHECKSUM_AT: usize = 20;
/// A larger file is not ours: four catalogs at their own cap of 64 MiB, twice over.
const MAX_FILE_BYTES: u64 = 512 << 20;

/// Why state could not be saved or loaded.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}; check that the state directory exists, is writable and has room", path = .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Truncated, altered, or not written by us.
    #[error("{path} is damaged ({what}); it is ignored and will be written again", path = .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What gave it away.
        what: &'static str,
    },
    /// Written by another version of the program.
    #[error("{path} has layout {found}, this program reads {wanted}; it is ignored and will be written again", path = .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in the file.
        found: u32,
        /// The version asked for.
        wanted: u32,
    },
    /// A name that is not a plain file name.
    #[error("'{0}' cannot name a state file; use a-z, 0-9, '-' and '.', beginning with a letter")]
    Name(String),
}

/// A directory of saved state.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// One writer at a time, since the temporary name is fixed.
    writing: Mutex<()>,
}

impl Store {
    /// Opens the directory, making it (mode 0700) where it is absent. An existing one keeps its
    /// mode: it may be a mount.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|source| io_error("create", &dir, source))?;
        Ok(Self { dir, writing: Mutex::new(()) })
    }

    /// Replaces what is saved under `name`. When this returns, a power cut cannot undo it; when
    /// it fails, what was saved before is still there.
    pub fn save(&self, name: &str, version: u32, payload: &[u8]) -> Result<(), Error> {
        let path = self.path(name)?;
        let temporary = self.dir.join(format!(".{name}.tmp"));
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write_synced(&temporary, &header(version, payload), payload)
            .map_err(|source| io_error("write", &temporary, source))?;
        fs::rename(&temporary, &path).map_err(|source| io_error("rename to", &path, source))?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| io_error("sync", &self.dir, source))
    }

    /// What was saved under `name`; `None` when nothing ever was.
    pub fn load(&self, name: &str, version: u32) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(name)?;
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io_error("open", &path, source)),
        };
        let mut bytes = Vec::new();
        (&mut file)
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| io_error("read", &path, source))?;
        let found = check(&bytes).map_err(|what| Error::Corrupt { path: path.clone(), what })?;
        if found != version {
            return Err(Error::Version { path, found, wanted: version });
        }
        bytes.drain(..HEADER_BYTES);
        Ok(Some(bytes))
    }

    fn path(&self, name: &str) -> Result<PathBuf, Error> {
        let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let starts = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !starts || name.len() > 200 || !name.bytes().all(inside) {
            return Err(Error::Name(name.escape_default().to_string()));
        }
        Ok(self.dir.join(name))
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_path_buf(), source }
}

fn write_synced(path: &Path, header: &[u8], payload: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(header)?;
    file.write_all(payload)?;
    file.sync_all()
}

fn header(version: u32, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&version.to_be_bytes());
    header[12..CHECKSUM_AT].copy_from_slice(&(payload.len() as u64).to_be_bytes());
    let sum = checksum(&header[..CHECKSUM_AT], payload);
    header[CHECKSUM_AT..].copy_from_slice(sum.as_ref());
    header
}

/// Over the header too, so that an altered version is damage and not another version.
fn checksum(head: &[u8], payload: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(head);
    context.update(payload);
    context.finish()
}

/// The version, if these bytes are a whole file.
fn check(bytes: &[u8]) -> Result<u32, &'static str> {
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err("larger than any state file");
    }
    let Some((header, payload)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err("shorter than its header");
    };
    let (head, sum) = header.split_at(CHECKSUM_AT);
    if &head[..8] != MAGIC {
        return Err("not a state file");
    }
    if checksum(head, payload).as_ref() != sum {
        return Err("the checksum does not match");
    }
    let (version, length) = head[8..].split_at(4);
    if length != (payload.len() as u64).to_be_bytes() {
        return Err("the length does not match");
    }
    Ok(version.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

#[cfg(test)]
mod tests;
