//! Finds the tool that made a module in the module's `producers` section, and names the options by which that tool
//! makes a module without imports.

use wasmparser::{KnownCustom, Parser, Payload};

/// Names of tools that are read from one file.
const NAMES_MAX: usize = 200;

/// Tools, by a part of their names in small letters. The first that a module names counts. The more special tools come
/// first, since each of them is built with tools that stand below it.
const TOOLS: &[(&str, &str)] = &[
    (
        "componentize-qjs",
        "this is JavaScript by componentize-qjs: build with `--stub-wasi --sync`, and drop what needs a clock, files, \
         environment or randomness",
    ),
    (
        "quickjs",
        "this is JavaScript by QuickJS: build with `componentize-qjs --stub-wasi --sync`, and drop what needs a clock, files, \
         environment or randomness",
    ),
    (
        "componentizejs",
        "this is JavaScript by componentize-js: build with `jco componentize --disable all` (`disableFeatures` when it is \
         called from a script), and drop what needs a clock, files, environment or randomness",
    ),
    (
        "componentize-js",
        "this is JavaScript by componentize-js: build with `jco componentize --disable all` (`disableFeatures` when it is \
         called from a script), and drop what needs a clock, files, environment or randomness",
    ),
    (
        "javascript",
        "this is JavaScript: build with `jco componentize --disable all`, and drop what needs a clock, files, environment or \
         randomness",
    ),
    (
        "componentize-py",
        "this is Python by componentize-py: build with `componentize-py ... componentize --stub-wasi`, and drop what needs a \
         clock, files, environment or randomness",
    ),
    (
        "python",
        "this is Python: build with `componentize-py ... componentize --stub-wasi`, and drop what needs a clock, files, \
         environment or randomness",
    ),
    (
        "tinygo",
        "this is Go by TinyGo: build with `tinygo build -target=wasm-unknown`, and drop what needs a clock, files, environment \
         or randomness",
    ),
    (
        "assemblyscript",
        "this is AssemblyScript: build without a WASI shim and with `--use abort=`, and drop what needs a clock, files, \
         environment or randomness",
    ),
    (
        "rustc",
        "WASI comes from the target: build for wasm32-unknown-unknown, and drop what needs a clock, files, environment or \
         randomness",
    ),
    (
        "clang",
        "WASI comes from the target and its C library: build with `--target=wasm32-unknown-unknown -nostdlib`, and drop what \
         needs a clock, files, environment or randomness",
    ),
];

/// The options that make the tool of this file leave WASI out; `None` when the file does not name a known tool.
pub(super) fn without_wasi(bytes: &[u8]) -> Option<&'static str> {
    let names = names(bytes);
    let (_, advice) = TOOLS.iter().find(|(part, _)| names.iter().any(|name| name.contains(part)))?;
    Some(*advice)
}

/// All names of tools in the file and in the modules within it, in small letters.
fn names(bytes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(bytes).map_while(Result::ok) {
        let Payload::CustomSection(section) = payload else { continue };
        let KnownCustom::Producers(fields) = section.as_known() else { continue };
        for value in
            fields.into_iter().map_while(Result::ok).flat_map(|field| field.values.into_iter().map_while(Result::ok))
        {
            if names.len() == NAMES_MAX {
                return names;
            }
            names.push(value.name.to_lowercase());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core module that says this of its tools.
    fn made_by(field: &str, names: &[&str]) -> Vec<u8> {
        let mut values = wasm_encoder::ProducersField::new();
        for name in names {
            values.value(name, "1.0");
        }
        let mut producers = wasm_encoder::ProducersSection::new();
        producers.field(field, &values);
        let mut module = wasm_encoder::Module::new();
        module.section(&producers);
        module.finish()
    }

    #[test]
    fn the_advice_is_that_of_the_tool_which_made_the_file() {
        let cases = [
            ("processed-by", &["rustc", "ComponentizeJS"][..], "--disable all"),
            ("processed-by", &["rustc", "wit-component", "componentize-py"], "--stub-wasi"),
            ("processed-by", &["componentize-qjs"], "--sync"),
            ("language", &["JavaScript"], "--disable all"),
            ("language", &["Python"], "--stub-wasi"),
            ("processed-by", &["TinyGo"], "wasm-unknown"),
            ("processed-by", &["rustc"], "wasm32-unknown-unknown"),
        ];
        for (field, names, advice) in cases {
            let told = without_wasi(&made_by(field, names));
            assert!(told.is_some_and(|told| told.contains(advice)), "{names:?}: {told:?}");
        }
        assert_eq!(without_wasi(&made_by("processed-by", &["something else"])), None);
        assert_eq!(without_wasi(b"no module"), None);
    }
}
