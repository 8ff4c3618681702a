//! The times in which versions served, for the guard. A version's file has the time of its last activation. What that cannot
//! say is noted beside it: the earlier times of a version that came back, times without a module, and what somebody meant.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use eye_event::verdict::Digest;

use super::{History, Version, read, remove, replace};
use crate::files::wall_time;
use crate::replacing::Served;
use crate::slot::Slot;

/// Notes of earlier times that are kept of each slot.
const TIMES_MAX: usize = 20;

/// The end of the name of such a note. Before it stand the time and the digest.
const TIME: &str = ".was";

/// What such a name has in place of a digest when no module served.
const NONE: &str = "none";

/// The note of a version that somebody puts back, and that does not serve yet.
const PUT_BACK: &str = "put-back";

/// The note of the time at which a version was put back.
const PUT_BACK_AT: &str = "put-back-at";

/// The note of a version that was meant to refuse more.
const EXPECTED: &str = "expected";

/// A version that seems to come later than this was noted by a wrong clock.
const AHEAD_MAX: TimeDelta = TimeDelta::seconds(60);

/// When something began to serve, what, and the file that says so.
type Time = (DateTime<Utc>, Option<Digest>, PathBuf);

impl History {
    /// The versions that served, the newest first, each for as long as it served. Of a version that came `within` no time
    /// the older ones are left out. `expected` is the version of which the settings of now say that more refusals are meant.
    pub(crate) fn served(&self, slot: &Slot, within: Duration, expected: Option<Digest>) -> io::Result<Vec<Served>> {
        let now = wall_time();
        let age = |at: DateTime<Utc>, path: &Path| match now - at {
            // A wrong clock noted it. The disk says when the file got its name.
            ahead if ahead < -AHEAD_MAX => named_at(path).map_or(Duration::MAX, |at| {
                if now - at < -AHEAD_MAX { Duration::MAX } else { (now - at).to_std().unwrap_or_default() }
            }),
            age => age.to_std().unwrap_or_default(),
        };
        let mut times: Vec<Time> =
            self.files(slot)?.into_iter().map(|(version, path)| (version.at, Some(version.digest), path)).collect();
        times.extend(self.times(slot)?);
        times.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        if times.first().is_some_and(|(at, _, path)| age(*at, path) >= within) {
            times.truncate(1);
        }
        let served = times.into_iter().map(|(at, digest, path)| {
            let has = |what| digest.map(|digest| self.note(slot, digest, what));
            Served {
                digest,
                age: age(at, &path),
                is_put_back: has(PUT_BACK_AT).is_some_and(|note| read(&note).is_ok_and(|text| text == micros(at))),
                is_expected: digest.is_some() && expected == digest || has(EXPECTED).is_some_and(|note| note.exists()),
                is_taken_back: digest.is_some_and(|digest| self.taken_back(slot, digest).is_some()),
            }
        });
        Ok(served.collect())
    }

    /// Makes a version the newest one, since the guard goes back to it.
    pub(crate) fn put_back(&self, slot: &Slot, digest: Digest) -> io::Result<()> {
        let versions = self.activate(slot, digest)?;
        let newest = versions.first().map(|newest| newest.at).unwrap_or_else(wall_time);
        replace(&self.note(slot, digest, PUT_BACK_AT), &micros(newest))
    }

    /// Notes that a version is meant to refuse more than the one before.
    pub(crate) fn note_expected(&self, slot: &Slot, digest: Digest) -> io::Result<()> {
        let note = self.note(slot, digest, EXPECTED);
        if note.exists() { Ok(()) } else { replace(&note, b"") }
    }

    /// Notes that no module serves from now on, so that the next one replaces none. Without that note it is compared.
    pub(crate) fn note_gone(&self, slot: &Slot) {
        let served = self.versions(slot).is_ok_and(|versions| !versions.is_empty());
        if served && let Err(error) = self.note_time(slot, wall_time(), None) {
            tracing::warn!(event_type = %slot, "the guard may compare the next module with the one that is gone: {error}");
        }
    }

