-- The request that a refused event came in, so that an operator finds it in the log, and its trace in a tracing system.

-- Not proved for the rows that are there: they have neither, and the table is not to be locked for so long.
alter table dead_letters
    add column request_id text,
    add column traceparent text,
    add constraint dead_letters_request_id_check check (octet_length(request_id) <= 64) not valid,
    add constraint dead_letters_traceparent_check check (octet_length(traceparent) <= 55) not valid;

comment on column dead_letters.request_id is 'the gateway''s id of the request, as in its header x-request-id; null in letters of earlier releases';
comment on column dead_letters.traceparent is 'of that request (W3C Trace Context), if it had a valid one';
