//! Tokens: made here, shown once, and from then on known by their digest alone. They are made of 32 random bytes, so
//! they cannot be guessed, and the prefix lets secret scanners find one that leaked.

use eye_event::verdict::Digest;
use ring::rand::{SecureRandom as _, SystemRandom};

const PREFIX: &str = "eye_";

/// A new token with its digest. The text is for its owner, once; only the digest may be kept.
///
/// # Errors
///
/// When this machine gives no random numbers.
pub fn make() -> Result<(String, Digest), NoRandomness> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    let token = format!("{PREFIX}{}", Digest(bytes));
    let digest = Digest::of(token.as_bytes());
    Ok((token, digest))
}

/// The machine gives no random numbers, so there is nothing to make a token of.
#[derive(Debug, thiserror::Error)]
#[error("this machine gives no random numbers")]
pub struct NoRandomness;
