-- What was taken back is known in two places: here, and by notes in the data dir of each gateway. A gateway brings both in
-- step. So it must know a note whose row somebody lifted from one whose row this database never had.

create table lifted (
    event_type text not null,
    digest bytea not null,
    at timestamptz not null default clock_timestamp(),
    constraint lifted_pkey primary key (event_type, digest),
    constraint lifted_digest_check check (length(digest) = 32)
);

comment on table lifted is 'modules that somebody forced after they had been taken back; the notes of all gateways go. Another taking back ends it';

-- Triggers, since programs of the release before write and delete these rows too. They need no right of their role to the new
-- table.
create function note_lifted() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        insert into lifted (event_type, digest) values (old.event_type, old.digest)
        on conflict (event_type, digest) do update set at = clock_timestamp();
    else
        delete from lifted where event_type = new.event_type and digest = new.digest;
    end if;
    return null;
end;
$$;

do $$
begin
    execute format('alter function note_lifted() security definer set search_path = %I, pg_temp', current_schema());
    revoke execute on function note_lifted() from public;
end
$$;

create trigger taken_back_lifted after insert or update or delete on taken_back
    for each row execute function note_lifted();

-- Roles that may insert into taken_back get the rights to this table too.
do $$
declare
    role_name text;
begin
    for role_name in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'taken_back'::regclass and acl.privilege_type = 'INSERT' and acl.grantee <> 0
    loop
        execute format('grant select, insert, update, delete on lifted to %s', role_name);
    end loop;
end
$$;

-- Whether a change of many slots brings this module to serve. A slot whose module stays says nothing about it, and neither
-- does a candidate: what was taken back is lifted for the modules that somebody sees in the difference.
create function is_brought(asked preparations, slots preparation_slots) returns boolean language sql immutable as $$
    select asked.cause not in ('back', 'import')
        or slots.event_type = event_type_of(slots.event_type) and slots.digest is distinct from slots.replaces
$$;

-- Why a preparation becomes no generation, whatever the gateways say: a module would keep secrets that the one before takes
-- out, the guard took it back, or no gateway was there in time and too much may have happened since. A step back
-- never brings a candidate that was taken back, not even with force.
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
            and not forces(slots.settings, slots.digest) and not asked.forced
        union all
        select 'a module that was not taken back', 'one that was: ' || back.reason, 'mend it, or force it'
        where back.digest is not null and is_brought(asked, slots)
            and not forces(slots.settings, slots.digest) and not asked.forced
        union all
        select 'a candidate that was not taken back', 'one that was: ' || back.reason, 'look at the difference again'
        where back.digest is not null and slots.event_type <> event_type_of(slots.event_type)
            and asked.cause in ('back', 'import')
        union all
        select 'gateways that prepare it in time', 'none of them was there until ' || asked.ends_at, 'push it again'
        where asked.ends_at < clock_timestamp() - living and not asked.forced
    ) why
    where slots.preparation_id = asked.id and slots.digest is not null
$$;

-- What follows from a new generation besides its slots: whoever forces a module lifts what the guard said of it, and a new
-- trial of a module is counted from its beginning.
create or replace function follow_generation(asked preparations) returns void language sql as $$
    delete from taken_back back using preparation_slots slots
    where asked.cause <> 'guard' and slots.preparation_id = asked.id
        and (asked.forced or forces(slots.settings, slots.digest)) and is_brought(asked, slots)
        and back.event_type = event_type_of(slots.event_type) and back.digest = slots.digest;
    delete from candidate_pairs pairs using preparation_slots slots
    where slots.preparation_id = asked.id and pairs.event_type = event_type_of(slots.event_type)
        and pairs.digest = slots.digest
        and case when slots.event_type = pairs.event_type then pairs.trial = 'replacement' and asked.cause <> 'guard'
            else pairs.trial <> 'replacement' and asked.cause <> 'promote' end;
$$;
