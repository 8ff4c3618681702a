-- The events themselves, with the two small tables that keep repeated words out of every row.

create table event_types (
    id integer generated always as identity,
    category text not null,
    name text not null,
    constraint event_types_pkey primary key (id),
    constraint event_types_category_name_key unique (category, name)
);

comment on table event_types is 'each (category, name) ever stored; an event holds four bytes instead of two texts';

create table modules (
    id integer generated always as identity,
    digest bytea not null,
    first_used_at timestamptz not null default now(),
    constraint modules_pkey primary key (id),
    constraint modules_digest_key unique (digest),
    constraint modules_digest_check check (length(digest) = 32)
);

comment on table modules is 'each validator module that ever judged an event';
comment on column modules.digest is 'SHA-256 of the file as it lay in the modules directory';

-- The primary key gives a session in the order in which it happened, makes a retry with the same id harmless, and is a
-- valid key where the table is spread over many servers by session. There are no foreign keys: the gateway writes only
-- ids it has just read, and checking three of them for every row costs more than the rest of the insert.
create table events (
    session_id uuid not null,
    timestamp timestamptz not null,
    id uuid not null,
    received_at timestamptz not null,
    event_type_id integer not null,
    application_id integer not null,
    module_id integer,
    data jsonb not null,
    constraint events_pkey primary key (session_id, timestamp, id)
) partition by range (timestamp);

comment on table events is 'accepted events, by month of their own timestamp';
comment on column events.timestamp is 'when the event occurred, as the application says';
comment on column events.received_at is 'when the gateway took it; no two events of one gateway share it, so it orders ties by arrival';
comment on column events.module_id is 'the module that judged the event; null when no module serves its event type';
comment on column events.data is 'as the application sent it, or as its validator amended it';

create index events_type_timestamp_idx on events (event_type_id, timestamp);
create index events_timestamp_idx on events (timestamp);

create table events_default partition of events default;
comment on table events_default is 'events whose month has no partition';
