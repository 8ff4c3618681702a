//! Bounds the attempts to sign in with a wrong code: those of each address, and those of all together. A code cannot be
//! guessed, so the bound is for the database, which every attempt asks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong codes of one address: at once, and later within this time.
const EACH: f64 = 10.0;
/// Wrong codes of all addresses.
const ALL: f64 = 600.0;
/// The time in which an allowance is whole again.
const PERIOD: Duration = Duration::from_secs(60);
/// Most addresses that are counted separately. Beyond it, the one that tried least recently is forgotten.
const PLACES_MAX: usize = 1_024;

/// The attempts that are left.
#[derive(Debug, Default)]
pub struct Attempts(Mutex<Left>);

#[derive(Debug, Default)]
struct Left {
    all: Allowance,
    each: HashMap<Option<IpAddr>, Allowance>,
}

/// The attempts that were made and not made up for by time.
#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    made: f64,
    at: Option<Instant>,
}

impl Allowance {
    fn settle(&mut self, most: f64, now: Instant) {
        let passed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.made = (self.made - most * passed.as_secs_f64() / PERIOD.as_secs_f64()).max(0.0);
        self.at = Some(now);
    }

    /// The time until one more attempt fits.
    fn wait(&self, most: f64) -> Duration {
        PERIOD.mul_f64((self.made + 1.0 - most).max(0.0) / most)
    }
}

/// The place by which an address is counted. A network of 64 bits is one place, since it is usually one machine.
fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}

impl Attempts {
    /// Takes an attempt of this address, before its code is looked at, so that many at once are bounded too.
    ///
    /// # Errors
    ///
    /// The time after which one fits.
    pub fn take(&self, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = address.map(place);
        if left.each.len() >= PLACES_MAX && !left.each.contains_key(&place) {
            let oldest = left.each.iter().min_by_key(|(_, allowance)| allowance.at).map(|(place, _)| *place);
            oldest.and_then(|oldest| left.each.remove(&oldest));
        }
        let Left { all, each } = &mut *left;
        let own = each.entry(place).or_default();
        all.settle(ALL, now);
        own.settle(EACH, now);
        let wait = all.wait(ALL).max(own.wait(EACH));
        if !wait.is_zero() {
            return Err(wait);
        }
        all.made += 1.0;
        own.made += 1.0;
        Ok(())
    }

    /// Returns an attempt whose code was right, or was not looked at.
    pub fn give_back(&self, address: Option<IpAddr>) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left.all.made = (left.all.made - 1.0).max(0.0);
        if let Some(own) = left.each.get_mut(&address.map(place)) {
            own.made = (own.made - 1.0).max(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_ten_wrong_codes_a_minute_and_right_ones_are_free() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (one, other) = (Some(IpAddr::from([192, 0, 2, 1])), Some(IpAddr::from([192, 0, 2, 2])));
        for _ in 0..100 {
            assert_eq!(attempts.take(one, at(0)), Ok(()));
            attempts.give_back(one);
        }
        for _ in 0..10 {
            assert_eq!(attempts.take(one, at(0)), Ok(()));
        }
        assert_eq!(attempts.take(one, at(0)), Err(Duration::from_secs(6)));
        assert_eq!(attempts.take(other, at(0)), Ok(()), "another address");
        assert_eq!(attempts.take(one, at(6)), Ok(()));
        assert!(attempts.take(one, at(6)).is_err());
        for _ in 0..10 {
            assert_eq!(attempts.take(one, at(600)), Ok(()), "after ten minutes there are no more than at once");
        }
        assert!(attempts.take(one, at(600)).is_err());
    }

    #[test]
    fn all_addresses_together_are_bounded_and_so_is_what_is_kept_of_them() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let address = |number: u32| Some(IpAddr::from(number.to_be_bytes()));
        let passed = (0..5_000).filter(|number| attempts.take(address(*number), now).is_ok()).count();
        assert_eq!(passed, 600);
        assert!(attempts.0.lock().expect("no panic").each.len() <= PLACES_MAX);
        let network = |last: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]));
        let attempts = Attempts::default();
        let passed = (0..100).filter(|last| attempts.take(network(*last), now).is_ok()).count();
        assert_eq!(passed, 10, "a network of 64 bits is one place");
    }
}
