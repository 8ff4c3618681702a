//! Counts dead letters in groups and over time. No table has these counts, since a letter may be redriven or redacted
//! later. So the letters are walked along their key, the latest first, and Postgres groups one stretch at a time. A
//! summary that has walked for long ends early, and says how far it came.

use std::cmp::Reverse;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::letters::{FIRST_VIOLATION, LetterFilter, Selection};
use super::{Bucket, Reading};
use crate::store::{Error, Store};
use crate::trust::visible::Visible;

/// Letters of one stretch of the walk.
const STRETCH_MAX: u32 = 10_000;
/// Groups that are counted. Letters of further groups are counted in the sum alone.
const COUNTED_GROUPS_MAX: usize = 10_000;
/// Buckets of all groups together. A summary that has more ends early.
const BUCKETS_MAX: usize = 100_000;
/// Most groups of a summary.
const GROUPS_MAX: usize = 1_000;

/// What the letters of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// The reason.
    Reason,
    /// The code.
    Code,
    /// The code of the first violation.
    Violation,
    /// The category.
    Category,
    /// The name.
    Name,
    /// The application.
    Application,
    /// The module that judged the event.
    Validator,
}

impl GroupBy {
    /// All of them, in the order of answers.
    pub const ALL: [GroupBy; 7] = [
        GroupBy::Reason,
        GroupBy::Code,
        GroupBy::Violation,
        GroupBy::Category,
        GroupBy::Name,
        GroupBy::Application,
        GroupBy::Validator,
    ];

    /// The word in requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            GroupBy::Reason => "reason",
            GroupBy::Code => "code",
            GroupBy::Violation => "violation",
            GroupBy::Category => "category",
            GroupBy::Name => "name",
            GroupBy::Application => "application",
            GroupBy::Validator => "validator",
        }
    }

    /// The expression on a dead letter, and its value for letters that are not grouped by it.
    fn columns(self) -> (&'static str, &'static str) {
        match self {
            GroupBy::Reason => ("reason", "null::text"),
            GroupBy::Code => ("code", "null::text"),
            GroupBy::Violation => ("violation", "null::text"),
            GroupBy::Category => ("category", "null::text"),
            GroupBy::Name => ("name", "null::text"),
            GroupBy::Application => ("application_id", "null::integer"),
            GroupBy::Validator => ("module_id", "null::integer"),
        }
    }
}

/// The letters of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterBucket {
    /// The first moment of the bucket.
    pub start: DateTime<Utc>,
    /// The number of letters.
    pub count: u64,
}

/// Letters that have something in common. What they are not grouped by is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterGroup {
    /// `rejected` or `quarantined`.
    pub reason: Option<String>,
    /// `envelope`, `rule`, the kind of fault, or `unstorable`.
    pub code: Option<String>,
    /// The code of the first violation, if there is any.
    pub violation: Option<String>,
    /// The category, if it was readable.
    pub category: Option<String>,
    /// The name, if it was readable.
    pub name: Option<String>,
    /// The name of the application.
    pub application: Option<String>,
    /// The digest of the module, if any judged the event.
    pub module: Option<Vec<u8>>,
    /// The number of letters.
    pub count: u64,
    /// How many of them can be redriven.
    pub redrivable: u64,
    /// How many of them were redriven.
    pub redriven: u64,
    /// When the first of them was received.
    pub first_received_at: DateTime<Utc>,
    /// When the last of them was received.
    pub last_received_at: DateTime<Utc>,
    /// The id of the last one.
    pub latest_id: Uuid,
    /// The buckets with letters, the latest first.
    pub buckets: Vec<LetterBucket>,
}

/// The dead letters of a filter, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterSummary {
    /// The number of counted letters.
    pub count: u64,
    /// All letters after this time are counted, and possibly some of this time; `None` if all are counted.
    pub reached: Option<DateTime<Utc>>,
    /// The groups, the largest first.
    pub groups: Vec<LetterGroup>,
    /// Whether there are further groups.
    pub more_groups: bool,
}

