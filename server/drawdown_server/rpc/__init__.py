"""The gRPC edge: protos to domain and back, nothing else."""
