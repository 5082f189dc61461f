"""Speed options: the same training, and checkpoints that know nothing of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

CHECKPOINT = Path("checkpoints/epoch_0002/pretrained_model/model.safetensors")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "history.jsonl").open()]
    return [line[f"{split}/loss"] for line in lines for split in ("train", "validation")]


@pytest.mark.parametrize(
    "option",
    [
        "channels_last",
        "gradient_checkpointing",
        pytest.param("torch_compile", marks=pytest.mark.slow),  # a minute of the C++ compiler
    ],
)
def test_an_option_changes_neither_training_nor_checkpoints(
    option: str, recipe: str, run_main: Any, tmp_path: Path
) -> None:
    without_dropout = ["--model_config", "attention_dropout=0", "classifier_dropout=0"]
    if option != "torch_compile":  # which draws other random numbers
        without_dropout = []
    for name, flags in (("plain", []), ("option", [f"--{option}"])):
        flags = [*flags, *without_dropout, "--output_dir", tmp_path / name]
        run_main("train", "--recipe", recipe, *flags)
    assert losses(tmp_path / "option") == pytest.approx(losses(tmp_path / "plain"), abs=2e-3)
    ours, plain = (load_file(tmp_path / name / CHECKPOINT) for name in ("option", "plain"))
    assert {name: value.shape for name, value in ours.items()} == {
        name: value.shape for name, value in plain.items()
    }
    if option == "gradient_checkpointing":
        assert all(torch.equal(ours[name], value) for name, value in plain.items())
    run_main("evaluate", tmp_path / "option")

    resumed = tmp_path / "resumed"
    flags = [*flags, "--output_dir", resumed, "--num_train_epochs", "1"]
    run_main("train", "--recipe", recipe, *flags)
    again = ["--resume_from_checkpoint", "last", "--num_train_epochs", "2"]
    run_main("train", "--output_dir", resumed, *again)
    assert all(
        torch.equal(ours[name], value) for name, value in load_file(resumed / CHECKPOINT).items()
    )


@pytest.mark.usefixtures("fresh_accelerate")
def test_checkpointed_activations_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny import TINY_MODEL

    from mmgenre.configs.arguments import TrainingArguments
    from mmgenre.models.configuration_mmgenre import MMGenreConfig
    from mmgenre.models.modeling_mmgenre import MMGenreForSequenceClassification
    from mmgenre.training.accelerator import configure_model, create_accelerator

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    fields = {**TINY_MODEL, "modalities": ["text"]}
    fields["text_config"] = {**fields["text_config"], "num_hidden_layers": 6}

    def kept_bytes(**options: bool) -> int:
        model = MMGenreForSequenceClassification(MMGenreConfig(**fields)).train()
        configure_model(model, TrainingArguments(**options), create_accelerator())
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
        ids = torch.randint(5, 600, (32, 16))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(input_ids=ids, labels=torch.zeros(32, 26))
        assert output.loss is not None
        return sum(size for pointer, size in kept.items() if pointer not in parameters)

    assert kept_bytes(gradient_checkpointing=True) < 0.35 * kept_bytes()


def test_a_frozen_prefix_keeps_no_activations_and_has_no_backward() -> None:
    from tiny import TINY_MODEL

    from mmgenre.models.configuration_mmgenre import MMGenreConfig
    from mmgenre.models.modeling_mmgenre import MMGenreForSequenceClassification

    fields = {**TINY_MODEL, "modalities": ["image"], "trainable_image_layers": ["layer4"]}
    model = MMGenreForSequenceClassification(MMGenreConfig(**fields)).train()
    encoder = model.image_encoder
    before, after = [], []
    encoder.layer3.register_forward_hook(lambda *hook: before.append(hook[2].grad_fn))
    encoder.layer4.register_forward_hook(lambda *hook: after.append(hook[2].grad_fn))
    model(pixel_values=torch.randn(2, 3, 32, 32), labels=torch.zeros(2, 26)).loss.backward()
    assert before == [None]
    assert after[0] is not None
