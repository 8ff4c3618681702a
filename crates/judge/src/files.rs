//! The gateway's own files, outside the modules directory: who may read them, how large a module may be, and which time
//! they bear.

use std::path::Path;
use std::{fs, io};

use chrono::{DateTime, Utc};

/// Bytes of a module file. JavaScript and Python validators carry their interpreter, and stay far below.
pub(super) const MODULE_BYTES_MAX: u64 = 64 << 20;

/// Makes a directory that no other user of the machine can read or write.
pub(super) fn private_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// The time of the machine's clock, for people. It decides nothing but the order of versions.
#[expect(clippy::disallowed_methods, reason = "when a module came or failed is told to people")]
pub(super) fn wall_time() -> DateTime<Utc> {
    Utc::now()
}
