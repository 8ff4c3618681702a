//! Fixtures: events in files, and what must become of them. `accept/*.json` are stored, as they are or amended;
//! `reject/*.json` are not, with these codes.
//!
//! ```json
//! {"event": {"data": {"total": "1,99"}}, "codes": ["value"]}
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use eye_event::envelope::timestamp;
use eye_judge::{Expected, Trial, TrialEvent};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Files of one folder.
const FILES_MAX: usize = 10_000;

/// Bytes of one file: data has 256 KiB at most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A fixture as its file has it. Members of an event that no validator sees may be there.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    event: Event,
    /// The codes of the violations, in any order; none for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    codes: Vec<String>,
    /// The data that is stored in place of the event's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amended: Option<Box<RawValue>>,
}

/// The event of a fixture. What is left out is made up.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Event {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    application: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    received_at: Option<String>,
    data: Box<RawValue>,
}

/// A fixture.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) path: PathBuf,
    /// Accept (amended or not) or reject, by its folder.
    pub(super) expect: Expected,
    pub(super) written: Written,
}

impl Fixture {
    /// The event, with what the module's own type and a self-test make up.
    pub(super) fn event(&self, trial: &Trial) -> anyhow::Result<TrialEvent> {
        let Event { application, category, name, timestamp, received_at, data, .. } = &self.written.event;
        let made_up = trial.event(data.get());
        let time = |text: &Option<String>| -> anyhow::Result<Option<i64>> {
            let read = |text: &String| {
                let time = timestamp::parse(text);
                time.with_context(|| format!("{}: a time is written such as 2026-01-05T09:15:27Z", self.path.display()))
            };
            text.as_ref().map(read).transpose()
        };
        let timestamp_us = time(timestamp)?.unwrap_or(made_up.timestamp_us);
        Ok(TrialEvent {
            application: application.clone().unwrap_or(made_up.application),
            category: category.clone().unwrap_or(made_up.category),
            name: name.clone().unwrap_or(made_up.name),
            timestamp_us,
            received_at_us: time(received_at)?.unwrap_or(timestamp_us),
            data: made_up.data,
        })
    }

    /// The codes that it names, sorted.
    pub(super) fn codes(&self) -> Vec<&str> {
        let mut codes: Vec<&str> = self.written.codes.iter().map(String::as_str).collect();
        codes.sort_unstable();
        codes.dedup();
        codes
    }

    /// The text of the data that is stored in place of the event's, if it names any.
    pub(super) fn amended(&self) -> Option<&str> {
        self.written.amended.as_deref().map(RawValue::get)
    }

    /// Its name for people: folder and file.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", folder_of(self.expect), self.path.file_name().unwrap_or_default().to_string_lossy())
    }
}

impl Written {
    /// A fixture of an event with this data.
    pub(super) fn new(data: Box<RawValue>, codes: Vec<String>) -> Self {
        let event = Event {
            id: None,
            session_id: None,
            application: None,
            category: None,
            name: None,
            timestamp: None,
            received_at: None,
            data,
        };
        Self { event, codes, amended: None }
    }

    /// The same event with another end.
    pub(super) fn ending(self, codes: Vec<String>, amended: Option<Box<RawValue>>) -> Self {
        Self { codes, amended, ..self }
    }

    /// The text of its file.
    pub(super) fn text(&self) -> anyhow::Result<String> {
        // Data keeps its text, so that no number loses a digit; the rest is on a line of its own.
        let event = serde_json::to_string(&self.event)?;
        let mut text = format!("{{\n  \"event\": {event}");
        if !self.codes.is_empty() {
            text.push_str(&format!(",\n  \"codes\": {}", serde_json::to_string(&self.codes)?));
        }
        if let Some(amended) = &self.amended {
            text.push_str(&format!(",\n  \"amended\": {}", amended.get()));
        }
        text.push_str("\n}\n");
        Ok(text)
    }
}

/// The folder of fixtures with this end.
pub(super) fn folder_of(expect: Expected) -> &'static str {
    match expect {
        Expected::Accept | Expected::Amend => "accept",
        Expected::Reject => "reject",
    }
}

/// Reads all fixtures of a folder, those to accept first, each by name. Says every file that is none.
pub(super) fn read(folder: &Path) -> anyhow::Result<Vec<Fixture>> {
    let (mut fixtures, mut problems) = (Vec::new(), Vec::new());
    for expect in [Expected::Accept, Expected::Reject] {
        for path in files(&folder.join(folder_of(expect)))? {
            match read_one(&path) {
                Ok(written) => fixtures.push(Fixture { path, expect, written }),
                Err(error) => problems.push(format!("{}: {error:#}", path.display())),
            }
        }
    }
    ensure!(
        problems.is_empty(),
        "{} cannot be read; a fixture looks like {{\"event\": {{\"data\": {{}}}}, \"codes\": []}}\n{}",
        if problems.len() == 1 { "a fixture".to_owned() } else { format!("{} fixtures", problems.len()) },
        problems.join("\n")
    );
    Ok(fixtures)
}

fn read_one(path: &Path) -> anyhow::Result<Written> {
    let size = std::fs::metadata(path)?.len();
    ensure!(size <= FILE_BYTES_MAX, "it has {size} bytes, and may have {FILE_BYTES_MAX}");
    let text = std::fs::read_to_string(path)?;
    let written: Written = serde_json::from_str(&text)?;
    ensure!(written.event.data.get().starts_with('{'), "`data` is no object");
    Ok(written)
}

/// The JSON files of a folder, by name. No folder is none.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        if path.extension().is_some_and(|end| end == "json") {
            found.push(path);
        }
        if found.len() > FILES_MAX {
            bail!("{} has more than {FILES_MAX} fixtures", folder.display());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixtures_keep_their_text_and_wrong_ones_are_all_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        put("accept/b.json", "{\"event\":{\"data\":{\"n\":12345678901234567890.50}}}");
        put(
            "reject/a.json",
            "{\"event\":{\"data\":{},\"timestamp\":\"2026-01-05T09:15:27Z\"},\"codes\":[\"b\",\"a\"]}",
        );
        put("reject/notes.txt", "not read");
        let found = read(folder.path()).expect("right");
        assert_eq!(found.iter().map(Fixture::title).collect::<Vec<_>>(), ["accept/b.json", "reject/a.json"]);
        assert!(found[0].written.text().expect("written").contains("12345678901234567890.50"));
        assert_eq!(found[1].codes(), ["a", "b"]);
        put("accept/c.json", "{\"event\":{\"data\":[]}}");
        put("reject/d.json", "{\"evnt\":{}}");
        let told = read(folder.path()).expect_err("wrong").to_string();
        assert!(told.contains("c.json") && told.contains("d.json") && told.contains("2 fixtures"), "{told}");
        assert!(read(&folder.path().join("none")).expect("nothing is there").is_empty());
    }
}
