//! Checks `eye_event::json` against Postgres: the scan accepts exactly the texts that Postgres accepts as `jsonb`, and
//! Postgres returns what was sent. This module makes the texts and compares; the caller provides a Postgres.

use std::collections::BTreeMap;

use eye_event::json::{Cursor, Flaw, Kind, Limits, Scratch, SyntaxError};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::value::RawValue;

/// Defines `read_back($1)`, which returns what Postgres makes of a text, or null if it refuses it. Any error is a
/// refusal.
pub(crate) const READ_BACK: &str = "
    create function pg_temp.read_back(sent text) returns text language plpgsql as $$
    begin
        return sent::jsonb::text;
    exception when others then
        return null;
    end $$";

/// Limits that refuse no text and report every flaw.
const LIMITS: Limits = Limits {
    bytes_max: usize::MAX,
    nesting_max: 4096,
    expanded_bytes_max: usize::MAX,
    number_digits_max: usize::MAX,
    flaws_max: usize::MAX,
};

/// The counts of a run, so that its caller can see that both answers were well represented.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) taken: usize,
    /// The accepted texts that are an object or an array.
    pub(crate) containers: usize,
    pub(crate) not_json: usize,
    pub(crate) flawed: BTreeMap<&'static str, usize>,
}

impl Tally {
    /// Panics unless each kind of answer occurred often enough among this many cases.
    fn is_well_mixed(&self, count: usize) {
        let flawed = ["nul", "surrogate", "number_range", "duplicate_key"].map(|code| self.flawed.get(code).copied());
        let rarest = flawed.into_iter().map(Option::unwrap_or_default).min().unwrap_or_default();
        let often = [self.taken, self.containers, self.not_json].into_iter().min().unwrap_or_default();
        assert!(rarest >= count / 200 && often >= count / 10, "of {count} texts: {self:?}");
    }
}

/// Makes `count` texts from a seed, asks Postgres for each, and panics with the simplest text that it can find on which
/// the scan and Postgres differ.
pub(crate) fn scan_agrees_with_postgres(
    seed: u64,
    count: usize,
    mut ask: impl FnMut(&[String]) -> Vec<Option<String>>,
) -> Tally {
    const BATCH: usize = 2000;
    let strategy = text();
    let mut tally = Tally::default();
    let cases: Vec<u64> = (0..count as u64).collect();
    for batch in cases.chunks(BATCH) {
        // A tree that can be simplified takes a thousand times the memory of its text, so only the text is kept.
        let texts: Vec<String> = batch.iter().map(|&case| tree(&strategy, seed, case).current()).collect();
        let answers = ask(&texts);
        assert_eq!(answers.len(), texts.len(), "an answer to each text");
        for ((&case, text), answer) in batch.iter().zip(texts).zip(answers) {
            if let Err(difference) = compare(&text, answer.as_deref(), &mut tally) {
                let (text, difference) = simplest(tree(&strategy, seed, case), text, difference, &mut ask);
                panic!("seed {seed}, case {case}: {difference}\ntext: {text:?}");
            }
        }
    }
    tally.is_well_mixed(count);
    tally
}

/// The text of one case, which is always the same, in a form that can be simplified.
fn tree<S: Strategy<Value = String>>(strategy: &S, seed: u64, case: u64) -> S::Tree {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&case.to_le_bytes());
    // Not XorShift: with such similar seeds it makes the same first choices in every case, and all texts have one form.
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    strategy.new_tree(&mut runner).expect("the strategies reject nothing")
}

/// Simplifies a text as long as the scan and Postgres differ on it.
fn simplest(
    mut tree: impl ValueTree<Value = String>,
    mut text: String,
    mut difference: String,
    ask: &mut impl FnMut(&[String]) -> Vec<Option<String>>,
) -> (String, String) {
    let mut moved = tree.simplify();
    while moved {
        let simpler = tree.current();
        let answer = ask(std::slice::from_ref(&simpler)).remove(0);
        moved = match compare(&simpler, answer.as_deref(), &mut Tally::default()) {
            Ok(()) => tree.complicate(),
            Err(simpler_difference) => {
                (text, difference) = (simpler, simpler_difference);
                tree.simplify()
            }
        };
    }
    (text, difference)
}

