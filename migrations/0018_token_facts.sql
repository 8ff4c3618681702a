-- What is known of each token beside its digest, and how an application ended. `applications.token_digests` still says which
-- tokens live, so that a program of the release before takes the same ones.

alter table applications
    add column note text not null default '',
    add column revoked_at timestamptz,
    add constraint applications_note_check check (length(note) <= 1000),
    add constraint applications_revoked_check check (revoked_at is null or not active);

comment on column applications.note is 'what its operators want to remember of it';
comment on column applications.revoked_at is 'when it was revoked, for ever; null while it is only suspended (not active)';

-- Who has neither token nor certificate and is known by one was revoked. One that is known by its network may only be
-- suspended; it opens nothing either way.
update applications set revoked_at = now()
where not active and known_by <> 'network' and token_digests = '{}' and certificate_digests = '{}';

-- A gateway of the release before revokes without knowing of this column. One that it knows by its network alone it only
-- makes inactive, as for a suspension.
create function note_revoked() returns trigger language plpgsql as $$
begin
    new.revoked_at := now();
    return new;
end
$$;

create trigger applications_revoked before update on applications
    for each row when (
        old.active and not new.active and new.revoked_at is null
        and new.token_digests = '{}' and new.certificate_digests = '{}'
        and (old.token_digests <> '{}' or old.certificate_digests <> '{}')
    ) execute function note_revoked();

create table application_tokens (
    digest bytea not null,
    application_id integer not null,
    created_at timestamptz default now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    constraint application_tokens_pkey primary key (digest),
    constraint application_tokens_digest_check check (length(digest) = 32)
);

comment on table application_tokens is 'facts about tokens; one of which nothing is known has no row';
comment on column application_tokens.digest is 'SHA-256 of the token';
comment on column application_tokens.created_at is 'null of tokens that are older than this table';
comment on column application_tokens.expires_at is 'from then on it opens nothing; null for no end';
comment on column application_tokens.last_used_at is 'a time at which it was used, at most a minute or so before the last one; null if it never was';

-- Whoever may read the applications may read this and note uses, so that no role of a gateway needs to be given anything.
do $$
declare
    reader text;
begin
    for reader in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'applications'::regclass and acl.privilege_type = 'SELECT' and acl.grantee <> 0
    loop
        execute format('grant select, insert, update, delete on application_tokens to %s', reader);
    end loop;
end
$$;
