-- The latest changes, each with the revision and the stamp that registry_state has
-- since then, and the stamp that it had before. A reader goes by them only while they
-- lead from what it knows to registry_state without a gap; otherwise it reads the
-- whole list.
CREATE TABLE registry_changes (
  revision       BIGINT PRIMARY KEY,
  stamp          TEXT NOT NULL,
  previous       TEXT NOT NULL,
  integration_id TEXT COLLATE "C" NOT NULL
);
INSERT INTO registry_changes (revision, stamp, previous, integration_id) SELECT revision, stamp, '', '' FROM registry_state;

ALTER TABLE registry_state ADD COLUMN previous TEXT NOT NULL DEFAULT '';

-- When a replica last found out that this row can be written.
ALTER TABLE registry_state ADD COLUMN probed_at BIGINT NOT NULL DEFAULT 0;
