"""The platform: ingest, store, events, rules, alerts, dispatch, registry and the API."""
