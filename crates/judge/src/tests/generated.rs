//! Modules that a machine writes: each changes all the state that it can, by instructions of every kind, and answers each event
//! with a hash of all of it. So a verdict tells whether anything at all differs: a byte of memory, a bit of a global, an entry
//! of a table, or how places for texts were asked for.

use std::fmt::Write as _;

/// Numbers that a seed decides.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).expect("small")]
    }
}

/// Which state a module changes, and so in which ways it can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Reach {
    /// All that can be followed.
    Followed,
    /// Also what can be taken, but not followed.
    Taken,
    /// Also what can only come about anew.
    Anew,
}

/// A module, in one part or two of which the second imports from the first.
pub(super) struct Generated {
    pub(super) reach: Reach,
    pub(super) parts: Vec<String>,
}

/// What an event's data begins with so that a module breaks, after it has changed its state.
pub(super) mod breaks {
    pub(in super::super) const TRAP: &str = "{T";
    pub(in super::super) const POST_RETURN: &str = "{P";
    pub(in super::super) const REALLOC: &str = "{R";
    pub(in super::super) const SPIN: &str = "{S";
    pub(in super::super) const MEMORY: &str = "{M";
    pub(in super::super) const OUTPUT: &str = "{O";
    pub(in super::super) const STACK: &str = "{D";
}

/// The second byte of the data, where it says how to break.
fn told(breaks: &str) -> u32 {
    u32::from(breaks.as_bytes()[1])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    I32,
    I64,
    F32,
    F64,
    V128,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::V128 => "v128",
        }
    }

    /// A value of this type with the bits of one of 64.
    fn of_bits(self, bits: &str) -> String {
        match self {
            Self::I32 => format!("(i32.wrap_i64 {bits})"),
            Self::I64 => bits.to_owned(),
            Self::F32 => format!("(f32.reinterpret_i32 (i32.wrap_i64 {bits}))"),
            Self::F64 => format!("(f64.reinterpret_i64 {bits})"),
            Self::V128 => format!("(i64x2.splat {bits})"),
        }
    }

    /// The bits of a value, as 64.
    fn bits(self, value: &str) -> String {
        match self {
            Self::I32 => format!("(i64.extend_i32_u {value})"),
            Self::I64 => value.to_owned(),
            Self::F32 => format!("(i64.extend_i32_u (i32.reinterpret_f32 {value}))"),
            Self::F64 => format!("(i64.reinterpret_f64 {value})"),
            Self::V128 => format!("(i64.add (i64x2.extract_lane 0 {value}) (i64x2.extract_lane 1 {value}))"),
        }
    }
}

/// Functions that can be called through tables, each with an answer of its own.
const HELPERS: u64 = 4;

/// Writes a module.
struct Writer {
    dice: Dice,
    reach: Reach,
    pages: u64,
    pages_max: u64,
    globals: Vec<Type>,
    /// Globals with a reference to a function.
    references: u64,
    table_entries: u64,
    /// How deep statements are nested.
    depth: u32,
}

/// A module of a seed.
pub(super) fn generate(seed: u64) -> Generated {
    let mut dice = Dice::new(seed);
    let reach = dice.pick(&[Reach::Followed, Reach::Followed, Reach::Followed, Reach::Taken, Reach::Anew]);
    let types = [Type::I32, Type::I64, Type::F32, Type::F64, Type::V128];
    let globals = (0..=dice.below(6)).map(|_| dice.pick(&types)).collect();
    let pages = 1 + dice.below(3);
    let mut writer = Writer {
        reach,
        pages,
        pages_max: pages + dice.below(4),
        globals,
        references: if reach == Reach::Anew { dice.below(3) } else { 0 },
        table_entries: 4 + dice.below(6),
        depth: 0,
        dice,
    };
    let parts = writer.module();
    Generated { reach, parts }
}

impl Writer {
    /// An expression of 64 bits out of the state, and of what is passed on in `$x`.
    fn bits(&mut self) -> String {
        match self.dice.below(9) {
            0 | 1 => format!("(i64.const {})", self.dice.next().cast_signed()),
            2 | 3 => "(local.get $x)".to_owned(),
            4 => {
                let (at, ty) = self.global();
                ty.bits(&format!("(global.get $g{at})"))
            }
            5 => format!("(i64.load {} {})", self.offset(), self.address(8)),
            6 => "(i64.extend_i32_u (memory.size))".to_owned(),
            7 => format!("(call $h{})", self.dice.below(HELPERS)),
            _ => {
                let operator = self.dice.pick(&["add", "sub", "mul", "xor", "rotl", "or"]);
                format!("(i64.{operator} (local.get $x) (i64.const {}))", self.dice.next().cast_signed())
            }
        }
    }

