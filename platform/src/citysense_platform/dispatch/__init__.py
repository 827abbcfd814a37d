"""Unified dispatch: the cases that stand in front of the units that must act."""
