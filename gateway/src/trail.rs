//! Writes the audit entries of changes outside Postgres: changes of modules, reloads of the configuration, and notes that
//! commands left about files. Entries wait here in a bounded queue until the database has them. Refused callers are
//! counted, and get an entry once an hour.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eye_event::verdict::Digest;
use eye_judge::{Happening, Slot};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit::{Action, Actor, ActorKind, Entry};
use crate::clock::Clock;
use crate::store::{Error, Store};

/// Most entries that wait for the database.
const WAITING_MAX: usize = 10_000;
/// Most entries of one statement.
const BATCH: usize = 100;
/// Most entries of the gateway's own at once. The first start makes one for each module.
const BURST: f64 = 10_000.0;
/// Most further entries in an hour, so that a file that changes each second does not fill the trail.
const PER_HOUR: f64 = 100.0;
/// Most refused callers that are counted separately.
const REFUSED_MAX: usize = 64;
/// Pause between two entries of a refused caller, and the most entries within it: of applications, and of other callers.
const REFUSED_EVERY: Duration = Duration::from_secs(3_600);
const REFUSED_KNOWN_MAX: u32 = 20;
const REFUSED_OTHERS_MAX: u32 = 10;
/// Pause between two reads of the notes, and between two attempts to write.
const LOOK: Duration = Duration::from_secs(2);
/// Pause after the database has refused entries, for example because a right is missing.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// Longest wait for the last entries when the gateway stops.
const LAST: Duration = Duration::from_secs(1);
/// Most notes of one read, and the most bytes of a note.
const NOTES_MAX: usize = 1_000;
const NOTE_BYTES_MAX: u64 = 16 << 10;

/// The queue of entries.
#[derive(Debug)]
pub struct Trail {
    /// This gateway.
    actor: Actor,
    /// The folder of the notes.
    notes: PathBuf,
    queue: mpsc::Sender<Entry>,
    /// The other end of the queue. [`Trail::run`] holds it.
    waiting: tokio::sync::Mutex<mpsc::Receiver<Entry>>,
    allowance: Mutex<Allowance>,
    refused: Mutex<Refused>,
    /// Entries that were left out since the last queued one. The next queued one has the number.
    omitted: AtomicU64,
    /// All entries that were left out. Metrics read it.
    omitted_in_all: AtomicU64,
}

/// The rate limit of the gateway's own entries.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let hours = now.saturating_duration_since(self.at).as_secs_f64() / 3_600.0;
        self.left = (self.left + hours * PER_HOUR).min(BURST);
        self.at = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// Callers without the scope `admin` that requested administration.
#[derive(Debug, Default)]
struct Refused {
    /// The key is whether the caller is an application, and its name or network.
    callers: HashMap<(bool, String), RefusedCaller>,
    /// Entries since `began`: of other callers, and of applications.
    entries: [u32; 2],
    began: Option<Instant>,
}

#[derive(Debug, Default)]
struct RefusedCaller {
    /// Refusals since the last entry.
    count: u64,
    /// The time of the last entry.
    at: Option<Instant>,
}

impl Refused {
    /// Counts a refusal. Returns the count for an entry, if one is due.
    fn count(&mut self, is_known: bool, name: &str, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= REFUSED_EVERY) {
            (self.began, self.entries) = (Some(now), [0, 0]);
        }
        let key = (is_known, name.to_owned());
        if self.callers.len() >= REFUSED_MAX && !self.callers.contains_key(&key) {
            // Strangers leave the map before applications.
            let first = self.callers.iter().min_by_key(|((is_known, _), caller)| (*is_known, caller.at));
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                self.callers.remove(&first);
            }
        }
        let caller = self.callers.entry(key).or_default();
        caller.count += 1;
        let is_due = caller.at.is_none_or(|at| now.saturating_duration_since(at) >= REFUSED_EVERY);
        let most = if is_known { REFUSED_KNOWN_MAX } else { REFUSED_OTHERS_MAX };
        let entries = &mut self.entries[usize::from(is_known)];
        if !is_due || *entries >= most {
            return None;
        }
        *entries += 1;
        caller.at = Some(now);
        Some(std::mem::take(&mut caller.count))
    }
}

