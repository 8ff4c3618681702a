-- What changes the schema while gateways run (partitions) goes through functions that run with the rights of the role that
-- migrates. A gateway's role needs the right to call them, and no rights of an owner. Because they lend rights, each function
-- accepts only the two partitioned tables and their months, and finds names only in this schema. A role may call it only
-- after a grant.

create function must_be_partitioned(parent text) returns void language plpgsql as $$
begin
    if parent is null or parent not in ('events', 'dead_letters') then
        raise exception '% is no table with partitions', coalesce(parent, 'null') using errcode = '42501';
    end if;
end;
$$;

create function must_be_month(parent text, child text) returns void language plpgsql as $$
begin
    perform must_be_partitioned(parent);
    if child is null or child !~ ('^' || parent || '_[0-9]{4,}_[0-9]{2}$') then
        raise exception '% is no month of %', coalesce(child, 'null'), parent using errcode = '42501';
    end if;
end;
$$;

create function must_be_partition(parent text, child text) returns void language plpgsql as $$
begin
    perform must_be_partitioned(parent);
    if not exists (
        select 1 from pg_inherits where inhrelid = to_regclass(quote_ident(child)) and inhparent = to_regclass(parent)
    ) then
        raise exception '% is no partition of %', coalesce(child, 'null'), parent using errcode = '42501';
    end if;
end;
$$;

create function must_be_cause(why text) returns void language plpgsql as $$
begin
    if why is null or why not in ('age', 'size') then
        raise exception '% is no cause of a removal', coalesce(why, 'null') using errcode = '42501';
    end if;
end;
$$;

-- A constraint of a default partition that says that it has no rows of a month; with it, the month's partition is attached
-- without a scan. It is added at once and proved later, without a lock that blocks writers.
create function add_gap(parent text, month timestamp) returns void language plpgsql as $$
declare
    key text := case parent when 'events' then 'timestamp' else 'received_at' end;
begin
    perform must_be_partitioned(parent);
    execute format(
        'alter table %I add constraint %I check (%I < %L or %I >= %L) not valid',
        parent || '_default', parent || to_char(month, '"_"YYYY"_"MM"_gap"'),
        key, month at time zone 'utc', key, (month + interval '1 month') at time zone 'utc'
    );
end;
$$;

create function prove_gap(parent text, month timestamp) returns void language plpgsql as $$
begin
    perform must_be_partitioned(parent);
    execute format(
        'alter table %I validate constraint %I', parent || '_default', parent || to_char(month, '"_"YYYY"_"MM"_gap"')
    );
end;
$$;

create function drop_gap(parent text, month timestamp) returns void language plpgsql as $$
begin
    perform must_be_partitioned(parent);
    execute format(
        'alter table %I drop constraint if exists %I',
        parent || '_default', parent || to_char(month, '"_"YYYY"_"MM"_gap"')
    );
end;
$$;

-- The functions that are there, as before, with the checks of what they are given.
create or replace function prepare_partition(
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
    perform must_be_partitioned(parent);
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

create or replace function attach_partition(parent text, month timestamp) returns text language plpgsql as $$
declare
    child text := parent || to_char(month, '"_"YYYY"_"MM');
    rest text := parent || '_default';
    key text := case parent when 'events' then 'timestamp' else 'received_at' end;
    low timestamptz := month at time zone 'utc';
    high timestamptz := (month + interval '1 month') at time zone 'utc';
    names text;
begin
    perform must_be_partitioned(parent);
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
    perform note_audit('partition_make', child, '{}');
    return 'made';
end;
$$;

create or replace function trim_rows(
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
    perform must_be_partition(parent, child);
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

create or replace function detach_partition(parent text, child text, why text) returns void language plpgsql as $$
begin
    perform must_be_month(parent, child);
    perform must_be_cause(why);
    perform note_audit('partition_drop', child, jsonb_build_object(
        'cause', why,
        'rows_estimate', (select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass(child)),
        'bytes', pg_total_relation_size(to_regclass(child))
    ));
    execute format('alter table %I detach partition %I', parent, child);
    execute format('alter table %I rename to %I', child, child || '_trimmed_' || why);
end;
$$;

create or replace function drop_detached(parent text, detached text, why text, out rows bigint, out bytes bigint)
language plpgsql as $$
begin
    perform must_be_cause(why);
    perform must_be_month(parent, regexp_replace(detached, '_trimmed_' || why || '$', ''));
    if detached !~ '_trimmed_(age|size)$' or exists (select 1 from pg_inherits where inhrelid = to_regclass(detached)) then
        raise exception '% was not taken out of its table', detached using errcode = '42501';
    end if;
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

do $$
declare
    lends text;
begin
    foreach lends in array array[
        'prepare_partition(text, timestamp, bigint, bigint, bigint)', 'attach_partition(text, timestamp)',
        'add_gap(text, timestamp)', 'prove_gap(text, timestamp)', 'drop_gap(text, timestamp)',
        'trim_rows(text, text, timestamptz, integer, bigint, text)', 'detach_partition(text, text, text)',
        'drop_detached(text, text, text)'
    ] loop
        execute format('alter function %s security definer set search_path = %I, pg_temp', lends, current_schema());
        execute format('revoke execute on function %s from public', lends);
    end loop;
end
$$;

-- Whoever writes events may make room for them. To remove old rows is a right that an operator gives.
do $$
declare
    writer text;
    makes text;
begin
    for writer in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'events'::regclass and acl.privilege_type = 'INSERT' and acl.grantee <> 0
    loop
        foreach makes in array array[
            'prepare_partition(text, timestamp, bigint, bigint, bigint)', 'attach_partition(text, timestamp)',
            'add_gap(text, timestamp)', 'prove_gap(text, timestamp)', 'drop_gap(text, timestamp)'
        ] loop
            execute format('grant execute on function %s to %s', makes, writer);
        end loop;
    end loop;
end
$$;
