"""Bytes in order: fixed runs of fields, and the parts that make them conditional, repeated, tagged or sized."""
