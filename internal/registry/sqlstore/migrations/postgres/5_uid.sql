-- Distinguishes an integration from deleted ones with the same id. The default is for
-- integrations that exist already or that an older release creates; each gets its own.
ALTER TABLE integrations ADD COLUMN uid TEXT COLLATE "C" NOT NULL DEFAULT CAST(gen_random_uuid() AS TEXT);
