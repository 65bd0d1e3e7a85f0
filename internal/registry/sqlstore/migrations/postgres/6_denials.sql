-- The deny list. A change of it is in registry_changes with an empty integration_id. Times
-- are in microseconds since the Unix epoch; an expires_at of 0 is never.
CREATE TABLE denials (
  subject    TEXT COLLATE "C" PRIMARY KEY,
  principal  TEXT NOT NULL,
  sha256     TEXT NOT NULL,
  serial     TEXT NOT NULL,
  issuer     TEXT NOT NULL,
  reason     TEXT NOT NULL,
  expires_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  created_by TEXT NOT NULL
);
