-- The farm's memory. The number of this file is PRAGMA user_version; a later change is a new file, never an edit of an
-- old one. Times are Unix milliseconds.

-- A job is one row, and it is also its current task: tasks form a chain, so those before `task` are done, those after it
-- are blocked, and only that one can be leased. `row` is the first half of the job's id (server/id.h), so ids need no
-- index and new rows go to the table's end.
CREATE TABLE jobs (
  row           INTEGER PRIMARY KEY,
  tail          INTEGER NOT NULL,            -- second half of the id
  state         INTEGER NOT NULL,            -- enum rf_job_state: 0 queued 1 in_progress 2 completed 3 failed 4 cancelled
  priority      INTEGER NOT NULL,
  user          TEXT    NOT NULL,            -- '' = nobody in particular
  model         TEXT    NOT NULL,            -- '' = any
  request       TEXT    NOT NULL,            -- JSON, complete (schema/request.h)
  -- the numbers of the request that scheduling needs, so that nothing parses JSON to hand out work
  width INTEGER NOT NULL, height INTEGER NOT NULL, n_frames INTEGER NOT NULL, fps INTEGER NOT NULL,
  n_steps INTEGER NOT NULL, max_segment_frames INTEGER NOT NULL, has_image INTEGER NOT NULL,
  n_tasks       INTEGER NOT NULL,            -- segments + 1
  created_ms    INTEGER NOT NULL,
  started_ms    INTEGER,
  finished_ms   INTEGER,
  remixed_from  TEXT,
  -- the current task
  task          INTEGER NOT NULL DEFAULT 0,  -- n_tasks when all are done
  attempts      INTEGER NOT NULL DEFAULT 0,  -- begun and counted, of this task
  n_no_memory   INTEGER NOT NULL DEFAULT 0,  -- of these, ended for want of memory
  not_before_ms INTEGER NOT NULL DEFAULT 0,  -- backoff
  avoid_worker  TEXT,                        -- has failed at this task: another one first
  lease         INTEGER,                     -- not null: in the hands of `worker` since leased_ms
  worker        TEXT,
  leased_ms     INTEGER,
  -- what came of it
  made_with     TEXT,                        -- JSON: worker, device, build, …; from the first finished segment on,
  model_hash    TEXT,                        -- which also settles the weights of the others …
  precision     TEXT,                        -- … and their precision
  result        TEXT,                        -- JSON
  error_code    TEXT,
  error_message TEXT
);
CREATE INDEX jobs_by_state ON jobs (state, row);
CREATE INDEX jobs_by_user ON jobs (user, row) WHERE user <> '';
CREATE INDEX jobs_by_model ON jobs (model, row);

-- Leases that have ended, however they ended. One row each, with all that was measured, clustered by job.
CREATE TABLE attempts (
  job         INTEGER NOT NULL,
  lease       INTEGER NOT NULL,
  task        INTEGER NOT NULL,
  attempt     INTEGER NOT NULL,              -- from 1 within the task
  outcome     INTEGER NOT NULL,              -- enum rf_outcome: 0 done 1 failed 2 expired 3 released 4 cancelled
  worker      TEXT    NOT NULL,              -- its name
  worker_id   TEXT    NOT NULL,
  started_ms  INTEGER NOT NULL,
  ended_ms    INTEGER NOT NULL,
  code        TEXT,
  message     TEXT,
  notes       TEXT,                          -- JSON list of strings
  timings     TEXT,                          -- JSON list of [stage, step, started_at_ms, seconds]
  PRIMARY KEY (job, lease)
) WITHOUT ROWID;

-- One row per measurement, for people and for CSV.
CREATE VIEW timings AS
  SELECT a.job, a.lease, a.task, a.attempt, a.outcome, a.worker, a.ended_ms,
         json_extract(t.value, '$[0]') AS stage, json_extract(t.value, '$[1]') AS step,
         json_extract(t.value, '$[2]') AS started_at_ms, json_extract(t.value, '$[3]') AS seconds
  FROM attempts AS a, json_each(a.timings) AS t;

-- A file on disk. gone_ms: nobody needs it any more; the row stays until the file is off the disk.
CREATE TABLE files (
  row          INTEGER PRIMARY KEY,
  job          INTEGER NOT NULL,
  lease        INTEGER NOT NULL,             -- under which it came; 0: from the user
  name         TEXT    NOT NULL,
  disk_name    TEXT    NOT NULL,
  size_bytes   INTEGER NOT NULL,
  sha256       TEXT    NOT NULL,
  content_type TEXT    NOT NULL,
  created_ms   INTEGER NOT NULL,
  gone_ms      INTEGER,
  job_id       TEXT    NOT NULL              -- the folder; outlives the job's row
);
CREATE UNIQUE INDEX files_by_name ON files (job, name) WHERE gone_ms IS NULL;
CREATE UNIQUE INDEX files_on_disk ON files (job_id, disk_name);
CREATE INDEX files_gone ON files (gone_ms) WHERE gone_ms IS NOT NULL;

CREATE TABLE workers (
  id             TEXT PRIMARY KEY,
  name           TEXT    NOT NULL,
  state          INTEGER NOT NULL,           -- 0 here 1 draining 2 lost 3 left
  registration   TEXT    NOT NULL,           -- JSON, as it came
  registered_ms  INTEGER NOT NULL,
  seen_ms        INTEGER NOT NULL            -- when the row was last written, not every sign of life
) WITHOUT ROWID;

-- The newest registration of each model: a farm knows its defaults while no worker is there.
CREATE TABLE models (
  name           TEXT PRIMARY KEY,
  first_ms       INTEGER NOT NULL,
  registration   TEXT    NOT NULL            -- JSON
) WITHOUT ROWID;

CREATE TABLE idempotency (
  key         TEXT PRIMARY KEY,
  fingerprint BLOB    NOT NULL,
  job         INTEGER NOT NULL,
  created_ms  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (created_ms);

CREATE TABLE settings (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;

-- Numbers that must never go back. lease_ceiling is written ahead in blocks, so that a lease costs no write of its own.
CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO meta VALUES ('lease_ceiling', 0);
