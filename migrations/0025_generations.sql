-- The modules that all gateways on this database serve alike: their contents, who shipped them, the generations, what is
-- being prepared for the next one, and the gateways that take part.

create table gateways (
    id uuid not null,
    name text not null,
    version text not null,
    listen text not null,
    modules_from text not null,
    since timestamptz not null default clock_timestamp(),
    seen timestamptz not null default clock_timestamp(),
    generation bigint not null default 0,
    preparing integer not null default 0,
    problems jsonb not null default '[]',
    constraint gateways_pkey primary key (id),
    constraint gateways_name_check check (length(name) between 1 and 250),
    constraint gateways_modules_from_check check (modules_from in ('directory', 'database')),
    constraint gateways_problems_check check (jsonb_typeof(problems) = 'array' and octet_length(problems::text) <= 65536)
) with (fillfactor = 50);

comment on table gateways is 'the gateways that run now, and for an hour those that ended without saying so';
comment on column gateways.id is 'of one process; a restart has another';
comment on column gateways.listen is 'the address on which it takes events';
comment on column gateways.modules_from is 'directory: it serves its own modules directory; database: the generation';
comment on column gateways.seen is 'when it last wrote this row, each second, by the clock of this database';
comment on column gateways.generation is 'the generation that it serves; 0 before the first';
comment on column gateways.preparing is 'how many modules it prepares now';
comment on column gateways.problems is 'what is wrong with it: objects with event_type, digest and why';

create table module_contents (
    digest bytea not null,
    content bytea not null,
    kept_at timestamptz not null default now(),
    constraint module_contents_pkey primary key (digest),
    constraint module_contents_digest_check check (length(digest) = 32),
    constraint module_contents_content_check check (octet_length(content) between 1 and 67108864)
);

-- The digest proves a content, so compressing it anew on each read would only cost time.
alter table module_contents alter column content set storage external;

comment on table module_contents is 'the module files that a gateway may have to serve, each once';
comment on column module_contents.digest is 'SHA-256 of the content';

create table module_versions (
    event_type text not null,
    digest bytea not null,
    shipped_at timestamptz not null default now(),
    shipped_by text not null,
    shipped_from text,
    commit_id text,
    engine text not null,
    redacts boolean not null,
    served_at timestamptz,
    constraint module_versions_pkey primary key (event_type, digest),
    constraint module_versions_digest_check check (length(digest) = 32),
    constraint module_versions_commit_id_check check (length(commit_id) <= 200)
);

comment on table module_versions is 'who shipped which module for which event types; the last ten of each that served, and those of the last hour';
comment on column module_versions.event_type is 'as its file would be named: category/name, category/_ or _';
comment on column module_versions.shipped_by is 'the application or the user';
comment on column module_versions.shipped_from is 'the address or the machine';
comment on column module_versions.commit_id is 'of the source, as its author gave it';
comment on column module_versions.engine is 'the program that took it first';
comment on column module_versions.redacts is 'it exports redact, so what comes after it must do so too';
comment on column module_versions.served_at is 'when a generation began to serve it last; null if none did';

create table generations (
    number bigint not null,
    id uuid not null default gen_random_uuid(),
    made_at timestamptz not null default clock_timestamp(),
    made_by text not null,
    made_from text,
    cause text not null,
    forced boolean not null default false,
    constraint generations_pkey primary key (number),
    constraint generations_cause_check check (cause in ('push', 'rollback', 'retire', 'import', 'back'))
);

comment on table generations is 'the sets of modules that gateways serve, numbered; the last thousand';
comment on column generations.id is 'tells it from another generation of this number, before a restore or after a lost commit';
comment on column generations.cause is 'push, rollback and retire change one slot; import and back change many';
comment on column generations.forced is 'made although a gateway had not prepared it';

create table generation_changes (
    number bigint not null,
    event_type text not null,
    digest bytea,
    settings text,
    constraint generation_changes_pkey primary key (number, event_type),
    constraint generation_changes_settings_check check (octet_length(settings) <= 65536)
);

create index generation_changes_event_type on generation_changes (event_type, number desc);

comment on table generation_changes is 'what each generation changed; the set of a generation is the last change of each event type up to it';
comment on column generation_changes.digest is 'the module that serves from then on; null if none does';
comment on column generation_changes.settings is 'its settings, as a <name>.toml has them; null for the defaults';

