//! What was built, on disk, so that a start need not load what an earlier one did. An entry is named by all that decides
//! what is built, and has a seal, the SHA-256 of its name and content: what does not fit it is removed and built anew, since
//! the engine runs finished code as it is. Entries that were not used for the longest time go first when there are too
//! many.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use eye_event::verdict::Digest;

use super::component::{Built, packed};
use super::directory;
use super::files::private_dir;
use super::files::wall_time;

/// What each entry begins with; another form of it has another number.
const MAGIC: [u8; 8] = *b"eyebuilt";
/// Bytes of the seal, and of the name that it speaks of.
const DIGEST_BYTES: usize = 32;

/// Bytes of all entries together. A module of a compiled language takes about 100 KiB, an interpreter 10 MiB.
const ENTRIES_BYTES_MAX: u64 = 8 << 30;

/// Bytes of one entry.
const ENTRY_BYTES_MAX: u64 = 1 << 30;

/// How hard to compress: finished code shrinks to a third at once.
const LEVEL: i32 = 1;

/// Bytes that an entry may have unpacked.
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
    /// Opens the folder `dir`, which nobody else may read or write. `None` when that cannot be done.
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
        // What releases before this one kept.
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

    /// Removes what was left half written, and the entries that were not used for the longest time, until there is room
    /// for `bytes` more.
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

    /// What was built under this key. An entry that is damaged is removed.
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
        // Used now, so that it stays.
        let _noted = File::options().append(true).open(&path).and_then(|file| file.set_modified(wall_time().into()));
        #[cfg(test)]
        self.found.fetch_add(1, Relaxed);
        Some(built)
    }

    /// Keeps what was built. What cannot be kept is built anew at the next start.
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

    /// Removes what was built under this key.
    pub(super) fn forget(&self, key: &Digest) {
        let _removed = fs::remove_file(self.path(key));
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.folder.join(key.to_string())
    }
}

/// What is being written by a process that lives is named by its id.
fn is_of_the_living(path: &Path) -> bool {
    let process = path.extension().and_then(|id| id.to_str()).and_then(|id| id.parse::<u32>().ok());
    process.is_some_and(|id| Path::new("/proc").join(id.to_string()).exists())
}

/// What an entry holds, if it is what was written under this key.
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

/// Gives the user of the gateway alone the right to read and write a file.
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
