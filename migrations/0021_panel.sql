-- Signing in to the panel. An address holds a code that works once. The browser exchanges it for a session: a cookie and a
-- secret that its tab keeps, which work only together. The tables hold none of the three, only SHA-256 digests.

create table panel_codes (
    digest bytea not null,
    application_id integer not null,
    tokens_digest bytea not null,
    made_at timestamptz not null default now(),
    expires_at timestamptz not null default now() + interval '10 minutes',
    sessions_end_at timestamptz,
    used_at timestamptz,
    constraint panel_codes_pkey primary key (digest),
    constraint panel_codes_digest_check check (length(digest) = 32),
    constraint panel_codes_tokens_digest_check check (length(tokens_digest) = 32)
);

create index panel_codes_application on panel_codes (application_id, made_at);

comment on table panel_codes is 'codes that sign in to the panel once, kept for an hour';
comment on column panel_codes.digest is 'SHA-256 of the code';
comment on column panel_codes.application_id is 'the application for which the session will act';
comment on column panel_codes.tokens_digest is 'SHA-256 of the tokens that the application had: with others, the code opens nothing';
comment on column panel_codes.sessions_end_at is 'when the token that asked for the code ends; null for no end';
comment on column panel_codes.used_at is 'when it was used, which is possible once';

create table panel_sessions (
    digest bytea not null,
    application_id integer not null,
    tokens_digest bytea not null,
    made_at timestamptz not null default now(),
    ends_at timestamptz not null,
    last_used_at timestamptz not null default now(),
    constraint panel_sessions_pkey primary key (digest),
    constraint panel_sessions_digest_check check (length(digest) = 32),
    constraint panel_sessions_tokens_digest_check check (length(tokens_digest) = 32)
);

create index panel_sessions_application on panel_sessions (application_id, last_used_at);

comment on table panel_sessions is 'who is signed in to the panel';
comment on column panel_sessions.digest is 'SHA-256 of the cookie and the secret of the tab together';
comment on column panel_sessions.application_id is 'the application for which it acts, with the scopes that this has at each request';
comment on column panel_sessions.tokens_digest is 'SHA-256 of the tokens that the application had: with others, the session is over';
comment on column panel_sessions.ends_at is 'from then on it opens nothing, however much it is used';
comment on column panel_sessions.last_used_at is 'a time at which it was used, at most a minute or so before the last one';

-- Gateways listen for changes of the applications, so that a session begins and ends everywhere within a second.
create trigger panel_sessions_changed after insert or delete or truncate on panel_sessions
    for each statement execute function applications_changed();

-- Gateways that note uses of tokens keep these tables too. A reader needs to know the sessions.
do $$
declare
    grantee text;
begin
    for grantee in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'applications'::regclass and acl.privilege_type = 'SELECT' and acl.grantee <> 0
    loop
        execute format('grant select on panel_sessions to %s', grantee);
    end loop;
    for grantee in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'application_tokens'::regclass and acl.privilege_type = 'INSERT' and acl.grantee <> 0
    loop
        execute format('grant select, insert, update, delete on panel_codes, panel_sessions to %s', grantee);
    end loop;
end
$$;
