//! One order of all values, by which equal ones are found: numbers by their value, objects whatever the order of their
//! members.

use std::cmp::Ordering;

use super::json::{Kind, Member, Value};
use super::number::Decimal;

/// Compares two values. The order of unequal ones has no meaning, but that it is always the same.
pub(crate) fn compare(one: &Value<'_>, other: &Value<'_>) -> Ordering {
    match (&one.kind, &other.kind) {
        (Kind::Bool(one), Kind::Bool(other)) => one.cmp(other),
        (Kind::Number(one), Kind::Number(other)) if one == other => Ordering::Equal,
        (Kind::Number(one), Kind::Number(other)) => Decimal::read(one).cmp(&Decimal::read(other)),
        (Kind::Text(one), Kind::Text(other)) => one.cmp(other),
        (Kind::List(one), Kind::List(other)) => {
            let items = one.iter().zip(other).map(|(one, other)| compare(one, other));
            one.len().cmp(&other.len()).then_with(|| first_difference(items))
        }
        (Kind::Object(one), Kind::Object(other)) => one.members.len().cmp(&other.members.len()).then_with(|| {
            let (one, other) = (sorted(&one.members), sorted(&other.members));
            let members = one.into_iter().zip(other);
            first_difference(
                members.map(|(one, other)| one.key.cmp(&other.key).then_with(|| compare(&one.value, &other.value))),
            )
        }),
        (one, other) => rank(one).cmp(&rank(other)),
    }
}

pub(crate) fn equal(one: &Value<'_>, other: &Value<'_>) -> bool {
    compare(one, other) == Ordering::Equal
}

/// The places of two items that are the same.
pub(crate) fn twins(items: &[Value<'_>]) -> Option<(usize, usize)> {
    let mut places: Vec<usize> = (0..items.len()).collect();
    places.sort_by(|one, other| compare(&items[*one], &items[*other]));
    let pair = places.windows(2).find(|pair| equal(&items[pair[0]], &items[pair[1]]))?;
    Some((pair[0].min(pair[1]), pair[0].max(pair[1])))
}

fn first_difference(mut orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn sorted<'m, 't>(members: &'m [Member<'t>]) -> Vec<&'m Member<'t>> {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by(|one, other| one.key.cmp(&other.key));
    sorted
}

fn rank(kind: &Kind<'_>) -> u8 {
    match kind {
        Kind::Null => 0,
        Kind::Bool(_) => 1,
        Kind::Number(_) => 2,
        Kind::Text(_) => 3,
        Kind::List(_) => 4,
        Kind::Object(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_equal_as_json_is() {
        let value = |text| Value::parse(text, 8).expect("JSON");
        for (one, other, are) in [
            ("1", "1.0", true),
            ("[1,2]", "[2,1]", false),
            (r#"{"a":1,"b":[2e0]}"#, r#"{"b":[2],"a":1}"#, true),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, false),
            ("0", "false", false),
            ("null", "\"\"", false),
        ] {
            assert_eq!(equal(&value(one), &value(other)), are, "{one} {other}");
        }
        let list = value(r#"[1,"1",true,[1],{"a":1},[true],2,{"a":1.0}]"#);
        assert_eq!(twins(list.list().expect("a list")), Some((4, 7)));
    }
}