/// A note that a command leaves in the data dir.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Note {
    id: Uuid,
    action: String,
    subject: String,
    user: String,
    host: Option<String>,
    /// Microseconds since 1970, by the clock of the machine.
    at_us: i64,
    details: Map<String, Value>,
}

fn notes_under(data_dir: &Path) -> PathBuf {
    data_dir.join("audit")
}

/// Leaves a note of a change of files. The gateway of the data dir writes it to the trail, now or after its next start.
///
/// # Errors
///
/// When it cannot be written.
pub fn leave_note(data_dir: &Path, entry: &Entry, clock: &Clock) -> io::Result<()> {
    let note = Note {
        id: entry.id,
        action: entry.action.as_str().to_owned(),
        subject: entry.subject.clone(),
        user: entry.actor.name.clone(),
        host: entry.actor.host.clone(),
        at_us: clock.now_us(),
        details: serde_json::from_str(&entry.details())?,
    };
    let folder = notes_under(data_dir);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    // Root may run the command. The gateway of another user must be able to read and remove the note.
    let owner = fs::metadata(data_dir)?;
    let give = |path: &Path| match rustix::process::getuid().is_root() {
        true => chown(path, Some(owner.uid()), Some(owner.gid())),
        false => Ok(()),
    };
    give(&folder)?;
    let (path, beside) = (folder.join(format!("{}.json", note.id)), folder.join(format!("{}.new", note.id)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&serde_json::to_vec(&note)?)?;
    file.sync_all()?;
    give(&beside)?;
    fs::rename(beside, path)
}

/// Reads the notes of a folder, and removes files that are no notes.
fn read_notes(folder: &Path, now_us: i64) -> Vec<(PathBuf, Entry)> {
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let paths = files.flatten().map(|file| file.path());
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).take(NOTES_MAX);
    let mut notes = Vec::new();
    for path in paths {
        match read_note(&path, now_us) {
            Ok(entry) => notes.push((path, entry)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(file = %path.display(), %error, "the file is no note for the audit trail, and is removed");
                let _ = fs::remove_file(&path);
            }
            // The next read tries again.
            Err(error) => tracing::debug!(file = %path.display(), %error, "a note for the audit trail cannot be read"),
        }
    }
    notes
}

fn read_note(path: &Path, now_us: i64) -> io::Result<Entry> {
    let mut text = String::new();
    fs::File::open(path)?.take(NOTE_BYTES_MAX).read_to_string(&mut text)?;
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let note: Note = serde_json::from_str(&text).map_err(|error| invalid(&error.to_string()))?;
    let action = Action::of_word(&note.action).ok_or_else(|| invalid("an unknown action"))?;
    let actor = Actor { kind: ActorKind::Command, name: note.user, host: note.host, ..Actor::application("") };
    let mut entry = Entry::new(action, &note.subject, &actor).with_all(note.details);
    entry.id = note.id;
    let age = Duration::from_micros(u64::try_from(now_us.saturating_sub(note.at_us)).unwrap_or(0));
    entry.happened = Instant::now().checked_sub(age).unwrap_or(entry.happened);
    Ok(entry)
}

