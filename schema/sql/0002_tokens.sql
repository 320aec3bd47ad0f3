-- Who may call beyond loopback. Only hashes: what is in this file opens nothing.
CREATE TABLE tokens (
  id         TEXT PRIMARY KEY,
  name       TEXT    NOT NULL,
  role       INTEGER NOT NULL,               -- enum rf_role: 1 user 2 operator 3 worker
  hash       BLOB    NOT NULL UNIQUE,        -- SHA-256 of the token
  created_ms INTEGER NOT NULL,
  revoked_ms INTEGER
) WITHOUT ROWID;
-- Grows with every change of the table, so that a running server sees cheaply whether to read it again.
INSERT INTO meta VALUES ('tokens_changed', 0);
