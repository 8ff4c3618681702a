-- What is kept of an event that was not stored: as it came, as its validator redacts it, or nothing but its size and digest.
-- The bytes that are kept are for those with the scope `raw` alone.

alter table applications drop constraint applications_scopes_check,
    add constraint applications_scopes_check check (scopes <@ array['ingest', 'read', 'raw', 'admin']);

-- Not proved for the rows that are there: they have the default, and the table is not to be locked for so long.
alter table dead_letters
    add column kept text not null default 'whole',
    add column raw_digest bytea,
    add constraint dead_letters_kept_check check (kept in ('whole', 'redacted', 'nothing')) not valid;

comment on column dead_letters.kept is 'whole: raw is as it came; redacted: raw is the event as its validator redacts it; nothing: raw is empty';
comment on column dead_letters.raw is 'what is kept of the bytes, cut at the configured size; `kept` says in what form';
comment on column dead_letters.raw_digest is 'SHA-256 of the bytes as they came, where nothing of them is kept';

-- Which validators take secrets out, and how far their older dead letters were rewritten.
create table redacting_types (
    event_type text not null,
    digest bytea not null,
    redacts boolean not null,
    began_at timestamptz not null default now(),
    ended_at timestamptz,
    scrubbed_to timestamptz not null default 'epoch',
    scrubbed_to_id uuid not null default '00000000-0000-0000-0000-000000000000',
    emptied_to timestamptz not null default 'epoch',
    emptied_to_id uuid not null default '00000000-0000-0000-0000-000000000000',
    constraint redacting_types_pkey primary key (event_type),
    constraint redacting_types_digest_check check (length(digest) = 32)
);

comment on table redacting_types is 'event types whose module exports redact, or amends in one of its examples';
comment on column redacting_types.event_type is 'as the module is named: category/name, category/_ or _; empty for letters whose event type could not be read';
comment on column redacting_types.digest is 'the module that serves, or served last';
comment on column redacting_types.redacts is 'whether that module exports redact; otherwise it only amends, and can redact nothing';
comment on column redacting_types.began_at is 'when a module of this type first took something out; the days of grace count from here';
comment on column redacting_types.ended_at is 'when a module that takes nothing out began to serve instead';
comment on column redacting_types.scrubbed_to is 'letters received until then were looked at, and redacted where that was possible';
comment on column redacting_types.emptied_to is 'letters received until then have lost their bytes where they could not be redacted';

-- The audit trail of the scrub job. It names no event.
create table scrubs (
    at timestamptz not null default now(),
    event_type text not null,
    digest bytea not null,
    redacted integer not null,
    emptied integer not null,
    received_to timestamptz not null
);

comment on table scrubs is 'rounds in which dead letters were rewritten, since the module of their type takes secrets out';
comment on column scrubs.redacted is 'letters whose bytes were replaced by what the module keeps of them';
comment on column scrubs.emptied is 'letters that lost their bytes, since the module could not redact them within the days of grace';
comment on column scrubs.received_to is 'the last letter of the round was received then';
