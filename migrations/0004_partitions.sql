-- Makes the month partitions of events and dead_letters that are missing between two times. Safe to run from several
-- gateways at once: whoever comes second finds the table there. Returns how many it made.

create function make_partitions(first_month timestamptz, last_month timestamptz) returns integer language plpgsql as $$
declare
    parent text;
    month timestamp;
    child text;
    made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('eye_make_partitions'));
    foreach parent in array array['events', 'dead_letters'] loop
        for month in select generate_series(
            date_trunc('month', first_month at time zone 'utc'),
            date_trunc('month', last_month at time zone 'utc'),
            interval '1 month'
        ) loop
            child := parent || to_char(month, '"_"YYYY"_"MM');
            if to_regclass(child) is null then
                begin
                    execute format(
                        'create table %I partition of %I for values from (%L) to (%L)',
                        child, parent, month::text || '+00', (month + interval '1 month')::text || '+00'
                    );
                    made := made + 1;
                exception when check_violation then
                    -- The default partition already holds rows of this month: they stay where they are.
                    raise notice 'month % of % stays in the default partition', month, parent;
                end;
            end if;
        end loop;
    end loop;
    return made;
end;
$$;
