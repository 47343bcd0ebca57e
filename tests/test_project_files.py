"""Files beside the code: the notebooks, ``hubconf.py``, the workflows, the hooks, the citation."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from alexnet.models.variants import VARIANTS
from alexnet_lab.faults.parsers import PARSERS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def run_python(code: str, folder: Path) -> str:
    """The output of code in a process of its own, in a folder, with the checkout importable."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in read_notebook(path)["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_the_form_of_a_notebook(path):
    value = read_notebook(path)
    assert (value["nbformat"], value["nbformat_minor"]) == (4, 5)
    assert set(value) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in value["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in value["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        wanted = {"cell_type", "id", "metadata", "source"}
        assert set(cell) == (wanted | {"execution_count", "outputs"} if cell["cell_type"] == "code" else wanted)
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert not cell.get("outputs"), "clear the outputs before you commit"
    for code in code_of(path):
        ast.parse(code)


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path):
    code = "\n".join(code_of(ROOT / "examples" / "quickstart.ipynb"))
    assert '"train.epochs": 8' in code
    output = run_python(code.replace('"train.epochs": 8', '"train.epochs": 2'), tmp_path)
    assert "60,965,224 parameters" in output
    assert "of 360 test images are right" in output
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()


@pytest.mark.slow
def test_the_notebook_on_few_photographs_runs(tmp_path):
    output = run_python("\n".join(code_of(ROOT / "examples" / "few_photos.ipynb")), tmp_path)
    assert "20 test images; the layers from the given weights: conv1, norm1, " in output
    assert "fc7" in output
    assert (tmp_path / "runs" / "few-photos" / "report.html").is_file()


def test_torch_hub_builds_the_variants(tmp_path):
    code = (
        "import torch\n"
        f"folder = {str(ROOT)!r}\n"
        "model = torch.hub.load(folder, 'small', source='local', num_classes=7, in_channels=3, seed=0)\n"
        "print(tuple(model.eval()(torch.zeros(2, 3, 28, 28)).shape))\n"
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('hubconf', {str(ROOT / 'hubconf.py')!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(sorted(name for name, found in vars(module).items() if callable(found) and not name.startswith('_')))\n"
        "print(module.cuda_convnet.__doc__)\n"
    )
    shape, names, about = run_python(code, tmp_path).strip().splitlines()
    assert shape == "(2, 7)"
    assert ast.literal_eval(names) == sorted(name.replace("-", "_") for name in VARIANTS)
    assert "cuda-convnet" in about


def test_workflows_call_the_checks_and_store_no_token():
    yaml = pytest.importorskip("yaml", reason="needs pip install '.[docs]'")
    ci, publish, nightly = (
        yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
        for name in ("ci.yml", "publish.yml", "nightly.yml")
    )
    (job,) = ci["jobs"].values()
    assert job["strategy"]["matrix"]["python-version"] == ["3.11", "3.12"]
    assert job["steps"][-1]["run"] == ".ci/run"
    assert nightly["jobs"]["parsers"]["strategy"]["matrix"]["parser"] == list(PARSERS)
    assert nightly["permissions"] == {"contents": "read"}
    assert publish["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert publish["jobs"]["build"]["permissions"]["attestations"] == "write"
    steps = [step for workflow in (ci, publish, nightly) for job in workflow["jobs"].values() for step in job["steps"]]
    assert all("@v" in step["uses"] or "@release/v" in step["uses"] for step in steps if "uses" in step)
    assert "cyclonedx" in " ".join(step.get("run", "") for step in steps)
    assert "secrets." not in (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {hook["id"] for repo in hooks["repos"] for hook in repo["hooks"]} >= {"ruff", "ruff-format"}


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml", reason="needs pip install '.[docs]'")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert str(citation["version"]) == project["version"]
    assert citation["license"] == project["license"]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Krizhevsky", "Sutskever", "Hinton"]
