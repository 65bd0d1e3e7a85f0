-- id is a hash over the columns that tell entries apart: they are longer than an
-- index takes.
CREATE TABLE integration_usage (
  id             TEXT COLLATE "C" PRIMARY KEY,
  integration_id TEXT COLLATE "C" NOT NULL REFERENCES integrations (id) ON DELETE CASCADE,
  principal      TEXT NOT NULL,
  connector      TEXT NOT NULL,
  store          TEXT NOT NULL,
  secret         TEXT NOT NULL,
  json_key       TEXT NOT NULL,
  version        TEXT NOT NULL,
  first_at       BIGINT NOT NULL,
  last_at        BIGINT NOT NULL
);
CREATE INDEX integration_usage_last ON integration_usage (integration_id, last_at);
