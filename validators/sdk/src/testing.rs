//! Runs a validator on the host, without The Eye and without WebAssembly.

use serde::de::IgnoredAny;

use crate::{Expectation, RawEvent, Validator, Verdict};

/// Judges an event with this data; the rest of the event is made up.
pub fn judge<V: Validator>(data: &str) -> Verdict {
    V::judge(&RawEvent {
        id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
        application: "test".to_owned(),
        session_id: "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned(),
        category: "test".to_owned(),
        name: "test".to_owned(),
        timestamp: 1_700_000_000_000_000,
        data: data.to_owned(),
    })
}

/// The violations' pointers and codes, or nothing if the data is not rejected.
pub fn reasons<V: Validator>(data: &str) -> Vec<(String, String)> {
    match judge::<V>(data) {
        Verdict::Reject(violations) => violations.into_iter().map(|it| (it.pointer, it.code)).collect(),
        Verdict::Accept | Verdict::Amend(_) => Vec::new(),
    }
}

/// Gives each example to the validator, as the gateway will.
///
/// # Panics
///
/// If an example's data is not a JSON object, if it does not get the verdict that it expects, or if the verdict is one
/// that the gateway would not take.
pub fn run_examples<V: Validator>() {
    assert!(V::EXAMPLES.len() <= 100, "the gateway takes 100 examples at most");
    for example in V::EXAMPLES {
        let title = example.title;
        assert!(is_object(example.data), "{title}: the data is not a JSON object");
        let verdict = judge::<V>(example.data);
        let given = match &verdict {
            Verdict::Accept => Expectation::Accept,
            Verdict::Amend(data) => {
                assert!(is_object(data), "{title}: amended to something that is not a JSON object: {data}");
                Expectation::Amend
            }
            Verdict::Reject(violations) => {
                assert!(!violations.is_empty(), "{title}: rejected without a violation");
                Expectation::Reject
            }
        };
        assert_eq!(given, example.expect, "{title}: got {verdict:?}");
    }
}

fn is_object(data: &str) -> bool {
    data.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(data).is_ok()
}
