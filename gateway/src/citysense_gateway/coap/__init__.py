"""The CoAP front door: frames that devices post over UDP."""
