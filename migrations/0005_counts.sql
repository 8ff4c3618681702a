-- How many events ended how, counted as they are written and never by reading them again.
--
-- A writer appends what its batch counts to count_deltas, in the transaction that writes the batch: so the counts are
-- those of the rows that are there, after any crash, and no writer waits for another, since none changes a row. Now and
-- then one gateway folds what has gathered into counts. A reader adds both up in one statement, and so sees each batch
-- once.

-- What is counted at the end must be all there is: nothing is written meanwhile. A gateway that does not know of counts
-- must not go on after this.
lock table events, dead_letters in share row exclusive mode;

create table count_deltas (
    minute timestamptz not null,
    application_id integer not null,
    outcome text not null,
    event_type_ids integer[] not null,
    counts bigint[] not null,
    constraint count_deltas_outcome_check check (outcome in ('stored', 'duplicate', 'rejected', 'quarantined')),
    constraint count_deltas_pairs_check check (cardinality(event_type_ids) = cardinality(counts))
);

comment on table count_deltas is 'what batches counted since the last fold; only appended to, and emptied by the fold';
comment on column count_deltas.minute is 'the minute in which the gateway took the events';
comment on column count_deltas.event_type_ids is
    'one row holds all event types of a batch, which may be as many as its events; 0 when the event had none that could be read';
comment on column count_deltas.counts is 'how many events of each of the event types, in the same order';

create view unfolded_counts as
    select minute, of_type.event_type_id, application_id, outcome, of_type.count
    from count_deltas cross join lateral unnest(event_type_ids, counts) as of_type (event_type_id, count);

comment on view unfolded_counts is 'count_deltas with a row for each event type';

-- The fold deletes about as much as is appended. Without this the room of deleted rows would be taken again late.
alter table count_deltas set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

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
        returning minute, application_id, outcome, event_type_ids, counts
    ), minutes as (
        select taken.minute, of_type.event_type_id, taken.application_id, taken.outcome, sum(of_type.count) as count
        from taken cross join lateral unnest(taken.event_type_ids, taken.counts) as of_type (event_type_id, count)
        group by taken.minute, of_type.event_type_id, taken.application_id, taken.outcome
    ), folded as (
        insert into counts (bucket, start, event_type_id, application_id, outcome, count)
        select widths.bucket, widths.start, event_type_id, application_id, outcome, sum(minutes.count)
        from minutes cross join lateral (values
            ('minute', minutes.minute),
            ('hour', date_trunc('hour', minutes.minute, 'UTC')),
            ('day', date_trunc('day', minutes.minute, 'UTC')),
            ('ever', '-infinity'::timestamptz)
        ) as widths (bucket, start)
        group by widths.bucket, widths.start, event_type_id, application_id, outcome
        order by widths.bucket, widths.start, event_type_id, application_id, outcome
        on conflict on constraint counts_pkey do update set count = counts.count + excluded.count
    )
    select count(*) from taken;
$$;

-- What was written before there were counts.
insert into count_deltas (minute, application_id, outcome, event_type_ids, counts)
select minute, application_id, 'stored', array_agg(event_type_id), array_agg(count)
from (
    select date_trunc('minute', received_at) as minute, application_id, event_type_id, count(*) as count
    from events group by 1, 2, 3
) counted group by minute, application_id;

insert into count_deltas (minute, application_id, outcome, event_type_ids, counts)
select minute, application_id, reason, array_agg(event_type_id), array_agg(count)
from (
    select date_trunc('minute', dead_letters.received_at) as minute, dead_letters.application_id, dead_letters.reason,
        coalesce(event_types.id, 0) as event_type_id, count(*) as count
    from dead_letters left join event_types
        on event_types.category = dead_letters.category and event_types.name = dead_letters.name
    group by 1, 2, 3, 4
) counted group by minute, application_id, reason;

select fold_counts(2147483647);

-- Pages of events begin where the one before ended, also among events of one moment (imports know only the day): with the
-- time of receipt, which hardly two events share, an index leads there instead of to the first event of that moment.
drop index events_timestamp_idx;
create index events_timestamp_idx on events (timestamp, received_at);
drop index events_type_timestamp_idx;
create index events_type_timestamp_idx on events (event_type_id, timestamp, received_at);
