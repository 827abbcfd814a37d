"""Events as searchable rows: sightings, lock events, dead letters, tombstones."""
