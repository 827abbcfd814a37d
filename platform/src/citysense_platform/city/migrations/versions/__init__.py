"""One file per step of the schema; a published step is never edited."""
