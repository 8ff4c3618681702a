-- The job replay: it judges events of the past by a module that need not serve, so the module comes with the job. Any gateway
-- can go on with it, and nothing is kept of the module once the job has ended.

alter table jobs add column module bytea,
    add constraint jobs_module_check check (octet_length(module) between 1 and 67108864) not valid;

-- Compressing the content of a module anew on each read would only cost time.
alter table jobs alter column module set storage external;

comment on column jobs.kind is 'redrive, rejudge or replay';
comment on column jobs.module is 'the content of the module or schema that a replay judges by; null for other kinds, and once the job has ended';

-- In the database, so that a program that does not know the column keeps no module either.
create function drop_module_of_job() returns trigger language plpgsql as $$
begin
    new.module := null;
    return new;
end
$$;

create trigger jobs_ended before update on jobs
    for each row when (new.ended_at is not null and new.module is not null) execute function drop_module_of_job();
