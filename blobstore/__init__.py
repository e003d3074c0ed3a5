"""How weights, sums and records are kept and shared. Knows files, and neither gRPC nor Redis."""
