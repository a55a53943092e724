"""The shape of the code, by its imports: data flows one way, and engines stay where they belong."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENGINES = {"torch", "torchvision", "onnxruntime", "openvino", "safetensors"}
PICKLE = {"pickle", "dill", "joblib", "shelve", "marshal"}
LEAVES = {"settings", "errors"}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_service_never_imports_workers() -> None:
    wrong = [path for path in modules("service") for name in imports(path) if name.split(".")[0] == "workers"]
    assert wrong == []


def test_only_inference_imports_an_engine_in_the_service() -> None:
    found = {
        path.relative_to(ROOT).parts[1]
        for path in modules("service")
        for name in imports(path)
        if name.split(".")[0] in ENGINES
    }
    assert found == {"inference"}


def test_the_supervisor_never_imports_torch() -> None:
    assert not {name.split(".")[0] for name in imports(ROOT / "workers/supervisor.py")} & ENGINES


def test_training_knows_no_database_and_no_http() -> None:
    inference = {"service.inference", *(f"service.inference.{name}" for name in ("cuda_graphs", "programs", "score"))}
    allowed = {"service.errors", "service.labels", "service.layers", "service.networks", "service.presets", *inference}
    found = {name for path in modules("workers/training") for name in imports(path) if name.startswith("service")}
    assert found <= allowed


def test_workers_do_not_touch_the_http_face() -> None:
    wrong = [path for path in modules("workers") for name in imports(path) if name.startswith("service.api")]
    assert wrong == []


def test_leaves_import_nothing_of_ours() -> None:
    for leaf in LEAVES:
        assert not [name for name in imports(ROOT / f"service/{leaf}.py") if name.startswith(("service", "workers"))]


def test_nothing_is_ever_unpickled() -> None:
    wrong = [
        (path.name, name)
        for package in ("service", "workers")
        for path in modules(package)
        for name in imports(path)
        if name.split(".")[0] in PICKLE
    ]
    assert wrong == []
    calls = [
        f"{path.name}:{node.lineno}"
        for package in ("service", "workers")
        for path in modules(package)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "eval", "exec", "torch.jit.load")
        if not any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
    ]
    assert calls == []