fn compare(text: &str, read_back: Option<&str>, tally: &mut Tally) -> Result<(), String> {
    let scanned = scan(text, &LIMITS);
    let walked = walk_all(text);
    if scanned.as_ref().err() != walked.as_ref().err() {
        return Err(format!("entering and scanning differ: {walked:?}, {scanned:?}"));
    }
    let flaws = match (&scanned, read_back) {
        (Err(_), None) => {
            tally.not_json += 1;
            return Ok(());
        }
        (Err(error), Some(_)) => return Err(format!("Postgres takes what the scan calls no JSON: {error:?}")),
        (Ok(flaws), _) => flaws,
    };
    for flaw in flaws {
        *tally.flawed.entry(flaw.code).or_default() += 1;
    }
    let refused = flaws.iter().any(|flaw| matches!(flaw.code, "nul" | "surrogate" | "number_range"));
    let Some(read_back) = read_back else {
        return if refused { Ok(()) } else { Err(format!("Postgres refuses what the scan takes: {flaws:?}")) };
    };
    if refused {
        return Err(format!("Postgres takes what the scan refuses: {flaws:?}"));
    }
    tally.taken += 1;
    tally.containers += usize::from(text.trim_ascii().starts_with(['{', '[']));
    let (mut repeats, mut none) = (false, false);
    if canonical(text, &mut repeats) != canonical(read_back, &mut none) {
        return Err(format!("Postgres reads back {read_back}"));
    }
    if repeats != flaws.iter().any(|flaw| flaw.code == "duplicate_key") {
        return Err(format!("a key is repeated: {repeats}, but the flaws are {flaws:?}"));
    }
    budget_is_exact(text, read_back)
}

/// A number with an exponent needs a budget of exactly the bytes that Postgres writes.
fn budget_is_exact(text: &str, read_back: &str) -> Result<(), String> {
    let number = text.trim_ascii();
    if !number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) || !number.contains(['e', 'E']) {
        return Ok(());
    }
    for (expanded_bytes_max, flaws) in [(read_back.len(), 0), (read_back.len() - 1, 1)] {
        let found = scan(text, &Limits { expanded_bytes_max, ..LIMITS });
        if found.as_ref().map(Vec::len) != Ok(flaws) {
            return Err(format!("of {} bytes, {expanded_bytes_max} allowed: {found:?}", read_back.len()));
        }
    }
    Ok(())
}

fn scan(text: &str, limits: &Limits) -> Result<Vec<Flaw>, SyntaxError> {
    let mut cursor = Cursor::new(text);
    let value = cursor.scan_value(&mut Scratch::new(), limits)?;
    cursor.end()?;
    Ok(value.flaws)
}

/// Reads a text by entering every container, up to a depth at which that could overflow the stack.
fn walk_all(text: &str) -> Result<(), SyntaxError> {
    let mut cursor = Cursor::new(text);
    walk(&mut cursor, &mut Scratch::new(), 0)?;
    cursor.end()
}

fn walk(cursor: &mut Cursor, scratch: &mut Scratch, depth: usize) -> Result<(), SyntaxError> {
    match cursor.kind()? {
        Kind::Object if depth < 100 => {
            cursor.enter_object()?;
            while cursor.next_member()?.is_some() {
                walk(cursor, scratch, depth + 1)?;
            }
        }
        Kind::Array if depth < 100 => {
            cursor.enter_array()?;
            while cursor.next_element()? {
                walk(cursor, scratch, depth + 1)?;
            }
        }
        _ => drop(cursor.scan_value(scratch, &LIMITS)?),
    }
    Ok(())
}

/// A value in one spelling, read without the scan. Two texts have the same meaning if these are equal. The last of
/// repeated keys counts, as in jsonb.
fn canonical(text: &str, repeats: &mut bool) -> String {
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    match text.as_bytes()[0] {
        b'{' => {
            let Members(members) = serde_json::from_str(text).expect("Postgres took this object");
            let count = members.len();
            let last: BTreeMap<String, String> =
                members.into_iter().map(|(key, value)| (key, canonical(value.get(), repeats))).collect();
            *repeats |= last.len() < count;
            // Only keys and strings are quoted, since quoting a quoted text doubles it at every level.
            let members: Vec<String> = last.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
            format!("{{{}}}", members.join(","))
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).expect("Postgres took this array");
            let elements: Vec<String> = elements.iter().map(|element| canonical(element.get(), repeats)).collect();
            format!("[{}]", elements.join(","))
        }
        b'"' => format!("{:?}", serde_json::from_str::<String>(text).expect("Postgres took this string")),
        b'-' | b'0'..=b'9' => canonical_number(text),
        _ => text.to_owned(),
    }
}

/// The sign, the digits from the first to the last nonzero one, and the exponent of the last.
fn canonical_number(text: &str) -> String {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let significant = digits.trim_end_matches('0');
    let zeros = (digits.len() - significant.len()) as i64;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return "0".to_owned();
    }
    let exponent = exponent.parse::<i64>().expect("Postgres took this exponent") - fraction.len() as i64 + zeros;
    format!("{}{significant}e{exponent}", if whole.starts_with('-') { "-" } else { "" })
}

