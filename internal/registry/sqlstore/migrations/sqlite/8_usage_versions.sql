-- The last versions that a use returned, as JSON; '' in entries that only older releases have
-- written. Columns of older releases may be later than it.
ALTER TABLE integration_usage ADD COLUMN versions TEXT NOT NULL DEFAULT '';

-- The version of each secret of an integration that the broker has read last from the store.
-- id is a hash over the columns that tell rows apart.
CREATE TABLE usage_secrets (
  id             TEXT PRIMARY KEY NOT NULL,
  integration_id TEXT NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
  store          TEXT NOT NULL,
  secret         TEXT NOT NULL,
  version        TEXT NOT NULL,
  read_at        INTEGER NOT NULL
);
CREATE INDEX usage_secrets_integration ON usage_secrets (integration_id);
CREATE INDEX usage_secrets_secret ON usage_secrets (substr(secret, 1, 200));
