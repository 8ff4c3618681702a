//! `eye config check`: prints the settings in force, or all problems of the settings and of the files that they name.

use super::output::{say, warn};
use super::{Failure, Source};

pub(super) fn run(source: &Source) -> Result<(), Failure> {
    let (settings, _) = source.prove()?;
    for warning in settings.warnings() {
        warn(format_args!("warning: {warning}"));
    }
    Ok(say(settings.show().trim_end())?)
}
