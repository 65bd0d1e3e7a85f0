-- The last versions that a use returned, as JSON; '' in entries that only older releases have
-- written. Columns of older releases may be later than it.
ALTER TABLE integration_usage ADD COLUMN versions TEXT NOT NULL DEFAULT '';

-- The version of each secret of an integration that a replica has read last from the store.
-- id is a hash over the columns that tell rows apart. read_at is by the clock of the replica
-- that read.
CREATE TABLE usage_secrets (
  id             TEXT COLLATE "C" PRIMARY KEY,
  integration_id TEXT COLLATE "C" NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
  store          TEXT NOT NULL,
  secret         TEXT NOT NULL,
  version        TEXT NOT NULL,
  read_at        BIGINT NOT NULL
);
CREATE INDEX usage_secrets_integration ON usage_secrets (integration_id);
CREATE INDEX usage_secrets_secret ON usage_secrets (substr(secret, 1, 200));
