"""Weights that others trained: found, checked, learned on from; through real jobs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from service.auto import DatasetFacts, Source, resolve
from service.errors import InvalidValue
from service.spec import TrainSpec
from tests.conftest import Fovea, colours_zip
from workers.training.data import Split
from workers.training.loop import Run, train
from workers.training.networks import build
from workers.training.optim import head_of
from workers.training.state import prepare, start
from workers.training.weights import Initial, pretrained, put_into

SPEC = {
    "network": {"layers": [{"conv": {"filters": 8, "activation": "relu"}}, {"global_avg_pool": {}}]},
    "epochs": 3,
    "batch_size": 8,
    "image_size": 32,
    "precision": "fp32",
}
FACTS = DatasetFacts(24, 3, 32, grey=False)


def test_weights_are_read_from_the_folder_and_checked_against_the_network(tmp_path: Path) -> None:
    network = build("squeezenet1_1", 64, 1000)
    save_file(network.state_dict(), tmp_path / "squeezenet1_1.safetensors")
    found = pretrained("squeezenet1_1", tmp_path)
    mine = build("squeezenet1_1", 64, 3)
    before = head_of(mine).weight.clone()
    put_into(mine, found, with_head=False)
    assert torch.equal(mine.state_dict()["features.0.weight"], found["features.0.weight"])
    assert torch.equal(head_of(mine).weight, before)

    torch.save(network.state_dict(), tmp_path / "squeezenet1_0.pth")
    with pytest.raises(InvalidValue, match="features") as caught:  # those of another network
        put_into(build("squeezenet1_0", 64, 3), pretrained("squeezenet1_0", tmp_path), with_head=False)
    assert (caught.value.code, caught.value.param) == ("weights_mismatch", "/spec/initial_weights")


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    torch.save({"features.0.weight": Evil()}, tmp_path / "resnet18.pth")
    with pytest.raises(InvalidValue, match="cannot be read"):
        pretrained("resnet18", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_imagenet_normalisation_is_torchvisions() -> None:
    torch.manual_seed(0)
    plain = build("resnet18", 32, 3).eval()
    torch.manual_seed(0)
    wrapped = build("resnet18", 32, 3, "imagenet").eval()
    pictures = torch.rand(2, 3, 32, 32)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    theirs = (pictures - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    assert torch.allclose(wrapped((pictures - 0.5) / 0.25), plain(theirs), atol=1e-4)


def test_only_the_class_layer_learns_at_first_and_the_rest_more_slowly_after() -> None:
    given = {
        **SPEC,
        "initial_weights": "m:1",
        "normalisation": "plain",
        "transfer": {"head_epochs": 1, "backbone_rate": 0.5},
    }
    spec = resolve(TrainSpec.model_validate(given), FACTS)
    prepare("cpu", 1)
    packed = np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)
    split = Split.of(packed, np.arange(24), np.arange(24) % 3, "cpu")
    plan = {"precision": "fp32", "channels_last": False}
    state = start(spec, 3, 0, "cpu", plan, Initial(build(spec["network"], 32, 3).state_dict()))
    before = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    for progress in train(state, Run(split, split, spec, plan, 0)):
        now = state.network.state_dict()
        moved = {name for name in now if not torch.equal(now[name], before[name])}
        assert ("0.weight" in moved) == (progress.epoch > 1)
        assert "4.weight" in moved
    scales = {group["scale"] for group in state.optimizer.param_groups}
    assert scales == {0.5, 1.0}


def test_weights_of_a_network_that_flattens_fit_pictures_of_their_own_size_only() -> None:
    spec = TrainSpec(initial_weights="m:1")
    flattens, pools, named = (Source(name, 16, "plain") for name in ("classic", "compact", "resnet18"))
    assert resolve(spec, FACTS, source=flattens)["image_size"] == 16
    larger = spec.model_copy(update={"image_size": 32})
    for source in (pools, named):
        assert resolve(larger, FACTS, source=source)["image_size"] == 32
    with pytest.raises(InvalidValue, match="16 px only") as caught:
        resolve(larger, FACTS, source=flattens)
    assert (caught.value.code, caught.value.param) == ("weights_mismatch", "/spec/image_size")


def test_a_job_begins_with_the_weights_of_a_model_of_ones_own(shared: Fovea) -> None:
    shared.dataset(colours_zip(), "first")
    one = shared.wait(shared.train("base", "first", {**SPEC, "epochs": 30})["id"])
    job = shared.train("next", "first", {"initial_weights": "base", "epochs": 1, "transfer": None, "precision": "fp32"})
    assert job["spec"]["initial_weights"] == "base:1"
    assert job["spec"]["network"] == one["spec"]["network"]
    assert "model whose weights" in job["reasons"]["network"]
    done = shared.wait(job["id"])
    assert done["status"] == "succeeded", done
    first = shared.http.get(f"/v1/jobs/{one['id']}/metrics", params={"names": "train/loss"}).json()["series"][0]
    second = shared.http.get(f"/v1/jobs/{job['id']}/metrics", params={"names": "train/loss"}).json()["series"][0]
    assert second["points"][0][2] < first["points"][0][2]

    for spec, param in (
        ({"initial_weights": "nothing"}, "/spec/initial_weights"),
        ({"initial_weights": "base", "network": "classic"}, "/spec/network"),
        ({"initial_weights": "pretrained", "network": "classic"}, "/spec/initial_weights"),
    ):
        answer = shared.http.post("/v1/jobs", json={"type": "train", "model": "m", "dataset": "first", "spec": spec})
        assert (answer.status_code, answer.json()["param"]) == (422, param), answer.text


def test_pretrained_weights_that_are_not_there_are_said_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody answers there, whatever network there is
    with pytest.raises(InvalidValue) as caught:
        pretrained("squeezenet1_1", tmp_path)
    assert caught.value.code == "weights_unavailable"
    assert "FOVEA_WEIGHTS_DIR" in str(caught.value.hint)
