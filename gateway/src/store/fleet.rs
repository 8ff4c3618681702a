//! The fleet: the gateways on this database, the contents and versions of modules, what is being prepared, and the
//! generations. A generation is made by one statement, so that a gateway that is frozen in between holds no lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Error, Store, audit, greeted};
use crate::audit::{Actor, Entry};

/// A gateway that has not written its row for so long counts as gone: no generation waits for it.
pub const LIVING: Duration = Duration::from_secs(10);

/// How long the row of a gateway stays that ended without saying so.
const ROW_TIME: Duration = Duration::from_secs(3_600);

/// Longest time for reading or writing the content of modules.
const CONTENT_TIME: Duration = Duration::from_secs(60);

/// Most preparations that wait for gateways: of all, and of one application or user.
const PENDING_MAX: i64 = 100;
const PENDING_OF_ONE_MAX: i64 = 10;

const CHANNEL: &str = "eye_fleet";

/// What a gateway writes of itself, each second.
#[derive(Clone, Debug)]
pub struct Beat<'a> {
    /// Its name.
    pub name: &'a str,
    /// The address on which it takes events.
    pub listen: &'a str,
    /// The word of the source of its modules.
    pub modules_from: &'a str,
    /// The generation that it serves.
    pub generation: u64,
    /// How many modules it prepares.
    pub preparing: usize,
    /// What is wrong with it.
    pub problems: &'a [Value],
}

/// A gateway of this database.
#[derive(Clone, Debug)]
pub struct GatewayRow {
    /// The id of its process.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// The address on which it takes events.
    pub listen: String,
    /// The source of its modules: `directory` or `database`.
    pub modules_from: String,
    /// When it started.
    pub since: DateTime<Utc>,
    /// When it last wrote its row.
    pub seen: DateTime<Utc>,
    /// Whether it wrote its row lately.
    pub is_live: bool,
    /// The generation that it serves.
    pub generation: i64,
    /// How many modules it prepares.
    pub preparing: i32,
    /// What it alone does for all.
    pub duties: Vec<String>,
    /// What is wrong with it.
    pub problems: Json<Value>,
}

from_row!(GatewayRow {
    id,
    name,
    version,
    listen,
    modules_from,
    since,
    seen,
    is_live,
    generation,
    preparing,
    duties,
    problems
});

/// A slot in the database: what serves an event type, or is to serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// The event type, as its file would be named.
    pub event_type: String,
    /// The module; `None` if none serves.
    pub digest: Option<Vec<u8>>,
    /// Its settings; `None` for the defaults.
    pub settings: Option<String>,
}

from_row!(SlotRow { event_type, digest, settings });

/// A row of [`HEAD`].
type HeadRow = (i64, Option<Uuid>, Json<Vec<Value>>);

/// A slot of a generation, with the number of that. A generation without slots has one such row.
struct NumberedSlot {
    number: i64,
    id: Option<Uuid>,
    event_type: Option<String>,
    digest: Option<Vec<u8>>,
    settings: Option<String>,
}

from_row!(NumberedSlot { number, id, event_type, digest, settings });

/// A slot that a preparation changes.
#[derive(Clone, Debug)]
pub struct NewSlot {
    /// The event type, as its file would be named.
    pub event_type: String,
    /// The module that is to serve; `None` to take it away.
    pub digest: Option<Digest>,
    /// Its settings.
    pub settings: Option<String>,
    /// The module that serves until then. Another one is a change that came between.
    pub replaces: Option<Digest>,
    /// The settings that it has until then.
    pub replaces_settings: Option<String>,
}

/// What is to become the next generation.
#[derive(Clone, Debug)]
pub struct NewPreparation {
    /// Its id.
    pub id: Uuid,
    /// Its cause, as the database has it, such as `push`.
    pub cause: &'static str,
    /// Becomes a generation also while a gateway has not prepared it.
    pub forced: bool,
    /// The generation that must still be the current one.
    pub based_on: Option<u64>,
    /// How long it waits for gateways.
    pub wait: Duration,
    /// The slots that change.
    pub slots: Vec<NewSlot>,
}

