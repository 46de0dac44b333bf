"""Generates the files that an operator applies: Kubernetes manifests, `ray up` files, alerts and a dashboard."""
