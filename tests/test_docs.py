"""What the documents name is there: files, the names in them, tests."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONCEPTS = [
    part for part in (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").split("\n\n") if part.startswith("**")
]
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)?")


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda text: text.split(".")[0].strip("*"))
def test_a_concept_names_what_does_it_and_what_shows_it(concept):
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


@pytest.mark.parametrize("page", ["concepts.md", "decisions.md", "log.md", "reliability.md", "speed.md"])
def test_files_that_a_page_names_exist(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:alexnet|tests|docs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).is_file(), name
