"""What runs inside Ray processes, and the tensors it computes. Only `workers` imports Ray."""
