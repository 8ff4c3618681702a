-- Who may send and read. A token itself is never here: only its SHA-256 digest.

create table applications (
    id integer generated always as identity,
    name text not null,
    token_digests bytea[] not null default '{}',
    networks cidr[] not null default '{}',
    known_by text not null default 'token',
    scopes text[] not null default '{ingest}',
    active boolean not null default true,
    created_at timestamptz not null default now(),
    constraint applications_pkey primary key (id),
    constraint applications_name_key unique (name),
    constraint applications_name_check check (length(name) between 1 and 200),
    constraint applications_token_digests_check check (cardinality(token_digests) <= 2),
    constraint applications_known_by_check check (known_by in ('token', 'network', 'both')),
    constraint applications_scopes_check check (scopes <@ array['ingest', 'read', 'admin'])
);

comment on table applications is 'trusted senders and readers';
comment on column applications.token_digests is 'SHA-256 of each live token; two while a token is being rotated, the newest last';
comment on column applications.networks is 'networks from which the application is known without a token, or only with one';
comment on column applications.known_by is 'what proves the application: its token, its network, or only both together';
comment on column applications.active is 'false once revoked; the row stays, because events name it';

-- Every gateway listens on this channel, so a change is in force everywhere within a second.
create function applications_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('eye_applications', '');
    return null;
end;
$$;

create trigger applications_changed after insert or update or delete or truncate on applications
    for each statement execute function applications_changed();
