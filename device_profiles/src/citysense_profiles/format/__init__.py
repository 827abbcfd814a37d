"""The profile file as its author writes it: every key that may stand there, and nothing else. It computes nothing."""
