//! `GET /v1/dead-letters/summary`: dead letters counted in groups and over time. The store counts; this file reads the
//! parameters, and writes as many groups as an answer may hold.

use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::verdict::Digest;
use hyper::HeaderMap;
use hyper::header::ACCEPT_ENCODING;
use serde_json::{Map, Value, json};

use super::dead_letters::{FILTERS, filter};
use super::{COUNTED_US, Query, header, rows_as_json, send};
use crate::parameters::{Parameters, bad};
use crate::response::{Encoding, Refusal, Response, of_store};
use crate::store::{Bucket, GroupBy, LetterFilter, LetterGroup, LetterSummary};
use crate::trust::Application;

/// The groups, unless the reader asks for others.
const BY: [GroupBy; 5] = [GroupBy::Reason, GroupBy::Code, GroupBy::Violation, GroupBy::Category, GroupBy::Name];
/// The longest range of which minutes are the default, and that of hours, in microseconds.
const BY_MINUTE_US: i64 = 3 * 3_600_000_000;
const BY_HOUR_US: i64 = 8 * 86_400_000_000;

/// What a summary is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    filter: LetterFilter,
    from_us: i64,
    to_us: i64,
    bucket: Bucket,
    by: Vec<GroupBy>,
}

/// Counts the dead letters that the caller may see.
///
/// # Errors
///
/// [`Refusal::BadParameter`], and the refusals of a read.
pub async fn summary(
    query: &Query,
    caller: &Application,
    headers: &HeaderMap,
    parameters: Option<&str>,
) -> Result<Response, Refusal> {
    let wanted = wanted(parameters, query.clock.reading_us())?;
    let turn = query.turns.take(caller.reads_share()).await?;
    let counted = query.store.dead_letters_summary(caller.visible(), &wanted.filter, &wanted.by, wanted.bucket);
    let counted = counted.await.map_err(of_store)?;
    drop(turn);
    let body = body(&wanted, &counted, query.page_bytes_max);
    send(body, Encoding::accepted(&header(headers, &ACCEPT_ENCODING))).await
}

fn wanted(parameters: Option<&str>, now_us: i64) -> Result<Wanted, Refusal> {
    let known: Vec<&'static str> = FILTERS.into_iter().chain(["bucket", "by"]).collect();
    let parameters = Parameters::read(parameters, &known)?;
    let (from_us, to_us) = parameters.range()?;
    let to_us = to_us.or_else(|| Some(from_us?.saturating_add(COUNTED_US).max(now_us))).unwrap_or(now_us);
    let from_us = from_us.unwrap_or(to_us - COUNTED_US);
    // The first one is the default.
    let buckets = if to_us - from_us <= BY_MINUTE_US {
        [Bucket::Minute, Bucket::Hour, Bucket::Day]
    } else if to_us - from_us <= BY_HOUR_US {
        [Bucket::Hour, Bucket::Minute, Bucket::Day]
    } else {
        [Bucket::Day, Bucket::Minute, Bucket::Hour]
    };
    let bucket = parameters.choice("bucket", &buckets.map(|bucket| (bucket.as_str(), bucket)))?;
    let by = parameters.text("by").map(groups).transpose()?.unwrap_or(BY.to_vec());
    let filter = LetterFilter {
        from: DateTime::from_timestamp_micros(from_us),
        to: DateTime::from_timestamp_micros(to_us),
        ..filter(&parameters)?
    };
    Ok(Wanted { filter, from_us, to_us, bucket, by })
}

/// Reads a list of words with commas between them.
fn groups(text: &str) -> Result<Vec<GroupBy>, Refusal> {
    let mut by = Vec::new();
    for word in text.split(',') {
        let found = GroupBy::ALL.into_iter().find(|one| one.as_str() == word);
        match found.filter(|one| !by.contains(one)) {
            Some(one) => by.push(one),
            None => {
                let words = GroupBy::ALL.map(GroupBy::as_str).join("`, `");
                return Err(bad("by", &format!("must be some of `{words}`, each once, with commas between them")));
            }
        }
    }
    Ok(by)
}

/// The answer. The group that exceeds `bytes_max` is the last one.
fn body(wanted: &Wanted, counted: &LetterSummary, bytes_max: usize) -> Vec<u8> {
    let mut groups = String::new();
    let mut written = 0;
    for group in &counted.groups {
        if groups.len() >= bytes_max {
            break;
        }
        if written > 0 {
            groups.push(',');
        }
        groups.push_str(&group_json(group, &wanted.by).to_string());
        written += 1;
    }
    let more_groups = counted.more_groups || written < counted.groups.len();
    let by = json!(wanted.by.iter().map(|one| one.as_str()).collect::<Vec<_>>());
    let reached = json!(counted.reached.map(time));
    let range = rows_as_json::range(Some(wanted.from_us), Some(wanted.to_us));
    format!(
        "{{{range}\"bucket\":\"{}\",\"by\":{by},\"count\":{},\"whole\":{},\"reached\":{reached},\"groups\":[{groups}],\
         \"more_groups\":{more_groups}}}",
        wanted.bucket.as_str(),
        counted.count,
        counted.reached.is_none(),
    )
    .into_bytes()
}