    fn global(&mut self) -> (u64, Type) {
        let at = self.dice.below(self.globals.len() as u64);
        (at, self.globals[usize::try_from(at).expect("small")])
    }

    /// An address at which so many bytes, and the offset, lie within the memory that there is from the start.
    fn address(&mut self, bytes: u64) -> String {
        let bound = self.pages * 65_536 - bytes - 64;
        // Borders of what is followed together, and the very end.
        match self.dice.below(8) {
            0 => format!("(i32.const {})", self.dice.below(bound / 512).max(1) * 512 - self.dice.below(16).min(bytes)),
            1 => format!("(i32.const {bound})"),
            _ => format!("(i32.wrap_i64 (i64.rem_u (local.get $x) (i64.const {bound})))"),
        }
    }

    fn offset(&mut self) -> String {
        if self.dice.one_in(3) { format!("offset={}", self.dice.below(64)) } else { String::new() }
    }

    /// Something that changes the state.
    fn statement(&mut self) -> String {
        let statement = match self.dice.below(14) {
            0..=3 => self.store(),
            4 | 5 => {
                let (at, ty) = self.global();
                format!("(global.set $g{at} {})", ty.of_bits(&self.bits()))
            }
            6 => {
                let length = self.length();
                let (to, from) = (self.address(length), self.address(length));
                format!("(memory.copy {to} {from} (i32.const {length}))")
            }
            7 => {
                let length = self.length();
                format!(
                    "(memory.fill {} (i32.const {}) (i32.const {length}))",
                    self.address(length),
                    self.dice.below(256)
                )
            }
            8 if self.dice.one_in(3) => self.mixed("(i64.extend_i32_s (memory.grow (i32.const 1)))"),
            9 if self.depth < 2 => {
                self.depth += 1;
                let (then, otherwise) = (self.statements(2), self.statements(1));
                self.depth -= 1;
                format!("(if (i32.wrap_i64 (i64.and {} (i64.const 1))) (then {then}) (else {otherwise}))", self.bits())
            }
            10 => {
                let entry = format!("(i32.wrap_i64 (i64.rem_u (local.get $x) (i64.const {})))", self.table_entries);
                let call = self.mixed(&format!("(call_indirect $t (type $helper) {entry})"));
                format!("(if (i32.eqz (ref.is_null (table.get $t {entry}))) (then {call}))")
            }
            11 | 12 if self.reach > Reach::Followed => self.beyond_marks(),
            _ => self.store(),
        };
        let bits = self.bits();
        format!("{statement} {}\n", self.mixed(&bits))
    }

    /// Passes a value on in `$x`.
    fn mixed(&mut self, bits: &str) -> String {
        let turn = 1 + self.dice.below(63);
        format!(
            "(local.set $x (i64.mul (i64.rotl (i64.xor (local.get $x) {bits}) (i64.const {turn})) (i64.const 1099511628211)))"
        )
    }

    fn length(&mut self) -> u64 {
        match self.dice.below(4) {
            0 => 0,
            1 => self.dice.below(16),
            2 => self.dice.below(3_000),
            _ => self.dice.below(40_000),
        }
    }

    fn store(&mut self) -> String {
        let (name, ty, bytes) = self.dice.pick(&[
            ("i32.store", Type::I32, 4),
            ("i32.store8", Type::I32, 1),
            ("i32.store16", Type::I32, 2),
            ("i64.store", Type::I64, 8),
            ("i64.store8", Type::I64, 1),
            ("i64.store16", Type::I64, 2),
            ("i64.store32", Type::I64, 4),
            ("f32.store", Type::F32, 4),
            ("f64.store", Type::F64, 8),
            ("v128.store", Type::V128, 16),
            ("v128.store8_lane", Type::V128, 1),
            ("v128.store16_lane", Type::V128, 2),
            ("v128.store32_lane", Type::V128, 4),
            ("v128.store64_lane", Type::V128, 8),
        ]);
        let lane = if name.ends_with("lane") { self.dice.below(2).to_string() } else { String::new() };
        let (offset, address, value) = (self.offset(), self.address(bytes), ty.of_bits(&self.bits()));
        format!("({name} {offset} {lane} {address} {value})")
    }