/// The letters of one stretch, group and bucket, and where the stretch ended.
struct Row {
    walked: i64,
    /// Null in the only row of a stretch without letters.
    end_at: Option<DateTime<Utc>>,
    end_id: Option<Uuid>,
    /// Null in the only row of a stretch that has no letter of the filter.
    start: Option<DateTime<Utc>>,
    reason: Option<String>,
    code: Option<String>,
    violation: Option<String>,
    category: Option<String>,
    name: Option<String>,
    application_id: Option<i32>,
    module_id: Option<i32>,
    count: Option<i64>,
    redrivable: Option<i64>,
    redriven: Option<i64>,
    first_received_at: Option<DateTime<Utc>>,
    last_received_at: Option<DateTime<Utc>>,
    latest_id: Option<Uuid>,
}

from_row!(Row {
    walked,
    end_at,
    end_id,
    start,
    reason,
    code,
    violation,
    category,
    name,
    application_id,
    module_id,
    count,
    redrivable,
    redriven,
    first_received_at,
    last_received_at,
    latest_id
});

impl Store {
    /// Counts the visible dead letters of a filter, the latest first, for as long as a read has time.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn dead_letters_summary(
        &self,
        visible: &Visible,
        filter: &LetterFilter,
        by: &[GroupBy],
        bucket: Bucket,
    ) -> Result<LetterSummary, Error> {
        let mut reading = self.reading().await?;
        let Some(selection) = Selection::of(&mut reading, visible, filter).await? else {
            return Ok(LetterSummary::default());
        };
        let mut counting = Counting::default();
        while let Some((end_at, end_id)) = counting.step(&mut reading, &selection, by, bucket).await? {
            if counting.buckets >= BUCKETS_MAX || reading.late() {
                counting.reached = Some(end_at);
                break;
            }
            counting.after = Some((end_at, end_id));
        }
        counting.finish(&mut reading).await
    }
}

/// A group by ids. Letters with the same key are one group.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    texts: [Option<String>; 5],
    application_id: Option<i32>,
    module_id: Option<i32>,
}

/// A summary that is being made.
#[derive(Default)]
struct Counting {
    after: Option<(DateTime<Utc>, Uuid)>,
    reached: Option<DateTime<Utc>>,
    count: u64,
    /// The place of each group in `groups`.
    places: HashMap<Key, usize>,
    groups: Vec<(Key, LetterGroup)>,
    more_groups: bool,
    /// The number of buckets of all groups.
    buckets: usize,
}

impl Counting {
    /// Counts the next stretch, and returns its end; `None` if it was the last one.
    async fn step(
        &mut self,
        reading: &mut Reading,
        selection: &Selection<'_>,
        by: &[GroupBy],
        bucket: Bucket,
    ) -> Result<Option<(DateTime<Utc>, Uuid)>, Error> {
        let mut query = self.stretch(selection, by, bucket);
        let query = query.build_query_as::<Row>().persistent(false);
        let rows = reading.run(|connection| query.fetch_all(connection)).await?;
        let is_full = |row: &&Row| row.walked >= i64::from(STRETCH_MAX);
        let end = rows.first().filter(is_full).and_then(|row| row.end_at.zip(row.end_id));
        rows.into_iter().for_each(|row| self.add(row));
        Ok(end)
    }

    /// The statement of one stretch. A letter has its place in the stretch, which finds the last one of each group without
    /// a join, whatever the planner believes about the number of groups.
    fn stretch(&self, selection: &Selection<'_>, by: &[GroupBy], bucket: Bucket) -> QueryBuilder<Postgres> {
        let violation =
            if by.contains(&GroupBy::Violation) || selection.has_violation() { FIRST_VIOLATION } else { "null::text" };
        let mut query = QueryBuilder::new(format!(
            "with stretch as materialized (select row_number() over (order by received_at desc, id desc) as place, \
                 received_at, id, reason, code, category, name, application_id, module_id, violation, is_redriven, is_cut \
             from (select received_at, id, reason, code, category, name, application_id, module_id, \
                 {violation} as violation, redriven_at is not null as is_redriven, \
                 kept = 'nothing' or kept = 'whole' and octet_length(raw) < raw_bytes as is_cut \
                 from dead_letters where true",
        ));
        selection.push_times(&mut query);
        if let Some((received_at, id)) = self.after {
            query.push(" and received_at <= ").push_bind(received_at);
            query.push(" and (received_at, id) < (").push_bind(received_at).push(", ").push_bind(id).push(")");
        }
        query.push(format!(" order by received_at desc, id desc limit {STRETCH_MAX}) letter), "));
        query.push(format!(
            "grouped as (select date_trunc('{}', received_at, 'UTC') as start, min(place) as place, count(*) as count, \
                 count(*) filter (where not is_redriven and not is_cut) as redrivable, \
                 count(*) filter (where is_redriven) as redriven, \
                 min(received_at) as first_received_at, max(received_at) as last_received_at",
            bucket.as_str()
        ));
        for one in GroupBy::ALL {
            let (column, none) = one.columns();
            query.push(format!(", {} as {column}", if by.contains(&one) { column } else { none }));
        }
        query.push(" from stretch where true");
        selection.push(&mut query, "violation");
        query.push(
            " group by 1, 8, 9, 10, 11, 12, 13, 14), \
             ended as materialized (select count(*) as walked, min(received_at) as end_at, \
                 array_agg(id order by place) as ids from stretch) \
             select ended.walked, ended.end_at, ended.ids[ended.walked] as end_id, grouped.start, grouped.reason, \
                 grouped.code, grouped.violation, grouped.category, grouped.name, grouped.application_id, \
                 grouped.module_id, grouped.count, grouped.redrivable, grouped.redriven, grouped.first_received_at, \
                 grouped.last_received_at, ended.ids[grouped.place] as latest_id \
             from ended left join grouped on true order by grouped.place",
        );
        query
    }

