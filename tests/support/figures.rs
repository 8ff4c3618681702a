//! Reads `/metrics` strictly by the OpenMetrics format: each line must be valid and in its place, and no sample may
//! occur twice.

use std::collections::BTreeMap;

/// The `Accept` header for that format.
pub(crate) const FORMAT: &str = "application/openmetrics-text;version=1.0.0";

pub(crate) type Labels = BTreeMap<String, String>;

/// All metrics of one scrape.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// The type of each metric, by its full name.
    pub(crate) types: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Figures {
    /// Reads a text, and fails if it breaks the format.
    pub(crate) fn read(text: &str) -> Figures {
        let body = text.strip_suffix("# EOF\n").expect("the text ends with # EOF");
        let mut figures = Figures::default();
        let (mut family, mut kind, mut helped) = (String::new(), String::new(), String::new());
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(!help.trim().is_empty(), "{line}");
                name.clone_into(&mut helped);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, type_) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
                assert_eq!(name, helped, "the type follows the help: {line}");
                assert!(is_name(name), "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&type_), "{line}");
                (family, kind) = (name.to_owned(), type_.to_owned());
                let full = if type_ == "counter" { format!("{name}_total") } else { name.to_owned() };
                assert!(figures.types.insert(full, type_.to_owned()).is_none(), "a type told twice: {line}");
            } else {
                let (name, labels, value) = sample(line);
                let ends: &[&str] = match kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    _ => &["_bucket", "_sum", "_count"],
                };
                assert!(ends.iter().any(|end| name == format!("{family}{end}")), "a stray sample: {line}");
                assert!(kind == "gauge" || value >= 0.0, "{line}");
                assert!(figures.samples.insert((name, labels), value).is_none(), "a sample told twice: {line}");
            }
        }
        figures.check_histograms();
        figures
    }

    /// Buckets must ascend, and the last one must have the whole count.
    fn check_histograms(&self) {
        for (name, _) in self.types.iter().filter(|(_, kind)| *kind == "histogram") {
            for (labels, count) in self.all(&format!("{name}_count")) {
                let mut buckets: Vec<(f64, f64)> = Vec::new();
                for (mut bucket, value) in self.all(&format!("{name}_bucket")).map(|(own, value)| (own.clone(), value))
                {
                    let bound = bucket.remove("le").expect("a bound");
                    if bucket == *labels {
                        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a number") };
                        buckets.push((bound, value));
                    }
                }
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{name}: {buckets:?}");
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{name}");
                assert!(self.value_of(&format!("{name}_sum"), labels).is_some(), "{name} has no sum");
            }
        }
    }

    /// Whether a metric has a sample.
    pub(crate) fn told(&self, name: &str) -> bool {
        [name.to_owned(), format!("{name}_count")].iter().any(|name| self.all(name).next().is_some())
    }

    /// All samples of a metric.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.samples.iter().filter(move |((own, _), _)| own == name).map(|((_, labels), value)| (labels, *value))
    }

    /// The name and the labels of every sample.
    pub(crate) fn series(&self) -> impl Iterator<Item = (&str, &Labels)> {
        self.samples.keys().map(|(name, labels)| (name.as_str(), labels))
    }

    /// The sample with exactly these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.value_of(name, &labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect())
    }

    fn value_of(&self, name: &str, labels: &Labels) -> Option<f64> {
        self.samples.get(&(name.to_owned(), labels.clone())).copied()
    }
}

fn is_name(text: &str) -> bool {
    !text.starts_with(|first: char| first.is_ascii_digit())
        && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, rest) = line.split_at(end);
    assert!(is_name(name) && !name.is_empty(), "{line}");
    let mut labels = Labels::new();
    let value = match rest.strip_prefix('{') {
        None => rest,
        Some(mut rest) => loop {
            let (label, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label), "{line}");
            let (value, after) = quoted_text(quoted, line);
            assert!(labels.insert(label.to_owned(), value).is_none(), "a label twice: {line}");
            match after.split_at(1) {
                (",", more) => rest = more,
                ("}", value) => break value,
                _ => panic!("neither , nor }}: {line}"),
            }
        },
    };
    let value = value.strip_prefix(' ').unwrap_or_else(|| panic!("no space before the value: {line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

/// The text up to the closing quote, and the text after it.
fn quoted_text<'a>(quoted: &'a str, line: &str) -> (String, &'a str) {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return (text, &quoted[place + 1..]),
            '\\' => match characters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => text.push(escaped),
                _ => panic!("an unknown escape: {line}"),
            },
            character => text.push(character),
        }
    }
    panic!("no closing quote: {line}")
}
