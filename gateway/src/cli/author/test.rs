//! `eye validator test`: examples, fixtures, made-up misuse, and the same event again. The gateway's own engine judges, and
//! every failure is shown in full, not the first alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Args;
use eye_event::legible::legible;
use eye_event::verdict::Verdict;
use eye_judge::{Expected, Kind, Trial, TrialEvent, TrialExample};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::events::Subject;
use super::fixtures::{Fixture, folder_of};
use super::misuse::Case;
use super::terminal::{Look, Progress};
use super::{ModuleFile, Project, Wanted, against, events, fixtures, misuse, project, schema_fields, trying};
use crate::cli::Failure;
use crate::cli::output::say;

/// How long misuse is judged.
const MISUSE_TIME_MAX: Duration = Duration::from_secs(20);

/// The first and the last instant that an event may have.
const YEAR_1_US: i64 = -62_135_596_800_000_000;
const YEAR_9999_US: i64 = 253_402_300_799_999_999;

/// Events between an event and its repetition.
const BETWEEN: usize = 200;

/// Events that are repeated.
const REPEATED_MAX: usize = 500;

/// Characters of an input that people see; JSON has it whole.
const INPUT_CHARACTERS_MAX: usize = 2_000;

/// Characters of misuse that people see, whose title says what was done.
const MISUSE_CHARACTERS_MAX: usize = 300;

#[derive(Debug, Args)]
pub(in crate::cli) struct Test {
    #[command(flatten)]
    wanted: Wanted,
    /// The folder with the fixtures [default: that of the project]
    #[arg(long, value_name = "DIR")]
    fixtures: Option<std::path::PathBuf>,
    /// Another module or schema: all events are judged by it too, and those that it ends in another way are told
    #[arg(long, value_name = "FILE")]
    against: Option<std::path::PathBuf>,
    /// Write what the module says now into the fixtures
    #[arg(long)]
    update: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// How a module is tried.
#[derive(Debug, Default)]
pub(super) struct How<'a> {
    /// The folder with the fixtures, if it is not that of the project.
    fixtures: Option<&'a std::path::Path>,
    /// A file that should judge alike.
    against: Option<&'a std::path::Path>,
    /// The fixtures are written anew.
    update: bool,
}

/// An event that did not end as it should.
#[derive(Debug, Serialize)]
pub(super) struct Difference {
    kind: &'static str,
    title: String,
    /// The event, as far as the module sees it.
    input: Value,
    expected: String,
    got: String,
}

/// What a test found.
#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    digest: String,
    examples: usize,
    fixtures: usize,
    misuse: usize,
    /// Misuse for which no time was left.
    misuse_left: usize,
    repeated: usize,
    /// Events that another file judged too, and those that one of the two could not judge.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<(usize, usize)>,
    updated: Vec<String>,
    failures: Vec<Difference>,
}

pub(in crate::cli) fn run(test: &Test) -> Result<(), Failure> {
    let project = project()?;
    let module = test.wanted.resolve(project.as_ref())?;
    let how = How { fixtures: test.fixtures.as_deref(), against: test.against.as_deref(), update: test.update };
    let found = find(&module, project.as_ref(), &how)?;
    if test.json {
        say(serde_json::to_string(&found).context("what was found")?)?;
    } else {
        found.show(Look::of_output())?;
    }
    found.verdict()
}

/// Tries a module in every way.
pub(super) fn find(module: &ModuleFile, project: Option<&Project>, how: &How<'_>) -> Result<Findings, Failure> {
    let (content, settings) = (module.content()?, module.settings(project)?);
    let other = how.against.map(|file| against::load(file, module)).transpose()?;
    let folder =
        how.fixtures.or_else(|| project.filter(|_| module.is_of_project).map(|project| project.fixtures.as_path()));
    let fixtures = folder.map(fixtures::read).transpose()?.unwrap_or_default();
    let trial = match trying::load(&module.event_type, module.kind(&content), &content, settings.as_deref(), false)? {
        Ok(trial) => trial,
        Err(refusal) => {
            let failure = Difference {
                kind: "loading",
                title: module.file.display().to_string(),
                input: Value::Null,
                expected: refusal.expected,
                got: format!("{}\nmend: {}", refusal.found, refusal.mend),
            };
            return Ok(Findings { failures: vec![failure], ..Findings::default() });
        }
    };
    let mut found = Findings { digest: trial.digest().to_string(), ..Findings::default() };
    for example in trial.examples() {
        found.examples += 1;
        found.try_example(&trial, example);
    }
    for fixture in &fixtures {
        found.fixtures += 1;
        found.try_fixture(&trial, fixture, how.update)?;
    }
    let subjects = events::of(&trial, &fixtures)?;
    let check = trying::check_data()?;
    let mut seeds = events::seeds(&subjects);
    let filled = match module.kind(&content) {
        Kind::Schema => schema_fields::with_all_fields(&content, seeds.first().copied().unwrap_or("{}")),
        Kind::Module => None,
    };
    // It comes second, so that the first one is misused in any case.
    seeds.splice(seeds.len().min(1)..seeds.len().min(1), filled.as_deref());
    let (cases, left) = misuse::of(&seeds, |data| check(data).is_ok());
    found.misuse_left = left;
    for (title, event) in odd_events(&trial, events::seeds(&subjects).first().copied().unwrap_or("{}")) {
        found.try_odd(&trial, title, &event);
    }
    found.try_misuse(&trial, &cases);
    found.repeat(&trial, &subjects, &cases);
    if let Some(other) = other {
        found.compare(&trial, &other, &subjects, &cases);
    }
    Ok(found)
}

