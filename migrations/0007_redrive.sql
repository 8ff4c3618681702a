-- What became of dead letters that were judged again.

alter table dead_letters add column redriven_at timestamptz, add column redriven_as text;

comment on column dead_letters.redriven_at is 'when its event was found to be in events, after it was judged again; null until then';
comment on column dead_letters.redriven_as is 'stored, or duplicate when the event was there already';

-- What is left to be judged again, without the letters that were.
create index dead_letters_left_idx on dead_letters (received_at, id) where redriven_at is null;
