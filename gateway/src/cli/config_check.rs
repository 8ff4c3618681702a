//! `eye config check`: the settings in force, or everything that is wrong with them.

use super::{Failure, Source};

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what a person asked for goes to standard output")]
pub(super) fn run(source: &Source) -> Result<(), Failure> {
    let (settings, _) = source.gather(Vec::new())?;
    for warning in settings.warnings() {
        eprintln!("warning: {warning}");
    }
    print!("{}", settings.show());
    Ok(())
}
