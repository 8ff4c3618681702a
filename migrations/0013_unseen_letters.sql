-- Events that were quarantined although no module had looked at them, because theirs was off the path or busy. The gateway
-- judges them again by itself, in order, for each event type and application; whatever is found then takes the place of the
-- code, so that a letter leaves this index once a module has looked at its event.
create index dead_letters_unseen_idx on dead_letters (category, name, application_id, received_at, id)
    where code in ('off_path', 'busy') and redriven_at is null and octet_length(raw) = raw_bytes;

comment on column dead_letters.code is 'envelope, rule, the kind of fault (trap, deadline, memory, ...) or unstorable; off_path until a module has looked at the event, then what it found';
