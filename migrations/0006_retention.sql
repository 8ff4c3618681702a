-- Partitions one at a time and without a wait that senders would notice, and the trimming of what is too old or too much.
-- The caller sets lock_timeout, which bounds how long writers can stand behind a lock that is asked for here.

-- Makes the table of one month's partition with its indexes. That takes long, but nobody waits for it, since the table
-- stands on its own until attach_partition follows in the same transaction. Says `ready`, `there`, or `crowded`: then the
-- default partition holds more than can be looked through or moved while writers wait for it, and nothing is made.
create function prepare_partition(
    parent text, month timestamp, rows_max bigint, bytes_max bigint, default_bytes_max bigint
) returns text language plpgsql as $$
declare
    child text := parent || to_char(month, '"_"YYYY"_"MM');
    rest text := parent || '_default';
    key text := case parent when 'events' then 'timestamp' else 'received_at' end;
    weight text := case parent
        when 'events' then 'pg_column_size(data)'
        else 'pg_column_size(raw) + pg_column_size(violations) + pg_column_size(detail)' end;
    low timestamptz := month at time zone 'utc';
    high timestamptz := (month + interval '1 month') at time zone 'utc';
    proved boolean;
    found bigint;
    bytes bigint;
begin
    perform pg_advisory_xact_lock(hashtext('eye_make_partitions'));
    if to_regclass(child) is not null then
        return 'there';
    end if;
    select coalesce(bool_or(convalidated), false) into proved
    from pg_constraint where conrelid = to_regclass(rest) and conname = child || '_gap';
    if not proved then
        if pg_relation_size(to_regclass(rest)) > default_bytes_max then
            return 'crowded';
        end if;
        execute format(
            'select count(*), coalesce(sum(bytes), 0) from (select %s as bytes from %I where %I >= $1 and %I < $2 limit $3) found',
            weight, rest, key, key
        ) into found, bytes using low, high, rows_max + 1;
        if found > rows_max or bytes > bytes_max then
            return 'crowded';
        end if;
    end if;
    execute format('create table %I (like %I including all)', child, parent);
    return 'ready';
end;
$$;

-- Puts a prepared table in its place; rows of its month which lie in the default partition move into it. The tables are
-- locked until the transaction ends, so the caller bounds the time of this statement and commits at once. Says `made`,
-- `there`, or `crowded` when nothing was prepared.
create function attach_partition(parent text, month timestamp) returns text language plpgsql as $$
declare
    child text := parent || to_char(month, '"_"YYYY"_"MM');
    rest text := parent || '_default';
    key text := case parent when 'events' then 'timestamp' else 'received_at' end;
    low timestamptz := month at time zone 'utc';
    high timestamptz := (month + interval '1 month') at time zone 'utc';
    names text;
begin
    if to_regclass(child) is null then
        return 'crowded';
    end if;
    if exists (select 1 from pg_inherits where inhrelid = to_regclass(child)) then
        return 'there';
    end if;
    select string_agg(quote_ident(attname), ', ' order by attnum) into names
    from pg_attribute where attrelid = to_regclass(parent) and attnum > 0 and not attisdropped;
    -- First the table itself: whoever has read already which partitions there are would look for, or put, rows of this
    -- month where they no longer belong.
    execute format('lock table only %I in access exclusive mode', parent);
    execute format('lock table only %I in access exclusive mode', rest);
    execute format(
        'with moved as (delete from %I where %I >= $1 and %I < $2 returning %s) insert into %I (%s) select %s from moved',
        rest, key, key, names, child, names, names
    ) using low, high;
    execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, child, low, high);
    execute format('alter table %I drop constraint if exists %I', rest, child || '_gap');
    return 'made';
end;
$$;

create table trimmed (
    table_name text not null,
    cause text not null,
    rows bigint not null,
    bytes bigint not null,
    last_at timestamptz not null,
    constraint trimmed_pkey primary key (table_name, cause),
    constraint trimmed_table_name_check check (table_name in ('events', 'dead_letters')),
    constraint trimmed_cause_check check (cause in ('age', 'size'))
);

