-- What a validator says of its own end. It may quote the event, so it is read and removed as the raw bytes are.

alter table dead_letters add column last_words text;

comment on column dead_letters.last_words is 'the text of the panic or exception of the module, where its kit keeps it and the type keeps raw bytes';