create table preparations (
    id uuid not null,
    cause text not null,
    asked_at timestamptz not null default clock_timestamp(),
    ends_at timestamptz not null,
    asked_by jsonb not null,
    forced boolean not null default false,
    based_on bigint,
    state text not null default 'preparing',
    generation bigint,
    problem jsonb,
    constraint preparations_pkey primary key (id),
    constraint preparations_cause_check check (cause in ('push', 'rollback', 'retire', 'import', 'back')),
    constraint preparations_state_check check (state in ('preparing', 'active', 'refused', 'changed')),
    constraint preparations_generation_check check ((state = 'active') = (generation is not null))
);

create index preparations_preparing on preparations (asked_at) where state = 'preparing';

comment on table preparations is 'what is to become the next generation, once all gateways have prepared it; ended ones stay for a day';
comment on column preparations.ends_at is 'until then it waits for gateways';
comment on column preparations.asked_by is 'who asked, as the audit trail has it: actor, name, token_id, host, peer, forwarded, request_id';
comment on column preparations.based_on is 'the generation that must still be the current one; null where only the slots must be unchanged';
comment on column preparations.state is 'active: it became a generation; refused: a gateway cannot serve it; changed: another change came first';

create table preparation_slots (
    preparation_id uuid not null,
    event_type text not null,
    digest bytea,
    settings text,
    replaces bytea,
    replaces_settings text,
    constraint preparation_slots_pkey primary key (preparation_id, event_type),
    constraint preparation_slots_preparation_fkey foreign key (preparation_id) references preparations (id) on delete cascade
);

comment on table preparation_slots is 'the slots that a preparation changes';
comment on column preparation_slots.digest is 'the module that is to serve; null to take it away';
comment on column preparation_slots.replaces is 'the module that serves until then; null for none';
comment on column preparation_slots.replaces_settings is 'the settings that it has until then';

create table prepared (
    preparation_id uuid not null,
    gateway_id uuid not null,
    refusal jsonb,
    at timestamptz not null default clock_timestamp(),
    constraint prepared_pkey primary key (preparation_id, gateway_id),
    constraint prepared_preparation_fkey foreign key (preparation_id) references preparations (id) on delete cascade
);

comment on table prepared is 'which gateway has prepared what, or cannot';
comment on column prepared.refusal is 'why it cannot: event_type, digest, expected, found, mend, passing; null if it can';

-- Every gateway listens on this channel.
create function fleet_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('eye_fleet', '');
    return null;
end;
$$;

create trigger generations_changed after insert on generations for each statement execute function fleet_changed();
create trigger preparations_changed after insert or update on preparations for each statement execute function fleet_changed();
create trigger prepared_changed after insert or update on prepared for each statement execute function fleet_changed();

-- The set of modules of a generation; of the current one without a number.
create function generation_set(which bigint default null)
returns table (event_type text, digest bytea, settings text) language sql stable as $$
    select newest.event_type, newest.digest, newest.settings
    from (
        select distinct on (changes.event_type) changes.event_type, changes.digest, changes.settings
        from generation_changes changes where which is null or changes.number <= which
        order by changes.event_type, changes.number desc
    ) newest
    where newest.digest is not null
$$;

-- Whether the module that served an event type last takes secrets out of dead letters, so that another one must do so too.
create function must_redact(kind text, candidate bytea) returns boolean language sql stable as $$
    select coalesce((
        select versions.redacts and versions.digest <> candidate from module_versions versions
        where versions.event_type = kind and versions.served_at is not null order by versions.served_at desc limit 1
    ), false)
$$;

-- Why a preparation becomes no generation, whatever the gateways say: a module would keep secrets that the one before takes
-- out, or no gateway was there in time and too much may have happened since.
create function preparation_obstacles(asked preparations, living interval) returns jsonb language sql stable as $$
    select jsonb_agg(jsonb_build_object('gateway', 'the database', 'refusal', jsonb_build_object(
        'event_type', slots.event_type, 'digest', encode(slots.digest, 'hex'), 'expected', why.expected, 'found', why.found,
        'mend', why.mend, 'passing', false
    )) order by slots.event_type)
    from preparation_slots slots left join module_versions versions using (event_type, digest)
    cross join lateral (
        select 'a module that takes secrets out of dead letters, as the one before does' as expected,
            'one that takes none out' as found, 'export `redact`, or push it with force' as mend
        where must_redact(slots.event_type, slots.digest) and not coalesce(versions.redacts, false)
            -- Settings that name the digest of their own module allow it.
            and position(encode(slots.digest, 'hex') in coalesce(slots.settings, '')) = 0
        union all
        select 'gateways that prepare it in time', 'none of them was there until ' || asked.ends_at, 'push it again'
        where asked.ends_at < clock_timestamp() - living
    ) why
    where slots.preparation_id = asked.id and slots.digest is not null and not asked.forced
$$;

