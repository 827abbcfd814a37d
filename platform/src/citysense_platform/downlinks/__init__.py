"""What gateways are asked to do: messages for devices, letters to be read again, and what became of either."""
