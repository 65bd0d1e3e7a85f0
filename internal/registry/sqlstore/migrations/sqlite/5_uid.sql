-- Distinguishes an integration from deleted ones with the same id. The trigger is for
-- integrations that an older release creates. The expression is a random UUID.
ALTER TABLE integrations ADD COLUMN uid TEXT NOT NULL DEFAULT '';

UPDATE integrations SET uid = lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' ||
  substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)));

CREATE TRIGGER integrations_uid AFTER INSERT ON integrations WHEN new.uid = ''
BEGIN
  UPDATE integrations SET uid = lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-' ||
    substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))
  WHERE id = new.id;
END;
