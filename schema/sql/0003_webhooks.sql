-- Where to tell of a job's end. Apart from the request, because that is handed to workers and shown to whoever may see the job.
CREATE TABLE webhooks (
  job INTEGER PRIMARY KEY,
  url TEXT NOT NULL
);

-- One telling of one end of a job; written in the transaction that ends it. A retried job ends, and is told of, again.
CREATE TABLE deliveries (
  row        INTEGER PRIMARY KEY,
  event_id   TEXT    NOT NULL,               -- evt_…; the same at every attempt, so a receiver can tell repeats
  job_id     TEXT    NOT NULL,
  completed  INTEGER NOT NULL,               -- 1 video.completed, 0 video.failed
  url        TEXT    NOT NULL,
  created_ms INTEGER NOT NULL,
  attempts   INTEGER NOT NULL DEFAULT 0,
  next_ms    INTEGER,                        -- null: settled, one way or the other
  delivered  INTEGER NOT NULL DEFAULT 0,
  last_error TEXT
);
CREATE INDEX deliveries_due ON deliveries (next_ms) WHERE next_ms IS NOT NULL;
CREATE INDEX deliveries_settled ON deliveries (created_ms) WHERE next_ms IS NULL;