/// Where a version comes from.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The event type, as its file would be named.
    pub event_type: String,
    /// The module.
    pub digest: Digest,
    /// The commit of its source, as its author gave it.
    pub commit_id: Option<String>,
    /// It takes secrets out of dead letters.
    pub redacts: bool,
}

/// A preparation as its rows tell it.
#[derive(Clone, Debug)]
pub struct PreparationRow {
    /// `preparing`, `active`, `refused` or `changed`.
    pub state: String,
    /// The generation that it became.
    pub generation: Option<i64>,
    /// Why it became none.
    pub problem: Option<Json<Value>>,
    /// The living gateways that have not prepared it, with their refusals.
    pub waits_for: Json<Value>,
}

from_row!(PreparationRow { state, generation, problem, waits_for });

/// A preparation of an event type, with who asked for it.
#[derive(Clone, Debug)]
pub struct AskedRow {
    /// Its id.
    pub id: Uuid,
    /// Its cause.
    pub cause: String,
    /// When it was asked for.
    pub asked_at: DateTime<Utc>,
    /// By whom.
    pub asked_by: String,
    /// The module that is to serve; `None` to take it away.
    pub digest: Option<Vec<u8>>,
    /// `preparing`, `active`, `refused` or `changed`.
    pub state: String,
    /// The generation that it became.
    pub generation: Option<i64>,
    /// Why it became none.
    pub problem: Option<Json<Value>>,
    /// The living gateways that have not prepared it, with their refusals.
    pub waits_for: Json<Value>,
}

from_row!(AskedRow { id, cause, asked_at, asked_by, digest, state, generation, problem, waits_for });

/// A preparation that waits for gateways.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its id.
    pub id: Uuid,
    /// Whether this gateway has told what it thinks of it.
    pub told: bool,
    /// Whether its time is over, so that it ends whatever this gateway thinks of it.
    pub over: bool,
    /// The slots that get a module, and whether that must redact.
    pub slots: Vec<(SlotRow, bool)>,
}

/// A generation: its number, and the id that tells it from another one of the same number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GenerationId {
    /// The number; 0 before the first.
    pub number: u64,
    /// The id.
    pub id: Uuid,
}

/// The state of the fleet.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The current generation.
    pub generation: GenerationId,
    /// What waits to become the next one.
    pub pending: Vec<Pending>,
}

/// A version of a module in the database.
#[derive(Clone, Debug)]
pub struct VersionRow {
    /// The module.
    pub digest: Vec<u8>,
    /// When it was shipped.
    pub shipped_at: DateTime<Utc>,
    /// Who shipped it.
    pub shipped_by: String,
    /// From where.
    pub shipped_from: Option<String>,
    /// The commit of its source.
    pub commit_id: Option<String>,
    /// The program that took it first.
    pub engine: String,
    /// When a generation began to serve it last.
    pub served_at: Option<DateTime<Utc>>,
    /// Its size.
    pub bytes: Option<i32>,
}

from_row!(VersionRow { digest, shipped_at, shipped_by, shipped_from, commit_id, engine, served_at, bytes });

/// A generation in the list of all.
#[derive(Clone, Debug)]
pub struct GenerationRow {
    /// Its number.
    pub number: i64,
    /// When it was made.
    pub made_at: DateTime<Utc>,
    /// By whom.
    pub made_by: String,
    /// From where.
    pub made_from: Option<String>,
    /// Its cause.
    pub cause: String,
    /// Whether it was made although a gateway had not prepared it.
    pub forced: bool,
    /// What it changed, as objects with `event_type`, `digest` and `settings`.
    pub changes: Json<Value>,
}

from_row!(GenerationRow { number, made_at, made_by, made_from, cause, forced, changes });

/// Waits for changes of the fleet.
#[derive(Debug)]
pub struct FleetChanges(PgListener);

impl FleetChanges {
    /// Waits for the next change. It also returns after the connection was lost.
    ///
    /// # Errors
    ///
    /// The errors of the connection.
    pub async fn changed(&mut self) -> Result<(), Error> {
        self.0.try_recv().await?;
        while self.0.next_buffered().is_some() {}
        Ok(())
    }
}

