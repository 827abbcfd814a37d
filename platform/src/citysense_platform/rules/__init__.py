"""Rules, stage 1: what one device's readings mean, judged in event time and kept across restarts."""
