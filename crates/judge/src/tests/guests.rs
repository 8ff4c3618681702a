//! Guests in WebAssembly text. All share a memory of two pages, a bump allocator that grows it, and `describe`; each is
//! told apart by the body of `validate` and a few declarations.

use eye_event::verdict::FaultCode;
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// What a guest is made of. `Default` accepts everything and has no examples.
pub(super) struct Guest<'a> {
    /// Instructions that leave the address of a verdict; `$data` and `$length` are the event's data.
    pub(super) validate: &'a str,
    /// Further declarations: globals, functions, data.
    pub(super) more: &'a str,
    /// Instructions before `describe` answers.
    pub(super) describe: &'a str,
    /// The `data` of the one example, and the ordinal of the verdict it expects.
    pub(super) example: Option<(&'a str, u8)>,
    /// A word that makes the content, and so the digest, another one.
    pub(super) salt: &'a str,
    /// The world that the metadata names, in place of the contract.
    pub(super) wit: &'a str,
}

/// The contract of the gateway.
pub(super) const CONTRACT: &str = include_str!("../../../../wit/validator.wit");

/// Leaves the verdict "accept".
pub(super) const ACCEPT: &str = "(i32.const 2048)";
/// Leaves a rejection with the code `no`.
pub(super) const REJECT: &str = "(i32.const 2064)";
/// Leaves an amendment to `{"amended":true}`.
pub(super) const AMEND: &str = "(i32.const 2128)";

impl Default for Guest<'_> {
    fn default() -> Self {
        Self { validate: ACCEPT, more: "", describe: "", example: None, salt: "", wit: CONTRACT }
    }
}

impl Guest<'_> {
    /// The guest as a core module with WIT metadata, as cargo makes them.
    pub(super) fn core(&self) -> Vec<u8> {
        let mut bytes = wat::parse_str(self.text()).expect("the guest's text is right");
        self.embed(&mut bytes);
        bytes
    }

    /// Puts the WIT metadata into a core module.
    pub(super) fn embed(&self, bytes: &mut Vec<u8>) {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("guest.wit", self.wit).expect("the guest's WIT is right");
        let world = resolve.select_world(&[package], None).expect("one world");
        wit_component::embed_component_metadata(bytes, &resolve, world, StringEncoding::UTF8).expect("embedded");
    }

    pub(super) fn text(&self) -> String {
        let Self { validate, more, describe, salt, .. } = self;
        let (examples, example_data, expect) = match self.example {
            None => (0, "", 0),
            Some((data, expect)) => (1, data, expect),
        };
        format!(
            r#"(module
              (memory (export "memory") 2)
              (global $top (mut i32) (i32.const 16384))
              (func $allocate (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
                (global.set $top (i32.add (local.get $at) (local.get 3)))
                (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
                  (then (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1)
                      (i32.div_u (local.get 3) (i32.const 65536))))) (then unreachable))))
                (local.get $at))
              (func (export "describe") (result i32) {describe}
                (i32.store (i32.const 1024) (i32.const 1100)) (i32.store (i32.const 1028) (i32.const {salted}))
                (i32.store (i32.const 1032) (i32.const 1040)) (i32.store (i32.const 1036) (i32.const {examples}))
                (i32.store (i32.const 1040) (i32.const 1100)) (i32.store (i32.const 1044) (i32.const 5))
                (i32.store (i32.const 1048) (i32.const 1200)) (i32.store (i32.const 1052) (i32.const {data_length}))
                (i32.store8 (i32.const 1056) (i32.const {expect}))
                (i32.const 1024))
              (func (export "validate") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64)
                  (param $data i32) (param $length i32) (result i32) {validate})
              {more}
              (data (i32.const 1100) "guest{salt}")
              (data (i32.const 1200) "{data}")
              (data (i32.const 2048) "\00")
              (data (i32.const 2064) "\02\00\00\00\20\08\00\00\01\00\00\00")
              (data (i32.const 2080) "\00\00\00\00\00\00\00\00\40\08\00\00\02\00\00\00\40\08\00\00\02\00\00\00")
              (data (i32.const 2112) "no")
              (data (i32.const 2128) "\01\00\00\00\60\08\00\00\10\00\00\00")
              (data (i32.const 2144) "{{\22amended\22:true}}"))"#,
            salted = 5 + salt.len(),
            data_length = example_data.len(),
            data = example_data.replace('"', "\\22"),
        )
    }
}

