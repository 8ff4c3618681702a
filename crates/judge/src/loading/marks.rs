//! Marks of files that are being loaded, and of files that were too much for their loader. With them, the same file
//! does not end a gateway or a loader again and again. If a gateway dies and leaves a mark behind, the file of that
//! mark is a suspect: the next gateway tries it once more, after all others. If that gateway dies as well, the file is
//! refused. A mark counts only for the same content, the same limits of the module, the same bounds and the same
//! program; with any other, the file is tried anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use eye_event::verdict::Digest;
use serde::{Deserialize, Serialize};

use super::super::directory;
use super::super::files::private_dir;
use super::super::refusal::Refusal;
use super::job::{LoaderLimits, Told};

/// Marks that are kept. Beyond them the oldest go.
const MARKS_MAX: usize = 1_000;

/// Bytes of a mark. The three texts of a refusal are its largest parts.
const MARK_BYTES_MAX: u64 = 64 << 10;

/// How often a gateway or loader may die while it loads a file. Then the file is refused.
const DEATHS_MAX: u32 = 2;

/// The knowledge about a file before it is loaded.
pub(super) enum Mark {
    None,
    /// A process died while it loaded the file.
    Suspect,
    /// The file is not tried again as it is.
    Refused(Refusal),
}

/// A mark as its file holds it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Written {
    /// The bounds of loaders when it was written.
    under: String,
    /// The process that is loading the file; `None` if none is.
    loading: Option<Process>,
    /// Processes that died while they loaded the file.
    deaths: u32,
    refused: Option<Told>,
}

/// A process. The time of its start tells it apart from a later process with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Process {
    id: u32,
    started: String,
}

/// The marks of one data directory.
pub(super) struct Marks {
    folder: PathBuf,
    under: String,
    own: Process,
}

impl Marks {
    /// Opens the marks under `folder`, and finds processes that died without removing their marks.
    pub(super) fn open(folder: &Path, limits: &LoaderLimits) -> Self {
        let under = serde_json::to_string(limits).expect("they are numbers");
        let id = std::process::id();
        let own = Process { id, started: started(id) };
        let marks = Self { folder: folder.to_owned(), under, own };
        if let Err(error) = marks.look_through() {
            tracing::warn!(folder = %folder.display(), "which files ended a loader is not known: {error}");
        }
        marks
    }

    fn look_through(&self) -> io::Result<()> {
        private_dir(&self.folder)?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let written = read(&path).filter(|mark| mark.under == self.under && path.extension().is_none());
            let Some(mut mark) = written else {
                // It is half written, or of other bounds.
                fs::remove_file(&path)?;
                continue;
            };
            if let Some(process) = mark.loading.take_if(|process| started(process.id) != process.started) {
                mark.deaths = mark.deaths.saturating_add(1);
                tracing::warn!(process = process.id, mark = %path.display(), deaths = mark.deaths, "a gateway ended while it loaded a file");
                self.write(&path, &mark)?;
            }
            let changed = fs::metadata(&path)?.modified()?;
            kept.push((changed, path));
        }
        kept.sort();
        let surplus = kept.len().saturating_sub(MARKS_MAX);
        kept.drain(..surplus).try_for_each(|(_, path)| fs::remove_file(path))
    }

    /// Returns the knowledge about a file.
    pub(super) fn look(&self, key: &Digest) -> Mark {
        let Some(mark) = read(&self.path(key)).filter(|mark| mark.under == self.under) else { return Mark::None };
        match mark {
            Written { refused: Some(told), .. } => Mark::Refused(told.into()),
            Written { deaths, .. } if deaths >= DEATHS_MAX => Mark::Refused(deadly(deaths)),
            Written { deaths, .. } if deaths > 0 => Mark::Suspect,
            Written { .. } => Mark::None,
        }
    }

    /// Notes that a loader begins with the file.
    pub(super) fn begin(&self, key: &Digest) {
        let before = read(&self.path(key)).unwrap_or_default();
        let loading = Some(self.own.clone());
        self.note(key, &Written { under: self.under.clone(), loading, deaths: before.deaths, refused: None });
    }

    /// Notes that loading ended in a way that says nothing against the file.
    pub(super) fn end(&self, key: &Digest) {
        if let Err(error) = fs::remove_file(self.path(key))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("the mark of a file that was loaded stays: {error}");
        }
    }

    /// Notes that the file was too much for its loader. From now on it is refused without another try.
    pub(super) fn record(&self, key: &Digest, refusal: Refusal) -> Refusal {
        let refused = Some(Told::from(refusal.clone()));
        self.note(key, &Written { under: self.under.clone(), refused, ..Written::default() });
        refusal
    }

    /// Notes that somebody killed its loader from outside. The first time that may be chance.
    pub(super) fn killed(&self, key: &Digest, refusal: Refusal) -> Refusal {
        let deaths = read(&self.path(key)).unwrap_or_default().deaths.saturating_add(1);
        self.note(key, &Written { under: self.under.clone(), deaths, ..Written::default() });
        if deaths >= DEATHS_MAX { deadly(deaths) } else { refusal }
    }

    /// A failure is only logged: without a mark, a file is tried once more than it should be.
    fn note(&self, key: &Digest, mark: &Written) {
        if let Err(error) = self.write(&self.path(key), mark) {
            tracing::warn!("a file that is loaded is not marked: {error}");
        }
    }

    fn write(&self, path: &Path, mark: &Written) -> io::Result<()> {
        let beside = path.with_extension(format!("{}-new", self.own.id));
        fs::write(&beside, serde_json::to_vec(mark)?)?;
        fs::rename(&beside, path)
    }

    fn path(&self, key: &Digest) -> PathBuf {
        self.folder.join(key.to_string())
    }
}

