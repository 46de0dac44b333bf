"""Stage 4: held-out prompts drawn before and after, judged, and a report that shows it."""
