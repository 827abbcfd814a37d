"""The firmware simulator: virtual devices, scenarios, load, and the ledgers that prove what was acknowledged."""
