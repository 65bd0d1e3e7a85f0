-- The one row that every write changes first: it makes writers wait for each
-- other, and tells readers that something has changed.
CREATE TABLE registry_state (
  id       INTEGER PRIMARY KEY CHECK (id = 1),
  revision BIGINT NOT NULL,
  stamp    TEXT NOT NULL
);
INSERT INTO registry_state (id, revision, stamp) VALUES (1, 0, '');

-- spec is the document that files of integrations hold, byte by byte: a new kind
-- of integration needs no new column.
CREATE TABLE integrations (
  id         TEXT COLLATE "C" PRIMARY KEY,
  spec       TEXT NOT NULL,
  etag       TEXT NOT NULL,
  created_at BIGINT NOT NULL, -- microseconds since 1970, as all times
  created_by TEXT NOT NULL,
  updated_at BIGINT NOT NULL,
  updated_by TEXT NOT NULL
);

CREATE TABLE credentials (
  integration_id TEXT COLLATE "C" NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
  name           TEXT NOT NULL,
  sealed         BYTEA NOT NULL,
  PRIMARY KEY (integration_id, name)
);
