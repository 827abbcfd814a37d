"""Modbus register maps: what the words say, which requests fetch and write them."""
