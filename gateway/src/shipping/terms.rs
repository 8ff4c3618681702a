//! How a candidate is tried, as its settings say it: mode, share of the sessions, and the steps by which it is promoted. The
//! settings are those of its module, with keys of their own for this.

use eye_event::verdict::Digest;
use eye_judge::{CandidateTrial, Mode, Share, Step, Steps};
use toml::{Table, Value};

/// The keys that are for candidates alone.
const OF_CANDIDATES: [&str; 3] = ["mode", "percent", "auto"];
/// Events that must have been compared in a step before the next one begins.
pub(crate) const STEP_COMPARED_MIN: i64 = 200;
const EXPECT_REFUSALS: &str = "expect_refusals";
const KEEP_RAW: &str = "keep_raw";

/// How a candidate is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether it only watches.
    pub(crate) mode: Mode,
    /// The share of the sessions that it judges as a canary.
    pub(crate) share: Share,
    /// The text of the steps by which it is promoted.
    pub(crate) auto: Option<String>,
}

impl Terms {
    /// The terms in the settings of a candidate. A text that no gateway would take has the defaults.
    pub(crate) fn of(settings: Option<&str>) -> Self {
        let table: Table = settings.and_then(|text| text.parse().ok()).unwrap_or_default();
        let percent = match table.get("percent") {
            Some(Value::Integer(percent)) => i32::try_from(*percent).ok().map(f64::from),
            Some(Value::Float(percent)) => Some(*percent),
            _ => None,
        };
        Self {
            mode: if table.get("mode").and_then(Value::as_str) == Some("canary") { Mode::Canary } else { Mode::Shadow },
            share: percent.and_then(Share::of_percent).unwrap_or(Share::CANARY),
            auto: table.get("auto").and_then(Value::as_str).map(str::to_owned),
        }
    }

    /// The terms of a step.
    pub(crate) fn of_step(step: Step, auto: &str) -> Self {
        Self { mode: step.mode, share: step.share, auto: Some(auto.to_owned()) }
    }

    /// The steps, if it is promoted by itself.
    pub(crate) fn steps(&self) -> Option<Steps> {
        Steps::parse(self.auto.as_deref()?).ok()
    }

    /// All steps, in their order.
    pub(crate) fn each_step(&self) -> Vec<Step> {
        let Some(steps) = self.steps() else { return Vec::new() };
        let first = steps.first();
        std::iter::successors(Some(first), |step| steps.at(step.mode, step.share)?.1).collect()
    }

    /// The place of this step among all, from 0; `None` if it is none.
    pub(crate) fn place(&self) -> Option<usize> {
        let is_it = |step: &Step| step.mode == self.mode && (self.mode == Mode::Shadow || step.share == self.share);
        self.each_step().iter().position(is_it)
    }

    /// The trial that a gateway makes of them.
    pub(crate) fn trial(&self) -> CandidateTrial {
        match self.mode {
            Mode::Shadow => CandidateTrial::Shadow,
            Mode::Canary => CandidateTrial::Canary(self.share),
        }
    }

    /// The share of the sessions that it judges for senders; `None` if it only watches.
    pub(crate) fn percent(&self) -> Option<f64> {
        (self.mode == Mode::Canary).then(|| self.share.percent())
    }

    fn write(&self, table: &mut Table) {
        table.insert("mode".to_owned(), self.mode.as_str().into());
        if let Some(percent) = self.percent() {
            table.insert("percent".to_owned(), percent.into());
        }
        if let Some(auto) = &self.auto {
            table.insert("auto".to_owned(), auto.as_str().into());
        }
    }
}

/// The settings of a module that is to serve, or with `terms` to be tried: those that were given or those of the slot, without
/// what they say of other trials. `expected` is the module of which more refusals are meant. A text that is no TOML is left as
/// it is, so that whoever loads the module says what is wrong with it.
pub(crate) fn settings_of(
    base: Option<&str>,
    digest: Digest,
    terms: Option<&Terms>,
    expects_refusals: bool,
) -> Option<String> {
    let Ok(mut table) = base.unwrap_or_default().parse::<Table>() else { return base.map(str::to_owned) };
    let before = table.clone();
    let own = digest.to_string();
    table.retain(|key, value| match key {
        EXPECT_REFUSALS => value.as_str() == Some(&own),
        key => !OF_CANDIDATES.contains(&key),
    });
    if let Some(terms) = terms {
        terms.write(&mut table);
    }
    if expects_refusals {
        table.insert(EXPECT_REFUSALS.to_owned(), own.into());
    }
    if table == before {
        return base.map(str::to_owned);
    }
    (!table.is_empty()).then(|| table.to_string())
}

