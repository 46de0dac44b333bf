"""Files that describe the project: links, names and words in documents, workflows, templates."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = ("conf", "actors", "pipelines", "cluster", "docs", ".github")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def product_files(*suffixes: str) -> list[Path]:
    """The files of the product, without its tests, that end in one of the suffixes."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in (*ROOT.glob("*.*"), *inside) if path.is_file() and path.suffix in suffixes)


DOCUMENTS = product_files(".md")
ABOUT_MAIN = [path for path in DOCUMENTS if path.name != "CHANGELOG.md" and path.parent.name != "notes"]
"""Documents that describe the present state. The changelog and the notes also name what no longer exists."""

RETIRED = re.compile(
    r"(?<![a-z])(mend(s|ed|ing)?|rivals?|painters?|paint(s|ed|ing)?|pictures?|canvas(es)?|spoil(s|ed|t)?|patiently|"
    r"tall(y|ies)|ballots?|redraws?|remakes?)(?![a-z])",
    re.I,
)
"""Words of the former vocabulary, also as a part of an identifier. The glossary in CONTRIBUTING.md has the new ones."""


def name(path: Path) -> str:
    """A file as parameter of a test."""
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    """Markdown without its fenced blocks and inline code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*?) *$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def make_targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), flags=re.M))


def test_the_readme_has_at_most_130_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_relative_link_of_a_document_leads_to_a_file_and_a_heading(document: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", ABOUT_MAIN, ids=name)
def test_every_path_that_a_document_names_exists(document: Path) -> None:
    code = re.findall(r"`([^`\n]+)`", document.read_text())
    paths = {
        word
        for text in code
        for word in re.findall(r"(?<![\w/.<{-])(?:actors|cluster|conf|pipelines|tests)/[\w./-]+", text)
    }
    assert sorted(path for path in paths if not (ROOT / path.rstrip("./")).exists()) == []


@pytest.mark.parametrize("document", ABOUT_MAIN, ids=name)
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    dotted = r"(?<![\w/.-])(?:actors|cluster|conf|pipelines|tests)(?:\.(?!(?:md|py|yaml|png|json)\b)[A-Za-z_]\w*)+"
    names = set(re.findall(dotted, document.read_text()))
    assert sorted(each for each in names if not _resolves(each)) == []


def _resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or a top-level name of a module."""
    path = ROOT / dotted.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    modules = [path.parent.with_suffix(".py"), path.parent / "__init__.py"]
    return any(path.name in _defined(module) for module in modules if module.is_file())


def _defined(module: Path) -> Iterator[str]:
    """The names that a module defines or imports at its top level."""
    for node in ast.parse(module.read_text()).body:
        match node:
            case ast.FunctionDef(name=found) | ast.AsyncFunctionDef(name=found) | ast.ClassDef(name=found):
                yield found
            case ast.ImportFrom():
                yield from (alias.asname or alias.name for alias in node.names)
            case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)):
                yield found
            case _:
                pass


def test_the_python_of_the_readme_compiles_and_imports_what_exists() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert importlib.util.find_spec(node.module), node.module
                if node.module.startswith(("actors.", "pipelines.", "conf.")):
                    assert all(_resolves(f"{node.module}.{alias.name}") for alias in node.names)


def test_no_file_of_the_product_uses_a_retired_word() -> None:
    files = product_files(".py", ".md", ".html", ".js", ".yaml", ".yml", ".toml")
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in files
        if path.name != "CHANGELOG.md"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if RETIRED.search(line)
    ]
    assert found == []


def test_one_module_opens_image_files() -> None:
    """Every other module calls `decode_image`, whose contract docs/reward.md states."""
    found = [
        f"{name(path)}:{node.lineno}"
        for path in product_files(".py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "open" and "Image" in ast.unparse(node.value)
    ]
    assert found
    assert {place.partition(":")[0] for place in found} == {"actors/images.py"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=name)
def test_a_workflow_runs_only_make_targets_that_exist_and_ends_in_time(workflow: Path) -> None:
    parsed: dict[str, Any] = yaml.safe_load(workflow.read_text())
    assert parsed["concurrency"]["group"]
    for job in parsed["jobs"].values():
        assert job["timeout-minutes"] > 0
        commands = [step["run"] for step in job["steps"] if "run" in step]
        named = {target for command in commands for target in re.findall(r"\bmake ([a-z][\w-]*)", command)}
        assert named
        assert named <= make_targets()


def test_the_workflows_and_the_ci_script_run_the_same_checks() -> None:
    texts = [workflow.read_text() for workflow in WORKFLOWS]
    by_workflows = {target for text in texts for target in re.findall(r"run: make ([a-z][\w-]*)", text)}
    by_script = set(re.findall(r"^make ([a-z][\w-]*)", (ROOT / ".ci" / "run").read_text(), flags=re.M))
    assert by_workflows == by_script == {"setup", "check", "test", "test-slow"}


def test_the_tests_run_on_every_python_that_the_readme_promises() -> None:
    parsed = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    versions = parsed["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / "README.md").read_text()
    assert project()["requires-python"] == f">={versions[0]}"


def test_every_required_package_is_pinned() -> None:
    """Also those of extras: `pip install --constraint constraints.txt -e '.[aws]'` must find versions that agree."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    groups = [project()["dependencies"], *project()["optional-dependencies"].values()]
    names = {re.split(r"[\[<>=~; ]", each)[0].lower() for group in groups for each in group}
    assert names - pinned == set()


def project() -> dict[str, Any]:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_and_the_changelog_name_the_version_of_the_package() -> None:
    version = project()["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert citation["license"] == project()["license"]
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_a_commit_is_checked_by_the_tools_of_make_check() -> None:
    parsed = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in parsed["repos"] for hook in repo["hooks"]]
    assert all(repo["repo"] == "local" for repo in parsed["repos"])
    by_hooks = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.M)
    assert recipe
    assert by_hooks == set(re.findall(r"\$\(BIN\)/([\w-]+)", recipe[1]))


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=name)
def test_an_issue_form_parses_and_its_fields_have_names(form: Path) -> None:
    parsed = yaml.safe_load(form.read_text())
    if form.name == "config.yml":
        assert parsed["blank_issues_enabled"] is False
        return
    fields = [field for field in parsed["body"] if field["type"] != "markdown"]
    assert parsed["name"]
    assert parsed["description"]
    assert len({field["id"] for field in fields}) == len(fields) > 0