    /// Something that leaves no mark.
    fn beyond_marks(&mut self) -> String {
        let init = format!("(memory.init $d {} (i32.const 3) (i32.const 9))", self.address(16));
        if self.reach < Reach::Anew {
            return init;
        }
        let entry = self.dice.below(self.table_entries);
        let function = format!("(ref.func $h{})", self.dice.below(HELPERS));
        let reference = if self.dice.one_in(3) { "(ref.null func)".to_owned() } else { function };
        match self.dice.below(9) {
            0 => format!("(table.fill $t (i32.const {}) {reference} (i32.const 2))", entry.min(self.table_entries - 2)),
            1 => self.mixed(&format!("(i64.extend_i32_s (table.grow $t {reference} (i32.const 1)))")),
            2 => format!(
                "(table.copy $t $t (i32.const {}) (i32.const 0) (i32.const 2))",
                entry.min(self.table_entries - 2)
            ),
            3 => format!("(table.init $t $e (i32.const {entry}) (i32.const 0) (i32.const 1))"),
            4 if self.dice.one_in(4) => "(elem.drop $e)".to_owned(),
            5 if self.dice.one_in(4) => "(data.drop $d)".to_owned(),
            6 if self.references > 0 => format!("(global.set $r{} {reference})", self.dice.below(self.references)),
            7 => init,
            _ => format!("(table.set $t (i32.const {entry}) {reference})"),
        }
    }

    fn statements(&mut self, most: u64) -> String {
        (0..=self.dice.below(most)).map(|_| self.statement()).collect()
    }

