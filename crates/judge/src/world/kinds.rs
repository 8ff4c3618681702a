//! Names the kind of a file that is no WebAssembly, by its first bytes. Each kind has another cause, and so another way
//! to mend it.

use eye_event::hex::Hex;
use eye_event::legible::legible;

use super::Refusal;

/// The first bytes of every binary WebAssembly file.
const MAGIC: &[u8] = b"\0asm";

/// Characters of a text file that a message quotes.
const BEGINNING_MAX: usize = 60;

/// A kind of file: its first bytes, its name, and how to mend it.
type Kind = (&'static [u8], &'static str, &'static str);

const UNPACK: &str = "unpack it, and put the module itself here";

const KINDS: &[Kind] = &[
    (
        b"version https://git-lfs.github.com/spec/",
        "a pointer of git-lfs, which stands for a file that was not fetched",
        "run `git lfs pull` where the file comes from, and copy it again",
    ),
    (b"\x1f\x8b", "a file compressed by gzip", "put it here uncompressed: `gunzip` it"),
    (b"\x28\xb5\x2f\xfd", "a file compressed by zstd", "put it here uncompressed: `unzstd` it"),
    (b"\xfd7zXZ\0", "a file compressed by xz", "put it here uncompressed: `unxz` it"),
    (b"BZh", "a file compressed by bzip2", "put it here uncompressed: `bunzip2` it"),
    (b"PK\x03\x04", "a zip archive", UNPACK),
    (
        b"!<arch>\n",
        "a library of object files",
        "link it into a module: a Rust crate needs `crate-type = [\"cdylib\"]`",
    ),
    (
        b"MZ",
        "a program for Windows",
        "build it for WebAssembly: for Rust, `cargo build --target wasm32-unknown-unknown`",
    ),
    (
        b"\xcf\xfa\xed\xfe",
        "a program or library for macOS",
        "build it for WebAssembly: for Rust, `cargo build --target wasm32-unknown-unknown`",
    ),
];

/// Returns the refusal of a file that does not begin like WebAssembly.
pub(super) fn refuse(bytes: &[u8]) -> Option<Refusal> {
    if bytes.starts_with(MAGIC) && bytes.len() >= 8 {
        return None;
    }
    let (found, mend) = name(bytes);
    Some(Refusal::new("a complete WebAssembly file", found, mend))
}

fn name(bytes: &[u8]) -> (String, String) {
    const COPY: &str = "copy the whole file, best under another name beside it and then rename it";
    if bytes.is_empty() {
        return ("an empty file".into(), COPY.into());
    }
    if MAGIC.starts_with(&bytes[..bytes.len().min(4)]) || bytes.starts_with(MAGIC) {
        return (format!("the first {} bytes of one", bytes.len()), COPY.into());
    }
    if let Some((_, found, mend)) = KINDS.iter().find(|(start, ..)| bytes.starts_with(start)) {
        return ((*found).into(), (*mend).into());
    }
    if bytes.starts_with(b"\x7fELF") {
        return native(bytes);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return ("a tar archive".into(), UNPACK.into());
    }
    match str::from_utf8(&bytes[..bytes.len().min(4_096)]) {
        Ok(text) => words(text),
        // The cut to 4,096 bytes may have split a character.
        Err(error) if error.error_len().is_none() => words(str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or("")),
        Err(_) => {
            let first: Vec<_> = bytes.iter().take(8).map(|byte| Hex(&[*byte]).to_string()).collect();
            let found = format!("{} bytes of another kind, which begin with {}", bytes.len(), first.join(" "));
            (found, "put the module here that the build made, a file that begins with 00 61 73 6d".into())
        }
    }
}

fn native(bytes: &[u8]) -> (String, String) {
    let compiled = bytes.windows(16).take(64 << 10).any(|window| window == b".wasmtime.engine");
    let (found, mend) = if compiled {
        ("code that wasmtime has compiled already", "put the WebAssembly file itself here; the gateway compiles it")
    } else {
        (
            "a program or library for this machine (ELF)",
            "build it for WebAssembly: for Rust, `cargo build --target wasm32-unknown-unknown`",
        )
    };
    (found.into(), mend.into())
}

/// Names the kind of a text.
fn words(text: &str) -> (String, String) {
    let start = text.trim_start_matches('\u{feff}').trim_start();
    let begins = |with: &str| start.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    let beginning = || legible(start, BEGINNING_MAX);
    if begins("<!doctype") || begins("<html") {
        let mend = "fetch the file anew: such a page is an answer of a server, often of one that asks for a login or does not \
                    know the address";
        return ("an HTML page".into(), mend.into());
    }
    if begins("<") {
        let mend = "fetch the file anew: such a text is an answer of a server, often of one that has no such file";
        return (format!("XML, which begins with `{}`", beginning()), mend.into());
    }
    if begins("(module") || begins("(component") || begins(";;") || begins("(;") {
        let mend = "turn it into a binary module: `wasm-tools parse FILE -o FILE.wasm`";
        return ("WebAssembly in text form (.wat)".into(), mend.into());
    }
    if begins("package ") && text.contains("world ") || begins("interface ") || begins("world ") {
        return ("an interface in WIT".into(), "build the component, and put that here, not its interface".into());
    }
    let mend = "put the module here that the build made, a file that begins with 00 61 73 6d";
    if begins("{") || begins("[") {
        return ("JSON".into(), format!("{mend}; a JSON Schema is named <name>.schema.json"));
    }
    (format!("text, which begins with `{}`", beginning()), mend.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_file_is_named_with_a_mend_of_its_own() {
        let mut tar = vec![b'x'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        let cases: &[(&[u8], &str, &str)] = &[
            (b"", "an empty file", "rename"),
            (b"\0as", "the first 3 bytes", "copy the whole file"),
            (b"\0asm\x01", "the first 5 bytes", "copy the whole file"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs", "git lfs pull"),
            (b"<!DOCTYPE html><html><body>Sign in", "an HTML page", "login"),
            (b"\n <HTML>", "an HTML page", "login"),
            (b"<?xml version='1.0'?><Error><Code>NoSuchKey", "XML", "no such file"),
            (b"\x1f\x8b\x08\0", "gzip", "gunzip"),
            (b"\x28\xb5\x2f\xfd\0", "zstd", "unzstd"),
            (b"PK\x03\x04rest", "a zip archive", "unpack"),
            (&tar, "a tar archive", "unpack"),
            (b"\x7fELF\x02\x01", "for this machine (ELF)", "wasm32-unknown-unknown"),
            (b"\x7fELF\x02\x01\0\0.wasmtime.engine\0", "compiled already", "itself"),
            (b"MZ\x90\0", "Windows", "wasm32-unknown-unknown"),
            (b"(module (memory 1))", "text form (.wat)", "wasm-tools parse"),
            (b";; a comment\n(component)", "text form (.wat)", "wasm-tools parse"),
            (b"package eye:validator@1.0.0;\nworld validator {}", "WIT", "not its interface"),
            (br#"{"type":"object"}"#, "JSON", "the build made"),
            ("h\u{e9}llo\n\u{202e}".as_bytes(), "text, which begins with `h\u{e9}llo\\n\\u202e`", "the build made"),
            (b"\xff\xfe\x00\x01", "begin with ff fe 00 01", "00 61 73 6d"),
        ];
        for (bytes, found, mend) in cases {
            let told = refuse(bytes).unwrap_or_else(|| panic!("{found} is let pass"));
            assert!(told.found.contains(found), "{told:#?}");
            assert!(told.mend.contains(mend), "{told:#?}");
            assert!(!told.found.contains(['\n', '\u{202e}']), "{told:#?}");
        }
        assert_eq!(refuse(b"\0asm\x01\0\0\0"), None);
    }
}
