"""The layout: who may import whom, what each module owes its reader, and that docs/layout.md shows the real tree."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY, LABORATORY = ROOT / "alexnet", ROOT / "alexnet_lab"
MODULES = sorted([*LIBRARY.rglob("*.py"), *LABORATORY.rglob("*.py")])

# The packages of alexnet in the order of their imports: each may import those before it, but for EXCEPT.
ORDER = (
    *("core", "config", "recipes", "models", "data", "runtime", "distributed", "kernels", "weights", "metrics"),
    *("inference", "analysis", "training", "plots", "report", "api", "cli"),
)
EXCEPT = {  # models, data and runtime never meet
    "data": {"models"},
    "runtime": {"models", "data"},
}
LAB_ORDER = ("commands", "made_scenes", "experiments", "results", "faults", "bench", "claims")


def package(path: Path) -> str:
    root = LIBRARY if path.is_relative_to(LIBRARY) else LABORATORY
    return path.relative_to(root).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Every module of this project that a file imports, at its top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            found.append(node.module or "")
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name for name in found if name.split(".")[0] in ("alexnet", "alexnet_lab")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_of_the_library_go_one_way():
    for path in (path for path in MODULES if path.is_relative_to(LIBRARY)):
        mine = package(path)
        if mine in ("__init__", "__main__"):
            continue
        allowed = {*ORDER[: ORDER.index(mine)], mine} - EXCEPT.get(mine, set())
        for name in imports(path):
            parts = name.split(".")
            assert parts[0] == "alexnet", f"{name_of(path)} imports the laboratory: {name}"
            assert len(parts) > 1, f"{name_of(path)} imports the package root"
            assert parts[1] in allowed, f"{name_of(path)} may not import {name}"


def test_every_package_has_a_place_in_the_order():
    packages = {package(path) for path in MODULES if path.is_relative_to(LIBRARY)} - {"__init__", "__main__"}
    assert packages == set(ORDER)


def test_imports_of_the_laboratory_go_one_way():
    for path in (path for path in MODULES if path.is_relative_to(LABORATORY)):
        if (mine := package(path)) not in LAB_ORDER:
            continue  # its command line and the writers of pages stand on all of it
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "alexnet_lab" and len(parts) > 1:
                allowed = LAB_ORDER[: LAB_ORDER.index(mine) + 1]
                assert parts[1] in allowed, f"{name_of(path)} may not import {name}"


def test_the_front_door_imports_nothing_when_it_is_opened():
    body = ast.parse((LIBRARY / "__init__.py").read_text(encoding="utf-8")).body
    outside = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in outside}
    assert names <= {"__future__", "importlib", "typing"}


def test_every_module_opens_with_what_it_is():
    for path in MODULES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), name_of(path)


def test_no_namespace_of_argparse_below_the_command_line():
    for path in MODULES:
        if package(path) != "cli":
            assert "argparse.Namespace" not in path.read_text(encoding="utf-8"), name_of(path)


def test_layer_numbers_are_not_parsed_out_of_names():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""rstrip\(["']0123456789|re\.\w+\(r?["'][^"']*\\d""", text) or package(path) in (
            "data", "runtime", "core", "recipes", "cli", "bench", "claims", "experiments", "results", "faults",
        ), name_of(path)  # fmt: skip


def test_the_tree_in_the_layout_page_is_the_real_tree():
    text = (ROOT / "docs/layout.md").read_text(encoding="utf-8")
    for root in (LIBRARY, LABORATORY):
        block = re.search(rf"^{root.name}/\n(.*?)^(?:```|$)", text, re.DOTALL | re.MULTILINE)
        assert block, f"docs/layout.md shows no tree of {root.name}/"
        shown, folders = set(), []
        for line in block[1].splitlines():
            match = re.match(r"((?:│   |    )*)(?:├── |└── )(\S+)", line)
            assert match, f"not a line of a tree: {line!r}"
            depth, entry = len(match[1]) // 4, match[2]
            folders = [*folders[:depth], entry.rstrip("/")]
            if entry.endswith(".py"):
                shown.add("/".join(folders))
        real = {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
        real = {name for name in real if name in shown or not name.endswith("__init__.py")}
        assert shown == real


def test_nothing_unpickles_or_evaluates():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "pickle.load", "pickle.loads", "compile"), path
                weights_only = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
                assert called != "torch.load" or weights_only, f"{name_of(path)}:{node.lineno} unpickles"
                loads = called in ("np.load", "numpy.load")
                safe = any(k.arg == "allow_pickle" and ast.unparse(k.value) == "False" for k in node.keywords)
                assert not loads or safe, f"{name_of(path)}:{node.lineno} loads arrays with pickles allowed"


@pytest.mark.parametrize("name", ["alexnet", "alexnet_lab"])
def test_types_ship(name):
    assert (ROOT / name / "py.typed").is_file()
