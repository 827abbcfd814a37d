"""Alerts: the life of each episode that a rule found, and why it was treated as it was."""
