//! Names of module files: whatever names a slot has one canonical file, and that file names the same slot.
#![no_main]

use eye_judge::Slot;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(slot) = Slot::parse(text) else { return };
    let canonical = slot.to_string();
    assert_eq!(Slot::parse(&canonical).as_ref(), Ok(&slot), "{text:?} as {canonical:?}");
    let file = slot.file();
    // Nothing that is decoded leaves the directory.
    assert!(file.is_relative() && file.components().count() <= 2, "{file:?}");
    assert!(file.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{file:?}");
});