impl Trail {
    /// Starts with an empty queue. Notes are below `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        Self {
            actor: Actor::gateway(),
            notes: notes_under(data_dir),
            queue,
            waiting: tokio::sync::Mutex::new(waiting),
            allowance: Mutex::new(Allowance { left: BURST, at: Instant::now() }),
            refused: Mutex::default(),
            omitted: AtomicU64::new(0),
            omitted_in_all: AtomicU64::new(0),
        }
    }

    /// Entries that were left out, because of the rate limit or a full queue.
    pub fn omitted(&self) -> u64 {
        self.omitted_in_all.load(Relaxed)
    }

    /// An entry whose actor is this gateway.
    pub fn own(&self, action: Action, subject: &str) -> Entry {
        Entry::new(action, subject, &self.actor)
    }

    /// Logs the entry, and queues it for the database.
    pub fn note(&self, entry: Entry) {
        let is_own = entry.actor.kind == ActorKind::Gateway;
        let may = || self.allowance.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if is_own && !may() {
            return self.omit();
        }
        let omitted = self.omitted.swap(0, Relaxed);
        let entry = if omitted > 0 { entry.with("omitted_before", omitted) } else { entry };
        entry.log();
        if self.queue.try_send(entry).is_err() {
            self.omitted.fetch_add(omitted, Relaxed);
            self.omit();
        }
    }

    /// Queues an entry of a change of modules.
    pub fn note_module(&self, slots: &[&Slot], happening: &Happening) {
        let text = |digest: &Option<Digest>| digest.map(|digest| digest.to_string());
        let [slot] = slots else {
            let names: Vec<String> = slots.iter().map(ToString::to_string).collect();
            return self.note(self.own(Action::ModuleLost, "").with("event_types", names));
        };
        let own = |action| self.own(action, &slot.to_string());
        self.note(match happening {
            Happening::Replaced { digest, before } => {
                own(Action::ModuleReplace).with("digest", digest.to_string()).with("before", text(before))
            }
            Happening::Refused { digest, why } => {
                own(Action::ModuleRefuse).with("digest", text(digest)).with("why", why.as_str())
            }
            Happening::FellBack { digest } => own(Action::ModuleFallBack).with("digest", digest.to_string()),
            Happening::Unloaded { before } => own(Action::ModuleUnload).with("before", text(before)),
            Happening::Lost => own(Action::ModuleLost),
        });
    }

    /// Queues an entry for each start of the embedded Postgres. `starts` counts them.
    pub async fn note_starts(self: Arc<Self>, mut starts: watch::Receiver<u64>, stop: CancellationToken) {
        let note = async {
            starts.mark_changed();
            while starts.changed().await.is_ok() {
                let start = *starts.borrow_and_update();
                self.note(self.own(Action::PostgresStart, "").with("start", start));
            }
        };
        let _stopped: Option<()> = stop.run_until_cancelled(note).await;
    }

    fn omit(&self) {
        self.omitted.fetch_add(1, Relaxed);
        self.omitted_in_all.fetch_add(1, Relaxed);
    }

    /// Counts a refused request for administration. The caller is the application `actor`, or a stranger in `network`. An
    /// entry once an hour has the count, so that callers without rights cannot fill the trail.
    pub fn refused(&self, actor: Actor, network: Option<String>, why: &str, method: &str, route: &str) {
        let is_known = network.is_none();
        let subject = network.unwrap_or_else(|| actor.name.clone());
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = refused.count(is_known, &subject, Instant::now()) else { return };
        drop(refused);
        let entry = Entry::new(Action::AdminRefused, &subject, &actor).with("code", why).with("method", method);
        self.note(entry.with("route", route).with("count", count));
    }

    /// Writes entries and notes to the database until `stop`.
    pub async fn run(self: Arc<Self>, store: Store, is_ready: impl Fn() -> bool, stop: CancellationToken) {
        let mut waiting = self.waiting.lock().await;
        let mut left: Vec<Entry> = Vec::new();
        let work = async {
            let (clock, mut told) = (Clock::default(), false);
            let mut ticks = interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let looks = tokio::select! {
                    _ = ticks.tick() => true,
                    _ = waiting.recv_many(&mut left, BATCH), if left.is_empty() => false,
                };
                if !is_ready() {
                    continue;
                }
                let written = match self.write(&store, &mut left).await {
                    Ok(()) if looks => self.take_notes(&store, clock.now_us()).await,
                    written => written,
                };
                match written {
                    Ok(()) => told = false,
                    Err(Error::Away(_) | Error::Slow(_) | Error::NoDescriptors | Error::Busy) => {}
                    Err(error) => {
                        if !told {
                            tracing::warn!(%error, "entries of the audit trail could not be written; trying again");
                            told = true;
                        }
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                }
            }
        };
        let _stopped: Option<()> = stop.run_until_cancelled(work).await;
        while let Ok(entry) = waiting.try_recv() {
            left.push(entry);
        }
        if is_ready() {
            // The log has the entries that a hanging database does not take.
            let _lost = timeout(LAST, self.write(&store, &mut left)).await;
        }
    }

    /// Writes the entries batch by batch, and removes the written ones from `left`.
    async fn write(&self, store: &Store, left: &mut Vec<Entry>) -> Result<(), Error> {
        while !left.is_empty() {
            let batch = left.len().min(BATCH);
            store.audit_write(&left[..batch]).await?;
            left.drain(..batch);
        }
        Ok(())
    }

    async fn take_notes(&self, store: &Store, now_us: i64) -> Result<(), Error> {
        let folder = self.notes.clone();
        let notes = tokio::task::spawn_blocking(move || read_notes(&folder, now_us)).await.unwrap_or_default();
        let (paths, mut entries): (Vec<PathBuf>, Vec<Entry>) = notes.into_iter().unzip();
        if entries.is_empty() {
            return Ok(());
        }
        let told = entries.clone();
        self.write(store, &mut entries).await?;
        told.iter().for_each(Entry::log);
        for path in paths {
            // If the file stays, the entry is written again, which changes nothing.
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(file = %path.display(), %error, "the audit trail has this note, but its file cannot be removed");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_own_entries_have_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut allowance = Allowance { left: BURST, at: start };
        assert_eq!((0..20_000).filter(|_| allowance.take(start)).count(), 10_000);
        let hour = start + Duration::from_secs(3_600);
        assert_eq!((0..20_000).filter(|_| allowance.take(hour)).count(), 100);
    }

    #[test]
    fn a_flood_of_refused_callers_makes_few_entries_and_hides_no_known_one() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        assert_eq!(refused.count(true, "shop", start), Some(1));
        assert!((0..10_000).all(|_| refused.count(true, "shop", start).is_none()));
        let others = (0..10_000).filter_map(|number| refused.count(false, &format!("10.{number}.0.0/24"), start));
        assert_eq!(others.count(), 10);
        assert_eq!(refused.callers.len(), REFUSED_MAX);
        let known = (0..10_000).filter_map(|number| refused.count(true, &format!("application {number}"), start));
        assert_eq!(known.count(), 19, "with the first one 20");
        let later = start + REFUSED_EVERY;
        assert_eq!(refused.count(true, "one more", later), Some(1));
    }

    #[test]
    fn an_entry_tells_of_those_before_it_that_had_none() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        assert_eq!(refused.count(true, "shop", start), Some(1));
        for _ in 0..41 {
            assert_eq!(refused.count(true, "shop", start + REFUSED_EVERY / 2), None);
        }
        assert_eq!(refused.count(true, "shop", start + REFUSED_EVERY), Some(42));
    }

    #[test]
    fn a_note_is_read_as_it_was_left_and_what_is_none_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let actor = Actor::command();
        let entry = Entry::new(Action::ValidatorRollback, "shop/sale", &actor).with("digest", "abc");
        leave_note(folder.path(), &entry, &Clock::default()).expect("left");
        let notes = notes_under(folder.path());
        for (name, text) in [("a.json", "{"), ("b.json", "{\"id\":1}"), ("c.new", "{")] {
            fs::write(notes.join(name), text).expect("a file");
        }
        let read = read_notes(&notes, Clock::default().now_us());
        let [(path, read)] = &read[..] else { panic!("{read:?}") };
        assert_eq!((read.id, read.action, &*read.subject), (entry.id, entry.action, "shop/sale"));
        assert_eq!((read.details(), &read.actor.name), (entry.details(), &actor.name));
        assert!(path.exists() && !notes.join("a.json").exists() && !notes.join("b.json").exists());
        assert!(notes.join("c.new").exists(), "somebody may still write it");
    }
}
