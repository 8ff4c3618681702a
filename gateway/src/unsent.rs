//! The messages that `notify_url` has not taken yet, as files in the data dir, so that a restart loses none.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Messages that wait.
pub const WAITING_MAX: usize = 100;
/// A message has a sentence or two, so no file is as large.
const BYTES_MAX: u64 = 64 << 10;

/// A message as it is unsent.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// Names its file.
    pub id: String,
    /// What is sent.
    pub body: String,
    /// The end of its time, in microseconds since 1970.
    pub until_us: i64,
}

/// The folder of the messages. All methods block on the disk.
#[derive(Debug)]
pub struct Unsent {
    folder: PathBuf,
}

impl Unsent {
    /// In this data dir.
    pub fn below(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("notifications") }
    }

    /// Keeps a message.
    ///
    /// # Errors
    ///
    /// The errors of the file system.
    pub fn write(&self, note: &Note) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let (path, beside) = (self.path(&note.id), self.folder.join(format!("{}.new", note.id)));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec(note)?)?;
        file.sync_all()?;
        fs::rename(beside, path)
    }

    /// A message whose file stays is sent again after a restart, with the same id.
    pub fn remove(&self, id: &str) {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(message = id, %error, "the file of a message for notify_url cannot be removed");
            }
            _ => {}
        }
    }

    /// What is kept, the oldest first, and how many were too old. Removes those, and what is no message.
    pub fn read(&self, now_us: i64) -> (Vec<Note>, u64) {
        let Ok(files) = fs::read_dir(&self.folder) else { return (Vec::new(), 0) };
        let (mut notes, mut outdated) = (Vec::new(), 0);
        for path in files.flatten().map(|file| file.path()) {
            match read(&path) {
                Ok(note) if note.until_us > now_us && path == self.path(&note.id) => notes.push(note),
                Ok(note) => {
                    tracing::warn!(message = note.id, "notify_url took the message not within an hour");
                    outdated += 1;
                    let _ = fs::remove_file(&path);
                }
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "the file is no message for notify_url, and is removed");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        notes.sort_by_key(|note| note.until_us);
        notes.drain(..notes.len().saturating_sub(WAITING_MAX)).for_each(|note| self.remove(&note.id));
        (notes, outdated)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn read(path: &Path) -> io::Result<Note> {
    let mut text = String::new();
    fs::File::open(path)?.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_and_what_is_old_or_damaged_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let unsent = Unsent::below(folder.path());
        assert_eq!(unsent.read(0), (Vec::new(), 0), "there is no folder yet");
        let note = |id: &str, until_us| Note { id: id.to_owned(), body: "{}".to_owned(), until_us };
        for (id, until_us) in [("later", 300), ("sooner", 200), ("old", 100), ("gone", 400)] {
            unsent.write(&note(id, until_us)).expect("written");
        }
        unsent.remove("gone");
        unsent.remove("never there");
        fs::write(unsent.folder.join("cut.new"), "{\"id\":").expect("a file");
        assert_eq!(unsent.read(150), (vec![note("sooner", 200), note("later", 300)], 1));
        let left = fs::read_dir(&unsent.folder).expect("a folder").count();
        assert_eq!((left, unsent.read(150).1), (2, 0));
    }

    #[test]
    fn no_more_are_read_than_may_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let unsent = Unsent::below(folder.path());
        for number in 0..120 {
            let note = Note { id: format!("msg_{number}"), body: String::new(), until_us: number };
            unsent.write(&note).expect("written");
        }
        let (notes, _) = unsent.read(-1);
        assert_eq!((notes.len(), notes[0].until_us), (WAITING_MAX, 20), "the latest are kept");
        assert_eq!(fs::read_dir(&unsent.folder).expect("a folder").count(), WAITING_MAX);
    }
}
