"""Ground floor of citysense: clock, durable log, wire batches, keys, settings and errors; and the command line in `cli`."""