/// Events whose data is right and whose other parts are as odd as a gateway lets pass.
fn odd_events(trial: &Trial, data: &str) -> Vec<(&'static str, TrialEvent)> {
    let whole = trial.event(data);
    let at = |timestamp_us: i64, received_at_us: i64| TrialEvent { timestamp_us, received_at_us, ..whole.clone() };
    let now = whole.received_at_us;
    vec![
        ("the event is of the year 1", at(YEAR_1_US, now)),
        ("the event is of the year 9999", at(YEAR_9999_US, YEAR_9999_US)),
        ("the event is older than 1970", at(-1, now)),
        ("the event came before it occurred", at(now + 60_000_000, now)),
        ("the application has a long name", TrialEvent { application: "\u{e9}".repeat(200), ..whole.clone() }),
        (
            "the application has an odd name",
            TrialEvent { application: "a \"b\" \u{1F600} {}%s\\".to_owned(), ..whole.clone() },
        ),
    ]
}

/// The parts of an event that a module sees and that the author gave.
fn input(event: &TrialEvent) -> Value {
    let data = serde_json::from_str(&event.data).unwrap_or_else(|_| Value::String(event.data.clone()));
    serde_json::json!({
        "category": event.category, "name": event.name, "application": event.application,
        "timestamp_us": event.timestamp_us, "data": data, "text": event.data,
    })
}

fn codes_of(verdict: &Verdict) -> BTreeSet<&str> {
    match verdict {
        Verdict::Reject(violations) => violations.iter().map(|one| &*one.code).collect(),
        Verdict::Accept | Verdict::Amend(_) => BTreeSet::new(),
    }
}

/// An end in words: the verdict, and the codes if there are any.
fn wanted(expect: &str, codes: &[&str]) -> String {
    if codes.is_empty() { expect.to_owned() } else { format!("{expect} with {}", codes.join(", ")) }
}

impl Findings {
    fn fail(&mut self, kind: &'static str, title: &str, event: &TrialEvent, expected: String, got: String) {
        let title = title.to_owned();
        self.failures.push(Difference { kind, title, input: input(event), expected, got });
    }

    fn try_example(&mut self, trial: &Trial, example: &TrialExample) {
        let outcome = trial.judge(&example.event).outcome;
        let mut codes: Vec<&str> = example.codes.iter().map(String::as_str).collect();
        codes.sort_unstable();
        codes.dedup();
        let fits = outcome.as_ref().is_ok_and(|verdict| {
            Expected::of(verdict) == example.expect
                && (codes.is_empty() || codes_of(verdict).into_iter().eq(codes.iter().copied()))
        });
        if !fits {
            let expected = wanted(example.expect.as_str(), &codes);
            self.fail("example", &example.title, &example.event, expected, trying::told(&outcome));
        }
        self.try_redacting(trial, "example", &example.title, &example.event);
    }

    fn try_fixture(&mut self, trial: &Trial, fixture: &Fixture, update: bool) -> anyhow::Result<()> {
        let event = fixture.event(trial)?;
        let outcome = trial.judge(&event).outcome;
        let (codes, amended) = (fixture.codes(), fixture.amended());
        let fits = outcome.as_ref().is_ok_and(|verdict| {
            let same_folder = folder_of(Expected::of(verdict)) == folder_of(fixture.expect);
            let same_codes = codes.is_empty() || codes_of(verdict).into_iter().eq(codes.iter().copied());
            let same_data = match (amended, verdict) {
                (None, _) => true,
                (Some(wanted), Verdict::Amend(data)) => is_same_json(wanted, data),
                (Some(_), _) => false,
            };
            same_folder && same_codes && same_data
        });
        match (&outcome, fits) {
            (Ok(verdict), false) if update => self.updated.push(updated(fixture, verdict)?),
            (Ok(verdict), true) if update && is_unnamed(fixture, verdict) => {
                self.updated.push(updated(fixture, verdict)?)
            }
            (_, true) => {}
            _ => {
                let mut expected = wanted(fixture.expect.as_str(), &codes);
                if let Some(amended) = amended {
                    expected = format!("amend to {amended}");
                }
                self.fail("fixture", &fixture.title(), &event, expected, trying::told(&outcome));
            }
        }
        self.try_redacting(trial, "fixture", &fixture.title(), &event);
        Ok(())
    }

