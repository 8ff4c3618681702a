//! Reads a small text file. A file beyond its bound is an error, since a cut value would be a different setting.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The text of a file of at most `bytes_max`. The error names the file.
pub(super) fn read(path: &Path, bytes_max: u64) -> Result<String, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if bytes.len() as u64 > bytes_max {
        return Err(format!("{shown} has more than {bytes_max} bytes, which is more than is read of such a file"));
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("{shown} is no UTF-8 from byte {} on", error.utf8_error().valid_up_to()))
}
