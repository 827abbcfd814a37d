"""The MQTT front door: devices connect here with MQTT 3.1.1 or 5.0 and hear PUBACK only after our commit.

From the bytes up: `fields` and `properties` (data types of the wire), `packets` and `parser` (codec), `topics` (who may
use what). Decisions without I/O: `credentials`, `connecting` and `admission` (who comes in, how, and how fast),
`incoming`, `outgoing`, `downlinks` and `subscribing` (what is exchanged), all led by `conversation` for one connection;
`session` and `sessions` (what outlives it). Then what does I/O: `connection` (one socket), `acceptor`, `postman` (mail),
`stored_sessions` (the disk), and `door`, which owns them.
"""
