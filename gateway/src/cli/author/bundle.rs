//! `eye validator bundle`: a rule for a page or Node, so that a form can say what the gateway would say. A language that has
//! its own way there goes it. For every other file the bundle carries the code that a gateway runs, and what calls it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use eye_judge::{Kind, Slot, portable};
use serde_json::json;

use super::terminal::bytes;
use super::{ModuleFile, Wanted, project, trying};
use crate::base64::base64;
use crate::cli::Failure;
use crate::cli::output::{refusal_lines, say};

/// Most bytes of code that a browser compiles where a page runs.
const CODE_BYTES_MAX: usize = 8 << 20;

/// What calls the code.
const PAGE: &str = include_str!("page.mjs");

#[derive(Debug, Args)]
pub(in crate::cli) struct Bundle {
    #[command(flatten)]
    wanted: Wanted,
    /// One ES module that exports `validate(event)`
    #[arg(long, required = true)]
    js: bool,
    /// The file to write, such as rule.mjs; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(bundle: &Bundle) -> Result<(), Failure> {
    let project = project()?;
    let out = std::path::absolute(&bundle.out).context("the file to write")?;
    let own = project.as_ref().filter(|_| !bundle.wanted.names_a_file());
    match own.and_then(|project| Some((project, project.language.bundle?))) {
        Some((project, make)) => make(&project.folder, &out, &project.event_type.to_string())?,
        None => {
            let module = bundle.wanted.resolve(project.as_ref())?;
            let settings = module.settings(project.as_ref())?;
            let text = page(&module, settings.as_deref())?;
            write(&out, &text)?;
        }
    }
    let size = std::fs::metadata(&out).with_context(|| out.display().to_string())?.len();
    if bundle.json {
        return Ok(say(json!({"file": out, "bytes": size}))?);
    }
    Ok(say(format_args!("{}\t{}", out.display(), bytes(usize::try_from(size).unwrap_or(usize::MAX))))?)
}

/// One ES module with the code of a file that a gateway would take.
fn page(module: &ModuleFile, settings: Option<&str>) -> Result<String, Failure> {
    let content = module.content()?;
    let kind = module.kind(&content);
    let shown = module.file.display();
    if kind == Kind::Module && content.len() > CODE_BYTES_MAX {
        let (found, most) = (bytes(content.len()), bytes(CODE_BYTES_MAX));
        return Err(anyhow!(
            "{shown} is too large for a page:\n  expected  {most} of code at most\n  found     {found}\n  mend      write the rule \
             in rust or typescript or as a schema, or ask a gateway what would become of an event \
             (`/v1/events?dry_run=true`)"
        )
        .into());
    }
    let trial = trying::load(&module.event_type, kind, &content, settings, true)?
        .map_err(|refusal| anyhow!("a gateway would refuse {shown}:\n{}", refusal_lines(&refusal)))?;
    let code = portable(kind, &content)
        .map_err(|refusal| anyhow!("{shown} runs in a gateway alone:\n{}", refusal_lines(&refusal)))?;
    let schema = (kind == Kind::Schema).then(|| String::from_utf8_lossy(&content).into_owned());
    let limits = trial.limits();
    let (category, name) = parts(&module.event_type);
    let parts = json!([base64(&code), schema, [limits.violations_max, limits.output_bytes_max], [category, name]]);
    // A page may have its scripts within HTML.
    Ok(PAGE.replacen("PARTS", &parts.to_string().replace("</", "<\\/"), 1))
}

/// The category and the name of an event that leaves them out.
fn parts(slot: &Slot) -> (&str, &str) {
    let (category, name) = slot.parts();
    (category.unwrap_or("test"), name.unwrap_or("test"))
}

/// Writes the file whole, or not at all.
fn write(out: &Path, text: &str) -> anyhow::Result<()> {
    let beside = out.with_extension("new");
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, out));
    written.with_context(|| out.display().to_string())
}
