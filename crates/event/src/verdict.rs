//! The words of judging: verdict, violation, fault, digest. A leaf that every stage may name.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::hex::{self, Hex};

/// One reason why an event is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// RFC 6901 pointer to the reason: into `data` when a validator speaks, into the event when the gateway does.
    pub pointer: String,
    /// A stable word for programs.
    pub code: Cow<'static, str>,
    /// A sentence for people.
    pub message: Cow<'static, str>,
}

/// What a violation takes up besides its texts, about the same in memory and in an answer.
const VIOLATION_BYTES: usize = 80;

impl Violation {
    /// About the bytes that it takes up.
    pub fn bytes(&self) -> usize {
        self.pointer.len() + self.code.len() + self.message.len() + VIOLATION_BYTES
    }
}

/// What a validator says of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Store it as it is.
    Accept,
    /// Store it with this JSON object as its data.
    Amend(String),
    /// Do not store it, for these reasons.
    Reject(Vec<Violation>),
}

/// How a validator broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// It stopped in the middle, as a panic makes it do.
    Trap,
    /// It took longer than its deadline.
    Deadline,
    /// It asked for more memory than its limit.
    Memory,
    /// It called itself too deeply.
    Stack,
    /// What it returned is too large, or not what it may return.
    Output,
    /// It kept breaking and was taken off the path: it was not called.
    OffPath,
    /// The module or the machine had no room for the call. Never the fault of an event: that is unfinished instead.
    Busy,
}

impl FaultCode {
    /// All codes, in the order of [`FaultCode::index`].
    pub const ALL: [Self; 7] =
        [Self::Trap, Self::Deadline, Self::Memory, Self::Stack, Self::Output, Self::OffPath, Self::Busy];

    /// The stable word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::Output => "output",
            Self::OffPath => "off_path",
            Self::Busy => "busy",
        }
    }

    /// Its place in [`FaultCode::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for FaultCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A fault of a validator. Never a verdict: the event is neither good nor bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind.
    pub code: FaultCode,
    /// What happened, for people.
    pub detail: String,
    /// The text of the module's panic or exception, if its kit keeps it. It may quote the event.
    pub last_words: Option<String>,
}

/// Why an event has no outcome yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnfinishedCode {
    /// Its module had no time or room for it.
    ModuleBusy,
    /// Its module is there and cannot judge, or faulted and its settings ask the sender to try again.
    ModuleUnavailable,
    /// Its module is still being loaded.
    ModuleLoading,
    /// It was not accepted, and may not be kept as a dead letter; or the database refuses it for a reason of its own.
    NotKept,
}

impl UnfinishedCode {
    /// All codes, in the order of [`UnfinishedCode::index`].
    pub const ALL: [Self; 4] = [Self::ModuleBusy, Self::ModuleUnavailable, Self::ModuleLoading, Self::NotKept];

    /// The stable word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ModuleBusy => "module_busy",
            Self::ModuleUnavailable => "module_unavailable",
            Self::ModuleLoading => "module_loading",
            Self::NotKept => "not_kept",
        }
    }

    /// Its place in [`UnfinishedCode::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// That an event has no outcome yet. Nothing of it is kept, so its sender sends it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Why.
    pub code: UnfinishedCode,
    /// How long the sender should wait before it tries again.
    pub retry_after_seconds: u64,
}

impl Unfinished {
    /// With the usual pause for this code: what waits for people is not asked for each second.
    pub fn of(code: UnfinishedCode) -> Self {
        let retry_after_seconds = match code {
            UnfinishedCode::ModuleBusy | UnfinishedCode::ModuleLoading => 1,
            UnfinishedCode::ModuleUnavailable | UnfinishedCode::NotKept => 5,
        };
        Self { code, retry_after_seconds }
    }
}

/// Why there is no verdict on an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unjudged {
    /// The validator broke, or is off the path: the event is quarantined.
    Fault(Fault),
    /// The event has no outcome yet.
    Unfinished(Unfinished),
}

impl From<Fault> for Unjudged {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<UnfinishedCode> for Unjudged {
    fn from(code: UnfinishedCode) -> Self {
        Self::Unfinished(Unfinished::of(code))
    }
}

/// The SHA-256 digest of a module's file, or of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(&self.0), formatter)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// That a text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        if text.len() != 64 {
            return Err(NotADigest);
        }
        hex::read(text).and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(NotADigest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_sha256_and_reads_back() {
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        assert_eq!(text[1..].parse::<Digest>(), Err(NotADigest));
        assert_eq!("+f".repeat(32).parse::<Digest>(), Err(NotADigest));
    }

    #[test]
    fn every_fault_code_stands_at_its_index() {
        for (index, code) in FaultCode::ALL.into_iter().enumerate() {
            assert_eq!(code.index(), index);
            assert_eq!(serde_json::to_value(code).expect("a unit variant"), code.as_str());
        }
        for (index, code) in UnfinishedCode::ALL.into_iter().enumerate() {
            assert_eq!(code.index(), index);
        }
    }
}