    /// The same content serves again, so that it was not gone for the guard.
    pub(super) fn forget_gone_since(&self, slot: &Slot, since: DateTime<Utc>) -> io::Result<()> {
        let mut gone = self.times(slot)?.into_iter().filter(|(at, digest, _)| digest.is_none() && *at >= since);
        gone.try_for_each(|(_, _, path)| remove(&path))
    }

    /// Notes an earlier time of a version, or one without a module. The oldest such notes go.
    pub(super) fn note_time(&self, slot: &Slot, at: DateTime<Utc>, digest: Option<Digest>) -> io::Result<()> {
        let name = digest.map_or_else(|| NONE.to_owned(), |digest| digest.to_string());
        replace(&self.folder(slot).join(format!("{:020}-{name}{TIME}", at.timestamp_micros())), b"")?;
        let mut times = self.times(slot)?;
        times.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        times.into_iter().skip(TIMES_MAX).try_for_each(|(_, _, path)| remove(&path))
    }

    fn times(&self, slot: &Slot) -> io::Result<Vec<Time>> {
        let entries = match fs::read_dir(self.folder(slot)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut times = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(TIME));
            if let Some((at, digest)) = name.and_then(|name| name.split_once('-'))
                && let Some(at) = at.parse().ok().and_then(DateTime::from_timestamp_micros)
            {
                // A name without a digest is that of a time without a module.
                times.push((at, digest.parse().ok(), path));
            }
        }
        Ok(times)
    }

    /// Forgets what is noted of a version that is not kept any more. Its earlier times say at least that something served.
    pub(super) fn forget_times(&self, slot: &Slot, digest: Digest) -> io::Result<()> {
        remove(&self.note(slot, digest, PUT_BACK_AT))?;
        remove(&self.note(slot, digest, EXPECTED))
    }

    /// Notes that somebody puts a version back, before it serves. If it served last, nothing will change.
    pub(super) fn note_put_back(&self, slot: &Slot, digest: Digest) -> io::Result<()> {
        match self.versions(slot)?.first() {
            Some(newest) if newest.digest == digest => Ok(()),
            _ => replace(&self.note(slot, digest, PUT_BACK), b""),
        }
    }

    /// Forgets that, since its file could not be written.
    pub(super) fn forget_put_back(&self, slot: &Slot, digest: Digest) {
        if let Err(error) = remove(&self.note(slot, digest, PUT_BACK)) {
            tracing::warn!(event_type = %slot, "the guard may take a new file for one that was put back: {error}");
        }
    }

    /// Notes whether somebody put a version back that begins to serve. The wish to put another one back is over.
    pub(super) fn take_put_back(&self, slot: &Slot, version: &Version) -> io::Result<()> {
        if self.note(slot, version.digest, PUT_BACK).exists() {
            replace(&self.note(slot, version.digest, PUT_BACK_AT), &micros(version.at))?;
        }
        for entry in fs::read_dir(self.folder(slot))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == PUT_BACK) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// How a note names the time at which a version began to serve.
fn micros(at: DateTime<Utc>) -> Vec<u8> {
    at.timestamp_micros().to_string().into_bytes()
}