const BEAT: &str = "with gone as ( \
         delete from gateways where id in ( \
             select id from gateways where id <> $1 and (seen < clock_timestamp() - $8::interval \
                 or name = $2 and listen = $4 and seen < clock_timestamp() - interval '2 seconds') \
             for update skip locked \
         ) \
     ), beat as ( \
         insert into gateways (id, name, version, listen, modules_from, generation, preparing, problems) \
         values ($1, $2, $3, $4, $5, $6, $7, $9) \
         on conflict (id) do update set name = excluded.name, generation = excluded.generation, \
             preparing = excluded.preparing, problems = excluded.problems, seen = clock_timestamp() \
         returning id \
     ) \
     select count(*) filter (where gateways.seen > clock_timestamp() - $10::interval) \
     from beat left join gateways on gateways.id <> beat.id";

const HEAD: &str = "select coalesce(newest.number, 0), newest.id, ( \
         select coalesce(jsonb_agg(jsonb_build_object('id', preparations.id, \
             'over', ends_at <= clock_timestamp(), \
             'told', exists (select from prepared where preparation_id = preparations.id and gateway_id = $1), \
             'slots', (select jsonb_agg(jsonb_build_object('event_type', event_type, 'digest', encode(digest, 'hex'), \
                     'settings', settings, 'must_redact', not forced and must_redact(event_type, digest))) \
                 from preparation_slots slots where slots.preparation_id = preparations.id and digest is not null) \
         ) order by asked_at), '[]') \
         from preparations where state = 'preparing' \
     ) \
     from (select) one left join (select number, id from generations order by number desc limit 1) newest on true";

const PREPARATION: &str = "select state, generation, problem, ( \
         select coalesce(jsonb_agg(jsonb_build_object('gateway', gateways.name, 'refusal', prepared.refusal) \
             order by gateways.name), '[]') \
         from gateways left join prepared on prepared.preparation_id = preparations.id \
             and prepared.gateway_id = gateways.id \
         where preparations.state = 'preparing' and gateways.modules_from = 'database' \
             and gateways.seen > clock_timestamp() - $2::interval \
             and (prepared.preparation_id is null or prepared.refusal is not null) \
     ) as waits_for from preparations where id = $1";

const ASKED: &str = "select preparations.id, cause, asked_at, coalesce(asked_by ->> 'name', '') as asked_by, slots.digest, \
         state, generation, problem, ( \
         select coalesce(jsonb_agg(jsonb_build_object('gateway', gateways.name, 'refusal', prepared.refusal) \
             order by gateways.name), '[]') \
         from gateways left join prepared on prepared.preparation_id = preparations.id \
             and prepared.gateway_id = gateways.id \
         where preparations.state = 'preparing' and gateways.modules_from = 'database' \
             and gateways.seen > clock_timestamp() - $2::interval \
             and (prepared.preparation_id is null or prepared.refusal is not null) \
     ) as waits_for \
     from preparations join preparation_slots slots on slots.preparation_id = preparations.id \
     where slots.event_type = $1 order by asked_at desc limit 5";

const GENERATIONS: &str = "select number, made_at, made_by, made_from, cause, forced, ( \
         select coalesce(jsonb_agg(jsonb_build_object('event_type', event_type, 'digest', encode(digest, 'hex'), \
             'settings', settings) order by event_type), '[]') \
         from (select event_type, digest, settings from generation_changes where number = generations.number \
             order by event_type limit 100) first_ones \
     ) as changes \
     from generations where $1::bigint is null or number < $1 order by number desc limit $2";

const VERSIONS: &str = "select versions.digest, shipped_at, shipped_by, shipped_from, commit_id, engine, served_at, \
         octet_length(content) as bytes \
     from module_versions versions left join module_contents using (digest) \
     where event_type = $1 order by coalesce(served_at, shipped_at) desc";