/// The members of an object in their order, including repeated ones.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Texts: JSON of all kinds, and JSON with a few changed characters.
fn text() -> impl Strategy<Value = String> {
    let sound = prop_oneof![
        10 => value(),
        3 => (space(), number(), space()).prop_map(|(before, number, after)| before + &number + &after),
        2 => string(),
        1 => nested(),
        1 => many_members(),
        1 => r#"[ \t\n\r\[\]{},:"\\01-9eE+.truefalsn]{0,12}"#,
    ];
    let mutations = prop_oneof![
        3 => Just(Vec::new()).boxed(),
        2 => prop::collection::vec((any::<prop::sample::Index>(), mutation()), 1..4).boxed(),
    ];
    (sound, mutations).prop_map(|(mut text, mutations)| {
        for (at, mutation) in mutations {
            text = mutate(&text, at, &mutation);
        }
        text
    })
}

#[derive(Clone, Debug)]
enum Mutation {
    Insert(String),
    Replace(String),
    Delete,
    Cut,
    Repeat,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        3 => piece().prop_map(Mutation::Insert),
        3 => piece().prop_map(Mutation::Replace),
        3 => Just(Mutation::Delete),
        1 => Just(Mutation::Cut),
        1 => Just(Mutation::Repeat),
    ]
}

fn mutate(text: &str, at: prop::sample::Index, mutation: &Mutation) -> String {
    let starts: Vec<usize> = text.char_indices().map(|(start, _)| start).chain([text.len()]).collect();
    let chosen = at.index(starts.len());
    let start = starts[chosen];
    let end = starts.get(chosen + 1).copied().unwrap_or(start);
    let (before, character, after) = (&text[..start], &text[start..end], &text[end..]);
    match mutation {
        Mutation::Insert(piece) => format!("{before}{piece}{character}{after}"),
        Mutation::Replace(piece) => format!("{before}{piece}{after}"),
        Mutation::Delete => format!("{before}{after}"),
        Mutation::Cut => before.to_owned(),
        Mutation::Repeat => format!("{before}{character}{character}{after}"),
    }
}

/// Text that is inserted where it may not belong.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => r#"[ \[\]{},:"\\/0-9eE+.trufalsnbx'-]"#,
        1 => r"[\x00-\x20\x7f]",
        1 => prop::sample::select(vec!["\u{a0}", "\u{feff}", "\u{2028}", "\u{85}", "\u{3000}", "٣", "é", "NaN", "Infinity", "//", "/**/"])
            .prop_map(str::to_owned),
        1 => string_piece(),
        1 => number(),
    ]
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => Just(String::new()),
        4 => "[ \t\n\r]{1,3}",
        1 => " {10,20}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        3 => number(),
        4 => string(),
        1 => prop::sample::select(vec!["true", "false", "null"]).prop_map(str::to_owned),
    ];
    let leaf = (space(), scalar, space()).prop_map(|(before, scalar, after)| before + &scalar + &after);
    leaf.prop_recursive(5, 40, 6, |inner| {
        let members = prop::collection::vec((space(), key(), space(), inner.clone()), 0..6);
        let object = members.prop_map(|members| {
            let members: Vec<String> = members
                .into_iter()
                .map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"))
                .collect();
            format!("{{{}}}", members.join(","))
        });
        let array = prop::collection::vec(inner, 0..6).prop_map(|elements| format!("[{}]", elements.join(",")));
        (space(), prop_oneof![object, array], space()).prop_map(|(before, value, after)| before + &value + &after)
    })
}

/// So few keys that they repeat, in several spellings.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-d]".prop_map(|key| format!("\"{key}\"")),
        1 => "[a-d]".prop_map(|key| format!("\"\\u00{:02x}\"", key.as_bytes()[0])),
        1 => "[ab]{0,2}[é/]".prop_map(|key| format!("\"{key}\"")),
        1 => r"[ab]{0,2}(\\u00e9|\\u00E9|\\/)".prop_map(|key| format!("\"{key}\"")),
        1 => "[a-c]{7,18}".prop_map(|key| format!("\"{key}\"")),
        2 => string(),
    ]
}

