-- What a validator says of its own end. It may quote the event, so it is read and removed as the raw bytes are.

alter table dead_letters add column last_words text;

comment on column dead_letters.last_words is 'the text of the panic or exception of the module, where its kit keeps it and the bytes are kept whole';

-- A gateway of the release before rewrites letters without knowing of this column.
create function forget_last_words() returns trigger language plpgsql as $$
begin
    new.last_words := null;
    return new;
end
$$;

create trigger dead_letters_last_words before update on dead_letters
    for each row when (new.kept <> 'whole' and new.last_words is not null) execute function forget_last_words();
