-- What an application may use, and what else proves it.

alter table applications
    add column certificate_digests bytea[] not null default '{}',
    add column retired_token_digests bytea[] not null default '{}',
    add column events_per_second integer,
    add column burst_events integer,
    add column event_types text[] not null default '{}',
    add constraint applications_events_per_second_check check (events_per_second between 1 and 1000000),
    add constraint applications_burst_events_check check (burst_events between 1 and 1000000),
    add constraint applications_rate_check check (burst_events is null or events_per_second is not null),
    add constraint applications_networks_check check (known_by = 'token' or cardinality(networks) > 0),
    add constraint applications_retired_token_digests_check check (cardinality(retired_token_digests) <= 16);

comment on column applications.known_by is 'what proves the application: a token or certificate, its network, or only both together';
comment on column applications.certificate_digests is 'SHA-256 of each client certificate (DER) that proves the application as a token does';
comment on column applications.retired_token_digests is 'SHA-256 of the last tokens that ended, so that their use can be counted; they open nothing';
comment on column applications.events_per_second is 'events that each gateway takes of it in a second in the long run; null for no limit';
comment on column applications.burst_events is 'events that it may send at once; null for as many as in a second';
comment on column applications.event_types is 'category/name or category/* of what it may send, percent-encoded as module files are; empty for all';
comment on column applications.active is 'false while it is suspended, and once revoked; the row stays, because events name it';
