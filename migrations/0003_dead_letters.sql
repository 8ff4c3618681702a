-- What was refused, or could not be judged or stored, kept whole with its reason.

create table dead_letters (
    received_at timestamptz not null,
    id uuid not null,
    reason text not null,
    code text not null,
    detail text not null,
    violations jsonb not null,
    application_id integer not null,
    module_id integer,
    event_id uuid,
    session_id uuid,
    category text,
    name text,
    raw bytea not null,
    raw_bytes integer not null,
    constraint dead_letters_pkey primary key (received_at, id),
    constraint dead_letters_reason_check check (reason in ('rejected', 'quarantined'))
) partition by range (received_at);

comment on table dead_letters is 'events that were not stored, by month of receipt';
comment on column dead_letters.id is 'a UUIDv7 of the dead letter itself';
comment on column dead_letters.reason is 'the outcome the sender was told';
comment on column dead_letters.code is 'envelope, rule, the kind of fault (trap, deadline, memory, ...) or unstorable';
comment on column dead_letters.detail is 'one sentence for people';
comment on column dead_letters.violations is 'array of {pointer, code, message}';
comment on column dead_letters.event_id is 'the id of the event, where it had a readable one; likewise session_id, category and name';
comment on column dead_letters.raw is 'the bytes as they came, cut at the configured size';
comment on column dead_letters.raw_bytes is 'how many bytes came';

create index dead_letters_id_idx on dead_letters (id);

create table dead_letters_default partition of dead_letters default;
comment on table dead_letters_default is 'dead letters whose month has no partition';
