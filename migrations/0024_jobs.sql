-- Long work with progress that survives restarts. The gateway that has the duty `jobs` runs one job of each kind at a time. It
-- commits the progress with the place from which any other gateway can go on.

create table jobs (
    id uuid not null,
    kind text not null,
    state text not null default 'waiting',
    dry_run boolean not null,
    request jsonb not null,
    actor text not null,
    name text not null default '',
    token_id text,
    host text,
    peer text,
    forwarded text,
    request_id text,
    requested_at timestamptz not null default now(),
    started_at timestamptz,
    ended_at timestamptz,
    runner uuid,
    runner_name text,
    run integer not null default 0,
    runs_lost integer not null default 0,
    progress jsonb not null default '{}',
    place jsonb,
    result jsonb,
    problem text,
    cancel_requested boolean not null default false,
    constraint jobs_pkey primary key (id),
    constraint jobs_kind_check check (kind ~ '^[a-z][a-z_]{0,39}$'),
    constraint jobs_state_check check (state in ('waiting', 'running', 'done', 'failed', 'cancelled')),
    constraint jobs_ended_check check ((ended_at is null) = (state in ('waiting', 'running'))),
    constraint jobs_actor_check check (actor in ('application', 'command', 'gateway')),
    constraint jobs_request_check check (jsonb_typeof(request) = 'object' and octet_length(request::text) <= 1048576)
);

create unique index jobs_one_of_a_kind on jobs (kind) where state in ('waiting', 'running');
create index jobs_requested on jobs (requested_at, id);

comment on table jobs is 'long work: what was asked, by whom, how far it is and what came of it';
comment on column jobs.kind is 'redrive or rejudge';
comment on column jobs.state is 'waiting for a gateway, running, or how it ended: done, failed, cancelled';
comment on column jobs.dry_run is 'it only says what would come of it';
comment on column jobs.request is 'what to work on, as its kind defines it';
comment on column jobs.actor is 'who asked for it, as in the table audit; so are name, token_id, host, peer, forwarded and request_id';
comment on column jobs.runner is 'the id of the gateway''s process that runs it, or ran it last';
comment on column jobs.runner_name is 'the machine of that gateway';
comment on column jobs.run is 'how often a gateway took it up; what an earlier run would still write is refused';
comment on column jobs.runs_lost is 'how many gateways in a row went without a word and without progress';
comment on column jobs.progress is 'counts so far';
comment on column jobs.place is 'from where the next run goes on; committed with the progress; null before the first step';
comment on column jobs.result is 'what came of it, once it is done';
comment on column jobs.problem is 'why it failed, in one sentence';
comment on column jobs.cancel_requested is 'somebody wants it to end; it ends after its current step';

-- Whoever may read the applications may ask for jobs and run them, so that no role of a gateway needs to be given anything.
do $$
declare
    reader text;
begin
    for reader in
        select distinct acl.grantee::regrole::text from pg_class, aclexplode(pg_class.relacl) acl
        where pg_class.oid = 'applications'::regclass and acl.privilege_type = 'SELECT' and acl.grantee <> 0
    loop
        execute format('grant select, insert, update, delete on jobs to %s', reader);
    end loop;
end
$$;
