//! The folder of a demo: temporary, or kept where the user said.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A folder that is removed when dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    /// Opens `keep`, which must be empty or absent, or makes a temporary folder.
    pub(super) fn open(keep: Option<&Path>) -> anyhow::Result<Self> {
        let Some(keep) = keep else { return Self::temporary() };
        std::fs::create_dir_all(keep).with_context(|| format!("cannot make {}", keep.display()))?;
        let path = keep.canonicalize()?;
        let mut entries = path.read_dir()?;
        anyhow::ensure!(
            entries.next().is_none(),
            "{} is not empty; name a folder that is, or one that does not exist yet",
            path.display()
        );
        Ok(Self { path, kept: true })
    }

    /// Where it is, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn temporary() -> anyhow::Result<Self> {
        let name = format!("portolan-demo-{:08x}", rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        // Keys will lie in it: for this user only, and never in a folder that somebody else made.
        DirBuilder::new().mode(0o700).create(&path).with_context(|| {
            format!("cannot make {}; set TMPDIR, or use --keep", path.display())
        })?;
        Ok(Self { path, kept: false })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is left in the temporary folder; nobody is there to be told.
            let _removed = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_and_a_kept_one_stays() {
        let temporary = Folder::open(None).unwrap();
        let path = temporary.path().to_owned();
        std::fs::write(path.join("a"), "b").unwrap();
        drop(temporary);
        assert!(!path.exists());

        let parent = tempfile::tempdir().unwrap();
        let keep = parent.path().join("new/deep");
        drop(Folder::open(Some(&keep)).unwrap());
        assert!(keep.exists());
        std::fs::write(keep.join("a"), "b").unwrap();
        let refused = Folder::open(Some(&keep)).unwrap_err().to_string();
        assert!(refused.contains("is not empty"), "{refused}");
    }
}