/// Objects just below and above the number of keys from which on they are hashed.
fn many_members() -> impl Strategy<Value = String> {
    let repeated = prop_oneof![2 => Just(String::new()), 1 => r#""[a-e]{2}":0,"#, 1 => r#""\\u006[1-5][a-e]":0,"#];
    (prop::collection::hash_set("[a-e]{2}|[a-z]{3,20}", 12..40), repeated).prop_map(|(keys, repeated)| {
        let members: Vec<String> = keys.into_iter().map(|key| format!("\"{key}\":0")).collect();
        format!("{{{repeated}{}}}", members.join(","))
    })
}

/// Deeply nested containers.
fn nested() -> impl Strategy<Value = String> {
    (prop::collection::vec(any::<bool>(), 0..130), value()).prop_map(|(levels, value)| {
        let opening: String = levels.iter().map(|&is_object| if is_object { r#"{"a":"# } else { "[1," }).collect();
        let closing: String = levels.iter().rev().map(|&is_object| if is_object { "}" } else { "]" }).collect();
        opening + &value + &closing
    })
}

fn string() -> impl Strategy<Value = String> {
    prop::collection::vec(string_piece(), 0..8).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn string_piece() -> impl Strategy<Value = String> {
    prop_oneof![
        120 => "[a-z ]{1,12}",
        30 => any::<char>().prop_filter("ends the string", |&character| !matches!(character, '\0'..' ' | '"' | '\\')).prop_map(String::from),
        30 => r#"\\[\\"/bfnrt]"#,
        30 => r"\\u[0-9a-fA-F]{4}",
        20 => r"\\u[dD][89abAB][0-9a-f]{2}\\u[dD][c-fC-F][0-9a-f]{2}",
        3 => r"\\u[dD][89a-f][0-9a-f]{2}",
        2 => r"\\u00(0[0-9a-f]|[189][0-9a-f]|7f)",
        1 => r"\\u0000",
        1 => r"\\u[0-9a-g]{0,4}",
        1 => r"\\[a-zA-Z0-9']",
        1 => r"[\x01-\x1f]",
        2 => prop::sample::select(vec!['\u{7f}', '\u{80}', '\u{9f}', '\u{2028}', '\u{fffe}', '\u{ffff}', '\u{feff}', '\u{10ffff}', '\u{fdd0}'])
            .prop_map(String::from),
    ]
}

/// Numbers, many of them close to a bound of numeric.
fn number() -> impl Strategy<Value = String> {
    let whole = prop_oneof![
        40 => "0|[1-9][0-9]{0,5}",
        10 => "[1-9][0-9]{15,40}",
        1 => (1..=9_u8, 131_060..131_080_usize).prop_map(|(first, count)| format!("{first}{}", "0".repeat(count))),
        1 => (1..=9_u8, 1000..20_000_usize).prop_map(|(digit, count)| digit.to_string().repeat(count)),
    ];
    let fraction = prop_oneof![
        40 => Just(String::new()).boxed(),
        20 => r"\.[0-9]{1,6}".boxed(),
        10 => r"\.0{1,30}[0-9]?".boxed(),
        1 => (16_375..16_390_usize, 0..=9_u8).prop_map(|(count, last)| format!(".{}{last}", "0".repeat(count))).boxed(),
        1 => (1000..40_000_usize, 0..=9_u8).prop_map(|(count, digit)| format!(".{}", digit.to_string().repeat(count))).boxed(),
    ];
    let magnitude = prop_oneof![
        20 => (0..40_i64).boxed(),
        3 => (16_340..16_400_i64).boxed(),
        2 => (131_030..131_120_i64).boxed(),
        2 => (114_600..114_800_i64).boxed(),
        2 => (147_400..147_500_i64).boxed(),
        2 => (1_073_741_820..1_073_741_826_i64).boxed(),
        1 => (2_147_483_640..2_147_483_656_i64).boxed(),
        1 => any::<u32>().prop_map(i64::from).boxed(),
        1 => ((i64::MAX - 3)..=i64::MAX).boxed(),
    ];
    let exponent = prop_oneof![
        30 => Just(String::new()).boxed(),
        20 => ("[eE][+-]?0{0,3}", magnitude).prop_map(|(sign, magnitude)| format!("{sign}{magnitude}")).boxed(),
        1 => "[eE][+-]?[0-9]{18,25}".boxed(),
    ];
    ("-?", whole, fraction, exponent)
        .prop_map(|(sign, whole, fraction, exponent)| sign + &whole + &fraction + &exponent)
}

/// Texts go in as bytes and come out as hex, one per line. A text with NUL, which is no text to Postgres, is refused
/// too.
const ANSWER: &str = "
    create function pg_temp.answer(sent bytea) returns text language plpgsql as $$
    begin
        return encode(convert_to(pg_temp.read_back(convert_from(sent, 'utf8')), 'utf8'), 'hex');
    exception when others then
        return null;
    end $$";

#[tokio::test]
async fn the_scan_takes_exactly_what_postgres_takes() {
    let gateway = crate::support::Gateway::start().await;
    let ask = |texts: &[String]| {
        let mut script = format!("{READ_BACK};\n{ANSWER};\n");
        for text in texts {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            script.push_str(&format!("select coalesce(pg_temp.answer('\\x{hex}'), '-');\n"));
        }
        gateway.sql_script(&script).lines().map(unhex).collect()
    };
    scan_agrees_with_postgres(20_261_123, 5_000, ask);
}

fn unhex(line: &str) -> Option<String> {
    if line == "-" {
        return None;
    }
    let bytes = (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hex")).collect();
    Some(String::from_utf8(bytes).expect("Postgres gives UTF-8"))
}
