//! What was measured, as people read it: each figure beside its ceiling, median and spread, in one table; and the
//! figures' section of `BENCHMARKS.md`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

const BEGIN: &str = "<!-- figures: written by `make bench` from here -->";
const END: &str = "<!-- figures: to here -->";

/// One quantity over all repeats.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series(pub(crate) Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn median(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        }
    }

    /// Each value by the other's of the same repeat.
    pub(crate) fn by(&self, other: &Series) -> Series {
        Series(self.0.iter().zip(&other.0).map(|(own, other)| own / other).collect())
    }

    /// The median, and from the least to the most.
    fn words(&self) -> String {
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match &self.0[..] {
            [] => String::new(),
            [one] => number(*one),
            _ => format!("{} ({} to {})", number(self.median()), number(least), number(most)),
        }
    }
}

/// Three significant digits, and thousands in groups.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), String::new()), |(a, b)| (a, format!(".{b}")));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &rest
}

/// Which way a goal lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Told for its own sake.
    None,
}

impl Goal {
    fn words(self, value: f64) -> String {
        let (word, bound, met) = match self {
            Goal::AtLeast(bound) => ("at least", bound, value >= bound),
            Goal::AtMost(bound) => ("at most", bound, value <= bound),
            Goal::None => return String::new(),
        };
        format!("{word} {}: {}", number(bound), if met { "met" } else { "**missed**" })
    }
}

/// One line of the table.
struct Line {
    figure: String,
    measured: String,
    ceiling: String,
    ratio: String,
    goal: String,
}

/// Lines under a heading.
struct Section {
    heading: &'static str,
    lines: Vec<Line>,
}

/// All lines, in the order in which they were measured.
#[derive(Default)]
pub(crate) struct Table(Vec<Section>);

impl Table {
    /// Begins a section: the lines that are added next stand under its heading.
    pub(crate) fn section(&mut self, heading: &'static str) {
        println!("{heading}:");
        self.0.push(Section { heading, lines: Vec::new() });
    }

    /// A figure beside its ceiling; the goal is for their ratio.
    pub(crate) fn ratio(&mut self, figure: &str, measured: &Series, ceiling: (&str, &Series), goal: Goal) {
        let ratio = measured.by(ceiling.1);
        self.add(Line {
            figure: figure.to_owned(),
            measured: measured.words(),
            ceiling: format!("{}: {}", ceiling.0, ceiling.1.words()),
            goal: goal.words(ratio.median()),
            ratio: ratio.words(),
        });
    }

    /// A figure with a goal of its own.
    pub(crate) fn plain(&mut self, figure: &str, measured: &Series, goal: Goal) {
        self.add(Line {
            figure: figure.to_owned(),
            measured: measured.words(),
            ceiling: String::new(),
            ratio: String::new(),
            goal: goal.words(measured.median()),
        });
    }

    /// Told at once, so that whoever waits sees that it goes on.
    fn add(&mut self, line: Line) {
        println!("{}: {}  [{}]  {}  {}", line.figure, line.measured, line.ceiling, line.ratio, line.goal);
        if self.0.is_empty() {
            self.section("Figures");
        }
        if let Some(section) = self.0.last_mut() {
            section.lines.push(line);
        }
    }

    /// The sections in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for Section { heading, lines } in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "### {heading}\n");
            text.push_str("| figure | measured | ceiling, in the same run | ratio | goal |\n|---|---|---|---|---|\n");
            for Line { figure, measured, ceiling, ratio, goal } in lines {
                let _ = writeln!(text, "| {figure} | {measured} | {ceiling} | {ratio} | {goal} |");
            }
            text.push('\n');
        }
        text
    }
}

/// Puts `figures` in place of those that `BENCHMARKS.md` has.
pub(crate) fn write_figures(path: &Path, figures: &str) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (before, rest) = text.split_once(BEGIN).context("BENCHMARKS.md has no place for figures")?;
    let (_, after) = rest.split_once(END).context("BENCHMARKS.md has no end of the figures")?;
    std::fs::write(path, format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (value, text) in [(1_234_567.8, "1,234,568"), (950.4, "950"), (12.34, "12.3"), (0.456, "0.46")] {
            assert_eq!(number(value), text);
        }
        assert_eq!(Series(vec![3.0, 1.0, 2.0, 10.0]).words(), "2.50 (1.00 to 10.0)");
    }

    #[test]
    fn a_goal_is_met_or_missed() {
        assert_eq!(Goal::AtLeast(0.7).words(0.71), "at least 0.70: met");
        assert_eq!(Goal::AtMost(0.5).words(0.71), "at most 0.50: **missed**");
    }
}
