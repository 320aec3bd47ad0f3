-- Leases found at a start of the server whose holder has not spoken since: how many starts in a row. A row goes with the
-- holder's first heartbeat; those of leases that are over go at the next start.
CREATE TABLE unheard (lease INTEGER PRIMARY KEY, n_starts INTEGER NOT NULL);
