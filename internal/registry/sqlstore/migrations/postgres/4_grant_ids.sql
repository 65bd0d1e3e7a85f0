-- The id of the grant that allowed the reads of an entry, '' in entries of older releases.
-- It is among the columns that tell entries apart.
ALTER TABLE integration_usage ADD COLUMN grant_id TEXT NOT NULL DEFAULT '';
