"""city.db: registry, rules, alerts, cases, outbox and audit in one database with one writer."""
