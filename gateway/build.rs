//! Lists the files of the panel that `make panel` has made in `gateway/ui/dist`, for `src/panel/files.rs` to embed.
//! Without them the gateway builds too, and its panel is a page that says how to make them.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=ui/dist");
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui/dist");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dist)? {
        let name = entry?.file_name().into_string().map_err(|name| io::Error::other(format!("{name:?} is no text")))?;
        if name != ".gitignore" && !name.ends_with(".gz") {
            names.push(name);
        }
    }
    names.sort();
    let mut list = String::from("&[");
    for name in names {
        let file = dist.join(&name);
        let packed = dist.join(format!("{name}.gz"));
        let bytes = |path: &Path| format!("include_bytes!({:?})", path.display().to_string());
        // Writing to a text cannot fail.
        let _ = write!(list, "({name:?}, {}, {}), ", bytes(&file), bytes(&packed));
    }
    list.push(']');
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(Path::new(&out).join("panel_files.rs"), list)
}
