"""How rounds are kept and shared. Knows Redis, and neither gRPC nor weights."""
