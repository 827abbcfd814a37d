"""Migrations of city.db, in `versions`; run by `city.migrating`."""
