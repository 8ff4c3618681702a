-- Which programs a schema still serves. A program may use a schema that is newer than its own, so that the release before
-- can run beside the new one, and after it. A migration that takes this away from older programs raises the floor to
-- the newest migration that a program must know.

create table schema_floor (
    only_row boolean not null default true,
    version bigint not null,
    constraint schema_floor_pkey primary key (only_row),
    constraint schema_floor_only_row_check check (only_row)
);

comment on table schema_floor is 'the oldest program that this schema serves; one row';
comment on column schema_floor.version is 'the number of the newest migration that a program must know to use this schema';

insert into schema_floor (version) values (11);
