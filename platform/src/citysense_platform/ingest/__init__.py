"""Ingest: takes the gateways' batches in, answers after the commit, and never stores a record twice."""
