//! Compiled modules on disk, so that a start need not load again what an earlier one loaded. The key of an entry covers
//! everything that decides the result. An entry has a seal, the SHA-256 of its key and content. The engine runs
//! finished code as it is, so an entry that does not fit its seal is removed and built anew. When there are too many
//! bytes, the entries that rested the longest go first.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use eye_event::verdict::Digest;

use super::component::{Built, packed};
use super::directory;
use super::files::private_dir;
use super::files::wall_time;

/// The first bytes of each entry. Another format gets another number.
const MAGIC: [u8; 8] = *b"eyebuilt";
/// Bytes of the seal, and of the key that it covers.
const DIGEST_BYTES: usize = 32;

/// Bytes of all entries together. A module of a compiled language takes about 100 KiB, an interpreter 10 MiB.
const ENTRIES_BYTES_MAX: u64 = 8 << 30;

/// Bytes of one entry.
const ENTRY_BYTES_MAX: u64 = 1 << 30;

/// Level of compression. Even this one shrinks finished code to a third.
const LEVEL: i32 = 1;

/// Bytes of one entry when unpacked.
const BUILT_BYTES_MAX: usize = 4 << 30;

/// The entries under one folder.
pub(super) struct Compiled {
    folder: PathBuf,
    /// Bytes of all entries.
    bytes: AtomicU64,
    #[cfg(test)]
    found: AtomicU64,
    #[cfg(test)]
    kept: AtomicU64,
}

impl Compiled {
    /// Opens the folder `dir`, and takes the rights of other users from it. `None` when that fails.
    pub(super) fn open(dir: &Path) -> Option<Self> {
        Self::try_open(dir)
            .inspect_err(|error| tracing::warn!("compiled code is not kept, the next start is slower: {error}"))
            .ok()
    }

    fn try_open(dir: &Path) -> io::Result<Self> {
        let folder = dir.join("built");
        for folder in [dir, &folder] {
            private_dir(folder)?;
        }
        // Releases before this one kept these.
        for old in ["code", "seals"] {
            if let Err(error) = fs::remove_dir_all(dir.join(old))
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        let own = Self {
            folder,
            bytes: AtomicU64::new(0),
            #[cfg(test)]
            found: AtomicU64::new(0),
            #[cfg(test)]
            kept: AtomicU64::new(0),
        };
        own.make_room(0)?;
        Ok(own)
    }

    /// Removes files that a dead process left half written. Then removes the entries that rested the longest, until
    /// there is room for `bytes` more.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let path = entry.path();
            if path.extension().is_none() && metadata.is_file() {
                entries.push((metadata.modified()?, metadata.len(), path));
            } else if metadata.is_file() && !is_of_the_living(&path) {
                fs::remove_file(path)?;
            }
        }
        let mut all = entries.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        entries.sort();
        for (_, old, path) in entries {
            if all.saturating_add(bytes) <= ENTRIES_BYTES_MAX {
                break;
            }
            fs::remove_file(path)?;
            all -= old;
        }
        self.bytes.store(all, Relaxed);
        Ok(())
    }

    /// Returns the module with this key. Removes the entry if it is damaged.
    pub(super) fn find(&self, key: &Digest) -> Option<Built> {
        let path = self.path(key);
        let bytes = match directory::read(&path, ENTRY_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(entry = %path.display(), "compiled code cannot be read: {error}");
                return None;
            }
        };
        let Some(built) = unseal(key, &bytes) else {
            tracing::warn!(entry = %path.display(), "this compiled code is damaged, and is removed");
            self.forget(key);
            return None;
        };
        // Notes that it was used now, so that it stays.
        let _noted = File::options().append(true).open(&path).and_then(|file| file.set_modified(wall_time().into()));
        #[cfg(test)]
        self.found.fetch_add(1, Relaxed);
        Some(built)
    }

    /// Keeps a built module. If that fails, the next start builds it anew.
    pub(super) fn keep(&self, key: &Digest, built: &Built) {
        #[cfg(test)]
        self.kept.fetch_add(1, Relaxed);
        if let Err(error) = self.try_keep(key, built) {
            tracing::warn!("compiled code is not kept, the next start is slower: {error}");
        }
    }

    fn try_keep(&self, key: &Digest, built: &Built) -> io::Result<()> {
        let built = packed(built).map_err(io::Error::other)?;
        let packed = zstd::bulk::compress(&built, LEVEL)?;
        let mut sealed = Vec::with_capacity(DIGEST_BYTES + packed.len());
        sealed.extend(key.0);
        sealed.extend(packed);
        let bytes = (MAGIC.len() + DIGEST_BYTES + sealed.len()) as u64;
        if self.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes) > ENTRIES_BYTES_MAX {
            self.make_room(bytes)?;
        }
        let path = self.path(key);
        let beside = path.with_extension(std::process::id().to_string());
        let written = File::create(&beside).and_then(|mut file| {
            private_file(&beside)?;
            [&MAGIC[..], &Digest::of(&sealed).0, &sealed].into_iter().try_for_each(|part| file.write_all(part))
        });
        let renamed = written.and_then(|()| fs::rename(&beside, &path));
        renamed.inspect_err(|_| drop(fs::remove_file(&beside)))
    }

    /// Removes the entry with this key.
    pub(super) fn forget(&self, key: &Digest) {
        let _removed = fs::remove_file(self.path(key));
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.folder.join(key.to_string())
    }
}

/// Whether the process that writes this file lives. The file bears its id.
fn is_of_the_living(path: &Path) -> bool {
    let process = path.extension().and_then(|id| id.to_str()).and_then(|id| id.parse::<u32>().ok());
    process.is_some_and(|id| Path::new("/proc").join(id.to_string()).exists())
}

/// The content of an entry, if its seal fits and it was written under this key.
fn unseal(key: &Digest, bytes: &[u8]) -> Option<Built> {
    let (seal, sealed) = bytes.strip_prefix(&MAGIC)?.split_first_chunk::<DIGEST_BYTES>()?;
    if Digest::of(sealed).0 != *seal {
        return None;
    }
    let packed = sealed.strip_prefix(&key.0)?;
    let bytes = zstd::zstd_safe::get_frame_content_size(packed).ok()??;
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= BUILT_BYTES_MAX)?;
    postcard::from_bytes(&zstd::bulk::decompress(packed, bytes).ok()?).ok()
}

#[cfg(test)]
impl Compiled {
    /// How many modules were found here, and how many had to be built.
    pub(super) fn found_and_kept(&self) -> (u64, u64) {
        (self.found.load(Relaxed), self.kept.load(Relaxed))
    }
}

/// Lets only the gateway's user read and write a file.
fn private_file(file: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}