/// A guest with this `validate`.
pub(super) fn judges(validate: &str) -> Vec<u8> {
    Guest { validate, ..Guest::default() }.core()
}

/// A guest that accepts everything, and that no instance may serve twice.
pub(super) fn new_for_each_event() -> Vec<u8> {
    let fills = "(table.set $t (i32.const 0) (ref.func $f)) (i32.const 2048)";
    let more = "(table $t 1 funcref) (func $f) (elem declare func $f)";
    Guest { validate: fills, more, ..Guest::default() }.core()
}

/// Guests that fault, each with the code of its fault.
pub(super) fn faults() -> Vec<(FaultCode, Vec<u8>)> {
    let write = |address: u32, value: u32| format!("(i32.store (i32.const {address}) (i32.const {value}))");
    let huge = format!(
        "(drop (memory.grow (i32.const 200))) (i32.store8 (i32.const 3000) (i32.const 1)) {} {} (i32.const 3000)",
        write(3004, 65536),
        write(3008, 10_000_000)
    );
    let text = |text: &str| {
        format!(
            "(i32.store8 (i32.const 3000) (i32.const 1)) {} {} (i32.const 3000)",
            write(3004, 4000),
            write(3008, u32::try_from(text.len()).expect("short"))
        )
    };
    let with = |validate: String, more: &str| Guest { validate: &validate, more, ..Guest::default() }.core();
    vec![
        (FaultCode::Trap, judges("unreachable")),
        (FaultCode::Trap, judges("(i32.load (i32.const -4))")),
        (FaultCode::Deadline, judges("(loop (br 0)) unreachable")),
        (
            FaultCode::Memory,
            judges("(loop (br_if 0 (i32.ne (i32.const -1) (memory.grow (i32.const 64))))) unreachable"),
        ),
        (
            FaultCode::Memory,
            with(
                "(loop (br_if 0 (i32.ne (i32.const -1) (table.grow $t (ref.null func) (i32.const 1000))))) unreachable"
                    .into(),
                "(table $t 1 funcref)",
            ),
        ),
        (
            FaultCode::Stack,
            with(
                "(call $deep (i32.const 1))".into(),
                "(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (i32.add (local.get 0) (i32.const 1)))))",
            ),
        ),
        (FaultCode::Output, with(huge, "")),
        (FaultCode::Output, with(text("not json"), "(data (i32.const 4000) \"not json\")")),
        (FaultCode::Output, with(text("[1]"), "(data (i32.const 4000) \"[1]\")")),
        (FaultCode::Output, with(text("\u{ff}"), "(data (i32.const 4000) \"\\ff\\ff\")")),
        (FaultCode::Output, judges("(i32.store8 (i32.const 3000) (i32.const 9)) (i32.const 3000)")),
        (FaultCode::Output, judges("(i32.const 3001)")),
        (FaultCode::Output, judges("(i32.const -16)")),
        // A rejection without violations, and one with a hundred thousand.
        (FaultCode::Output, judges("(i32.store (i32.const 2072) (i32.const 0)) (i32.const 2064)")),
        (FaultCode::Output, judges("(i32.store (i32.const 2072) (i32.const 100000)) (i32.const 2064)")),
        // A pointer that is none: the text "no".
        (
            FaultCode::Output,
            judges(
                "(i32.store (i32.const 2080) (i32.const 2112)) (i32.store (i32.const 2084) (i32.const 2)) (i32.const 2064)",
            ),
        ),
    ]
}
