"""Clients of remote services: endpoint, responses, budget. Imports no Ray."""
