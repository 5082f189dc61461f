"""Exported models give the model's probabilities, alone, for any number of movies and words."""

import json
import os
import subprocess
import sys
import sysconfig
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from systems import CASES, GENRES, create

from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.inference import export
from mmgenre.inference.export import export_model
from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.utils.errors import UserError

PLOTS = ["war", "two dogs run a bar on the moon", "", "a war of dogs"]
NO_GRAPH = [case for case in CASES if not case.startswith(("gat", "mm_gatbt"))]
FAST = ["mmgenre", "gmu"]


def movies(case: str, missing: str) -> tuple[Any, Any, list[dict[str, torch.Tensor]]]:
    """A model, its processor, and batches of one, four and two movies."""
    model = create(case, missing_modality=missing)
    needs = "text" in model.config.modalities
    tokenizer = train_tokenizer(PLOTS, vocab_size=60) if needs else None
    processor = MMGenreProcessor.from_config(model.config, tokenizer)
    rng = np.random.default_rng(0)
    batches = []
    for chosen in ([0], [0, 1, 2, 3], [3, 2]):
        posters = [rng.integers(0, 256, (3, 40, 50), dtype=np.uint8) for _ in chosen]
        posters[0] = None if len(chosen) > 1 else posters[0]
        vectors = [
            {n: rng.normal(size=dim) for n, dim in model.config.feature_dims.items()}
            for _ in chosen
        ]
        batch = dict(processor(posters, [PLOTS[i] for i in chosen], vectors))
        batch["labels"] = torch.ones(len(chosen), len(GENRES))
        batches.append(batch)
    return model, processor, batches


@pytest.mark.parametrize(
    "case", [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in NO_GRAPH]
)
@pytest.mark.parametrize("missing", ["fill", "learned"])
def test_onnx_runtime_gives_the_model_s_logits(case, missing, tmp_path):
    model, processor, batches = movies(case, missing)
    comparisons = export_model(model, processor, batches, 7, tmp_path / "out")
    assert list(comparisons) == ["model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx")
    names = [argument.name for argument in session.get_inputs()]
    for batch in batches:
        del batch["labels"]
        (logits,) = session.run(["logits"], {name: batch[name].numpy() for name in names})
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(**batch).logits.numpy(), atol=1e-5)


def test_a_movie_of_large_features_leaves_the_others_in_8_bits(tmp_path):
    model, processor, batches = movies("mmgenre", "fill")
    model.image_projection.w2.weight.data *= 1000  # as absent posters are zero, there is a range
    comparisons = export_model(model, processor, batches, 7, tmp_path / "out", int8=True)
    assert comparisons["model_int8.onnx"].difference < 0.001


def test_torch_export_gives_the_model_s_logits(tmp_path):
    model, processor, batches = movies("mmgenre", "learned")
    export_model(model, processor, batches, 7, tmp_path / "out", format="torch")
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    for batch in batches:
        del batch["labels"]
        logits = program(*(batch[name] for name in export.input_names(model, processor)))
        torch.testing.assert_close(logits, model(**batch).logits)


def test_another_probability_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    model, processor, batches = movies("gmu", "fill")
    with pytest.raises(UserError, match="model.onnx gives probabilities that differ .* nothing is"):
        export_model(model, processor, batches, 7, tmp_path / "out")
    assert not list(tmp_path.iterdir())


# As in the README, without site and so without mmgenre; argv: site-packages, folder, poster.
ALONE = """
import importlib.util, json, sys
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("mmgenre") is None
import numpy as np
import onnxruntime
from transformers import AutoProcessor
folder = sys.argv[2]
config = json.load(open(f"{folder}/config.json"))
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
inputs = processor(images=sys.argv[3], text="A duel.", return_tensors="np")
logits = session.run(["logits"], {i.name: inputs[i.name] for i in session.get_inputs()})[0][0]
probabilities = 1 / (1 + np.exp(-logits))
print(json.dumps(dict(zip(config["id2label"].values(), probabilities.tolist()))))
"""


def test_an_exported_run_is_used_alone(trained_run, demo_dir, pipeline, tmp_path, run_script):
    folder = tmp_path / "out"
    result = run_script("-m", "mmgenre.cli", "export", trained_run, folder, "--int8")
    table = result.stdout.splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| model.onnx", "| model_int8.onnx"]
    figures = json.loads((folder / "export.json").read_text())
    assert figures["movies"] == 10
    poster = str(sorted((demo_dir / "posters").glob("*.jpg"))[0])
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE, sysconfig.get_path("purelib"), folder, poster],
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    expected = pipeline({"poster": poster, "plot": "A duel."})["probabilities"]
    assert json.loads(result.stdout) == pytest.approx(expected, abs=1e-5)


REFUSED = {
    "a folder that is there": ("mmgenre", {}, "folder '.*out' exists; name a new one"),
    "a graph": ("gat", {}, "mmgenre-gat cannot be exported: it needs the graph of its data set"),
    "a graph's vectors": ("mm_gatbt", {}, "mmgenre-mm_gatbt cannot be exported"),
    "int8 in torch": ("mmgenre", {"format": "torch", "int8": True}, "--int8 needs --format onnx"),
    "no package": ("mmgenre", {}, r"needs onnxruntime; pip install 'mmgenre\[onnx\]'"),
    "no right to write": ("mmgenre", {}, "cannot be written"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_said(name, tmp_path, monkeypatch):
    case, options, message = REFUSED[name]
    folder = tmp_path / "out"
    if name == "a folder that is there":
        folder.mkdir()
    elif name == "no package":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    elif name == "no right to write":
        (tmp_path / "file").touch()
        folder = tmp_path / "file" / "out"
    if case == "mmgenre":
        model, processor, batches = movies(case, "fill")
    else:
        model, processor, batches = create(case), None, []
    with pytest.raises(UserError, match=message):
        export_model(model, processor, batches, 7, folder, **options)
    assert not list(tmp_path.glob(".*"))
