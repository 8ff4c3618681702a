-- What one gateway does for all gateways of this database. A gateway holds a duty by a lease, which it renews every few
-- seconds. All times are those of this database, so that gateways whose clocks differ agree on who holds it.

create table duties (
    duty text not null,
    holder uuid not null,
    holder_name text not null,
    since timestamptz not null default now(),
    until timestamptz not null,
    session_pid integer,
    session_started timestamptz,
    constraint duties_pkey primary key (duty),
    constraint duties_duty_check check (duty ~ '^[a-z][a-z_]{0,39}$'),
    constraint duties_holder_name_check check (octet_length(holder_name) <= 1000)
);

comment on table duties is 'which gateway does what for all, and until when it may believe so';
comment on column duties.duty is 'retention, folds, scrub or jobs';
comment on column duties.holder is 'the id of the gateway''s process';
comment on column duties.holder_name is 'the machine of the gateway';
comment on column duties.since is 'when this gateway took it over';
comment on column duties.until is 'from then on another gateway may take it over';
comment on column duties.session_pid is 'the server process of the last session that worked on the duty; whoever takes it over ends that session';
comment on column duties.session_started is 'when that process started, since their numbers are used again';

-- Whoever may read the applications may hold duties, so that no role of a gateway needs to be given anything.
do $$
declare
    reader text;
begin
    for reader in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'applications'::regclass and acl.privilege_type = 'SELECT' and acl.grantee <> 0
    loop
        execute format('grant select, insert, update on duties to %s', reader);
    end loop;
end
$$;
