//! `eye config check`: the settings in force, or everything that is wrong with them and with the files that they name.

use super::output::{say, warn};
use super::{Failure, Source};

pub(super) fn run(source: &Source) -> Result<(), Failure> {
    let (settings, _) = source.prove()?;
    for warning in settings.warnings() {
        warn(format_args!("warning: {warning}"));
    }
    Ok(say(settings.show().trim_end())?)
}
