-- The guard of a module that replaced another one: which versions served, so that every gateway finds the version with which
-- it is compared, also after a restart.

-- Whether settings say of their own module that it is meant to refuse more.
create function expects_refusals(settings text, digest bytea) returns boolean language sql immutable parallel safe as $$
    select coalesce(lower(settings) ~ ('(^|\n)\s*expect_refusals\s*=\s*["'']' || encode(digest, 'hex') || '["'']'), false)
$$;

-- The modules that served an event type, the newest first: each for as long as its digest stayed, whatever its settings were.
-- A digest of null is a time without a module. What is older than the oldest generation that is kept began long ago.
create function served_modules(kind text) returns table (
    place bigint, digest bytea, settings text, age interval, is_put_back boolean, is_expected boolean
) language sql stable as $$
    with changes as (
        select number, changes.digest, changes.settings, made_at, cause,
            changes.digest is distinct from lag(changes.digest) over (order by number)
                or lag(number) over (order by number) is null as is_other
        from (select * from generation_changes where event_type = kind order by number desc limit 1000) changes
        left join generations using (number)
    ), times as (
        select *, count(*) filter (where is_other) over (order by number) as time from changes
    )
    select row_number() over (order by time desc), (array_agg(times.digest))[1],
        (array_agg(times.settings order by number desc))[1],
        coalesce(clock_timestamp() - (array_agg(made_at order by number))[1], interval '100 years'),
        bool_or(coalesce(cause in ('rollback', 'back', 'guard'), false)),
        bool_or(expects_refusals(times.settings, times.digest))
    from times group by time
$$;

-- Those of the event types whose module changed within a time.
create function served_lately(within interval) returns table (
    event_type text, place bigint, digest bytea, settings text, age interval, is_put_back boolean, is_expected boolean,
    is_taken_back boolean
) language sql stable as $$
    select kind.event_type, served.*,
        exists (select from taken_back back where back.event_type = kind.event_type and back.digest = served.digest)
    from (
        select distinct event_type from generation_changes changes join generations using (number)
        where made_at > clock_timestamp() - within and not starts_with(event_type, candidate_name(''))
            and exists (
                select from generation_changes earlier
                where earlier.event_type = changes.event_type and earlier.number < changes.number
            )
    ) kind cross join lateral (select * from served_modules(kind.event_type) where place <= 100) served
    order by kind.event_type, served.place
$$;

-- The version with which the guard compares the newest one of an event type, as long as it does: the last one that stood for
-- that time, or that somebody meant; else the oldest.
create function measure_of(kind text, guard interval) returns bytea language sql stable as $$
    select digest
    from (
        select place, digest, is_put_back or is_expected
            or age - coalesce(lag(age) over (order by place), interval '0') >= guard as is_settled
        from served_modules(kind) where place <= 100
    ) times
    where place > 1 and digest is not null
        and not exists (select from taken_back back where back.event_type = kind and back.digest = times.digest)
    order by is_settled desc, case when is_settled then place else -place end
    limit 1
$$;

-- Keeps the last ten versions of each event type that served, the one to which the guard would go back, what serves, what is
-- being prepared, and what was shipped within an hour; the preparations of a day; the last thousand generations; and the pairs
-- of 30 days, two thousand rows at most.
create function forget_modules(guard interval) returns void language plpgsql as $$
declare
    oldest bigint;
begin
    delete from module_versions old using (
        select event_type, digest, served_at,
            row_number() over (partition by event_type order by served_at desc nulls last) as place
        from module_versions
    ) ranked
    where old.event_type = ranked.event_type and old.digest = ranked.digest
        and case when ranked.served_at is null then old.shipped_at < now() - interval '1 hour'
            when ranked.place > 10 then old.digest is distinct from measure_of(old.event_type, guard)
            else false end
        and not exists (
            select from generation_set() serves
            where event_type_of(serves.event_type) = old.event_type and serves.digest = old.digest
        )
        and not exists (
            select from preparation_slots slots join preparations on preparations.id = slots.preparation_id
            where preparations.state = 'preparing' and event_type_of(slots.event_type) = old.event_type
                and slots.digest = old.digest
        );
    delete from module_contents old
    where kept_at < now() - interval '1 hour'
        and not exists (select from module_versions versions where versions.digest = old.digest)
        and not exists (select from generation_set() serves where serves.digest = old.digest)
        and not exists (
            select from preparation_slots slots join preparations on preparations.id = slots.preparation_id
            where preparations.state = 'preparing' and slots.digest = old.digest
        );
    delete from preparations where state <> 'preparing' and asked_at < now() - interval '1 day';
    delete from candidate_pairs where changed_at < now() - interval '30 days' or ctid in (
        select ctid from candidate_pairs order by changed_at desc offset 2000
    );
    select max(number) - 1000 into oldest from generations;
    delete from generations where number <= oldest;
    delete from generation_changes old
    where old.number <= oldest and exists (
        select from generation_changes later
        where later.event_type = old.event_type and later.number > old.number and later.number <= oldest
    );
