-- When jobs ended and how: hourly counts come from this alone, whatever became of the jobs' files.
CREATE INDEX jobs_ended ON jobs (finished_ms, state) WHERE finished_ms IS NOT NULL;