/// The settings with which a candidate serves: its own without those of the trial, or those of the module that serves if it
/// has none. Where that module keeps nothing of refused events, the candidate does so too, unless its settings say otherwise.
pub(crate) fn promoted(tried: Option<&str>, live: Option<&str>, digest: Digest) -> Option<String> {
    let Some(tried) = tried else { return live.map(str::to_owned) };
    let own = settings_of(Some(tried), digest, None, false);
    let table = |text: Option<&str>| text.unwrap_or_default().parse::<Table>().unwrap_or_default();
    let mut settings = table(own.as_deref());
    let keeps_nothing = table(live).get(KEEP_RAW).and_then(Value::as_bool) == Some(false);
    if !keeps_nothing || settings.contains_key(KEEP_RAW) {
        return own;
    }
    settings.insert(KEEP_RAW.to_owned(), false.into());
    Some(settings.to_string())
}

/// Whether settings mean more refusals of their own module.
pub(crate) fn expects_refusals(settings: Option<&str>, digest: Digest) -> bool {
    let table: Table = settings.and_then(|text| text.parse().ok()).unwrap_or_default();
    table.get(EXPECT_REFUSALS).and_then(Value::as_str) == Some(&digest.to_string())
}

/// Whether settings force their own module.
pub(crate) fn forces(settings: Option<&str>, digest: Digest) -> bool {
    let table: Table = settings.and_then(|text| text.parse().ok()).unwrap_or_default();
    table.get("force").and_then(Value::as_str) == Some(&digest.to_string())
}

/// Whether the guard may take a module with these settings back.
pub(crate) fn is_guarded(settings: Option<&str>) -> bool {
    let table: Table = settings.and_then(|text| text.parse().ok()).unwrap_or_default();
    table.get("guard").and_then(Value::as_bool).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_said_in_the_settings_and_taken_out_again() {
        let digest = Digest([7; 32]);
        let live = "# Why it is so.\ndeadline_ms = 100\n";
        assert_eq!(settings_of(Some(live), digest, None, false).as_deref(), Some(live), "nothing is changed");
        let share = Share::of_percent(2.5).expect("a share");
        let terms = Terms { mode: Mode::Canary, share, auto: Some("2.5%:10m".to_owned()) };
        let tried = settings_of(Some(live), digest, Some(&terms), true).expect("settings");
        assert_eq!(Terms::of(Some(&tried)), terms);
        let stepped = Terms::of(Some("mode = \"canary\"\npercent = 25\nauto = \"shadow:10m,1%:10m,25%:30m\""));
        assert_eq!((stepped.each_step().len(), stepped.place()), (3, Some(2)));
        assert!(tried.contains("deadline_ms = 100") && expects_refusals(Some(&tried), digest), "{tried}");
        eye_judge::Settings::prove(&tried).expect("a gateway takes them");
        let promoted = settings_of(Some(&tried), digest, None, false).expect("settings");
        assert!(expects_refusals(Some(&promoted), digest) && !promoted.contains("mode"), "{promoted}");
        let next = settings_of(Some(&promoted), Digest([8; 32]), None, false);
        assert_eq!(next.as_deref(), Some("deadline_ms = 100\n"));
        let shadow = Terms { mode: Mode::Shadow, share: Share::CANARY, auto: None };
        assert_eq!(settings_of(None, digest, Some(&shadow), false).as_deref(), Some("mode = \"shadow\"\n"));
        assert_eq!(settings_of(Some("mode = \"shadow\""), digest, None, false), None);
        let closed = Some("deadline_ms = 7\nkeep_raw = false");
        let serves = |tried| super::promoted(tried, closed, digest);
        assert_eq!(serves(Some("mode = \"shadow\"")).as_deref(), Some("keep_raw = false\n"), "nothing opens by itself");
        let open = "mode = \"shadow\"\nkeep_raw = true";
        assert_eq!(serves(Some(open)).as_deref(), Some("keep_raw = true\n"));
        assert_eq!(serves(None).as_deref(), closed, "a file without settings takes those that are there");
    }
}