impl Store {
    /// Writes the row of this gateway. Returns how many others are alive.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn gateway_beat(&self, beat: &Beat<'_>) -> Result<i64, Error> {
        let query = sqlx::query_scalar(BEAT)
            .bind(self.id())
            .bind(beat.name)
            .bind(env!("CARGO_PKG_VERSION"))
            .bind(beat.listen)
            .bind(beat.modules_from)
            .bind(i64::try_from(beat.generation).unwrap_or(i64::MAX))
            .bind(i32::try_from(beat.preparing).unwrap_or(i32::MAX))
            .bind(ROW_TIME)
            .bind(Json(beat.problems))
            .bind(LIVING);
        self.ask(query.fetch_one(&self.own)).await
    }

    /// Removes the row of this gateway, which ends.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn gateway_leave(&self) -> Result<(), Error> {
        self.ask(sqlx::query("delete from gateways where id = $1").bind(self.id()).execute(&self.own)).await.map(drop)
    }

    /// The gateways of this database by name.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn gateways(&self) -> Result<Vec<GatewayRow>, Error> {
        let query = sqlx::query_as(
            "select id, name, version, listen, modules_from, since, seen, seen > clock_timestamp() - $1::interval as is_live, \
                 generation, preparing, \
                 array(select duty from duties where holder = gateways.id and until > now() order by duty) as duties, problems \
             from gateways order by name, since",
        )
        .bind(LIVING);
        self.ask(query.fetch_all(&self.own)).await
    }

    /// The current generation, and what waits to become the next one.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn fleet_head(&self) -> Result<Head, Error> {
        let query = sqlx::query_as(HEAD).bind(self.id());
        let (number, id, pending): HeadRow = self.ask(query.fetch_one(&self.own)).await?;
        let pending = pending.0.iter().filter_map(pending_of).collect();
        let (number, id) = (u64::try_from(number).unwrap_or_default(), id.unwrap_or_default());
        Ok(Head { generation: GenerationId { number, id }, pending })
    }

    /// The slots of a generation; those of the current one without a number.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn generation_slots(&self, number: Option<u64>) -> Result<(GenerationId, Vec<SlotRow>), Error> {
        let number = number.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        // One snapshot for both, so that the number fits the slots.
        let query = sqlx::query_as(
            "select coalesce($1, newest.number, 0) as number, newest.id, event_type, digest, settings \
             from (select) one \
             left join (select number, id from generations where $1::bigint is null or number = $1 \
                 order by number desc limit 1) newest on true \
             left join generation_set($1) on true order by event_type",
        )
        .bind(number);
        let rows: Vec<NumberedSlot> = self.ask(query.fetch_all(&self.own)).await?;
        let generation = rows.first().map(|row| GenerationId {
            number: u64::try_from(row.number).unwrap_or_default(),
            id: row.id.unwrap_or_default(),
        });
        let slot = |NumberedSlot { number: _, id: _, event_type, digest, settings }: NumberedSlot| {
            Some(SlotRow { event_type: event_type?, digest, settings })
        };
        Ok((generation.unwrap_or_default(), rows.into_iter().filter_map(slot).collect()))
    }

    /// What serves an event type in the current generation; `None` if nothing does.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn current_slot(&self, event_type: &str) -> Result<Option<SlotRow>, Error> {
        let query = sqlx::query_as(
            "select event_type, digest, settings from generation_changes \
             where event_type = $1 order by number desc limit 1",
        )
        .bind(event_type);
        let row: Option<SlotRow> = self.ask(query.fetch_optional(&self.own)).await?;
        Ok(row.filter(|row| row.digest.is_some()))
    }

    /// The settings with which a module served an event type last.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn settings_with(&self, event_type: &str, digest: Digest) -> Result<Option<String>, Error> {
        let query = sqlx::query_scalar(
            "select settings from generation_changes \
             where event_type = $1 and digest = $2 order by number desc limit 1",
        )
        .bind(event_type)
        .bind(digest.0.to_vec());
        let settings: Option<Option<String>> = self.ask(query.fetch_optional(&self.own)).await?;
        Ok(settings.flatten())
    }

    /// Whether somebody has said what is meant after a generation: the whole set was imported or put back since then.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn is_meant_after(&self, after: GenerationId) -> Result<bool, Error> {
        let query = sqlx::query_scalar(
            "select exists (select from generations where number > $1 and cause in ('import', 'back')) \
                 and ($1 = 0 or exists (select from generations where number = $1 and id = $2))",
        )
        .bind(i64::try_from(after.number).unwrap_or(i64::MAX))
        .bind(after.id);
        self.ask(query.fetch_one(&self.own)).await
    }

    /// What changed after a generation up to another: the last change of each slot. `None` if the database does not know
    /// the first one, or has another one of its number.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn generation_changes(&self, after: GenerationId, to: u64) -> Result<Option<Vec<SlotRow>>, Error> {
        let number = i64::try_from(after.number).unwrap_or(i64::MAX);
        let known = sqlx::query_scalar("select exists (select from generations where number = $1 and id = $2)");
        let known: bool = self.ask(known.bind(number).bind(after.id).fetch_one(&self.own)).await?;
        if !known {
            return Ok(None);
        }
        let query = sqlx::query_as(
            "select distinct on (event_type) event_type, digest, settings from generation_changes \
             where number > $1 and number <= $2 order by event_type, number desc",
        )
        .bind(number)
        .bind(i64::try_from(to).unwrap_or(i64::MAX));
        self.ask(query.fetch_all(&self.own)).await.map(Some)
    }

    /// Whether a generation is still known.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn knows_generation(&self, number: u64) -> Result<bool, Error> {
        let query = sqlx::query_scalar("select exists (select from generations where number = $1)")
            .bind(i64::try_from(number).unwrap_or(i64::MAX));
        self.ask(query.fetch_one(&self.own)).await
    }

    /// A page of generations, the latest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn generations(&self, before: Option<i64>, limit: u32) -> Result<Vec<GenerationRow>, Error> {
        let query = sqlx::query_as(GENERATIONS).bind(before).bind(i64::from(limit));
        self.ask(query.fetch_all(&self.own)).await
    }

    /// The versions of an event type, those that served last first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn module_versions(&self, event_type: &str) -> Result<Vec<VersionRow>, Error> {
        self.ask(sqlx::query_as(VERSIONS).bind(event_type).fetch_all(&self.own)).await
    }

    /// The sizes of the contents that are kept, of these digests.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn content_sizes(&self, digests: &[Digest]) -> Result<HashMap<Digest, usize>, Error> {
        let wanted: Vec<Vec<u8>> = digests.iter().map(|digest| digest.0.to_vec()).collect();
        let query = sqlx::query_as("select digest, octet_length(content) from module_contents where digest = any ($1)")
            .bind(wanted);
        let rows: Vec<(Vec<u8>, i32)> = self.ask(query.fetch_all(&self.own)).await?;
        let size = |(digest, bytes): (Vec<u8>, i32)| {
            Some((Digest(digest.try_into().ok()?), usize::try_from(bytes).unwrap_or_default()))
        };
        Ok(rows.into_iter().filter_map(size).collect())
    }

    /// The contents of modules, as far as they are kept.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn module_contents(&self, digests: &[Digest]) -> Result<HashMap<Digest, Vec<u8>>, Error> {
        let wanted: Vec<Vec<u8>> = digests.iter().map(|digest| digest.0.to_vec()).collect();
        let read = async {
            let mut connection = self.session("modules").await?;
            let rows: Vec<(Vec<u8>, Vec<u8>)> =
                sqlx::query_as("select digest, content from module_contents where digest = any ($1)")
                    .bind(wanted)
                    .fetch_all(&mut connection)
                    .await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(rows)
        };
        let rows = super::within(CONTENT_TIME, read).await?;
        let content = |(digest, content): (Vec<u8>, Vec<u8>)| Some((Digest(digest.try_into().ok()?), content));
        Ok(rows.into_iter().filter_map(content).collect())
    }

    /// Keeps the contents of modules, each with the event types that it was shipped for.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn keep_modules(&self, modules: &[(NewVersion, &[u8])], by: &Actor) -> Result<(), Error> {
        let write = async {
            let mut connection = self.session("modules").await?;
            for (version, content) in modules {
                keep_module(&mut connection, version, content, by).await?;
            }
            connection.close().await
        };
        super::within(CONTENT_TIME, write).await
    }

    /// Asks all gateways to prepare what is to become the next generation. `entry` is for the audit trail.
    ///
    /// # Errors
    ///
    /// [`Error::PreparationsMany`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn ask_preparation(&self, new: &NewPreparation, by: &Actor, entry: &Entry) -> Result<(), Error> {
        let ask = async {
            let mut transaction = self.own.begin().await?;
            // The counts hold for one at a time.
            sqlx::query("select pg_advisory_xact_lock(hashtext('eye_preparations'))")
                .execute(&mut *transaction)
                .await?;
            let made = sqlx::query(
                "insert into preparations (id, cause, forced, based_on, ends_at, asked_by) \
                 select $1, $2, $3, $4::bigint, clock_timestamp() + $5::interval, $6::jsonb \
                 from (select count(*) as waiting, count(*) filter (where asked_by ->> 'name' = $6::jsonb ->> 'name') as own \
                     from preparations where state = 'preparing') pending \
                 where waiting < $7 and own < $8",
            )
            .bind(new.id)
            .bind(new.cause)
            .bind(new.forced)
            .bind(new.based_on.map(|number| i64::try_from(number).unwrap_or(i64::MAX)))
            .bind(new.wait)
            .bind(Json(asked_by(by)))
            .bind(PENDING_MAX)
            .bind(PENDING_OF_ONE_MAX)
            .execute(&mut *transaction)
            .await?;
            if made.rows_affected() == 0 {
                return Ok(false);
            }
            let mut slots = QueryBuilder::new(
                "insert into preparation_slots (preparation_id, event_type, digest, settings, replaces, replaces_settings) ",
            );
            for some in new.slots.chunks(1_000) {
                slots.reset();
                slots.push_values(some, |mut row, slot| {
                    let bytes = |digest: Option<Digest>| digest.map(|digest| digest.0.to_vec());
                    row.push_bind(new.id).push_bind(&slot.event_type).push_bind(bytes(slot.digest));
                    row.push_bind(&slot.settings).push_bind(bytes(slot.replaces)).push_bind(&slot.replaces_settings);
                });
                slots.build().persistent(false).execute(&mut *transaction).await?;
            }
            audit::write(&mut transaction, entry).await?;
            transaction.commit().await?;
            Ok(true)
        };
        if !self.ask(ask).await? {
            return Err(Error::PreparationsMany);
        }
        entry.log();
        Ok(())
    }

    /// Refuses a push whose preparation would find no place, before anything of it is kept.
    ///
    /// # Errors
    ///
    /// [`Error::PreparationsMany`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn has_place(&self, by: &Actor) -> Result<(), Error> {
        let query = sqlx::query_scalar(
            "select count(*) < $2 and count(*) filter (where asked_by ->> 'name' = $1) < $3 \
             from preparations where state = 'preparing'",
        )
        .bind(&by.name)
        .bind(PENDING_MAX)
        .bind(PENDING_OF_ONE_MAX);
        match self.ask(query.fetch_one(&self.own)).await? {
            true => Ok(()),
            false => Err(Error::PreparationsMany),
        }
    }

    /// Notes that this gateway has prepared something, or why it cannot.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn note_prepared(&self, preparation: Uuid, refusal: Option<Value>) -> Result<(), Error> {
        let query = sqlx::query(
            "insert into prepared (preparation_id, gateway_id, refusal) \
             select id, $2, $3 from preparations where id = $1 and state = 'preparing' \
             on conflict (preparation_id, gateway_id) do update set refusal = excluded.refusal, at = clock_timestamp() \
                 where prepared.refusal is distinct from excluded.refusal",
        )
        .bind(preparation)
        .bind(self.id())
        .bind(refusal.map(Json));
        self.ask(query.execute(&self.own)).await.map(drop)
    }

    /// Makes a preparation the next generation, if all living gateways have prepared it. Returns its state.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn activate_preparation(&self, preparation: Uuid) -> Result<String, Error> {
        let query = sqlx::query_scalar("select activate_preparation($1, $2)").bind(preparation).bind(LIVING);
        self.ask(query.fetch_one(&self.own)).await
    }

    /// Lets a preparation wait no longer: a living gateway that has not prepared it by now refuses it.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn end_preparation(&self, preparation: Uuid) -> Result<(), Error> {
        let query = sqlx::query(
            "update preparations set ends_at = least(ends_at, clock_timestamp()) where id = $1 and state = 'preparing'",
        )
        .bind(preparation);
        self.ask(query.execute(&self.own)).await?;
        self.activate_preparation(preparation).await.map(drop)
    }

    /// Whether the module that served an event type last takes secrets out of dead letters, so that this one must do so too.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn must_redact(&self, event_type: &str, digest: Digest) -> Result<bool, Error> {
        let query = sqlx::query_scalar("select must_redact($1, $2)").bind(event_type).bind(digest.0.to_vec());
        self.ask(query.fetch_one(&self.own)).await
    }

    /// Removes versions, contents, preparations and generations that nobody needs any more. It keeps the version to which the
    /// guard would go back, which is one that served for at least the time `guard`.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn forget_modules(&self, guard: Duration) -> Result<(), Error> {
        let query = sqlx::query("select forget_modules(make_interval(secs => $1))").bind(guard.as_secs_f64());
        self.ask(query.execute(&self.own)).await.map(drop)
    }

    /// The last preparations of an event type, the latest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn preparations_of(&self, event_type: &str) -> Result<Vec<AskedRow>, Error> {
        let query = sqlx::query_as(ASKED).bind(event_type).bind(LIVING);
        self.ask(query.fetch_all(&self.own)).await
    }

    /// Who shipped what serves now: the event type and the name.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn shippers(&self) -> Result<Vec<(String, String)>, Error> {
        let query = sqlx::query_as(
            "select event_type, shipped_by from generation_set() join module_versions using (event_type, digest)",
        );
        self.ask(query.fetch_all(&self.own)).await
    }

    /// The rows of a preparation.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn preparation(&self, preparation: Uuid) -> Result<Option<PreparationRow>, Error> {
        self.ask(sqlx::query_as(PREPARATION).bind(preparation).bind(LIVING).fetch_optional(&self.own)).await
    }

    /// Listens for changes of the fleet.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn fleet_changes(&self) -> Result<FleetChanges, Error> {
        let pool = greeted(Arc::clone(&self.greeting), Arc::clone(&self.actor))
            .max_connections(1)
            .acquire_timeout(self.read_time)
            .connect_lazy_with(self.options_for("fleet"));
        let listener = self.ask(async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            Ok(listener)
        });
        Ok(FleetChanges(listener.await?))
    }
}

