"""Each file of accelerate_configs/: readable, explained, launched; and what contradicts us."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from launching import CONFIGS, finish, launch, launch_two, start
from safetensors.torch import load_file
from tiny import ROOT

from mmgenre.configs.arguments import TrainingArguments
from mmgenre.models.configuration_mmgenre import MMGenreConfig
from mmgenre.training.accelerator import configure_model, create_accelerator
from mmgenre.utils.errors import UserError

NAMES = ["cpu", "cpu_2proc", "fsdp", "multi_gpu", "multi_node", "single_gpu"]


def test_every_file_is_tested() -> None:
    assert sorted(path.name for path in CONFIGS.iterdir()) == [f"{name}.yaml" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_accelerates_own_with_a_comment_for_each_key(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(path))  # refuses unknown keys
    known = {field.removeprefix("fsdp_") for field in vars(FullyShardedDataParallelPlugin())}
    known |= {"version", "offload_params", "transformer_layer_cls_to_wrap"}  # by other names there
    assert {key.removeprefix("fsdp_") for key in config.fsdp_config} <= known
    # what our own arguments own
    text = path.read_text(encoding="utf-8")
    assert not re.search("gradient_accumulation|gradient_clipping|dynamo|deepspeed", text)
    keys = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(keys) >= len(yaml.safe_load(text)) > 4
    for line in keys:
        assert re.fullmatch(r" *\w+:( \S+)? +# \w.*", line), line
    assert f"accelerate_configs/{name}.yaml" in text  # the command


@pytest.fixture
def arguments(recipe: str, tmp_path: Path) -> list[Any]:
    return ["train.py", "--recipe", recipe, "--num_train_epochs", "1", "--output_dir", tmp_path]


def steps(folder: Path) -> int:
    (line,) = [json.loads(line) for line in (folder / "history.jsonl").open()]
    return line["step"]


@pytest.mark.parametrize("name", ["cpu", "single_gpu"])
def test_launching_one_process(name: str, arguments: list[Any], tmp_path: Path) -> None:
    launch(name, *arguments, CUDA_VISIBLE_DEVICES="")
    assert steps(tmp_path) == 5  # 40 movies in steps of 8


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.slow
def test_launching_two_machines(arguments: list[Any], tmp_path: Path) -> None:
    port = ["--main_process_port", free_port(), "--num_processes", "2", "--mixed_precision", "no"]
    machines = [
        start("multi_node", *port, "--machine_rank", i, *arguments, ACCELERATE_USE_CPU="true")
        for i in (0, 1)
    ]
    for status, output in map(finish, machines):
        assert status == 0, output
    assert steps(tmp_path) == 2  # in steps of 16, with a rest that is dropped


def test_launching_processes_of_one_machine(arguments: list[Any], tmp_path: Path) -> None:
    flags = ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no"]
    launch("multi_gpu", *flags, *arguments, ACCELERATE_USE_CPU="true")
    assert steps(tmp_path) == 2


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = (run / "checkpoints" / "last").resolve()
    return load_file(folder / "pretrained_model" / "model.safetensors")


@pytest.mark.slow
def test_fsdp_trains_saves_and_resumes_as_ddp_does(recipe: str, tmp_path: Path) -> None:
    def fsdp(name: str, *flags: str) -> None:
        script = [ROOT / "tests" / "fsdp_on_cpu.py", "--output_dir", tmp_path / name, *flags]
        launcher = ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no"]
        launch("fsdp", *launcher, *script, ACCELERATE_USE_CPU="true")

    flags = ["--recipe", recipe, "--max_grad_norm", "0.05", "--gradient_accumulation_steps", "2"]
    flags += ["--per_device_train_batch_size", "2"]
    fsdp("straight", *flags)
    launch_two("train.py", *flags, "--output_dir", tmp_path / "ddp")
    for name, expected in weights(tmp_path / "ddp").items():
        got = weights(tmp_path / "straight")[name]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0, msg=name)
    fsdp("resumed", *flags, "--num_train_epochs", "1")
    fsdp("resumed", "--resume_from_checkpoint", "last", "--num_train_epochs", "2")
    for name, expected in weights(tmp_path / "straight").items():
        assert torch.equal(weights(tmp_path / "resumed")[name], expected), name


# Variables as `accelerate launch` sets them, and the sentence that stops the run.
CONTRADICTIONS = {
    "accumulation": (
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        "gradient_accumulation_steps is 4 in Accelerate's configuration and 2 here; leave it out "
        "of Accelerate's",
    ),
    "compiler": (
        {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
        "dynamo_backend is INDUCTOR in Accelerate's configuration, which would change the names "
        "of saved weights; leave it out there and give --torch_compile",
    ),
    "DeepSpeed": (
        {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_GRADIENT_CLIPPING": "1.0"},
        "DeepSpeed is in Accelerate's configuration; this training does not support it, use "
        "accelerate_configs/multi_gpu.yaml or fsdp.yaml",
    ),
    "Megatron": (
        {"ACCELERATE_USE_MEGATRON_LM": "true"},
        "Megatron-LM is in Accelerate's configuration; this training does not support it, use "
        "accelerate_configs/multi_gpu.yaml or fsdp.yaml",
    ),
    "parallelism": (
        {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
        "parallelism_config is in Accelerate's configuration; this training does not support it, "
        "use accelerate_configs/multi_gpu.yaml or fsdp.yaml",
    ),
    "FSDP 1": (
        {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"},
        "fsdp_version is 1 in Accelerate's configuration; it must be 2",
    ),
    "FSDP without GPUs": (
        {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"},
        "FSDP is in Accelerate's configuration, but Accelerate shards over GPUs only, and over "
        "two processes or more; use another configuration",
    ),
    "fp16 without GPU": (
        {"ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_USE_CPU": "true"},
        "mixed_precision is fp16 in Accelerate's configuration, which needs a GPU; it can be bf16 "
        "or no",
    ),
    "fp8": (
        {"ACCELERATE_MIXED_PRECISION": "fp8"},
        "mixed_precision is fp8 in Accelerate's configuration, which this training does not "
        "support; it can be bf16 or no",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.usefixtures("fresh_accelerate")
def test_contradictions_stop_the_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, sentence = CONTRADICTIONS[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        create_accelerator(gradient_accumulation_steps=2)


OPTIONS = {
    "tf32": ({"tf32": True}, {}, "tf32 is for GPUs, and this runs on cpu"),
    "sync_bn": ({"sync_bn": True}, {}, "sync_bn is for GPUs, and this runs on cpu"),
    "group_by_length": (
        {"group_by_length": True},
        {"padding": "max_length"},
        "group_by_length saves padding, and model_config padding is 'max_length'; it must be "
        "longest",
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.usefixtures("fresh_accelerate")
def test_options_that_do_not_fit_stop_the_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    options, fields, sentence = OPTIONS[name]
    model = torch.nn.Module()
    model.config = MMGenreConfig(**fields)
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        configure_model(model, TrainingArguments(**options), create_accelerator())
