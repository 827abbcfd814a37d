"""JSON and CBOR: values at pointers, our native messages, and EPCs."""
