-- The job's turn among those of its user and priority, where somebody moved it or another past it; null: its row.
ALTER TABLE jobs ADD COLUMN turn INTEGER;
