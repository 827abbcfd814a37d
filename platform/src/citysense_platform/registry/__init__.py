"""Which devices, sites and gateways the city has, and what each may say and use to say it."""
