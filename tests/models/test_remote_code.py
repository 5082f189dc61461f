"""Saved models carry their code: they load where mmgenre is not installed."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from systems import CASES, create, create_batch
from transformers import AutoModelForSequenceClassification, AutoProcessor

from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.models.registry import load_model, register_auto_classes

# Run without site, so that an editable install is not found; argv: site-packages and the folder.
ELSEWHERE = """
import importlib.util, json, sys
from pathlib import Path
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("mmgenre") is None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoProcessor
for folder in Path(sys.argv[2]).iterdir():
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    batch = load_file(folder / "batch.safetensors")
    with torch.no_grad():
        save_file({"logits": model.eval()(**batch).logits}, folder / "logits.safetensors")
    (folder / "processor.json").write_text(json.dumps(processor.to_dict()))
"""


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    for case in CASES:
        model, folder = create(case), root / case.replace(" ", "_")
        model.save_pretrained(folder)
        needs = "text" in model.config.modalities
        processor = MMGenreProcessor.from_config(model.config, tokenizer if needs else None)
        processor.save_pretrained(folder)
        save_file(create_batch(model), folder / "batch.safetensors")
    return root


def test_every_system_loads_where_mmgenre_is_not_installed(saved, tmp_path):
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ELSEWHERE, sysconfig.get_path("purelib"), str(saved)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for folder in saved.iterdir():
        model = load_model(str(folder)).eval()
        with torch.no_grad():
            expected = model(**load_file(folder / "batch.safetensors")).logits
        torch.testing.assert_close(load_file(folder / "logits.safetensors")["logits"], expected)
        processor = json.loads((folder / "processor.json").read_text())
        assert processor["processor_class"] == "MMGenreProcessor"
        assert processor["max_length"] == model.config.max_length


def test_with_mmgenre_installed_no_code_of_the_folder_runs(saved, tmp_path):
    folder = saved / "mmgenre"
    for file in folder.glob("*.py"):
        file.write_text("raise RuntimeError('remote code ran')")
    register_auto_classes()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert type(model).__module__ == "mmgenre.models.modeling_mmgenre"
    assert type(AutoProcessor.from_pretrained(folder)) is MMGenreProcessor
    assert Path(sys.modules[type(model).__module__].__file__).parent.name == "models"
