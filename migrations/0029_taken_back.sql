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

-- Triggers, since programs of the release before write and delete these rows too.
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

create trigger taken_back_lifted after insert or update or delete on taken_back
    for each row execute function note_lifted();

-- Whoever takes modules back lifts it too.
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
