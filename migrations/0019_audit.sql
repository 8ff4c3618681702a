-- Who changed what, when and from where. What changes in this database is noted in the transaction that changes it, so that
-- there is no change without its entry and no entry without its change.

create table audit (
    id uuid not null default gen_random_uuid(),
    at timestamptz not null default now(),
    action text not null,
    subject text not null default '',
    actor text not null,
    name text not null default '',
    token_id text,
    host text,
    peer text,
    forwarded text,
    request_id text,
    details jsonb not null default '{}',
    constraint audit_pkey primary key (id),
    constraint audit_action_check check (action ~ '^[a-z][a-z0-9_]{0,39}$'),
    constraint audit_subject_check check (octet_length(subject) <= 1000),
    constraint audit_actor_check check (actor in ('application', 'command', 'gateway', 'database')),
    constraint audit_name_check check (octet_length(name) <= 1000),
    constraint audit_details_check check (jsonb_typeof(details) = 'object' and octet_length(details::text) <= 16384)
);

comment on table audit is 'the audit trail: who changed what; no secret and nothing of an event is in it';
comment on column audit.id is 'the same when an entry is written again, after an answer that was lost';
comment on column audit.at is 'when it happened, by the clock of this database';
comment on column audit.action is 'what was done, in one word';
comment on column audit.subject is 'to what: an application, an event type, a partition; empty where the action says all';
comment on column audit.actor is 'application: it asked a gateway; command: a person ran one; gateway: it did so by itself; database: whoever did it said nothing of itself';
comment on column audit.name is 'of the application, of the user of the operating system that ran the command, or of the role of the database';
comment on column audit.token_id is 'which token of the application it was; leads back to no token';
comment on column audit.host is 'where the command ran, or the gateway';
comment on column audit.peer is 'the other end of the connection of the request';
comment on column audit.forwarded is 'the address of the caller, as a trusted proxy gives it';
comment on column audit.request_id is 'the gateway''s id of the request, as in its header x-request-id';
comment on column audit.details is 'what else there is to know, within a bound';

-- Pages walk along these, the latest first.
create index audit_at on audit (at, id);
create index audit_action on audit (action, at, id);
create index audit_subject on audit (subject, at, id);

-- Notes what a statement of this session does, in its transaction. A session says once for whom it works, in `eye.actor`.
create function note_audit(what text, about text, more jsonb) returns void language sql as $$
    insert into audit (action, subject, actor, name, host, details)
    select what, left(about, 250), coalesce(who ->> 'kind', 'database'),
        case when who is null then session_user::text else coalesce(who ->> 'name', '') end, who ->> 'host',
        more || case when who ? 'login' then jsonb_build_object('login', who -> 'login') else '{}' end
    from (select nullif(current_setting('eye.actor', true), '')::jsonb as who) session
$$;

-- Migrations are noted by their own table, from this one on.
create function note_migration() returns trigger language plpgsql as $$
begin
    perform note_audit('migrate', new.version::text, jsonb_build_object('name', new.description));
    return null;
end
$$;

do $$
begin
    if to_regclass('_sqlx_migrations') is not null then
        create trigger migration_noted after insert on _sqlx_migrations for each row execute function note_migration();
    end if;
end
$$;

-- As before, and noted.
create or replace function attach_partition(parent text, month timestamp) returns text language plpgsql as $$
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
    perform note_audit('partition_make', child, '{}');
    return 'made';
end;
$$;

-- As before, and noted: from here on nobody reads what is in it. The rows are those that the planner knew of.
create or replace function detach_partition(parent text, child text, why text) returns void language plpgsql as $$
begin
    perform note_audit('partition_drop', child, jsonb_build_object(
        'cause', why,
        'rows_estimate', (select greatest(reltuples, 0)::bigint from pg_class where oid = to_regclass(child)),
        'bytes', pg_total_relation_size(to_regclass(child))
    ));
    execute format('alter table %I detach partition %I', parent, child);
    execute format('alter table %I rename to %I', child, child || '_trimmed_' || why);
end;
$$;

-- The trail has a retention of its own, which trusts no single clock either.
alter table retention_rounds
    drop constraint retention_rounds_rule_check,
    add constraint retention_rounds_rule_check
        check (rule in ('events_age', 'dead_letters_age', 'dead_letters_size', 'count_minutes_age', 'audit_age'));
insert into retention_rounds (rule) values ('audit_age');

-- Whoever may read the applications may read the trail and add to it; of an entry, only what came of the work may change
-- while that goes on.
do $$
declare
    reader text;
begin
    for reader in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'applications'::regclass and acl.privilege_type = 'SELECT' and acl.grantee <> 0
    loop
        execute format('grant select, insert, update (details) on audit to %s', reader);
    end loop;
end
$$;
