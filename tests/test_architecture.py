"""The house: who may import whom, what each module owes its reader, and that the README's tree is the real tree."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "alexnet"
MODULES = sorted(PACKAGE.rglob("*.py"))

# room → the rooms it may import from; imports go one way
MAY_IMPORT = {
    "core": set(),
    "config": {"core"},
    "recipes": {"core", "config"},
    "model": {"core", "config", "recipes"},
    "data": {"core", "config", "recipes"},
    "runtime": {"core", "config", "recipes"},
}
MAY_IMPORT["training"] = {*MAY_IMPORT, "model", "data", "runtime"} - {"training"}
MAY_IMPORT["inference"] = set(MAY_IMPORT["training"])
MAY_IMPORT["visualize"] = {*MAY_IMPORT["training"], "training", "inference"}
MAY_IMPORT["interop"] = {*MAY_IMPORT["visualize"], "visualize"}
MAY_IMPORT["bench"] = {*MAY_IMPORT["visualize"], "visualize"}
MAY_IMPORT["reproduce"] = {*MAY_IMPORT["bench"], "bench", "interop"}
MAY_IMPORT["commands"] = {*MAY_IMPORT["reproduce"], "reproduce"}
MAY_IMPORT["endurance"] = {*MAY_IMPORT["commands"], "commands"}
MAY_IMPORT["cli"] = {"core", "config"}  # commands are imported by name, when they are asked for
MAY_IMPORT["__main__"] = {"cli"}

COMMAND_LINES, MODULE_LINES, FUNCTION_LINES = 115, 400, 60


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every module of this package that a file imports, at its top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.split(".")[0] == "alexnet"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path):
    mine = room(path)
    if mine == "__init__":  # the front door: lazy, its imports are for type checkers only
        return check_front_door(path)
    for name in imports(path):
        parts = name.split(".")
        assert len(parts) > 1, f"{name_of(path)} imports the package root"
        assert parts[1] == mine or parts[1] in MAY_IMPORT[mine], f"{name_of(path)} may not import {name}"
    return None


def check_front_door(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    outside = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {getattr(node, "module", None) or node.names[0].name for node in outside} == {
        "__future__",
        "importlib",
        "typing",
    }


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_opens_with_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_fit(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= (COMMAND_LINES if room(path) == "commands" else MODULE_LINES)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < FUNCTION_LINES, f"{name_of(path)}:{node.lineno} {node.name}"


def test_the_tree_in_the_readme_is_the_real_tree():
    shown, folders = set(), []
    block = re.search(r"```\nalexnet/\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block, "the README shows no tree"
    for line in block[1].splitlines():
        match = re.match(r"((?:│   |    )*)(?:├── |└── )(\S+)", line)
        assert match, f"not a line of a tree: {line!r}"
        depth, entry = len(match[1]) // 4, match[2]
        folders = [*folders[:depth], entry.rstrip("/")]
        if entry.endswith(".py"):
            shown.add("/".join(folders))
    real = {path.relative_to(PACKAGE).as_posix() for path in MODULES}
    real = {name for name in real if name == "__init__.py" or not name.endswith("__init__.py")}
    assert shown == real


def test_nothing_unpickles_or_evaluates():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "pickle.load", "pickle.loads", "torch.load", "compile"), path
                loads = called in ("np.load", "numpy.load")
                safe = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
                assert not loads or safe, f"{name_of(path)}:{node.lineno} loads arrays with pickles allowed"
