"""`python -m cluster.render [PRESET [FOLDER]]`: writes every file that an operator applies, from one set of values.

The values are those of `cluster/values.py`; how many GPUs each role gets is what the preset says.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster import alerts, kuberay, machines, monitoring
from cluster.values import Values
from conf import Settings, load

HEADING = "# Rendered by `python -m cluster.render {preset}` from cluster/values.py and conf/presets/{preset}.yaml: change those.\n"


class Plain(yaml.SafeDumper):
    """Writes a value out each time it occurs, instead of by anchor, and long texts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always: readers should not have to follow anchors."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Plain.add_representer(str, _text)


def rendered(settings: Settings, values: Values) -> dict[str, str]:
    """File name -> its text, for all files of `cluster/` that are not code."""
    documents = {
        "storage.yaml": kuberay.storage(values),
        "raycluster.yaml": [kuberay.ray_cluster(settings, values)],
        "rayjob.yaml": [kuberay.ray_job(settings, values)],
        "rayservice.yaml": [kuberay.ray_service(settings, values)],
        "on_premise.yaml": [machines.on_premise(settings, values)],
        "aws.yaml": [machines.aws(settings, values)],
        "prometheus.yaml": [monitoring.prometheus(values)],
        "alerts.yaml": [alerts.rules(settings)],
        "monitoring.yaml": monitoring.kubernetes(settings, values),
    }
    heading = HEADING.format(preset=settings.preset)
    texts = {
        name: heading + yaml.dump_all(parts, Dumper=Plain, sort_keys=False, width=120)
        for name, parts in documents.items()
    }
    plain = {
        "Dockerfile": heading + machines.dockerfile(values),
        "grafana_dashboard.json": monitoring.dashboard_text(settings),  # JSON takes no comment
    }
    return texts | plain


def main(arguments: Sequence[str]) -> None:
    """Writes the files, each only whole. Raises SettingsError for an unknown preset."""
    preset = arguments[0] if arguments else "flux_dev"
    folder = Path(arguments[1]) if len(arguments) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rendered(load(preset), Values()).items():
        partial = folder / f"{name}.partial"
        partial.write_text(text)
        partial.replace(folder / name)
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main(sys.argv[1:])
