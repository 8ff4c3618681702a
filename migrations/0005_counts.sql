-- How many events ended how, counted as they are written and never by reading them again.
--
-- A writer appends what its batch counts to count_deltas, in the transaction that writes the batch: so the counts are
-- those of the rows that are there, after any crash, and no writer waits for another, since none changes a row. Now and
-- then one gateway folds what has gathered into counts. A reader adds both up in one statement, and so sees each batch
-- once.

create table count_deltas (
    minute timestamptz not null,
    event_type_id integer not null,
    application_id integer not null,
    outcome text not null,
    count bigint not null,
    constraint count_deltas_outcome_check check (outcome in ('stored', 'duplicate', 'rejected', 'quarantined'))
);

comment on table count_deltas is 'what batches counted since the last fold; only appended to, and emptied by the fold';
comment on column count_deltas.minute is 'the minute in which the gateway took the events';
comment on column count_deltas.event_type_id is '0 when the event had no event type that could be read';

-- The fold deletes about as much as is appended. Without this the room of deleted rows would be taken again late.
alter table count_deltas set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

create table counts (
    bucket text not null,
    start timestamptz not null,
    event_type_id integer not null,
    application_id integer not null,
    outcome text not null,
    count bigint not null,
    constraint counts_pkey primary key (bucket, start, event_type_id, application_id, outcome),
    constraint counts_bucket_check check (bucket in ('minute', 'hour', 'day', 'ever')),
    constraint counts_outcome_check check (outcome in ('stored', 'duplicate', 'rejected', 'quarantined'))
);

comment on table counts is 'the folded counts; each event is in one row of each width of bucket';
comment on column counts.bucket is 'how wide the bucket is; hours and days are those of UTC';
comment on column counts.start is 'the first moment of the bucket; -infinity for the one that holds everything';
comment on column counts.event_type_id is '0 when the event had no event type that could be read';

-- What is counted of an event type, without the rest of that table.
create index counts_ever_idx on counts (event_type_id) where bucket = 'ever';

-- Adds up to rows_max deltas to the counts, and returns how many it took. Two folds at once would wait for each other,
-- and count right all the same: a delta is added by whoever deletes it.
create function fold_counts(rows_max integer) returns bigint language sql as $$
    with taken as (
        delete from count_deltas where ctid = any (array(select ctid from count_deltas limit rows_max))
        returning minute, event_type_id, application_id, outcome, count
    ), folded as (
        insert into counts (bucket, start, event_type_id, application_id, outcome, count)
        select widths.bucket, widths.start, taken.event_type_id, taken.application_id, taken.outcome, sum(taken.count)
        from taken cross join lateral (values
            ('minute', taken.minute),
            ('hour', date_trunc('hour', taken.minute, 'UTC')),
            ('day', date_trunc('day', taken.minute, 'UTC')),
            ('ever', '-infinity'::timestamptz)
        ) as widths (bucket, start)
        group by widths.bucket, widths.start, taken.event_type_id, taken.application_id, taken.outcome
        order by widths.bucket, widths.start, taken.event_type_id, taken.application_id, taken.outcome
        on conflict on constraint counts_pkey do update set count = counts.count + excluded.count
    )
    select count(*) from taken;
$$;

-- What was written before there were counts.
insert into count_deltas (minute, event_type_id, application_id, outcome, count)
select date_trunc('minute', received_at), event_type_id, application_id, 'stored', count(*)
from events group by 1, 2, 3;

insert into count_deltas (minute, event_type_id, application_id, outcome, count)
select date_trunc('minute', dead_letters.received_at), coalesce(event_types.id, 0), dead_letters.application_id,
    dead_letters.reason, count(*)
from dead_letters left join event_types
    on event_types.category = dead_letters.category and event_types.name = dead_letters.name
group by 1, 2, 3, 4;

select fold_counts(2147483647);

-- Pages of events begin where the one before ended, also among events of one moment (imports know only the day): with the
-- time of receipt, which hardly two events share, an index leads there instead of to the first event of that moment.
drop index events_timestamp_idx;
create index events_timestamp_idx on events (timestamp, received_at);
drop index events_type_timestamp_idx;
create index events_type_timestamp_idx on events (event_type_id, timestamp, received_at);
