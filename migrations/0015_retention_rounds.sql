-- What retention has done so far, by rule. A round removes what fell due within two days of the round before; more than that
-- is announced first, since a clock or a setting may be wrong. All times are the database's.

create table retention_rounds (
    rule text not null,
    round_at timestamptz,
    cutoff timestamptz,
    bytes_max bigint,
    announced_limit bigint,
    announced_at timestamptz,
    announced_seconds bigint,
    seen_at timestamptz,
    confirmed boolean not null default false,
    constraint retention_rounds_pkey primary key (rule),
    constraint retention_rounds_rule_check
        check (rule in ('events_age', 'dead_letters_age', 'dead_letters_size', 'count_minutes_age'))
);

comment on table retention_rounds is 'the last round of each rule of retention, and what it has announced';
comment on column retention_rounds.round_at is 'when a round last removed all that was due; null before the first';
comment on column retention_rounds.cutoff is 'the time before which that round removed everything, for rules by age';
comment on column retention_rounds.bytes_max is 'the bound that it kept, for rules by size';
comment on column retention_rounds.announced_limit is 'the days or bytes of the setting that asks for more than a round may remove; null when nothing is announced';
comment on column retention_rounds.announced_seconds is 'for how long that has been announced while a gateway was running';
comment on column retention_rounds.seen_at is 'when a round last counted that time';
comment on column retention_rounds.confirmed is 'somebody has confirmed the announced removal';

insert into retention_rounds (rule) values ('events_age'), ('dead_letters_age'), ('dead_letters_size'), ('count_minutes_age');
