//! The kinds of files that serve a slot: a module, or a schema that an engine of the gateway judges by. A file's name
//! says its kind in the modules directory, its first bytes do where it has no name.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// What serves a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A WebAssembly component: `<name>.wasm`.
    Module,
    /// A JSON Schema: `<name>.schema.json`.
    Schema,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Module, Self::Schema];

    /// How the name of its file ends.
    #[must_use]
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Module => ".wasm",
            Self::Schema => ".schema.json",
        }
    }

    /// Its content type over HTTP.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Module => "application/wasm",
            Self::Schema => "application/schema+json",
        }
    }

    /// The kind that the name of a file says.
    #[must_use]
    pub fn of_file(file: &Path) -> Option<Self> {
        let name = file.file_name()?.as_encoded_bytes();
        Self::ALL.into_iter().find(|kind| name.ends_with(kind.ending().as_bytes()))
    }

    /// The kind of a content: a schema is a JSON object.
    #[must_use]
    pub fn of_content(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.trim_ascii_start().starts_with(b"{") { Self::Schema } else { Self::Module }
    }

    /// The kind of a file: its name says it, and where the name says none, its content.
    #[must_use]
    pub fn of(file: &Path, content: &[u8]) -> Self {
        Self::of_file(file).unwrap_or_else(|| Self::of_content(content))
    }

    /// Checks that a content is of the kind that its sender says.
    ///
    /// # Errors
    ///
    /// The refusal of any other content.
    pub fn expect(self, bytes: &[u8]) -> Result<(), Refusal> {
        match (self, Self::of_content(bytes)) {
            (Self::Module, Self::Schema) => Err(Refusal::new(
                "a WebAssembly module, as the content type says",
                "JSON",
                "send a JSON Schema as application/schema+json",
            )),
            (Self::Schema, Self::Module) => Err(Refusal::new(
                "a JSON Schema, as the content type says: an object, so that it begins with `{` at line 1",
                "something else at line 1, column 1",
                "send the text of the schema, or a module as application/wasm",
            )),
            _ => Ok(()),
        }
    }

    /// The file of the same slot and of this kind beside `file`.
    pub(super) fn beside(self, file: &Path) -> PathBuf {
        with_ending(file, self.ending())
    }
}

/// The settings of a file that serves a slot.
#[must_use]
pub fn settings_of(file: &Path) -> PathBuf {
    with_ending(file, ".toml")
}

fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let text = file.as_os_str().as_encoded_bytes();
    let stem = Kind::ALL.into_iter().find_map(|kind| text.strip_suffix(kind.ending().as_bytes()));
    let stem = stem.and_then(|stem| str::from_utf8(stem).ok());
    stem.map_or_else(|| file.with_extension(&ending[1..]), |stem| PathBuf::from(format!("{stem}{ending}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_its_kind_by_its_name_and_a_content_by_its_first_bytes() {
        for (file, kind) in [
            ("a/b.wasm", Some(Kind::Module)),
            ("a/b.schema.json", Some(Kind::Schema)),
            ("a/b.schema.wasm", Some(Kind::Module)),
            ("a/b.json", None),
            ("a/b.toml", None),
        ] {
            assert_eq!(Kind::of_file(Path::new(file)), kind, "{file}");
        }
        for (content, kind) in [
            (&b"\0asm\x01"[..], Kind::Module),
            (b"\xef\xbb\xbf \n{}", Kind::Schema),
            (b"[]", Kind::Module),
            (b"", Kind::Module),
        ] {
            assert_eq!(Kind::of_content(content), kind);
            assert!(kind.expect(content).is_ok());
        }
        assert!(Kind::Schema.expect(b"\0asm").is_err() && Kind::Module.expect(b"{}").is_err());
        assert_eq!(Kind::of(Path::new("a/b.schema.json"), b"[]"), Kind::Schema);
        assert_eq!(Kind::of(Path::new("a/b.json"), b"{}"), Kind::Schema);
        assert_eq!(settings_of(Path::new("a/b.schema.json")), Path::new("a/b.toml"));
        assert_eq!(settings_of(Path::new("a/b.wasm")), Path::new("a/b.toml"));
        assert_eq!(Kind::Schema.beside(Path::new("a/b.wasm")), Path::new("a/b.schema.json"));
    }
}
