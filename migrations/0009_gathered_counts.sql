-- Writers of small batches make one delta of many.
comment on table count_deltas is 'what batches counted since the last fold; appended to, gathered by writers, and emptied by the fold';
comment on column count_deltas.event_type_ids is
    'one row holds all event types of a batch, or of many small ones, which may be as many as their events; 0 when an event had none that could be read';
