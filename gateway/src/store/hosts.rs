//! Finds the right server among those of the URL when a connection is made, remembers it for the next one, and looks
//! again when it has gone or changed its role.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::cause;
use super::dial::{Stream, dial};
use super::url::{Address, Place, Wanted};
use super::wire::{Fault, Wire, broken};

/// How long a chosen place is used without another check.
const BELIEVED: Duration = Duration::from_secs(1);
/// How long a place that did not answer is tried last.
const SHUNNED: Duration = Duration::from_secs(10);

/// The role of a server, and whether its sessions may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Standing {
    standby: bool,
    read_only: bool,
}

/// The places of the URL, shared by writers and the bridge.
#[derive(Debug)]
pub(super) struct Hosts {
    address: Address,
    known: Mutex<Known>,
    /// The last connection failed because the process may open no more files.
    lacks_descriptors: AtomicBool,
}

#[derive(Debug)]
struct Known {
    /// The place that was chosen last, and when.
    chosen: Option<(usize, Instant)>,
    /// Until when each place is tried after the others.
    shunned: Vec<Option<Instant>>,
}

impl Hosts {
    pub(super) fn new(address: Address) -> Hosts {
        let known = Known { chosen: None, shunned: vec![None; address.places.len()] };
        Hosts { address, known: Mutex::new(known), lacks_descriptors: AtomicBool::new(false) }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The time that a search of all places may take.
    pub(super) fn connect_time(&self) -> Duration {
        self.address.connect_time * u32::try_from(self.address.places.len()).unwrap_or(u32::MAX)
    }

    fn known<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The order in which the places are tried: the chosen one, then as the URL has them, and last those that did not answer.
    fn order(&self) -> Vec<usize> {
        self.known(|known| {
            let now = Instant::now();
            let chosen = known.chosen.map(|(place, _)| place);
            let mut order: Vec<usize> = (0..self.address.places.len()).collect();
            order.sort_by_key(|&place| {
                let shunned = known.shunned[place].is_some_and(|until| now < until);
                (shunned, chosen != Some(place), place)
            });
            order
        })
    }

    /// Marks a place as failed until it is proved. If a caller gives up meanwhile, the next one starts with another
    /// place.
    fn shun(&self, place: usize) {
        self.known(|known| known.shunned[place] = Some(Instant::now() + SHUNNED));
    }

    /// Keeps a place in its order, since its server answered at once that it is of another kind. A new question is cheap, and
    /// the server may be promoted soon.
    fn answers(&self, place: usize) {
        self.known(|known| known.shunned[place] = None);
    }

    fn choose(&self, place: usize) {
        self.known(|known| {
            known.shunned[place] = None;
            known.chosen = Some((place, Instant::now()));
        });
    }

    /// Whether the last connection failed because the process may open no more files.
    pub(super) fn lacks_descriptors(&self) -> bool {
        self.lacks_descriptors.load(Relaxed)
    }

    /// Records that the bridge got no socket for a client.
    pub(super) fn note_no_descriptors(&self) {
        self.lacks_descriptors.store(true, Relaxed);
    }

    fn note_descriptors(&self, fault: &Fault) {
        let lacks = matches!(fault, Fault::Broken(cause) if cause::lacks_descriptors(cause));
        self.lacks_descriptors.store(lacks, Relaxed);
    }

    /// A connection shows that the chosen server has changed its role.
    pub(super) fn doubt(&self) {
        self.known(|known| known.chosen = None);
    }

    /// Moves a place to the end of the order, since its server gave no answer in time. A server that hangs still takes
    /// connections, and each new one would wait for its first answer.
    pub(super) fn avoid(&self, place: usize) {
        self.known(|known| {
            known.shunned[place] = Some(Instant::now() + SHUNNED);
            known.chosen = known.chosen.filter(|(chosen, _)| *chosen != place);
        });
    }

    /// Opens a connection and signs in, at a server of the wanted kind. Returns the connection and the server's place.
    pub(super) async fn connect(&self, name: &str) -> Result<(Wire, usize), Fault> {
        let only = self.address.places.len() == 1;
        let mut problems = Vec::new();
        // `prefer-standby` takes another server only if there is no standby.
        let rounds: &[Wanted] = match self.address.wanted {
            Wanted::PreferStandby => &[Wanted::Standby, Wanted::Any],
            _ => std::slice::from_ref(&self.address.wanted),
        };
        for &wanted in rounds {
            for at in self.order() {
                let place = &self.address.places[at];
                self.shun(at);
                let tried = async {
                    let mut wire = Wire::open(&self.address, place, name).await?;
                    let unfit = unfit(&mut wire, wanted).await?;
                    Ok((wire, unfit))
                };
                let fault = match tried.await {
                    Ok((wire, None)) => {
                        self.choose(at);
                        self.lacks_descriptors.store(false, Relaxed);
                        return Ok((wire, at));
                    }
                    Ok((_, Some(words))) => {
                        self.answers(at);
                        broken(words)
                    }
                    Err(fault) => {
                        if matches!(fault, Fault::Refused(_)) {
                            self.answers(at);
                        }
                        explained(fault)
                    }
                };
                self.note_descriptors(&fault);
                if only {
                    return Err(fault);
                }
                problems.push(told(place, &fault));
            }
        }
        self.doubt();
        Err(broken(problems.join("; ")))
    }

    /// Opens a socket to a server of the wanted kind. The client signs in on it.
    pub(super) async fn socket(&self) -> io::Result<Stream> {
        let believed = self.known(|known| known.chosen.filter(|(_, since)| since.elapsed() < BELIEVED));
        if let Some((place, _)) = believed
            && let Ok(stream) = dial(&self.address, &self.address.places[place]).await
        {
            return Ok(stream);
        }
        if self.address.wanted != Wanted::Any {
            // Only a session learns the role of its server.
            drop(self.connect("eye look").await.map_err(|fault| io::Error::other(fault.to_string()))?);
        }
        let mut problems = Vec::new();
        for at in self.order() {
            self.shun(at);
            match dial(&self.address, &self.address.places[at]).await {
                Ok(stream) => {
                    self.choose(at);
                    self.lacks_descriptors.store(false, Relaxed);
                    return Ok(stream);
                }
                Err(cause) if cause::lacks_descriptors(&cause) => {
                    self.lacks_descriptors.store(true, Relaxed);
                    return Err(cause);
                }
                Err(cause) => problems.push(cause.to_string()),
            }
            if self.address.wanted != Wanted::Any {
                break;
            }
        }
        Err(io::Error::other(problems.join("; ")))
    }
}

/// The error of a server, with the way to mend it.
fn explained(fault: Fault) -> Fault {
    match fault {
        Fault::Refused(mut refusal) => {
            refusal.message = cause::mended(&refusal.code, &refusal.message);
            Fault::Refused(refusal)
        }
        broken @ Fault::Broken(_) => broken,
    }
}

fn told(place: &Place, fault: &Fault) -> String {
    let words = fault.to_string();
    // An error of the socket names the place already.
    if words.contains(&place.to_string()) { words } else { format!("{place}: {words}") }
}

/// Returns the reason why a server is not of the wanted kind.
async fn unfit(wire: &mut Wire, wanted: Wanted) -> Result<Option<&'static str>, Fault> {
    if wanted == Wanted::Any {
        return Ok(None);
    }
    let asked =
        wire.query("select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'", |_| {}).await?;
    let row = asked.first().ok_or_else(|| broken("an answer has no row"))?;
    let standing = Standing { standby: row.bool(0)?, read_only: row.bool(1)? };
    Ok(refusal(standing, wanted))
}

