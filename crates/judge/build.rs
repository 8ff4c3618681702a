//! Lists the engine of schema files for `src/schema.rs` to embed. `validators/install --engines` makes it. Without it
//! the crate builds too, and refuses schema files with words that say how to make it.

use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    // Cargo says the folder at each run: this script may come from another checkout, with a copied target folder.
    let package = env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| io::Error::other("cargo sets CARGO_MANIFEST_DIR"))?;
    let dist = Path::new(&package).join("../../validators/engines/json-schema/dist");
    println!("cargo::rerun-if-changed={}", dist.display());
    let engine = dist.join("engine.wasm");
    let list = match engine.canonicalize() {
        Ok(engine) => format!("Some(include_bytes!({:?}))", engine.display().to_string()),
        Err(_) => "None".to_owned(),
    };
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(Path::new(&out).join("engine.rs"), list)
}