-- Notes in the audit trail what became of a preparation.
create function note_preparation(which uuid, what text, about text) returns void language sql as $$
    insert into audit (action, subject, actor, name, token_id, host, peer, forwarded, request_id, details)
    select what, about, asked_by ->> 'actor', coalesce(asked_by ->> 'name', ''), asked_by ->> 'token_id',
        asked_by ->> 'host', asked_by ->> 'peer', asked_by ->> 'forwarded', asked_by ->> 'request_id',
        jsonb_strip_nulls(jsonb_build_object(
            'cause', cause, 'forced', forced, 'slots', count(slots), 'event_type', left(min(slots.event_type), 250),
            'digest', min(encode(slots.digest, 'hex')), 'before', min(encode(slots.replaces, 'hex')), 'state', state
        ))
    from preparations left join preparation_slots slots on slots.preparation_id = preparations.id
    where preparations.id = which group by preparations.id
$$;

-- Makes the next generation of a preparation, if all living gateways have prepared it. It is one statement for its
-- caller, so that a caller that is frozen or cut off in the middle holds no lock.
create function activate_preparation(which uuid, living interval) returns text language plpgsql as $$
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
    select slots.event_type, slots.digest, known.shipped_by, known.shipped_from, known.commit_id, known.engine, known.redacts
    from preparation_slots slots cross join lateral (
        select * from module_versions where digest = slots.digest order by shipped_at desc limit 1
    ) known
    where slots.preparation_id = which
    on conflict do nothing;
    update module_versions set served_at = clock_timestamp()
    from preparation_slots slots
    where slots.preparation_id = which
        and module_versions.event_type = slots.event_type and module_versions.digest = slots.digest;
    update preparations set state = 'active', generation = current where id = which;
    perform note_preparation(which, 'generation_make', current::text);
    return 'active';
end;
$$;

-- Keeps the last ten versions of each event type that served, what serves, what is being prepared, and what was shipped
-- within an hour; the preparations of a day; and the last thousand generations.
create function forget_modules() returns void language plpgsql as $$
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
            select from generation_set() serves where serves.event_type = old.event_type and serves.digest = old.digest
        )
        and not exists (
            select from preparation_slots slots join preparations on preparations.id = slots.preparation_id
            where preparations.state = 'preparing' and slots.event_type = old.event_type and slots.digest = old.digest
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
    select max(number) - 1000 into oldest from generations;
    delete from generations where number <= oldest;
    delete from generation_changes old
    where old.number <= oldest and exists (
        select from generation_changes later
        where later.event_type = old.event_type and later.number > old.number and later.number <= oldest
    );
end;
$$;

-- The scope `ship`: an application may ship modules of these event types, and read the data of these. An older program
-- does not know the word, and a word that it does not know allows nothing.
alter table applications
    add column ship_event_types text[] not null default '{}',
    drop constraint applications_scopes_check,
    add constraint applications_scopes_check
        check (scopes <@ array['ingest', 'read', 'raw', 'ship', 'admin', 'limited_read', 'limited_raw']),
    add constraint applications_ship_event_types_check check (cardinality(ship_event_types) <= 1000),
    add constraint applications_ship_limits_check check (
        not ('ship' = any (scopes) and scopes && array['limited_read', 'limited_raw'])
    );

comment on column applications.ship_event_types is 'category/name or category/* of the modules that it may ship; empty for all, if it has the scope ship';

-- An older program that takes the scope away knows nothing of the event types.
create function ship_with_scope() returns trigger language plpgsql as $$
begin
    new.ship_event_types := '{}';
    return new;
end
$$;

create trigger applications_ship before update on applications
    for each row when (not 'ship' = any (new.scopes) and new.ship_event_types <> '{}')
    execute function ship_with_scope();

-- Whoever writes events takes part in the fleet, and whoever reads the applications sees it, so that no role of a gateway needs to be given anything.
do $$
declare
    writer text;
    one text;
begin
    for writer in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'events'::regclass and acl.privilege_type = 'INSERT' and acl.grantee <> 0
    loop
        foreach one in array array[
            'gateways', 'module_contents', 'module_versions', 'generations', 'generation_changes', 'preparations',
            'preparation_slots', 'prepared'
        ] loop
            execute format('grant select, insert, update, delete on %I to %s', one, writer);
        end loop;
    end loop;
    for writer in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'applications'::regclass and acl.privilege_type = 'SELECT' and acl.grantee <> 0
    loop
        foreach one in array array[
            'gateways', 'module_contents', 'module_versions', 'generations', 'generation_changes', 'preparations',
            'preparation_slots', 'prepared'
        ] loop
            execute format('grant select on %I to %s', one, writer);
        end loop;
    end loop;
end
$$;