    fn try_redacting(&mut self, trial: &Trial, kind: &'static str, title: &str, event: &TrialEvent) {
        if let Some(Err(fault)) = trial.redact(&event.data) {
            let expected = "`redact` says what may be kept".to_owned();
            self.fail(kind, title, event, expected, trying::told_fault(&fault));
        }
    }

    fn try_misuse(&mut self, trial: &Trial, cases: &[Case]) {
        let _going_on = Progress::of("judging made-up misuse");
        let began = Instant::now();
        for (tried, case) in cases.iter().enumerate() {
            if began.elapsed() > MISUSE_TIME_MAX {
                self.misuse_left += cases.len() - tried;
                return;
            }
            self.try_odd(trial, &case.title, &trial.event(&case.data));
        }
    }

    /// Judges an event for which any verdict will do.
    fn try_odd(&mut self, trial: &Trial, title: &str, event: &TrialEvent) {
        self.misuse += 1;
        let outcome = trial.judge(event).outcome;
        if outcome.is_err() {
            self.fail("misuse", title, event, "any verdict".to_owned(), trying::told(&outcome));
        }
        self.try_redacting(trial, "misuse", title, event);
    }

    /// Judges events twice, and again after others: what a module judged before must not change its verdict.
    fn repeat(&mut self, trial: &Trial, subjects: &[Subject], cases: &[Case]) {
        let _going_on = Progress::of("judging the same events again");
        let subjects = &subjects[..subjects.len().min(REPEATED_MAX)];
        let first: Vec<_> = subjects.iter().map(|one| trial.judge(&one.event).outcome).collect();
        let mut compare = |how: &str| {
            for (one, before) in subjects.iter().zip(&first) {
                let now = trial.judge(&one.event).outcome;
                if now != *before {
                    let expected = format!("{how} the same as at first: {}", trying::told(before));
                    self.fail("again", &one.title, &one.event, expected, trying::told(&now));
                }
            }
        };
        compare("at once");
        for case in cases.iter().cycle().take(BETWEEN) {
            let _verdict = trial.judge(&trial.event(&case.data));
        }
        compare("after 200 others");
        self.repeated = subjects.len();
    }

    /// Judges examples, fixtures and misuse by another file too.
    fn compare(&mut self, trial: &Trial, other: &Trial, subjects: &[Subject], cases: &[Case]) {
        let own = subjects.iter().map(|one| (one.title.clone(), one.event.clone()));
        let theirs = other.examples().iter().map(|one| (format!("its example `{}`", one.title), one.event.clone()));
        let misuse = cases.iter().map(|case| (case.title.clone(), trial.event(&case.data)));
        let compared = against::compare(trial, other, own.chain(theirs).chain(misuse));
        self.against = Some((compared.judged, compared.left));
        for (title, event, expected, got) in compared.differences {
            self.fail("against", &title, &event, expected, got);
        }
    }

    /// Prints the findings for people.
    pub(super) fn show(&self, look: Look) -> anyhow::Result<()> {
        let of_kind = |kind: &str| self.failures.iter().filter(|one| one.kind == kind).count();
        let (made_up, own): (Vec<_>, Vec<_>) =
            self.failures.iter().partition(|one| ["misuse", "against"].contains(&one.kind));
        for one in own {
            say(one.shown(look, INPUT_CHARACTERS_MAX))?;
        }
        // One mistake in the code breaks on many kinds of misuse, and is shown once.
        let mut causes: BTreeMap<(&str, &str, &str), Vec<&Difference>> = BTreeMap::new();
        for one in made_up {
            // The first line of a panic says where it was, and what follows quotes the event.
            let cause = one.got.split("\\n").next().unwrap_or_default();
            causes.entry((one.kind, &one.expected, cause)).or_default().push(one);
        }
        for same in causes.values() {
            say(same[0].shown(look, MISUSE_CHARACTERS_MAX))?;
            if same.len() > 1 {
                let others: Vec<&str> = same[1..].iter().map(|one| one.title.as_str()).collect();
                let what = if same[0].kind == "misuse" { "break it" } else { "differ" };
                let label = format!("  and {} more {what} in the same way: ", others.len());
                say(look.paragraph(&label, &others.join("; ")))?;
                say("")?;
            }
        }
        if of_kind("loading") > 0 {
            return Ok(());
        }
        for (kind, title, count, what) in [
            ("example", "examples", self.examples, "judged as they say"),
            ("fixture", "fixtures", self.fixtures, "judged as they say"),
            ("misuse", "misuse", self.misuse, "made-up events, each with a verdict"),
            ("again", "again", self.repeated, "events judged again, at once and after 200 others"),
        ] {
            let failed = of_kind(kind);
            let line = format!("{title:<9} {count:>6} {what}");
            let end = if failed > 0 { look.bad(&format!("; {failed} failed")) } else { String::new() };
            say(format_args!("{line}{end}"))?;
        }
        if let Some((judged, left)) = self.against {
            let failed = of_kind("against");
            let end = if failed > 0 { look.bad(&format!("; {failed} differ")) } else { String::new() };
            let left = if left > 0 { format!(", {left} by one of them alone") } else { String::new() };
            say(format_args!("{:<9} {judged:>6} events judged by both files{left}{end}", "against"))?;
        }
        if self.misuse_left > 0 {
            say(format_args!("{:<9} {:>6} made-up events were left out: no time or too many", "", self.misuse_left))?;
        }
        for line in &self.updated {
            say(format_args!("updated   {line}"))?;
        }
        Ok(())
    }

