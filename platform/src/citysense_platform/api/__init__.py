"""The HTTP shell: how errors, access, health, metrics and documentation look, whatever the feature behind."""
