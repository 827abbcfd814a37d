"""The MQTT front door: devices connect here with MQTT 3.1.1 or 5.0 and hear PUBACK only after our commit.

From the bytes up: `fields` and `properties` (data types of the wire), `packets` and `parser` (codec), `topics` (who may
use what), `session` and `actions` (every decision of one connection, without I/O), `connection` (one socket), `door`.
"""
