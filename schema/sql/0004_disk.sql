-- Space set aside when the job was accepted, given back when it ends (formula: schema/plan.h, rf_plan_disk_bytes).
ALTER TABLE jobs ADD COLUMN reserved_bytes INTEGER NOT NULL DEFAULT 0;
-- Its files were removed to make room; the record stays.
ALTER TABLE jobs ADD COLUMN expired_ms INTEGER;
CREATE INDEX jobs_kept ON jobs (finished_ms) WHERE finished_ms IS NOT NULL AND expired_ms IS NULL;
