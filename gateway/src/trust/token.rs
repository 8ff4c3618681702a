//! Makes tokens. A token is shown once, and then known only by its digest. It has 32 random bytes, so that it cannot be
//! guessed, and a prefix by which secret scanners find a leaked one.

use eye_event::verdict::Digest;
use ring::rand::{SecureRandom as _, SystemRandom};

const PREFIX: &str = "eye_";

/// Makes a token with its digest. Only its owner gets the token; the gateway keeps the digest.
///
/// # Errors
///
/// The machine gives no random numbers.
pub fn make() -> Result<(String, Digest), NoRandomness> {
    let token = format!("{PREFIX}{}", secret()?);
    let digest = Digest::of(token.as_bytes());
    Ok((token, digest))
}

/// Makes a secret of 32 random bytes, as 64 hexadecimal digits.
///
/// # Errors
///
/// The machine gives no random numbers.
pub fn secret() -> Result<String, NoRandomness> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(Digest(bytes).to_string())
}

/// The id of a token for people: 12 hexadecimal digits, derived from its digest. Neither can be computed from the id.
pub fn id_of(digest: Digest) -> String {
    let id = Digest::of(&[b"the id of the token ", &digest.0[..]].concat());
    id.to_string()[..12].to_owned()
}

/// The machine gives no random numbers for a token.
#[derive(Debug, thiserror::Error)]
#[error("this machine gives no random numbers")]
pub struct NoRandomness;