/// When a file got its name.
fn named_at(path: &Path) -> Option<DateTime<Utc>> {
    use std::os::unix::fs::MetadataExt as _;
    DateTime::from_timestamp(fs::metadata(path).ok()?.ctime(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: Duration = Duration::from_secs(600);

    struct Room {
        dir: tempfile::TempDir,
        history: History,
        slot: Slot,
    }

    impl Room {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            Self { history: History::under(dir.path()), dir, slot: Slot::Exact("page".into(), "a/b".into()) }
        }

        fn record(&self, text: &str) {
            self.history.record(&self.slot, Digest::of(text.as_bytes()), text.as_bytes()).expect("kept");
        }

        fn rollback(&self, text: &str) {
            let modules = self.dir.path().join("modules");
            let to = Some(Digest::of(text.as_bytes()));
            self.history.rollback(&modules, &self.slot, to).expect("it is kept");
        }

        fn served(&self) -> Vec<Served> {
            self.history.served(&self.slot, GUARD, None).expect("a history")
        }

        fn put_back(&self) -> Vec<bool> {
            self.served().into_iter().map(|version| version.is_put_back).collect()
        }

        fn digests(&self) -> Vec<Option<Digest>> {
            self.served().into_iter().map(|version| version.digest).collect()
        }
    }

    fn of(text: &str) -> Option<Digest> {
        Some(Digest::of(text.as_bytes()))
    }

    #[test]
    fn a_version_is_put_back_for_the_time_in_which_it_then_serves() {
        let room = Room::new();
        room.record("one");
        room.record("two");
        room.rollback("one");
        room.record("one");
        assert_eq!(room.put_back(), [true, false, false]);
        room.record("two");
        room.record("one");
        assert_eq!(room.put_back(), [false, false, true, false, false], "this time nobody put it back");
        // Another version came before the one that was put back could serve.
        room.rollback("two");
        room.record("three");
        room.record("two");
        assert_eq!(room.put_back()[..3], [false, false, false]);
        // Nor does one count whose file could not be written.
        let modules = room.dir.path().join("modules");
        fs::remove_dir_all(&modules).expect("removed");
        fs::write(&modules, b"a file is in the way").expect("written");
        let failed = room.history.rollback(&modules, &room.slot, of("one"));
        assert!(failed.is_err());
        room.record("one");
        assert!(!room.put_back()[0]);
    }

    #[test]
    fn a_version_that_comes_back_keeps_its_earlier_time() {
        let room = Room::new();
        for text in ["one", "two", "one", "three"] {
            room.record(text);
        }
        assert_eq!(room.digests(), [of("three"), of("one"), of("two"), of("one")]);
        for _ in 0..50 {
            room.record("one");
            room.record("two");
        }
        assert!(room.digests().len() <= 3 + TIMES_MAX, "it is bounded");
    }

    #[test]
    fn a_time_without_a_module_is_one() {
        let room = Room::new();
        room.history.note_gone(&room.slot);
        assert_eq!(room.digests(), [], "nothing served before");
        room.record("one");
        room.history.note_gone(&room.slot);
        assert_eq!(room.digests(), [None, of("one")]);
        room.record("one");
        assert_eq!(room.digests(), [of("one")], "it is the same again");
        room.history.note_gone(&room.slot);
        room.record("two");
        assert_eq!(room.digests(), [of("two"), None, of("one")]);
    }

    #[test]
    fn what_the_guard_puts_back_is_the_newest() {
        let room = Room::new();
        for text in ["one", "two", "bad"] {
            room.record(text);
        }
        room.history.note_taken_back(&room.slot, Digest::of(b"bad"), "it broke").expect("noted");
        room.history.put_back(&room.slot, Digest::of(b"one")).expect("noted");
        room.history.note_expected(&room.slot, Digest::of(b"two")).expect("noted");
        assert_eq!(room.digests(), [of("one"), of("bad"), of("two"), of("one")]);
        let served = room.served();
        assert!(served[0].is_put_back && served[1].is_taken_back && served[2].is_expected);
        room.history.lift(&room.slot, Digest::of(b"bad")).expect("lifted");
        assert!(!room.served()[1].is_taken_back);
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_keep_the_guard_awake_until_its_time_comes() {
        let room = Room::new();
        room.record("one");
        let version = room.history.versions(&room.slot).expect("a history")[0];
        let folder = room.history.folder(&room.slot);
        let name = |at: DateTime<Utc>| folder.join(format!("{:020}-{}.wasm", at.timestamp_micros(), version.digest));
        fs::rename(name(version.at), name(version.at + TimeDelta::days(60))).expect("renamed");
        room.record("two");
        let served = room.served();
        assert_eq!(room.history.versions(&room.slot).expect("a history")[0].digest, Digest::of(b"two"));
        assert!(served[0].age < GUARD, "it came a moment ago, whatever its name says");
    }
}