fn group_json(group: &LetterGroup, by: &[GroupBy]) -> Value {
    let digest = |bytes: &Vec<u8>| <[u8; 32]>::try_from(&bytes[..]).ok().map(Digest);
    let mut members = Map::new();
    for one in by {
        let value = match one {
            GroupBy::Reason => json!(group.reason),
            GroupBy::Code => json!(group.code),
            GroupBy::Violation => json!(group.violation),
            GroupBy::Category => json!(group.category),
            GroupBy::Name => json!(group.name),
            GroupBy::Application => json!(group.application),
            GroupBy::Validator => json!(group.module.as_ref().and_then(digest)),
        };
        members.insert(one.as_str().to_owned(), value);
    }
    let buckets = group.buckets.iter().rev().map(|bucket| json!({"start": time(bucket.start), "count": bucket.count}));
    let counted = [
        ("count", json!(group.count)),
        ("redrivable", json!(group.redrivable)),
        ("redriven", json!(group.redriven)),
        ("first_received_at", json!(time(group.first_received_at))),
        ("last_received_at", json!(time(group.last_received_at))),
        ("latest_id", json!(group.latest_id)),
        ("buckets", buckets.collect()),
    ];
    members.extend(counted.map(|(name, value)| (name.to_owned(), value)));
    members.into()
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23T00:00:00Z.
    const NOW_US: i64 = 1_795_392_000_000_000;

    #[test]
    fn the_range_is_the_last_day_and_decides_the_bucket() {
        let day = wanted(None, NOW_US).expect("good");
        assert_eq!((day.from_us, day.to_us, day.bucket), (NOW_US - COUNTED_US, NOW_US, Bucket::Hour));
        assert_eq!(day.by, BY);
        for (query, bucket) in [
            ("from=2026-11-22T21:00:00Z&to=2026-11-23T00:00:00Z", Bucket::Minute),
            ("from=2026-11-22T20:59:59Z&to=2026-11-23T00:00:00Z", Bucket::Hour),
            ("from=2026-11-01T00:00:00Z", Bucket::Day),
            ("from=2026-11-01T00:00:00Z&bucket=minute", Bucket::Minute),
        ] {
            let wanted = wanted(Some(query), NOW_US).expect("good");
            assert_eq!(wanted.bucket, bucket, "{query}");
            assert_eq!(wanted.filter.to.map(|to| to.timestamp_micros()), Some(wanted.to_us), "{query}");
        }
    }

    #[test]
    fn groups_are_known_words_each_once() {
        let by = wanted(Some("by=validator,code"), NOW_US).expect("good").by;
        assert_eq!(by, [GroupBy::Validator, GroupBy::Code]);
        for query in ["by=code,code", "by=code,", "by=colour", "bucket=week", "validator=12", "limit=1"] {
            assert!(matches!(wanted(Some(query), NOW_US), Err(Refusal::BadParameter { .. })), "{query}");
        }
    }

    #[test]
    fn an_answer_that_is_full_says_that_there_are_more_groups() {
        let group = LetterGroup {
            reason: Some("rejected".to_owned()),
            code: Some("rule".to_owned()),
            violation: None,
            category: None,
            name: None,
            application: None,
            module: None,
            count: 2,
            redrivable: 1,
            redriven: 1,
            first_received_at: DateTime::UNIX_EPOCH,
            last_received_at: DateTime::UNIX_EPOCH,
            latest_id: uuid::Uuid::nil(),
            buckets: Vec::new(),
        };
        let counted = LetterSummary { count: 4, groups: vec![group.clone(), group], ..LetterSummary::default() };
        let wanted = wanted(None, NOW_US).expect("good");
        for (bytes_max, groups, more_groups) in [(1, 1, true), (1_000, 2, false)] {
            let answer: Value = serde_json::from_slice(&body(&wanted, &counted, bytes_max)).expect("JSON");
            assert_eq!(answer["groups"].as_array().map(Vec::len), Some(groups));
            assert_eq!((&answer["more_groups"], &answer["count"]), (&json!(more_groups), &json!(4)));
        }
    }
}