    /// Adds the letters of a row. Rows come the latest first, within a stretch and from one stretch to the next.
    fn add(&mut self, row: Row) {
        let (Some(start), Some(first_received_at), Some(last_received_at), Some(latest_id)) =
            (row.start, row.first_received_at, row.last_received_at, row.latest_id)
        else {
            return;
        };
        let number = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default();
        let count = number(row.count);
        self.count += count;
        let key = Key {
            texts: [row.reason, row.code, row.violation, row.category, row.name],
            application_id: row.application_id,
            module_id: row.module_id,
        };
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None if self.groups.len() >= COUNTED_GROUPS_MAX => {
                self.more_groups = true;
                return;
            }
            None => {
                self.places.insert(key.clone(), self.groups.len());
                let [reason, code, violation, category, name] = key.texts.clone();
                let group = LetterGroup {
                    reason,
                    code,
                    violation,
                    category,
                    name,
                    application: None,
                    module: None,
                    count: 0,
                    redrivable: 0,
                    redriven: 0,
                    first_received_at,
                    last_received_at,
                    latest_id,
                    buckets: Vec::new(),
                };
                self.groups.push((key, group));
                self.groups.len() - 1
            }
        };
        let group = &mut self.groups[place].1;
        group.count += count;
        group.redrivable += number(row.redrivable);
        group.redriven += number(row.redriven);
        group.first_received_at = group.first_received_at.min(first_received_at);
        match group.buckets.last_mut() {
            Some(last) if last.start == start => last.count += count,
            _ => {
                group.buckets.push(LetterBucket { start, count });
                self.buckets += 1;
            }
        }
    }

    /// The largest groups, with the words of their ids.
    async fn finish(mut self, reading: &mut Reading) -> Result<LetterSummary, Error> {
        // The sort keeps the order of groups of one size, in which the latest is the first.
        self.groups.sort_by_key(|(_, group)| Reverse(group.count));
        let more_groups = self.more_groups || self.groups.len() > GROUPS_MAX;
        self.groups.truncate(GROUPS_MAX);
        let ids = |id: fn(&Key) -> Option<i32>| self.groups.iter().filter_map(|(key, _)| id(key)).collect::<Vec<i32>>();
        let (applications, modules) = (ids(|key| key.application_id), ids(|key| key.module_id));
        let mut names = HashMap::new();
        if !applications.is_empty() {
            let query = sqlx::query_as::<_, (i32, String)>("select id, name from applications where id = any($1)");
            names.extend(reading.run(|connection| query.bind(applications).fetch_all(connection)).await?);
        }
        let mut digests = HashMap::new();
        if !modules.is_empty() {
            let query = sqlx::query_as::<_, (i32, Vec<u8>)>("select id, digest from modules where id = any($1)");
            digests.extend(reading.run(|connection| query.bind(modules).fetch_all(connection)).await?);
        }
        let groups = self.groups.into_iter().map(|(key, group)| LetterGroup {
            application: key.application_id.map(|id| names.get(&id).cloned().unwrap_or_default()),
            module: key.module_id.and_then(|id| digests.get(&id).cloned()),
            ..group
        });
        Ok(LetterSummary { count: self.count, reached: self.reached, groups: groups.collect(), more_groups })
    }
}