comment on table trimmed is 'how much retention has removed, counted in the transaction that removed it';
comment on column trimmed.rows is 'exact for dead letters; of a month of events, what the planner knew of it';
comment on column trimmed.bytes is 'on disk, with indexes';

create table dead_letter_space (
    partition_name text not null,
    measured_bytes bigint not null,
    freed_bytes bigint not null,
    constraint dead_letter_space_pkey primary key (partition_name)
);

comment on table dead_letter_space is 'room inside partitions that trimming has freed and new dead letters may fill';
comment on column dead_letter_space.measured_bytes is 'size of the partition at its last trimming; once it has grown, the freed room is used up';

create function count_trimmed(of_table text, why text, more_rows bigint, more_bytes bigint)
returns void language sql as $$
    insert into trimmed (table_name, cause, rows, bytes, last_at)
    values (of_table, why, more_rows, more_bytes, now())
    on conflict (table_name, cause) do update
    set rows = trimmed.rows + excluded.rows, bytes = trimmed.bytes + excluded.bytes, last_at = excluded.last_at;
$$;

-- Removes the oldest rows of a partition: those before a time, at most so many, and no more once so many bytes are freed.
create function trim_rows(
    parent text, child text, before timestamptz, rows_max integer, bytes_wanted bigint, why text,
    out rows bigint, out bytes bigint
) language plpgsql as $$
declare
    key text := case parent when 'events' then 'timestamp' else 'received_at' end;
    -- The fixed columns, the header and the entries in the indexes; then what differs from row to row.
    weight text := case parent
        when 'events' then '200 + pg_column_size(data)'
        else '250 + pg_column_size(raw) + pg_column_size(violations) + pg_column_size(detail)' end;
begin
    execute format(
        'with oldest as (select ctid, %2$I as at, id, %3$s as bytes from %1$I where %2$I < $1 order by %2$I, id limit $2), '
        'running as (select ctid, bytes, sum(bytes) over (order by at, id) - bytes as sooner from oldest), '
        'gone as (delete from %1$I where ctid = any (array(select ctid from running where sooner < $3)) returning %3$s as bytes) '
        'select count(*), coalesce(sum(bytes), 0)::bigint from gone', child, key, weight
    ) into rows, bytes using before, rows_max, bytes_wanted;
    if rows = 0 then
        return;
    end if;
    perform count_trimmed(parent, why, rows, bytes);
    if parent = 'dead_letters' then
        insert into dead_letter_space as space (partition_name, measured_bytes, freed_bytes)
        values (child, pg_total_relation_size(to_regclass(child)), bytes)
        on conflict (partition_name) do update
        set freed_bytes = excluded.freed_bytes
                + case when excluded.measured_bytes > space.measured_bytes * 1.01 then 0 else space.freed_bytes end,
            measured_bytes = excluded.measured_bytes;
    end if;
end;
$$;

-- Takes a partition out of its table; writers wait for this alone. Its new name says that, and why, it is to be dropped.
create function detach_partition(parent text, child text, why text) returns void language plpgsql as $$
begin
    execute format('alter table %I detach partition %I', parent, child);
    execute format('alter table %I rename to %I', child, child || '_trimmed_' || why);
end;
$$;

-- Drops a partition that was taken out, and counts what was in it.
create function drop_detached(parent text, detached text, why text, out rows bigint, out bytes bigint)
language plpgsql as $$
begin
    if parent = 'events' then
        -- Counting a month of events would read all of it once more, only to throw it away.
        select greatest(reltuples, 0)::bigint into rows from pg_class where oid = to_regclass(detached);
    else
        execute format('select count(*) from %I', detached) into rows;
    end if;
    bytes := pg_total_relation_size(to_regclass(detached));
    execute format('drop table %I', detached);
    delete from dead_letter_space where partition_name = regexp_replace(detached, '_trimmed_(age|size)$', '');
    perform count_trimmed(parent, why, rows, bytes);
end;
$$;