    /// Success, or how many failed.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        match self.failures.len() {
            0 => Ok(()),
            1 => Err(anyhow!("1 test failed").into()),
            failed => Err(anyhow!("{failed} tests failed").into()),
        }
    }

    /// How many tests failed.
    pub(super) fn failed(&self) -> usize {
        self.failures.len()
    }

    /// One line for the command that tests at each change.
    pub(super) fn line(&self) -> String {
        let Self { examples, fixtures, misuse, .. } = self;
        format!("{examples} examples, {fixtures} fixtures and {misuse} kinds of misuse are judged as they should be")
    }
}

impl Difference {
    fn shown(&self, look: Look, characters_max: usize) -> String {
        let indented = |text: &str| text.replace('\n', "\n            ");
        let mut lines =
            vec![format!("{} {} {}", look.bad("failed:"), self.kind, legible(&self.title, INPUT_CHARACTERS_MAX))];
        if let Some(text) = self.input["text"].as_str() {
            let whole = text.chars().count();
            let cut = if whole > characters_max {
                format!(" ({whole} characters; --json has them all)")
            } else {
                String::new()
            };
            lines.push(format!("  input     {}{cut}", legible(text, characters_max)));
        }
        lines.push(format!("  expected  {}", indented(&self.expected)));
        lines.push(format!("  got       {}\n", indented(&self.got)));
        lines.join("\n")
    }
}

/// Whether two texts are the same JSON, number by number as far as floats tell them apart.
fn is_same_json(one: &str, other: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    one.trim() == other.trim() || read(one).is_some_and(|value| read(other) == Some(value))
}

/// Whether a fixture leaves open what an update would write.
fn is_unnamed(fixture: &Fixture, verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Accept => false,
        Verdict::Amend(_) => fixture.amended().is_none(),
        Verdict::Reject(_) => fixture.codes().is_empty(),
    }
}

/// Writes into a fixture how its event ends now. If that is another folder's end, the file moves there.
fn updated(fixture: &Fixture, verdict: &Verdict) -> anyhow::Result<String> {
    let codes = codes_of(verdict).into_iter().map(str::to_owned).collect();
    let amended = match verdict {
        Verdict::Amend(data) => Some(RawValue::from_string(data.clone()).context("amended data")?),
        Verdict::Accept | Verdict::Reject(_) => None,
    };
    let text = std::fs::read_to_string(&fixture.path).with_context(|| fixture.path.display().to_string())?;
    let written: fixtures::Written = serde_json::from_str(&text).with_context(|| fixture.path.display().to_string())?;
    let text = written.ending(codes, amended).text()?;
    let (before, now) = (folder_of(fixture.expect), folder_of(Expected::of(verdict)));
    if before == now {
        std::fs::write(&fixture.path, text).with_context(|| fixture.path.display().to_string())?;
        return Ok(fixture.title());
    }
    let name = fixture.path.file_name().unwrap_or_default();
    let folder = fixture.path.parent().and_then(|folder| folder.parent()).context("fixtures lie in folders")?;
    let moved = folder.join(now).join(name);
    anyhow::ensure!(!moved.exists(), "{} would be overwritten: rename it first", moved.display());
    std::fs::create_dir_all(folder.join(now)).with_context(|| folder.display().to_string())?;
    std::fs::write(&moved, text).with_context(|| moved.display().to_string())?;
    std::fs::remove_file(&fixture.path).with_context(|| fixture.path.display().to_string())?;
    Ok(format!("{} is {now}/{} now", fixture.title(), name.to_string_lossy()))
}
