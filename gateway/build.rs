//! Lists the files that the program carries: those of the panel that `make panel` has made in `gateway/ui/dist`, for
//! `src/panel/files.rs` to embed (without them the gateway builds too, and its panel is a page that says how to make
//! them), and those with which `eye validator new` begins a project, the kit included. Tells the linker how to keep the program
//! small.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    fold_functions();
    list_panel()?;
    list_rust()?;
    list_typescript()?;
    list_python()
}

/// Many functions of a release come out the same, most of them from generics: the linker keeps one of each, which saves a twentieth
/// of the program. What is debugged keeps them all, so that each has its name.
fn fold_functions() {
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") && links_with_lld() {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}

/// Whether the linker is the one that the compiler brings along, for this target alone. Others may not know how to fold.
fn links_with_lld() -> bool {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let chosen = env::var_os("RUSTC_LINKER").is_some()
        || env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if chosen || env::var("TARGET").is_ok_and(|target| target != TARGET) {
        return false;
    }
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(sysroot) = Command::new(rustc).args(["--print", "sysroot"]).output() else { return false };
    let sysroot = String::from_utf8_lossy(&sysroot.stdout);
    Path::new(sysroot.trim_end()).join("lib/rustlib").join(TARGET).join("bin/gcc-ld/ld.lld").exists()
}

/// The files of a new project in Rust: path within the project, and text.
fn list_rust() -> io::Result<()> {
    let mut files = template("rust")?;
    let kit = validators().join("sdk/src");
    for file in files_below(&kit)? {
        files.push((format!("kit/src/{}", path_within(&file, &kit)?), file));
    }
    list_project("rust_files.rs", files)
}

/// Those of one in TypeScript, whose kit is part of the template. Its tools read the contract.
fn list_typescript() -> io::Result<()> {
    let mut files = template("typescript")?;
    files.extend(contract(["kit/wit/1.0.0", "kit/wit/1.1.0"]));
    list_project("typescript_files.rs", files)
}

/// Those of one in Python, likewise.
fn list_python() -> io::Result<()> {
    let mut files = template("python")?;
    // What Python leaves beside the files that it ran is none of ours.
    files.retain(|(inside, _)| !inside.contains("__pycache__"));
    for (inside, _) in &mut files {
        if inside == "world.wit" {
            inside.insert_str(0, "wit/");
        }
    }
    files.extend(contract(["wit/deps/base", "wit/deps/v110"]));
    list_project("python_files.rs", files)
}

/// The files of the contract, 1.0.0 and 1.1.0, in these folders of a project.
fn contract(folders: [&str; 2]) -> impl Iterator<Item = (String, PathBuf)> {
    folders.into_iter().zip(["validator.wit", "1.1.0/validator.wit"]).map(|(folder, name)| {
        let file = package().join("../wit").join(name);
        println!("cargo::rerun-if-changed={}", file.display());
        (format!("{folder}/validator.wit"), file)
    })
}

/// The folder of this package. Cargo says it at each run: the build script itself may come from another checkout, with a copied
/// target folder.
fn package() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default()
}

fn validators() -> PathBuf {
    package().join("../validators")
}

/// The files of a language's template, each with its path in a project.
fn template(language: &str) -> io::Result<Vec<(String, PathBuf)>> {
    let template = validators().join("templates").join(language);
    let mut files = Vec::new();
    for file in files_below(&template)? {
        let inside = path_within(&file, &template)?;
        // Under its own name, cargo would take the file for a package of ours, and git for its own.
        let inside = match &*inside {
            "Cargo.toml.template" => "Cargo.toml".to_owned(),
            "Cargo.lock.template" => "Cargo.lock".to_owned(),
            "kit.toml" => "kit/Cargo.toml".to_owned(),
            "gitignore" => ".gitignore".to_owned(),
            _ => inside,
        };
        files.push((inside, file));
    }
    Ok(files)
}

fn list_project(name: &str, mut files: Vec<(String, PathBuf)>) -> io::Result<()> {
    files.sort();
    let mut list = String::from("&[");
    for (inside, file) in files {
        // Writing to a text cannot fail.
        let _ = writeln!(list, "({inside:?}, include_str!({:?})),", file.display().to_string());
    }
    list.push(']');
    write_list(name, &list)
}

/// All files below a folder. Cargo runs this anew when one of them changes, comes or goes.
fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        println!("cargo::rerun-if-changed={}", folder.display());
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}

fn path_within(file: &Path, folder: &Path) -> io::Result<String> {
    let inside = file.strip_prefix(folder).map_err(io::Error::other)?;
    inside.to_str().map(str::to_owned).ok_or_else(|| io::Error::other(format!("{} is no text", file.display())))
}

fn write_list(name: &str, list: &str) -> io::Result<()> {
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?;
    fs::write(Path::new(&out).join(name), list)
}

fn list_panel() -> io::Result<()> {
    println!("cargo::rerun-if-changed=ui/dist");
    let dist = package().join("ui/dist");
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
    write_list("panel_files.rs", &list)
}
