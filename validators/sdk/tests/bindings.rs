//! The bindings in `src/bindings` are made from the files in `wit`. They are kept in the repository, so that whoever
//! builds a validator does not have to compile their generator. `EYE_UPDATE_PAGES=1` makes this test write them.

use std::path::Path;

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator as _};
use wit_bindgen_rust::{Opts, WithOption};

/// The interface whose types all worlds share.
const TYPES: &str = "eye:validator/types@1.0.0";

/// A file of bindings: its name, which is that of its module too, its world, and whether it uses the types of the
/// first one.
const BINDINGS: [(&str, &str, bool); 4] = [
    ("validator", "eye:validator/validator@1.0.0", false),
    ("redact", "eye:validator/redact@1.1.0", false),
    ("examples", "eye:validator/examples@1.1.0", true),
    ("validate_at", "eye:validator/validate-at@1.1.0", true),
];

fn made(name: &str, world: &str, shares_types: bool) -> anyhow::Result<String> {
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut resolve = Resolve::default();
    let mut packages = vec![resolve.push_path(wit.join("validator.wit"))?.0];
    if name != "validator" {
        packages.push(resolve.push_path(wit.join("1.1.0"))?.0);
    }
    let world = resolve.select_world(&packages, Some(world))?;
    let mut options = Opts {
        format: true,
        export_macro_name: Some(format!("export_{name}")),
        pub_export_macro: true,
        default_bindings_module: Some(format!("eye_validator::bindings::{name}")),
        ..Opts::default()
    };
    if shares_types {
        let path = "super::validator::eye::validator::types".to_owned();
        options.with.push((TYPES.to_owned(), WithOption::Path(path)));
    }
    if name == "validator" {
        options.additional_derive_attributes.push("PartialEq".to_owned());
    }
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files)?;
    let mut contents = files.iter().map(|(_, contents)| String::from_utf8_lossy(contents).into_owned());
    Ok(contents.next().unwrap_or_default())
}

#[test]
fn the_bindings_are_those_of_the_interface() {
    for (name, world, shares_types) in BINDINGS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/bindings/{name}.rs"));
        let made = made(name, world, shares_types).expect("bindings");
        if std::env::var_os("EYE_UPDATE_PAGES").is_some() {
            std::fs::write(&path, &made).expect("written");
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "{} is not what wit/ says; run this test with EYE_UPDATE_PAGES=1", path.display());
    }
}
