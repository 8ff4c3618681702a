//! How a candidate is tried: as a shadow, or as a canary on a share of the sessions; and the steps by which it is promoted by
//! itself: `shadow:10m,1%:10m,25%:30m`. After the last one it serves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a candidate is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It judges copies of events, and nothing depends on it.
    Shadow,
    /// It judges the events of a share of the sessions.
    Canary,
}

impl Mode {
    /// The word in settings and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Canary => "canary",
        }
    }
}

/// A share of the sessions, in thousandths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// All sessions.
    const WHOLE: u32 = 100_000;
    /// The share of a canary whose settings name none.
    pub const CANARY: Self = Self(1_000);

    /// The share of so many percent; `None` if that is not between 0.001 and 100.
    #[must_use]
    pub fn of_percent(percent: f64) -> Option<Self> {
        let thousandths = (percent * 1_000.0).round();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is within the bounds of a share"
        )]
        (1.0..=f64::from(Self::WHOLE)).contains(&thousandths).then_some(Self(thousandths as u32))
    }

    /// The percent.
    #[must_use]
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }

    /// Whether the share has the session with this evenly spread number.
    pub(super) fn has(self, number: u64) -> bool {
        let below = (u128::from(self.0) << 64) / u128::from(Self::WHOLE);
        u128::from(number) < below
    }
}

/// Most steps.
const STEPS_MAX: usize = 20;
/// The longest step.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How the candidate is tried meanwhile.
    pub mode: Mode,
    /// The share of the sessions that it judges as a canary.
    pub share: Share,
    /// How long the step takes at least.
    pub time: Duration,
}

/// The steps in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps(Vec<Step>);

impl Steps {
    /// Reads steps as people write them.
    ///
    /// # Errors
    ///
    /// A sentence that quotes nothing of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let steps: Vec<Step> = text.split(',').map(step).collect::<Result<_, _>>()?;
        if steps.len() > STEPS_MAX {
            return Err(format!("at most {STEPS_MAX} steps"));
        }
        if !steps.is_sorted_by(|one, next| rank(one) < rank(next)) {
            return Err("each step is tried on more sessions than the one before; `shadow` comes first".to_owned());
        }
        Ok(Self(steps))
    }

    /// The first step.
    #[must_use]
    pub fn first(&self) -> Step {
        self.0[0]
    }

    /// The step of a candidate that is tried in this way, and the one after it; `None` if it is no step of these.
    #[must_use]
    pub fn at(&self, mode: Mode, share: Share) -> Option<(Step, Option<Step>)> {
        let is_it = |step: &Step| step.mode == mode && (mode == Mode::Shadow || step.share == share);
        let place = self.0.iter().position(is_it)?;
        Some((self.0[place], self.0.get(place + 1).copied()))
    }
}

/// How many sessions a step tries.
fn rank(step: &Step) -> Option<Share> {
    (step.mode == Mode::Canary).then_some(step.share)
}

fn step(text: &str) -> Result<Step, String> {
    let wrong = || "steps are written as shadow:10m,1%:10m,25%:30m".to_owned();
    let (how, time) = text.trim().split_once(':').ok_or_else(wrong)?;
    let time = duration(time.trim()).ok_or("the time of a step is written as 30s, 10m or 2h, up to 168h")?;
    if how.trim() == Mode::Shadow.as_str() {
        return Ok(Step { mode: Mode::Shadow, share: Share::CANARY, time });
    }
    let percent = how.trim().strip_suffix('%').ok_or_else(wrong)?;
    let share = percent.trim().parse().ok().and_then(Share::of_percent).ok_or("a share is from 0.001% to 100%")?;
    Ok(Step { mode: Mode::Canary, share, time })
}

fn duration(text: &str) -> Option<Duration> {
    let seconds_of = [('s', 1), ('m', 60), ('h', 3_600)];
    let (number, seconds) = seconds_of.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, seconds)))?;
    let time = Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(*seconds)?);
    (!time.is_zero() && time <= LONGEST).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_sessions() {
        assert_eq!(Share::of_percent(100.0), Some(Share(100_000)));
        assert_eq!(Share::of_percent(0.001), Some(Share(1)));
        for wrong in [0.0, 0.000_1, 100.1, -1.0, f64::NAN] {
            assert_eq!(Share::of_percent(wrong), None, "{wrong}");
        }
        let has = |percent: f64, number: u64| Share::of_percent(percent).expect("a share").has(number);
        assert!(has(100.0, u64::MAX) && has(50.0, u64::MAX / 2) && !has(50.0, u64::MAX / 2 + 2));
        assert!(has(0.001, 0) && !has(0.001, u64::MAX / 50_000));
    }

    #[test]
    fn steps_are_read_as_they_are_documented() {
        let steps = Steps::parse("shadow:10m, 1%:90s,25%:2h").expect("steps");
        let share = |percent| Share::of_percent(percent).expect("a share");
        assert_eq!(steps.first(), Step { mode: Mode::Shadow, share: Share::CANARY, time: Duration::from_secs(600) });
        let (now, next) = steps.at(Mode::Canary, share(1.0)).expect("a step");
        assert_eq!((now.time, next.map(|step| step.share)), (Duration::from_secs(90), Some(share(25.0))));
        assert_eq!(steps.at(Mode::Canary, share(25.0)).expect("a step").1, None);
        assert_eq!(steps.at(Mode::Canary, share(2.0)), None);
        assert!(steps.at(Mode::Shadow, share(2.0)).is_some_and(|(_, next)| next.is_some()));
    }

    #[test]
    fn wrong_steps_are_told_in_words() {
        for (text, told) in [
            ("", "written as"),
            ("shadow", "written as"),
            ("shadow:", "time of a step"),
            ("shadow:0m", "time of a step"),
            ("shadow:200h", "time of a step"),
            ("half:10m", "written as"),
            ("0%:10m", "0.001%"),
            ("101%:10m", "0.001%"),
            ("5%:1m,1%:1m", "more sessions"),
            ("1%:1m,shadow:1m", "more sessions"),
            ("shadow:1m,shadow:1m", "more sessions"),
        ] {
            let why = Steps::parse(text).expect_err(text);
            assert!(why.contains(told), "{text}: {why}");
        }
    }
}
