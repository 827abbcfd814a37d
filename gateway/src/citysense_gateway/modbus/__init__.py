"""The Modbus driver: devices that we poll."""
