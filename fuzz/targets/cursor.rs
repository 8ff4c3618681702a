//! Cursors of pages: no text brings them down, and what one names is named again by the cursor that is made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|asked: (&str, &str)| eye::query::hold_cursors(asked.0, asked.1));