async fn keep_module(
    connection: &mut PgConnection,
    version: &NewVersion,
    content: &[u8],
    by: &Actor,
) -> Result<(), sqlx::Error> {
    let from = by.forwarded.or(by.peer).map(|address| address.to_string()).or_else(|| by.host.clone());
    sqlx::query(
        "with content as ( \
             insert into module_contents (digest, content) values ($2, $3) \
             on conflict (digest) do update set kept_at = now() \
         ) \
         insert into module_versions (event_type, digest, shipped_by, shipped_from, commit_id, engine, redacts) \
         values ($1, $2, $4, $5, $6, $7, $8) \
         on conflict (event_type, digest) do update set shipped_at = now(), shipped_by = excluded.shipped_by, \
             shipped_from = excluded.shipped_from, commit_id = coalesce(excluded.commit_id, module_versions.commit_id)",
    )
    .bind(&version.event_type)
    .bind(version.digest.0.to_vec())
    .bind(content)
    .bind(&by.name)
    .bind(from)
    .bind(&version.commit_id)
    .bind(concat!("eye ", env!("CARGO_PKG_VERSION")))
    .bind(version.redacts)
    .persistent(false)
    .execute(connection)
    .await?;
    Ok(())
}

/// The actor as the row of a preparation has it.
pub(super) fn asked_by(by: &Actor) -> Value {
    json!({
        "actor": by.kind.as_str(),
        "name": by.name,
        "token_id": by.token_id,
        "host": by.host,
        "peer": by.peer,
        "forwarded": by.forwarded,
        "request_id": by.request_id,
    })
}

fn pending_of(told: &Value) -> Option<Pending> {
    let slot = |slot: &Value| {
        let digest: Digest = slot["digest"].as_str()?.parse().ok()?;
        let row = SlotRow {
            event_type: slot["event_type"].as_str()?.to_owned(),
            digest: Some(digest.0.to_vec()),
            settings: slot["settings"].as_str().map(str::to_owned),
        };
        Some((row, slot["must_redact"].as_bool()?))
    };
    Some(Pending {
        id: told["id"].as_str()?.parse().ok()?,
        told: told["told"].as_bool()?,
        over: told["over"].as_bool()?,
        slots: told["slots"].as_array().map(|slots| slots.iter().filter_map(slot).collect()).unwrap_or_default(),
    })
}
