"""The documentation: what it names exists, links resolve, and the site builds without warnings or network access."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet
from alexnet.cli.main import parse

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [path for path in (*ROOT.glob("*.md"), *DOCS.rglob("*.md")) if "_build" not in path.parts]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
CONCEPTS = [part for part in TEXTS["docs/concepts.md"].split("\n\n") if part.startswith("**")]
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)?")


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda text: text.split(".")[0].strip("*"))
def test_a_concept_names_its_code_and_its_test(concept):
    if "Not built yet" in concept:
        return
    code, _, test = concept.partition("*Code:*")[2].partition("*Test:*")
    assert re.search(r"`tests/[\w/]+\.py`", test)
    assert code.strip()
    file = None
    for word in re.findall(r"`([^`]+)`", concept):
        if word.endswith(".py"):
            file = ROOT / word
            assert file.is_file(), word
        elif file and NAME.fullmatch(word) and word in code and not word.startswith("nn."):
            text = file.read_text(encoding="utf-8")
            assert re.search(rf"\b{re.escape(word)}\b", text), f"{word} is not in {file.relative_to(ROOT)}"


def test_files_that_a_page_names_exist():
    missing = [
        f"{page}: {name}"
        for page, text in TEXTS.items()
        for name in re.findall(r"`((?:alexnet|alexnet_lab|tests|docs|examples)/[\w./-]*\w/?)`", text)
        if not (ROOT / name).exists()
    ]
    assert not missing, "\n".join(missing)


def test_modules_that_a_page_runs_exist():
    for page, text in TEXTS.items():
        for name in re.findall(r"python -m (alexnet[\w.]*)", text):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), f"{page}: {name}"


def test_links_between_pages_resolve():
    broken = []
    for page, text in TEXTS.items():
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", prose):
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", link):
                continue
            path = ((ROOT / page).parent / target) if target else ROOT / page
            if not path.exists():
                broken.append(f"{page}: {link}")
            elif anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
                broken.append(f"{page}: {link}, no such heading")
    assert not broken, "\n".join(broken)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_the_site_is_in_its_contents():
    index = TEXTS["docs/index.md"]
    for page in sorted(path for path in TEXTS if path.startswith("docs/") and path.count("/") == 1):
        assert page == "docs/index.md" or re.search(rf"^{re.escape(Path(page).stem)}$", index, re.MULTILINE), page


def test_python_in_the_pages_uses_public_names():
    found = set()
    for page, text in TEXTS.items():
        if page == "CONTRIBUTING.md":  # its examples are parts of files
            continue
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and node.module == "alexnet":
                    names = {alias.name for alias in node.names}
                    assert names <= set(alexnet.__all__), f"{page}: {sorted(names - set(alexnet.__all__))}"
                    found |= names
    assert {"create_model", "load_model", "train", "Predictor"} <= found


def test_commands_in_the_pages_have_known_options():
    commands = {
        line.partition("#")[0].partition("<")[0].strip()
        for page, text in TEXTS.items()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in re.sub(r"\\\n\s*", " ", block).splitlines()
        if line.startswith("alexnet ") and "--help" not in line
    }
    assert len(commands) > 30
    for command in sorted(commands):
        parse(shlex.split(command)[1:])  # raises UserError for an unknown command or option


def test_every_package_has_a_page_of_the_api():
    packages = {path.parent.name for path in (ROOT / "alexnet").glob("*/__init__.py")} - {"cli"}
    named = {name for text in TEXTS.values() for name in re.findall(r"<!-- modules: alexnet\.(\w+) -->", text)}
    assert packages <= named
    contents = TEXTS["docs/api/index.md"]
    for page in (DOCS / "api").glob("*.md"):
        assert page.stem == "index" or re.search(rf"^{page.stem}$", contents, re.MULTILINE), page.name


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx", reason="needs pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "dummy", "-d", str(tmp_path / "trees")]
    built = subprocess.run([*command, str(DOCS), str(tmp_path / "out")], capture_output=True, text=True, timeout=500)
    assert built.returncode == 0, built.stderr
