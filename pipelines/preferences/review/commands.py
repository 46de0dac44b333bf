"""`spatialt2i preferences review | publish`: what needs no cluster. Each imports only what it needs."""

from __future__ import annotations

from conf import Settings


def review(settings: Settings) -> None:
    """Serves the page on which people review the run's pairs, until interrupted."""
    from pipelines.preferences.review.serve import serve_review

    serve_review(settings)


def publish(settings: Settings) -> None:
    """Writes the run's pairs, with their reviews, as a versioned dataset folder."""
    from pipelines.preferences.publish import publish as publish_pairs

    print(publish_pairs(settings))
