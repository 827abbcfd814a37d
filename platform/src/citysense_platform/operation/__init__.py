"""What an operator watches: the status of the whole, and its figures for Prometheus."""
