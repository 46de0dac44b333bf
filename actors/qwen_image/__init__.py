"""The second policy, Qwen-Image, behind the interface of actors/policy.py. Imports no Ray."""