fn read(path: &Path) -> Option<Written> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    directory::open(path).ok()?.take(MARK_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The time of a process's start, as a text that is only compared. It is empty when there is no such process.
fn started(id: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    after_name.split_ascii_whitespace().nth(19).unwrap_or_default().to_owned()
}

fn deadly(deaths: u32) -> Refusal {
    Refusal::new(
        "a module that can be loaded",
        format!("one during whose loading a process ended without a word, {deaths} times"),
        "build it again or give the machine more memory; it is not tried again as it is, unless its settings (`<name>.toml`) \
         or the gateway's loader_ settings change",
    )
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn refusal(mark: Mark) -> String {
        match mark {
            Mark::Refused(refusal) => refusal.found,
            Mark::Suspect => "suspect".into(),
            Mark::None => "none".into(),
        }
    }

    /// Leaves a mark as a gateway does that ends in the middle.
    fn left_behind(marks: &Marks, key: &Digest) {
        marks.begin(key);
        let path = marks.path(key);
        let mark = read(&path).expect("written");
        let gone = Process { id: mark.loading.as_ref().expect("it is being loaded").id, started: "long ago".into() };
        marks.write(&path, &Written { loading: Some(gone), ..mark }).expect("written");
    }

    #[test]
    fn a_file_during_whose_loading_two_gateways_ended_is_not_tried_a_third_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = LoaderLimits::default();
        let (key, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let open = |limits: &LoaderLimits| Marks::open(&folder.path().join("loading"), limits);
        let marks = open(&limits);
        assert_eq!(refusal(marks.look(&key)), "none");
        left_behind(&marks, &key);
        marks.begin(&other);
        let marks = open(&limits);
        assert_eq!(refusal(marks.look(&key)), "suspect");
        assert_eq!(refusal(marks.look(&other)), "none", "its gateway lives");
        left_behind(&marks, &key);
        let marks = open(&limits);
        assert!(refusal(marks.look(&key)).contains("2 times"), "{}", refusal(marks.look(&key)));
        marks.end(&other);
        assert_eq!(fs::read_dir(folder.path().join("loading")).expect("there").count(), 1);
        // The operator's word.
        let marks = open(&LoaderLimits { bounds_percent: 200, ..limits });
        assert_eq!(refusal(marks.look(&key)), "none");
        assert_eq!(fs::read_dir(folder.path().join("loading")).expect("there").count(), 0);
    }

    #[test]
    fn what_was_too_much_for_its_loader_is_refused_after_a_restart_without_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Marks::open(folder.path(), &LoaderLimits::default());
        let key = Digest::of(b"one");
        let told = Refusal::new("less", "more", "mend it");
        open().begin(&key);
        open().record(&key, told.clone());
        assert!(matches!(open().look(&key), Mark::Refused(refusal) if refusal == told));
        fs::write(folder.path().join(Digest::of(b"two").to_string()), b"half a ma").expect("written");
        assert!(matches!(open().look(&Digest::of(b"two")), Mark::None));
        for number in 0..MARKS_MAX as u64 + 5 {
            open_one(folder.path(), number);
        }
        open();
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), MARKS_MAX);
    }

    fn open_one(folder: &Path, number: u64) {
        let under = serde_json::to_string(&LoaderLimits::default()).expect("numbers");
        let mark = Written { under, deaths: 1, ..Written::default() };
        let name = Digest::of(&number.to_le_bytes()).to_string();
        fs::write(folder.join(name), serde_json::to_vec(&mark).expect("plain")).expect("written");
    }

    #[test]
    fn a_loader_that_was_ended_from_outside_is_tried_once_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let marks = Marks::open(folder.path(), &LoaderLimits::default());
        let key = Digest::of(b"one");
        let first = marks.killed(&key, Refusal::new("a", "the first time", "c"));
        assert_eq!(first.found, "the first time");
        marks.begin(&key);
        let second = marks.killed(&key, first);
        assert!(second.found.contains("2 times"), "{second}");
        assert!(matches!(marks.look(&key), Mark::Refused(_)));
    }
}
