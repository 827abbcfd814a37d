"""One module per way of writing a message on the wire; each decodes and encodes from the same entries."""
