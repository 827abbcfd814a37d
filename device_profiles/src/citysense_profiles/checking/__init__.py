"""Is a profile true to its own examples? For our tests, and for a vendor's desk."""
