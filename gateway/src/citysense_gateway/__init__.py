"""The device gateway: front doors and drivers, identify, decode, normalise, spool, uplink."""