end;
$$;

-- A gateway of the release before does not say for how long its guard looks.
create or replace function forget_modules() returns void language sql as $$
    select forget_modules(interval '10 minutes')
$$;

-- Takes a module back: the row, the forced change of the slot and the entry in the audit trail are one statement, so that
-- two gateways at once do it once. A candidate's slot is emptied; where it serves, the module before serves again. Returns
-- the generation that does it; null if the module is not in the slot any more.
create or replace function take_back(
    kind text, bad bytea, before bytea, by_trial text, why_code text, why text, by_counts jsonb, refused_so_far bigint,
    asked_by jsonb, living interval
) returns bigint language plpgsql as $$
declare
    slot text := case when by_trial = 'replacement' then kind else candidate_name(kind) end;
    which uuid := gen_random_uuid();
    found_settings text;
    made bigint;
begin
    perform pg_advisory_xact_lock(hashtext('eye_generations'));
    select settings into found_settings from generation_set() where event_type = slot and digest = bad;
    -- What somebody put back on purpose stays, whatever became of its settings since, and so does what the guard put back.
    if not found or by_trial = 'replacement' and (
        not exists (select from generation_changes where event_type = kind and digest = before)
        -- A bad module is better than none that can be loaded.
        or not exists (select from module_contents where digest = before)
        or exists (select from taken_back where event_type = kind and digest = before)
        or (select is_put_back from served_modules(kind) where place = 1)
    ) then
        return null;
    end if;
    insert into taken_back (event_type, digest, trial, code, reason, counts, refused, serves)
    values (kind, bad, by_trial, why_code, left(why, 1000), by_counts, refused_so_far, before)
    on conflict (event_type, digest) do update set at = clock_timestamp(), trial = excluded.trial, code = excluded.code,
        reason = excluded.reason, counts = excluded.counts, refused = excluded.refused, serves = excluded.serves;
    insert into preparations (id, cause, forced, ends_at, asked_by)
    values (which, 'guard', true, clock_timestamp(), asked_by);
    insert into preparation_slots (preparation_id, event_type, digest, settings, replaces, replaces_settings)
    select which, slot, earlier.digest, earlier.settings, bad, found_settings
    from (select) one left join (
        -- If the bad one takes secrets out and the one before does not, nothing is kept of refused events.
        select digest, case when must_redact(kind, before) and not redacts_in(kind, before) then
            'keep_raw = false' || E'\n' || coalesce(regexp_replace(settings, '(^|\n)\s*keep_raw\s*=[^\n]*', '\1', 'g'), '')
            else settings end as settings
        from generation_changes
        where by_trial = 'replacement' and event_type = kind and digest = before order by number desc limit 1
    ) earlier on true;
    if activate_preparation(which, living) <> 'active' then
        raise exception 'the slot % could not be changed', slot using errcode = '55000';
    end if;
    insert into audit (action, subject, actor, name, host, details)
    values ('guard', kind, asked_by ->> 'actor', coalesce(asked_by ->> 'name', ''), asked_by ->> 'host', jsonb_strip_nulls(
        jsonb_build_object('digest', encode(bad, 'hex'), 'trial', by_trial, 'code', why_code, 'reason', left(why, 500),
            'serves', encode(before, 'hex'), 'refused', refused_so_far)
    ));
    select generation into made from preparations where id = which;
    return made;
end;
$$;
