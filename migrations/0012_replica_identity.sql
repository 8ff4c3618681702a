-- A publication for all tables (change data capture makes one) refuses to delete rows that nothing identifies, and so the fold,
-- which empties count_deltas. All other tables that are changed have a primary key.
alter table count_deltas replica identity full;
