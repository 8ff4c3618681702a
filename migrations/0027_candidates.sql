-- Candidates: modules that are tried beside those that serve. What both say of the same events is summed here for all
-- gateways, and what the guard takes back is kept until somebody forces it.

alter table generations
    drop constraint generations_cause_check,
    add constraint generations_cause_check check (cause in (
        'push', 'rollback', 'retire', 'import', 'back', 'try', 'promote', 'discard', 'guard'
    ));
alter table preparations
    drop constraint preparations_cause_check,
    add constraint preparations_cause_check check (cause in (
        'push', 'rollback', 'retire', 'import', 'back', 'try', 'promote', 'discard', 'guard'
    ));

comment on column generations.cause is 'push, rollback, retire, try, promote, discard and guard change one event type; import and back change many';

-- A candidate is a slot of the generation with a name of its own, which no event type has.
create function candidate_name(kind text) returns text language sql immutable parallel safe as $$
    select '_/candidate/' || kind
$$;

-- The event type of a slot, also of a candidate's.
create function event_type_of(slot text) returns text language sql immutable parallel safe as $$
    select case when starts_with(slot, '_/candidate/') then substr(slot, 13) else slot end
$$;

create table canary_secret (
    one boolean not null default true,
    secret bytea not null,
    constraint canary_secret_pkey primary key (one),
    constraint canary_secret_one_check check (one),
    constraint canary_secret_secret_check check (length(secret) = 32)
);

