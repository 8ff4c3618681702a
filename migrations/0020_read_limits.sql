-- What of all events an application may read: event types, applications, or both.
--
-- A program of before this migration reads none of these columns, and would show everything to a limited reader. So the
-- scopes of a limited reader have other words in this table, `limited_read` and `limited_raw`: an older program knows
-- neither, and a word that it does not know allows nothing. Beside or after this program it therefore refuses limited
-- readers (403) and serves all others as before, and the schema floor stays where it is. The trigger keeps the words,
-- also where an older program or a person sets scopes.

alter table applications
    add column read_event_types text[] not null default '{}',
    add column read_applications text[] not null default '{}',
    add column cursor_key bytea not null
        default sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())),
    drop constraint applications_scopes_check,
    add constraint applications_scopes_check
        check (scopes <@ array['ingest', 'read', 'raw', 'admin', 'limited_read', 'limited_raw']),
    add constraint applications_read_limits_check check (case
        when read_event_types = '{}' and read_applications = '{}' then not scopes && array['limited_read', 'limited_raw']
        else not scopes && array['read', 'raw', 'admin']
    end),
    add constraint applications_read_event_types_check check (cardinality(read_event_types) <= 1000),
    add constraint applications_read_applications_check check (cardinality(read_applications) <= 1000),
    add constraint applications_cursor_key_check check (length(cursor_key) = 32);

comment on column applications.scopes is 'what it may do; of an application with limits for reading, limited_read stands for read and limited_raw for raw';
comment on column applications.read_event_types is 'category/name or category/* of what it may read, percent-encoded as module files are; empty for all';
comment on column applications.read_applications is 'the names of the applications whose events it may read; empty for all';
comment on column applications.cursor_key is 'seals the cursors of a limited reader, which may hold the key of an event that it may not see';

create function limit_scopes() returns trigger language plpgsql as $$
begin
    if new.read_event_types = '{}' and new.read_applications = '{}' then
        new.scopes := array_replace(array_replace(new.scopes, 'limited_read', 'read'), 'limited_raw', 'raw');
    else
        new.scopes := array_replace(array_replace(new.scopes, 'read', 'limited_read'), 'raw', 'limited_raw');
    end if;
    return new;
end
$$;

create trigger applications_limits before insert or update on applications
    for each row execute function limit_scopes();
