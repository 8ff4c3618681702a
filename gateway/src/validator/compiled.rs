//! Compiled code on disk, so that a start need not compile what an earlier one did. wasmtime names its entries by module,
//! engine version, settings and processor, so that one of another engine is not found; but it takes the content as it
//! is, and damaged code would be run. So each entry has a seal beside the cache, its SHA-256. Before the engine looks,
//! every entry is held against its seal, and what does not fit is removed and compiled anew.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use wasmtime::{Cache, CacheConfig};

use super::directory;
use crate::verdict::Digest;

/// Bytes of the finished code of one module.
const ENTRY_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a seal.
const SEAL_BYTES_MAX: u64 = 1 << 10;

/// The cache, and the seals of what is in it.
pub(super) struct Compiled {
    cache: Cache,
    entries: PathBuf,
    seals: PathBuf,
    sealed: Mutex<Sealed>,
}

#[derive(Default)]
struct Sealed {
    /// The names of the seals.
    names: HashSet<String>,
    /// Modules compiled when entries were sealed last.
    misses: usize,
}

impl Compiled {
    /// Opens the cache under `dir`, which nobody else may read or write. `None` when that cannot be done.
    pub(super) fn open(dir: &Path) -> Option<Self> {
        Self::try_open(dir)
            .inspect_err(|error| tracing::warn!("compiled code is not kept, the next start is slower: {error:#}"))
            .ok()
    }

    fn try_open(dir: &Path) -> wasmtime::Result<Self> {
        // Apart, since wasmtime removes what it does not know from its own folder.
        // wasmtime takes only a whole path, and the data directory is mostly given from where the gateway is started.
        let dir = std::path::absolute(dir)?;
        let (code, seals) = (dir.join("code"), dir.join("seals"));
        for folder in [&dir, &code, &seals] {
            private_dir(folder)?;
        }
        let mut config = CacheConfig::new();
        // An entry that wasmtime compressed better after a while would not fit its seal any more.
        config.with_directory(&code).with_optimized_compression_usage_counter_threshold(u64::MAX);
        let cache = Cache::new(config)?;
        // wasmtime may have put its directory in another form.
        let entries = cache.directory().join("modules");
        let own = Self { cache, entries, seals, sealed: Mutex::default() };
        own.check()?;
        Ok(own)
    }

    pub(super) fn cache(&self) -> Cache {
        self.cache.clone()
    }

    /// Removes entries that are not what they were, and seals of entries that are gone.
    fn check(&self) -> io::Result<()> {
        let mut names = HashSet::new();
        for (name, path) in self.entries()? {
            let seal = directory::read(&self.seals.join(&name), SEAL_BYTES_MAX).unwrap_or_default();
            // What is no file, or too large, is no code of ours, and must not hold up the start.
            let entry = directory::read(&path, ENTRY_BYTES_MAX);
            if entry.is_ok_and(|entry| Digest::of(&entry).to_string().as_bytes() == seal) {
                names.insert(name);
            } else {
                tracing::warn!(entry = %path.display(), "this compiled code is damaged or was left half done, and is removed");
                remove(&path)?;
            }
        }
        for seal in fs::read_dir(&self.seals)? {
            let seal = seal?;
            if !seal.file_name().to_str().is_some_and(|name| names.contains(name)) {
                remove(&seal.path())?;
            }
        }
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner).names = names;
        Ok(())
    }

    /// Seals what was compiled since the last time. What cannot be sealed is compiled anew at the next start.
    pub(super) fn seal(&self) {
        let mut sealed = self.sealed.lock().unwrap_or_else(PoisonError::into_inner);
        let misses = self.cache.cache_misses();
        if misses == sealed.misses {
            return;
        }
        match self.seal_new(&mut sealed.names) {
            Ok(()) => sealed.misses = misses,
            Err(error) => tracing::warn!("compiled code is not kept, the next start is slower: {error}"),
        }
    }

    fn seal_new(&self, names: &mut HashSet<String>) -> io::Result<()> {
        for (name, path) in self.entries()? {
            if !names.contains(&name) {
                private_file(&path)?;
                let seal = self.seals.join(&name);
                fs::write(&seal, Digest::of(&directory::read(&path, ENTRY_BYTES_MAX)?).to_string())?;
                private_file(&seal)?;
                names.insert(name);
            }
        }
        Ok(())
    }

    /// The entries of all engines that used this cache, each with the name of its seal.
    fn entries(&self) -> io::Result<Vec<(String, PathBuf)>> {
        let mut entries = Vec::new();
        for engine in list(&self.entries)?.into_iter().filter(|engine| engine.is_dir()) {
            for path in list(&engine)? {
                // What has an extension is wasmtime's own notes, or not complete yet.
                if path.extension().is_none()
                    && let (Some(engine), Some(name)) = (engine.file_name(), path.file_name())
                {
                    entries.push((format!("{}.{}", engine.display(), name.display()), path));
                }
            }
        }
        Ok(entries)
    }
}

#[cfg(test)]
impl Compiled {
    /// How many modules were found here, and how many had to be compiled.
    pub(super) fn found_and_compiled(&self) -> (usize, usize) {
        (self.cache.cache_hits(), self.cache.cache_misses())
    }
}

/// Removes whatever is there, except a folder with something in it.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
}

fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Makes a directory that nobody else on the machine can read or write.
pub(super) fn private_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The same for a file that exists.
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