    /// The hash of all state, and how it is written as text.
    fn hash(&self) -> String {
        let mix = |bits: &str| {
            format!(
                "(local.set $h (i64.mul (i64.xor (i64.rotl (local.get $h) (i64.const 5)) {bits}) (i64.const 1099511628211)))"
            )
        };
        let mut body = String::new();
        let word = mix("(i64.load (local.get $at))");
        let _ = write!(
            body,
            "(loop $words {word} (local.set $at (i32.add (local.get $at) (i32.const 8)))
              (br_if $words (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))"
        );
        for (at, ty) in self.globals.iter().enumerate() {
            body += &mix(&ty.bits(&format!("(global.get $g{at})")));
        }
        for of in ["$log", "$last"] {
            body += &mix(&format!("(global.get {of})"));
        }
        body += &mix("(i64.extend_i32_u (global.get $top))");
        body += &mix("(i64.extend_i32_u (table.size $t))");
        let entry = mix("(call_indirect $t (type $helper) (local.get $at))");
        let _ = write!(
            body,
            "(local.set $at (i32.const 0))
             (loop $entries
              (if (ref.is_null (table.get $t (local.get $at))) (then {none}) (else {entry}))
              (local.set $at (i32.add (local.get $at) (i32.const 1)))
              (br_if $entries (i32.lt_u (local.get $at) (table.size $t))))",
            none = mix("(i64.const 77)"),
        );
        for reference in 0..self.references {
            let call = mix("(call_indirect $scratch (type $helper) (i32.const 0))");
            let _ = write!(
                body,
                "(if (ref.is_null (global.get $r{reference})) (then {none}) (else
                  (table.set $scratch (i32.const 0) (global.get $r{reference})) {call}
                  (table.set $scratch (i32.const 0) (ref.null func))))",
                none = mix("(i64.const 78)"),
            );
        }
        format!(
            "(func $hash (result i64) (local $h i64) (local $at i32) {body} (local.get $h))
             (func $hex (param $to i32) (param $h i64) (local $digits i32) (local $digit i32)
              (loop $next
               (local.set $h (i64.rotl (local.get $h) (i64.const 4)))
               (local.set $digit (i32.and (i32.wrap_i64 (local.get $h)) (i32.const 15)))
               (i32.store8 (i32.add (local.get $to) (local.get $digits))
                (i32.add (local.get $digit) (select (i32.const 48) (i32.const 87) (i32.lt_u (local.get $digit) (i32.const 10)))))
               (local.set $digits (i32.add (local.get $digits) (i32.const 1)))
               (br_if $next (i32.lt_u (local.get $digits) (i32.const 16)))))"
        )
    }

    fn realloc(&mut self) -> String {
        let (more, gap) =
            (if self.dice.one_in(2) { self.statements(2) } else { String::new() }, 1 + self.dice.below(90));
        let mut log = String::new();
        for asked in 0..4 {
            log += &self.mixed(&format!("(i64.extend_i32_u (local.get {asked}))"));
        }
        let refuse = format!("(if (i32.eq (local.get 3) (i32.const {REFUSED_BYTES})) (then (unreachable)))");
        format!(
            r#"(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $x i64)
              (local.set $x (global.get $log)) {log} (global.set $log (local.get $x))
              (global.set $last (i64.add (global.get $last) (i64.load (global.get $top)))) {refuse} {more}
              (global.set $top (i32.add (global.get $top) (i32.const {gap})))
              (if (i32.gt_u (i32.add (global.get $top) (local.get 3)) (i32.const {end}))
                (then (global.set $top (i32.const 2048))))
              (global.get $top)
              (global.set $top (i32.add (global.get $top) (local.get 3))))"#,
            end = self.pages * 65_536 - 512,
        )
    }

    fn describe(&mut self) -> String {
        let (statements, start) = (self.statements(8), self.dice.next().cast_signed());
        let post = if self.dice.one_in(2) { self.post("describe") } else { String::new() };
        format!(
            r#"(func (export "describe") (result i32) (local $x i64)
              (local.set $x (i64.const {start})) {statements}
              (call $hex (i32.const 1040) (call $hash))
              (i32.store (i32.const 1024) (i32.const 1040)) (i32.store (i32.const 1028) (i32.const 16))
              (i32.store (i32.const 1032) (i32.const 0)) (i32.store (i32.const 1036) (i32.const 0))
              (i32.const 1024)) {post}"#
        )
    }

    fn post(&mut self, of: &str) -> String {
        let statements = self.statements(3);
        format!(
            r#"(func (export "cabi_post_{of}") (param i32) (local $x i64)
              (local.set $x (i64.extend_i32_u (local.get 0))) {statements}
              (if (global.get $bad) (then (unreachable))))"#
        )
    }

    fn validate(&mut self) -> String {
        let mut arguments = String::new();
        for argument in (0..13).filter(|argument| *argument != 10) {
            arguments += &self.mixed(&format!("(i64.extend_i32_u (local.get {argument}))"));
        }
        arguments += &self.mixed("(local.get 10)");
        arguments += &self.mixed("(i64.load (local.get 11))");
        let (before, after, post) = (self.statements(10), self.statements(4), self.post("validate"));
        let tail = if self.reach == Reach::Followed { "(call $verdict)" } else { "(return_call $verdict)" };
        let when = |breaks: &str, then: &str| {
            format!("(if (i32.eq (local.get $how) (i32.const {})) (then {then}))", told(breaks))
        };
        let breaks = [
            when(breaks::TRAP, "(unreachable)"),
            when(breaks::POST_RETURN, "(global.set $bad (i32.const 1))"),
            when(breaks::SPIN, "(loop (br 0))"),
            when(breaks::MEMORY, "(call $hoard)"),
            when(breaks::OUTPUT, "(return (i32.const 1029))"),
            when(breaks::STACK, "(drop (call $deep (i32.const 1)))"),
        ]
        .concat();
        format!(
            r#"(func (export "validate") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
              (local $x i64) (local $how i32)
              (local.set $how (i32.load8_u offset=1 (local.get 11)))
              {arguments} {before} {breaks} {after} {tail}) {post}
            (func $deep (param i32) (result i32)
              (i32.add (i32.const 1) (call $deep (i32.add (local.get 0) (i32.const 1)))))
            (func $hoard (local $hoarded i32)
              (loop $more (drop (memory.grow (i32.const 1))) (br_if $more (i32.lt_u (memory.size) (i32.const {pages_max}))))
              (unreachable))
            ;; An amendment to the hash, and now and then a rejection with it.
            (func $verdict (result i32) (local $h i64)
              (local.set $h (call $hash))
              (if (i64.eqz (i64.and (local.get $h) (i64.const 7))) (then
                (call $hex (i32.const 1160) (local.get $h))
                (i32.store (i32.const 1104) (i32.const 1120)) (i32.store (i32.const 1108) (i32.const 1))
                (i64.store (i32.const 1120) (i64.const 0))
                (i32.store (i32.const 1128) (i32.const 1160)) (i32.store (i32.const 1132) (i32.const 16))
                (i32.store (i32.const 1136) (i32.const 1164)) (i32.store (i32.const 1140) (i32.const 5))
                (i32.store8 (i32.const 1100) (i32.const 2)) (return (i32.const 1100))))
              (i64.store (i32.const 1200) (i64.const 0x223a2268227b))
              (call $hex (i32.const 1206) (local.get $h))
              (i32.store16 (i32.const 1222) (i32.const 0x7d22))
              (i32.store (i32.const 1104) (i32.const 1200)) (i32.store (i32.const 1108) (i32.const 24))
              (i32.store8 (i32.const 1100) (i32.const 1)) (i32.const 1100))"#,
            pages_max = self.pages_max,
        )
    }

    fn helpers(&mut self) -> String {
        (0..HELPERS)
            .map(|helper| {
                let value = self.dice.next().cast_signed();
                format!("(func $h{helper} (export \"h{helper}\") (type $helper) (i64.add (i64.const {value}) (global.get $base)))")
            })
            .collect()
    }

    /// What is declared before the functions; in two parts, the first has some of it.
    fn module(&mut self) -> Vec<String> {
        let types = "(type $helper (func (result i64)))";
        let base = self.dice.next().cast_signed();
        let (fixed, at) = (3_000 + self.dice.below(40_000), 2_000 + self.dice.below(9_000));
        let (entries_max, helpers) = (self.table_entries + self.dice.below(5), self.helpers());
        let shared = format!(
            r#"(memory (export "memory") {pages} {pages_max})
            (table $t (export "t") {entries} {entries_max} funcref)
            (global $base (export "base") (mut i64) (i64.const {base}))
            (global $fixed (export "fixed") i32 (i32.const {fixed})) {helpers}
            (elem (table $t) (i32.const 1) func $h0 $h2)
            (data (i32.const {at}) "what stands in memory from the start")"#,
            pages = self.pages,
            pages_max = self.pages_max,
            entries = self.table_entries,
        );
        let mut own = format!(
            r#"(global $top (mut i32) (i32.const 2048)) (global $log (mut i64) (i64.const 1))
            (global $last (mut i64) (i64.const 2)) (global $bad (mut i32) (i32.const 0))
            {hash} {realloc} {describe} {validate}"#,
            hash = self.hash(),
            realloc = self.realloc(),
            describe = self.describe(),
            validate = self.validate(),
        );
        let globals = self.globals.clone();
        for (at, ty) in globals.into_iter().enumerate() {
            let value = match ty {
                Type::V128 => format!("(v128.const i64x2 {} 5)", self.dice.next().cast_signed()),
                Type::F32 | Type::F64 => format!("({}.const {}.5)", ty.name(), self.dice.below(99)),
                Type::I32 => format!("(i32.const {})", self.dice.below(1 << 31)),
                Type::I64 => format!("(i64.const {})", self.dice.next().cast_signed()),
            };
            let _ = write!(own, "(global $g{at} (mut {}) {value})", ty.name());
        }
        for reference in 0..self.references {
            let _ = write!(own, "(global $r{reference} (mut funcref) (ref.null func))");
        }
        if self.references > 0 {
            own += "(table $scratch 1 funcref)";
        }
        if self.reach > Reach::Followed {
            own += "(data $d \"a segment for later\")";
        }
        if self.reach == Reach::Anew {
            own += "(elem $e func $h1 $h3) (elem declare func $h0 $h1 $h2 $h3)";
        }
        if self.dice.one_in(3) {
            let _ = write!(own, "(func $start (local $x i64) {}) (start $start)", self.statements(6));
        }
        if self.reach == Reach::Anew || !self.dice.one_in(3) {
            return vec![format!("(module {types} {shared} (data (i32.const {fixed}) \"more of it\") {own})")];
        }
        let imports: String = (0..HELPERS)
            .map(|helper| format!("(import \"first\" \"h{helper}\" (func $h{helper} (type $helper)))"))
            .collect();
        let second = format!(
            r#"(module {types} (import "first" "memory" (memory {} {})) (import "first" "t" (table $t {} funcref))
            (import "first" "base" (global $base (mut i64))) (import "first" "fixed" (global $fixed i32)) {imports}
            (export "memory" (memory 0)) (data (offset (global.get $fixed)) "more of it") {own})"#,
            self.pages, self.pages_max, self.table_entries,
        );
        vec![format!("(module {types} {shared})"), second]
    }
}

/// A text of so many bytes is refused a place.
pub(super) const REFUSED_BYTES: usize = 77;