insert into canary_secret (secret)
values (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

comment on table canary_secret is 'by which canaries choose their sessions, so that no sender can choose the judge; all gateways have the same';

create table candidate_pairs (
    event_type text not null,
    digest bytea not null,
    against bytea not null,
    trial text not null,
    percent double precision not null default 0,
    same bigint not null default 0,
    would_refuse bigint not null default 0,
    would_take bigint not null default 0,
    amends_otherwise bigint not null default 0,
    faulted bigint not null default 0,
    not_compared bigint not null default 0,
    old_refused bigint not null default 0,
    new_refused bigint not null default 0,
    judged bigint not null default 0,
    judged_refused bigint not null default 0,
    applications jsonb not null default '{}',
    samples jsonb not null default '[]',
    since timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp(),
    constraint candidate_pairs_pkey primary key (event_type, digest, against, trial, percent),
    constraint candidate_pairs_trial_check check (trial in ('shadow', 'canary', 'replacement')),
    constraint candidate_pairs_percent_check check (percent between 0 and 100 and (trial = 'canary') = (percent > 0)),
    constraint candidate_pairs_digest_check check (length(digest) = 32 and length(against) = 32),
    constraint candidate_pairs_applications_check check (jsonb_typeof(applications) = 'object'),
    constraint candidate_pairs_samples_check check (jsonb_typeof(samples) = 'array')
);

comment on table candidate_pairs is 'what two modules say of the same events, summed over all gateways; for 30 days after the last change';
comment on column candidate_pairs.event_type is 'as its file would be named: category/name, category/_ or _';
comment on column candidate_pairs.digest is 'the new module: the candidate, or the one that serves for trial replacement';
comment on column candidate_pairs.against is 'the module that it is compared with';
comment on column candidate_pairs.percent is 'of the sessions, for a canary; each share is counted apart';
comment on column candidate_pairs.judged is 'what a canary judged for senders';
comment on column candidate_pairs.applications is 'compared and would_refuse by application; those beyond a bound have an empty name';
comment on column candidate_pairs.samples is 'events on which the two differ: id, application, received_at_us, pointers and codes; no data. 20 of a kind';

create table taken_back (
    event_type text not null,
    digest bytea not null,
    at timestamptz not null default clock_timestamp(),
    trial text not null,
    code text not null,
    reason text not null,
    counts jsonb not null,
    refused bigint not null default 0,
    serves bytea,
    constraint taken_back_pkey primary key (event_type, digest),
    constraint taken_back_trial_check check (trial in ('shadow', 'canary', 'replacement')),
    constraint taken_back_digest_check check (length(digest) = 32 and length(serves) = 32),
    constraint taken_back_reason_check check (length(reason) <= 1000)
);

comment on table taken_back is 'modules that the guard took back; time never lifts it, and somebody who forces the module does';
comment on column taken_back.code is 'faulted, refuses or slow';
comment on column taken_back.reason is 'a sentence for people';
comment on column taken_back.counts is 'the pairs by which the guard decided, with the names of candidate_pairs';
comment on column taken_back.refused is 'events of senders that it had refused by then, as far as they were compared';
comment on column taken_back.serves is 'the module that serves since; null if none does';

-- Adds the counts of two objects, by key.
create function add_counts(one jsonb, other jsonb) returns jsonb language sql immutable parallel safe as $$
    select coalesce(jsonb_object_agg(key, to_jsonb(
        coalesce((mine.value #>> '{}')::bigint, 0) + coalesce((theirs.value #>> '{}')::bigint, 0)
    )), '{}')
    from jsonb_each(one) mine full join jsonb_each(other) theirs using (key)
$$;

-- Adds the counts of applications. The largest keep their names; the rest is added up under an empty one.
create function add_applications(one jsonb, other jsonb) returns jsonb language sql immutable parallel safe as $$
    with summed as (
        select key, add_counts(coalesce(mine.value, '{}'), coalesce(theirs.value, '{}')) as counts
        from jsonb_each(one) mine full join jsonb_each(other) theirs using (key)
    ), ranked as (
        select case when key <> '' and row_number() over (order by key = '', (counts ->> 'compared')::bigint desc, key) <= 200
            then key else '' end as name, counts
        from summed
    )
    select coalesce(jsonb_object_agg(name, counts), '{}')
    from (
        select name, jsonb_build_object(
            'compared', sum((counts ->> 'compared')::bigint), 'would_refuse', sum((counts ->> 'would_refuse')::bigint)
        ) as counts
        from ranked group by name
    ) named
$$;

-- The newest 20 samples of each kind.
create function add_samples(one jsonb, other jsonb) returns jsonb language sql immutable parallel safe as $$
    select coalesce(jsonb_agg(sample order by place), '[]')
    from (
        select sample, place, row_number() over (partition by sample ->> 'what' order by place desc) as newest
        from jsonb_array_elements(one || other) with ordinality all_samples (sample, place)
    ) ranked
    where newest <= 20
$$;

-- Whether the module that served an event type last takes secrets out of dead letters, so that another one must do so too.
-- A candidate follows the module that serves.
create or replace function must_redact(kind text, candidate bytea) returns boolean language sql stable as $$
    select coalesce((
        select versions.redacts and versions.digest <> candidate from module_versions versions
        where versions.event_type = event_type_of(kind) and versions.served_at is not null
        order by versions.served_at desc limit 1
    ), false)
$$;

-- Whether settings force their own module, by its digest. Other keys may name the digest too.
create function forces(settings text, digest bytea) returns boolean language sql immutable parallel safe as $$
    select coalesce(settings ~ ('(^|\n)\s*force\s*=\s*["'']' || encode(digest, 'hex') || '["'']'), false)
$$;

-- Why a preparation becomes no generation, whatever the gateways say: a module would keep secrets that the one before takes
-- out, the guard took it back, or no gateway was there in time and too much may have happened since.
create or replace function preparation_obstacles(asked preparations, living interval) returns jsonb
language sql stable as $$
    select jsonb_agg(jsonb_build_object('gateway', 'the database', 'refusal', jsonb_build_object(
        'event_type', slots.event_type, 'digest', encode(slots.digest, 'hex'), 'expected', why.expected, 'found', why.found,
        'mend', why.mend, 'passing', false
    )) order by slots.event_type)
    from preparation_slots slots
    left join module_versions versions
        on versions.event_type = event_type_of(slots.event_type) and versions.digest = slots.digest
    left join taken_back back on back.event_type = event_type_of(slots.event_type) and back.digest = slots.digest
    cross join lateral (
        select 'a module that takes secrets out of dead letters, as the one before does' as expected,
            'one that takes none out' as found, 'export `redact`, or push it with force' as mend
        where must_redact(slots.event_type, slots.digest) and not coalesce(versions.redacts, false)
            and not forces(slots.settings, slots.digest)
        union all
        select 'a module that was not taken back', 'one that was: ' || back.reason, 'mend it, or force it'
        where back.digest is not null and not forces(slots.settings, slots.digest)
        union all
        select 'gateways that prepare it in time', 'none of them was there until ' || asked.ends_at, 'push it again'
        where asked.ends_at < clock_timestamp() - living
    ) why
    where slots.preparation_id = asked.id and slots.digest is not null and not asked.forced
$$;

-- What follows from a new generation besides its slots: whoever forces a module lifts what the guard said of it, and a new
-- trial of a module is counted from its beginning.
create function follow_generation(asked preparations) returns void language sql as $$
    delete from taken_back back using preparation_slots slots
    where asked.cause <> 'guard' and slots.preparation_id = asked.id
        and (asked.forced or forces(slots.settings, slots.digest))
        and back.event_type = event_type_of(slots.event_type) and back.digest = slots.digest;
    delete from candidate_pairs pairs using preparation_slots slots
    where slots.preparation_id = asked.id and pairs.event_type = event_type_of(slots.event_type)
        and pairs.digest = slots.digest
        and case when slots.event_type = pairs.event_type then pairs.trial = 'replacement' and asked.cause <> 'guard'
            else pairs.trial <> 'replacement' and asked.cause <> 'promote' end;
$$;

-- Makes the next generation of a preparation, if all living gateways have prepared it. It is one statement for its
-- caller, so that a caller that is frozen or cut off in the middle holds no lock.
create or replace function activate_preparation(which uuid, living interval) returns text language plpgsql as $$
declare
    asked preparations%rowtype;
    current bigint;
    obstacles jsonb;
begin
    perform pg_advisory_xact_lock(hashtext('eye_generations'));
    select * into asked from preparations where id = which;
    if asked.id is null or asked.state <> 'preparing' then
        return coalesce(asked.state, 'unknown');
    end if;
    select coalesce(max(number), 0) into current from generations;
    -- Somebody else has made this very change.
    if not exists (
        select from preparation_slots slots left join generation_set() serves using (event_type)
        where slots.preparation_id = which
            and (serves.digest, serves.settings) is distinct from (slots.digest, slots.settings)
    ) then
        update preparations set state = 'active', generation = current where id = which;
        return 'active';
    end if;
    select jsonb_agg(jsonb_build_object(
        'event_type', slots.event_type, 'serves', encode(serves.digest, 'hex'), 'expected', encode(slots.replaces, 'hex')
    )) into obstacles
    from preparation_slots slots left join generation_set() serves using (event_type)
    where slots.preparation_id = which
        and (serves.digest, serves.settings) is distinct from (slots.replaces, slots.replaces_settings);
    if obstacles is not null or asked.based_on <> current then
        update preparations set state = 'changed',
            problem = jsonb_build_object('slots', coalesce(obstacles, '[]'), 'generation', current)
        where id = which;
        perform note_preparation(which, 'generation_refuse', '');
        return 'changed';
    end if;
    select jsonb_agg(jsonb_build_object('gateway', gateways.name, 'id', gateways.id, 'refusal', prepared.refusal)
        order by gateways.name) into obstacles
    from gateways left join prepared on prepared.preparation_id = which and prepared.gateway_id = gateways.id
    where gateways.modules_from = 'database' and gateways.seen > clock_timestamp() - living
        and (prepared.preparation_id is null or prepared.refusal is not null and not asked.forced)
        and exists (
            select from preparation_slots slots where slots.preparation_id = which and slots.digest is not null
        );
    if obstacles is not null then
        -- A gateway that has said nothing yet, or lacks room for now, is waited for.
        if clock_timestamp() < asked.ends_at and not exists (
            select from jsonb_array_elements(obstacles) one (obstacle)
            where obstacle -> 'refusal' <> 'null' and not (obstacle -> 'refusal' ->> 'passing')::boolean
        ) then
            return 'preparing';
        end if;
        if not asked.forced then
            update preparations set state = 'refused', problem = jsonb_build_object('gateways', obstacles) where id = which;
            perform note_preparation(which, 'generation_refuse', '');
            return 'refused';
        end if;
    end if;
    obstacles := preparation_obstacles(asked, living);
    if obstacles is not null then
        update preparations set state = 'refused', problem = jsonb_build_object('gateways', obstacles) where id = which;
        perform note_preparation(which, 'generation_refuse', '');
        return 'refused';
    end if;
    current := current + 1;
    insert into generations (number, made_by, made_from, cause, forced) values (
        current, coalesce(asked.asked_by ->> 'name', ''),
        coalesce(asked.asked_by ->> 'forwarded', asked.asked_by ->> 'peer', asked.asked_by ->> 'host'),
        asked.cause, asked.forced
    );
    insert into generation_changes (number, event_type, digest, settings)
    select current, slots.event_type, slots.digest, slots.settings
    from preparation_slots slots where slots.preparation_id = which;
    -- A version that was removed meanwhile comes back by what the database knows of its content.
    insert into module_versions (event_type, digest, shipped_by, shipped_from, commit_id, engine, redacts)
    select event_type_of(slots.event_type), slots.digest, known.shipped_by, known.shipped_from, known.commit_id,
        known.engine, known.redacts
    from preparation_slots slots cross join lateral (
        select * from module_versions where digest = slots.digest order by shipped_at desc limit 1
    ) known
    where slots.preparation_id = which
    on conflict do nothing;
    update module_versions set served_at = clock_timestamp()
    from preparation_slots slots
    where slots.preparation_id = which
        and module_versions.event_type = slots.event_type and module_versions.digest = slots.digest;
    perform follow_generation(asked);
    update preparations set state = 'active', generation = current where id = which;
    perform note_preparation(which, 'generation_make', current::text);
    return 'active';
end;
$$;

-- Keeps the last ten versions of each event type that served, what serves, what is being prepared, and what was shipped
-- within an hour; the preparations of a day; the last thousand generations; and the pairs of 30 days, two
-- thousand rows at most.
create or replace function forget_modules() returns void language plpgsql as $$
declare
    oldest bigint;
begin
    delete from module_versions old using (
        select event_type, digest, served_at,
            row_number() over (partition by event_type order by served_at desc nulls last) as place
        from module_versions
    ) ranked
    where old.event_type = ranked.event_type and old.digest = ranked.digest
        and case when ranked.served_at is null then old.shipped_at < now() - interval '1 hour' else ranked.place > 10 end
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

-- Takes a module back: the row, the forced change of the slot and the entry in the audit trail are one statement, so that
-- two gateways at once do it once. A candidate's slot is emptied; where it serves, the module before serves again. Returns
-- the generation that does it; null if the module is not in the slot any more.
-- Whether a version takes secrets out of dead letters.
create function redacts_in(kind text, module bytea) returns boolean language sql stable as $$
    select coalesce((select redacts from module_versions where event_type = kind and digest = module), false)
$$;

create function take_back(
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
    -- What somebody put back on purpose stays, and so does what the guard put back.
    if not found or by_trial = 'replacement' and (
        not exists (select from generation_changes where event_type = kind and digest = before)
        or exists (select from taken_back where event_type = kind and digest = before)
        or (
            select cause in ('rollback', 'back', 'guard')
            from generation_changes join generations using (number) where event_type = kind order by number desc limit 1
        )
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

-- Whoever writes events counts pairs and takes modules back, and whoever reads the applications sees them, so that no role of
-- a gateway needs to be given anything. The secret is for those that judge events.
do $$
declare
    role_name text;
begin
    for role_name in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'events'::regclass and acl.privilege_type = 'INSERT' and acl.grantee <> 0
    loop
        execute format('grant select, insert, update, delete on candidate_pairs, taken_back to %s', role_name);
        execute format('grant select on canary_secret to %s', role_name);
    end loop;
    for role_name in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'applications'::regclass and acl.privilege_type = 'SELECT' and acl.grantee <> 0
    loop
        execute format('grant select on candidate_pairs, taken_back to %s', role_name);
    end loop;
end
$$;
