"""`spatialt2i preferences review | publish | report | to_label_studio | from_label_studio`.

These commands need no Ray cluster. Each imports only what it needs.
"""

from __future__ import annotations

from pathlib import Path

from conf import Settings
from pipelines.common.ports import listen
from pipelines.common.run_folder import writing

_BACKLOG = 1024  # connections that wait while the server starts or is busy


def review(settings: Settings) -> None:
    """Serves the page on which annotators review the run's pairs, until it is interrupted."""
    with listen("review", settings.review.host, settings.review.port, _BACKLOG) as listener:  # before slow imports
        from pipelines.preferences.review.serve import serve_review

        with writing(settings):
            serve_review(settings, listener)


def publish(settings: Settings) -> None:
    """Writes the run's pairs, with their reviews, as a versioned dataset folder."""
    from pipelines.preferences.dataset.publish import publish as publish_pairs

    with writing(settings, *_folder(settings.publish.out)):
        print(publish_pairs(settings))


def report(settings: Settings) -> None:
    """Writes charts and samples of the run's pairs as an HTML file."""
    from pipelines.preferences.dataset.report import report as write_report

    with writing(settings):
        print(f"Open {write_report(settings)} in a browser.")


def to_label_studio(settings: Settings) -> None:
    """Writes the pairs that still lack reviews as tasks for Label Studio."""
    from pipelines.preferences.review.label_studio import export_tasks

    with writing(settings, *_folder(settings.review.label_studio)):
        print(export_tasks(settings))


def from_label_studio(settings: Settings) -> None:
    """Saves annotations that were made in Label Studio as votes."""
    from pipelines.preferences.review.label_studio import import_annotations

    with writing(settings):
        print(import_annotations(settings))


def _folder(setting: str) -> tuple[Path, ...]:
    """The folder that a setting names; none if it is empty or a URI, because the run directory is used then."""
    return (Path(setting).absolute(),) if setting and "://" not in setting else ()
