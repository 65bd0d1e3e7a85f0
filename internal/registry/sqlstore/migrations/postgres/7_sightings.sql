-- What the replicas have seen of secrets in their stores: versions, never values. seq grows
-- with the commits, because every writer locks the row of sighting_state first; pruned is
-- that of the last row that was deleted. A row is a secret as one integration reads it; id
-- is a hash over the columns that tell rows apart. Times are in microseconds since the Unix
-- epoch: read_at is the end of the read that saw version, and reads that began before
-- forced_at are not used any more; 0 is never. fresh_at is the beginning of the last read of
-- a watched secret, by the replica fresh_by, that saw version again.
CREATE TABLE sighting_state (
  id     INTEGER PRIMARY KEY CHECK (id = 1),
  seq    BIGINT NOT NULL,
  pruned BIGINT NOT NULL
);
INSERT INTO sighting_state (id, seq, pruned) VALUES (1, 0, 0);

CREATE TABLE sightings (
  id             TEXT COLLATE "C" PRIMARY KEY,
  seq            BIGINT NOT NULL,
  integration_id TEXT NOT NULL,
  store          TEXT NOT NULL,
  secret         TEXT NOT NULL,
  pinned         TEXT NOT NULL, -- the version that the reference names
  scheme         TEXT NOT NULL, -- how version was computed; '' if the store has versions
  version        TEXT NOT NULL,
  read_at        BIGINT NOT NULL,
  seen_by        TEXT NOT NULL,
  forced_at      BIGINT NOT NULL,
  forced_by      TEXT NOT NULL,
  fresh_at       BIGINT NOT NULL,
  fresh_by       TEXT NOT NULL,
  written_at     BIGINT NOT NULL
);
CREATE INDEX sightings_seq ON sightings (seq);

-- The leases of the replicas. applied is the seq up to which a replica has removed from its
-- cache what the rows supersede. A replica without a lease answers calls until serves_until
-- at most.
CREATE TABLE replicas (
  id           TEXT COLLATE "C" PRIMARY KEY,
  name         TEXT NOT NULL,
  applied      BIGINT NOT NULL,
  seen_at      BIGINT NOT NULL,
  expires_at   BIGINT NOT NULL,
  serves_until BIGINT NOT NULL
);

-- Keys that the replicas share, sealed as credentials are.
CREATE TABLE sealed_keys (
  name       TEXT COLLATE "C" PRIMARY KEY,
  sealed     BYTEA NOT NULL,
  created_at BIGINT NOT NULL
);