fn refusal(standing: Standing, wanted: Wanted) -> Option<&'static str> {
    let Standing { standby, read_only } = standing;
    match wanted {
        Wanted::ReadWrite if standby => Some("it is a standby, which cannot be written to"),
        Wanted::ReadWrite if read_only => Some("it is read-only"),
        Wanted::ReadOnly if !read_only => Some("it can be written to, and a read-only one is wanted"),
        Wanted::Primary if standby => Some("it is a standby, and a primary is wanted"),
        Wanted::Standby if !standby => Some("it is a primary, and a standby is wanted"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_fails_is_tried_last() {
        let hosts = Hosts::new(Address::parse("postgres://u@a,b,c/d").expect("a URL"));
        assert_eq!(hosts.order(), [0, 1, 2]);
        hosts.shun(0);
        assert_eq!(hosts.order(), [1, 2, 0]);
        hosts.choose(2);
        assert_eq!(hosts.order(), [2, 1, 0]);
        hosts.shun(2);
        assert_eq!(hosts.order(), [1, 2, 0], "of those that fail, the one that was chosen first");
        hosts.answers(2);
        assert_eq!(hosts.order(), [2, 1, 0], "it answers again, and was chosen");
        hosts.choose(1);
        hosts.avoid(1);
        assert_eq!(hosts.order(), [2, 0, 1], "what hangs is tried after what answers");
    }

    #[test]
    fn a_server_is_held_against_what_is_wanted() {
        let fits = |standby, read_only, wanted| refusal(Standing { standby, read_only }, wanted).is_none();
        assert!(fits(false, false, Wanted::ReadWrite) && !fits(true, true, Wanted::ReadWrite));
        assert!(!fits(false, true, Wanted::ReadWrite) && fits(false, true, Wanted::Primary));
        assert!(fits(true, true, Wanted::Standby) && !fits(false, true, Wanted::Standby));
        assert!(fits(true, true, Wanted::ReadOnly) && !fits(false, false, Wanted::ReadOnly));
        assert!(fits(true, true, Wanted::Any));
    }
}
