-- Keys of the broker, sealed as credentials are. The tables that replicas share are for
-- PostgreSQL only.
CREATE TABLE sealed_keys (
  name       TEXT PRIMARY KEY NOT NULL,
  sealed     BLOB NOT NULL,
  created_at INTEGER NOT NULL
);
