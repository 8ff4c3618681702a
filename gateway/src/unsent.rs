//! The messages that `notify_url` has not taken yet, as files in the data dir, so that a restart loses none.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The most messages that wait.
pub const WAITING_MAX: usize = 100;
/// A message has a sentence or two, so no file is as large.
const BYTES_MAX: u64 = 64 << 10;

/// A message as its file has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
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
        let written = write(&beside, note).and_then(|()| fs::rename(&beside, path));
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written?;
        fs::File::open(&self.folder)?.sync_all()
    }

    /// A message whose file stays is sent again after a restart, with the same id.
    pub fn remove(&self, id: &str) {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(id, %error, "the file of a message for notify_url cannot be removed");
            }
            _ => {}
        }
    }

    /// What is kept, the oldest first, and how many were too old or too many. Removes those, and damaged ones.
    pub fn read(&self, now_us: i64) -> (Vec<Note>, u64) {
        let files = match fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), 0),
            Err(error) => {
                tracing::warn!(%error, "the messages that waited for notify_url cannot be read");
                return (Vec::new(), 0);
            }
        };
        let (mut notes, mut dropped) = (Vec::new(), 0);
        for path in files.flatten().map(|file| file.path()).filter(|path| is_ours(path)) {
            match self.take(&path) {
                Ok(note) if note.until_us > now_us => notes.push(note),
                Ok(note) => {
                    tracing::error!(id = note.id, "notify_url did not take the message within an hour");
                    dropped += 1;
                    self.remove(&note.id);
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(file = %path.display(), %error, "the message for notify_url is damaged, and is removed");
                    let _ = fs::remove_file(&path);
                }
                // The next start tries again.
                Err(error) => tracing::warn!(file = %path.display(), %error, "a message for notify_url cannot be read"),
            }
        }
        notes.sort_by_key(|note| note.until_us);
        for note in notes.drain(..notes.len().saturating_sub(WAITING_MAX)) {
            dropped += 1;
            self.remove(&note.id);
        }
        (notes, dropped)
    }

    /// Reads a message. One that was written and not named gets its name.
    fn take(&self, path: &Path) -> io::Result<Note> {
        let note = read(path)?;
        let own = self.path(&note.id);
        if path.extension().is_some_and(|extension| extension == "new") {
            fs::rename(path, own)?;
        } else if path != own {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "another message's id"));
        }
        Ok(note)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

/// Whether a file of the folder is a message. Others are left alone.
fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("msg_") && (name.ends_with(".json") || name.ends_with(".new"))
}

fn write(path: &Path, note: &Note) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(note)?)?;
    file.sync_all()
}

fn read(path: &Path) -> io::Result<Note> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(id: &str, until_us: i64) -> Note {
        Note { id: format!("msg_{id}"), body: "{}".to_owned(), until_us }
    }

    fn names(unsent: &Unsent) -> Vec<String> {
        let files = fs::read_dir(&unsent.folder).expect("a folder");
        let mut names: Vec<String> =
            files.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_kept_is_read_and_what_is_old_or_damaged_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let unsent = Unsent::below(folder.path());
        assert_eq!(unsent.read(0), (Vec::new(), 0), "there is no folder yet");
        for (id, until_us) in [("later", 300), ("sooner", 200), ("old", 100), ("gone", 400)] {
            unsent.write(&note(id, until_us)).expect("written");
        }
        unsent.remove("msg_gone");
        unsent.remove("msg_never_there");
        let file = |name: &str, text: &str| fs::write(unsent.folder.join(name), text).expect("a file");
        file("msg_cut.new", "{\"id\":");
        file("msg_text.json", "\u{ff}");
        // Written and not named when the machine failed, and by a later release.
        file("msg_whole.new", r#"{"id":"msg_whole","body":"{}","until_us":400,"later":1}"#);
        file("of somebody else", "");
        assert_eq!(unsent.read(150), (vec![note("sooner", 200), note("later", 300), note("whole", 400)], 1));
        let left = ["msg_later.json", "msg_sooner.json", "msg_whole.json", "of somebody else"];
        assert_eq!(names(&unsent), left);
    }

    #[test]
    fn a_message_that_cannot_be_read_now_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let unsent = Unsent::below(folder.path());
        // No user can read a folder as a file, not even root.
        fs::create_dir_all(unsent.folder.join("msg_one.json")).expect("a folder");
        assert_eq!((unsent.read(0), names(&unsent)), ((Vec::new(), 0), vec!["msg_one.json".to_owned()]));
    }

    #[test]
    fn no_more_are_read_than_may_wait() {
        let folder = tempfile::tempdir().expect("a folder");
        let unsent = Unsent::below(folder.path());
        for number in 0..120 {
            unsent.write(&note(&number.to_string(), number)).expect("written");
        }
        let (notes, dropped) = unsent.read(-1);
        assert_eq!((notes.len(), notes[0].until_us, dropped), (WAITING_MAX, 20, 20), "the latest are kept");
        assert_eq!(names(&unsent).len(), WAITING_MAX);
    }
}
