//! The message of a panic, where the gateway finds it after the module has ended: the exported global `eye_last_words` is the
//! address of a length in four bytes, little-endian, and of so many bytes of text.

use std::fmt::{self, Write as _};
use std::panic;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// Bytes of a message that are kept.
const BYTES_MAX: usize = 1024;

/// In the order in which the gateway reads it.
#[repr(C)]
struct LastWords {
    length: AtomicU32,
    text: [AtomicU8; BYTES_MAX],
}

#[expect(unsafe_code, reason = "the gateway finds the static by its name, which no other item has")]
#[unsafe(no_mangle)]
static eye_last_words: LastWords =
    LastWords { length: AtomicU32::new(0), text: [const { AtomicU8::new(0) }; BYTES_MAX] };

/// Has the message of a panic kept.
pub(crate) fn keep() {
    panic::set_hook(Box::new(|panic| {
        eye_last_words.length.store(0, Relaxed);
        // What does not fit is left out.
        let _ = write!(Writer, "{panic}");
    }));
}

struct Writer;

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let used = eye_last_words.length.load(Relaxed) as usize;
        let room = &eye_last_words.text[used.min(BYTES_MAX)..];
        for (place, byte) in room.iter().zip(text.bytes()) {
            place.store(byte, Relaxed);
        }
        let used = used + text.len().min(room.len());
        eye_last_words.length.store(u32::try_from(used).unwrap_or(0), Relaxed);
        if used < BYTES_MAX { Ok(()) } else { Err(fmt::Error) }
    }
}
