"""Telemetry: from the platform's log into the embedded store or InfluxDB, and back out for charts."""
