"""What a training step costs: one table of ratios, each measured in one run.

    python benchmarks/train_step.py [--parts loop,options,full] [--batch_size 16] [--repeats 3]

- loop: the trainer's time a step against a bare forward, backward and step of the same model
  (quickstart, batches in memory).
- evaluation: a pass of the evaluator against a training pass over as many movies. Where all layers
  are trained, a forward pass is a third of a step's products; in the report's model, most of which
  needs no weight gradients, it is a half.
- full: the report's full-size model, random weights: movies a second of the report's stepping
  (fp32, padded to 128, contiguous, torch's plain AdamW) against ours (plots padded to the longest
  of a step that is grouped by length, fused AdamW, channels_last), in fp32 and bf16; and the
  share of the device's rate of matrix products. Plots have MM-IMDb's mean of 92.5 words
  (Arevalo et al. 2017), log-normal with sigma 0.7 (an assumption), 1.27 tokens a word; the steps
  are an epoch's at evenly spaced lengths.
- options: single options on the same model, padded to 128.

Products (FLOPs) of a step are counted by hand in `step_flops`.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mmgenre.configs.parser import parse_train_arguments
from mmgenre.data.demo import write_demo_movies
from mmgenre.data.loaders import GlobalBatchSampler
from mmgenre.data.movies import load_movies
from mmgenre.models.configuration_mmgenre import MMGenreConfig
from mmgenre.models.modeling_mmgenre import MMGenreForSequenceClassification
from mmgenre.training.accelerator import create_accelerator
from mmgenre.training.components import create_trainer
from mmgenre.training.optimization import create_optimizer
from mmgenre.training.preemption import Preemption
from mmgenre.training.trainer import Trainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NUM_MOVIES, MAX_LENGTH = 13_219, 128  # the report's training split


def seconds(run: Callable[[], object]) -> float:
    """On a GPU by the clock; on a CPU the process's own, which other programs disturb less."""
    if DEVICE.type == "cpu":
        started = time.process_time()
        run()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def alternate(repeats: int, **runs: Callable[[], object]) -> dict[str, float]:
    """Least seconds of each; they take turns, so that a busy machine slows all alike."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            best[name] = min(best[name], seconds(run))
    return best


def quickstart(folder: Path) -> Trainer:
    config = parse_train_arguments(["--recipe", "quickstart", "--output_dir", str(folder)])
    config.data.dataset = str(write_demo_movies(folder / "movies", num_movies=240))
    config.data.dataloader_num_workers = 0
    movies = load_movies(config.data, config.training.seed)
    return create_trainer(config, create_accelerator(), movies, folder, Preemption())


def train_epoch(trainer: Trainer) -> None:
    trainer.state.step_in_epoch = 0
    trainer.start_epoch()
    trainer.train_epoch()


def bare_steps(trainer: Trainer, batches: list[dict[str, torch.Tensor]]) -> None:
    model, optimizer = trainer.model, trainer.optimizer
    model.train()
    for batch in batches:
        model(**trainer.to_device(batch)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def measure_loop_and_evaluation(repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        trainer = quickstart(Path(folder))
        with trainer._progress() as trainer.progress:
            measure_loop(trainer, repeats)
            measure_evaluation(trainer, repeats)


def measure_loop(trainer: Trainer, repeats: int) -> None:
    loader = trainer.loader
    trainer.loader = batches = list(loader)
    times = alternate(
        4 * repeats, ours=lambda: train_epoch(trainer), bare=lambda: bare_steps(trainer, batches)
    )
    trainer.loader = loader
    steps = len(batches)
    row(
        "loop, quickstart: ours / bare",
        f"{1e3 * times['ours'] / steps:.1f} / {1e3 * times['bare'] / steps:.1f} ms a step",
        times["ours"] / times["bare"],
        "<= 1.03",
    )


def measure_evaluation(trainer: Trainer, repeats: int) -> None:
    times = alternate(
        repeats,
        training=lambda: train_epoch(trainer),
        evaluation=lambda: trainer.evaluator.evaluate(trainer.model),
    )
    training = times["training"] / (trainer.sampler.num_steps * trainer.sampler.global_batch_size)
    evaluation = times["evaluation"] / len(trainer.evaluator.dataset)
    row(
        "evaluation / training, quickstart, data path included",
        f"{1e3 * evaluation:.2f} / {1e3 * training:.2f} ms a movie",
        evaluation / training,
        "<= 0.35",
    )


class FullSize:
    """The report's model with an optimizer, stepping on batches of given lengths."""

    def __init__(self, *, channels_last: bool, fused: bool) -> None:
        torch.manual_seed(0)
        self.model = MMGenreForSequenceClassification(MMGenreConfig()).to(DEVICE).train()
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.optimizer = create_optimizer(self.model, 1e-4, 1e-5)
        if not fused:
            self.optimizer = torch.optim.AdamW(self.optimizer.param_groups)
            for group in self.optimizer.param_groups:
                group["fused"] = None

    def step(self, lengths: np.ndarray, padded: int, bf16: bool = False) -> None:
        batch = create_batch(lengths, padded)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = self.model(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, lengths: np.ndarray, padded: int) -> None:
        self.model.eval()
        self.model(**create_batch(lengths, padded))
        self.model.train()


def create_batch(lengths: np.ndarray, padded: int) -> dict[str, torch.Tensor]:
    size = len(lengths)
    mask = torch.arange(padded)[None] < torch.from_numpy(lengths)[:, None]
    batch = {
        "pixel_values": torch.randn(size, 3, 224, 224),
        "input_ids": torch.randint(1000, 30_000, (size, padded)) * mask,
        "attention_mask": mask.long(),
        "labels": (torch.rand(size, 26) < 0.1).float(),
    }
    return {name: tensor.to(DEVICE) for name, tensor in batch.items()}


def choose_steps(batch_size: int, grouped: bool, count: int) -> list[tuple[np.ndarray, int]]:
    """Token lengths of some steps of an epoch and what they are padded to, evenly over lengths."""
    words = np.random.default_rng(0).lognormal(np.log(92.5) - 0.7**2 / 2, 0.7, NUM_MOVIES)
    lengths = np.minimum(MAX_LENGTH, 2 + 1.27 * words).astype(int)
    sampler = GlobalBatchSampler(
        NUM_MOVIES, batch_size=batch_size, lengths=lengths if grouped else None
    )
    steps = [lengths[sampler.step_movies(step)] for step in range(sampler.num_steps)]
    steps.sort(key=lambda step: (step.max(), step.sum()))
    middles = (np.arange(count) + 0.5) / count * len(steps)
    # the processor pads to a multiple of 8
    return [(steps[int(i)], -(-int(steps[int(i)].max()) // 8) * 8) for i in middles]


def measure_full_size(batch_size: int, count: int, repeats: int) -> None:
    report = FullSize(channels_last=False, fused=False)
    ours = FullSize(channels_last=True, fused=True)
    mixed = [(lengths, MAX_LENGTH) for lengths, _ in choose_steps(batch_size, False, count)]
    grouped = choose_steps(batch_size, True, count)
    times: Counter[str] = Counter()
    for warm_up, (theirs, own) in enumerate(
        zip([*mixed[:1], *mixed], [*grouped[:1], *grouped], strict=True)
    ):
        step_times = alternate(
            repeats if warm_up else 1,
            report=lambda theirs=theirs: report.step(*theirs),
            fp32=lambda own=own: ours.step(*own),
            bf16=lambda own=own: ours.step(*own, bf16=True),
            padded=lambda theirs=theirs: ours.step(*theirs),
            evaluation=lambda own=own: ours.evaluate(*own),
        )
        if warm_up:
            times.update(step_times)
    rates = {name: count * batch_size / value for name, value in times.items()}
    for name, limit in (("fp32", ">= 1.15"), ("bf16", ">= 2"), ("padded", "-")):
        title = {"padded": "fp32 padded to 128"}.get(name, name)
        row(
            f"full size, batch {batch_size}: ours in {title} / the report's stepping",
            f"{rates[name]:.2f} / {rates['report']:.2f} movies a second",
            rates[name] / rates["report"],
            limit,
        )
    row(
        "full size: evaluation / training, both fp32",
        f"{times['evaluation'] / count:.2f} / {times['fp32'] / count:.2f} s a batch",
        times["evaluation"] / times["fp32"],
        f"<= 0.35; by products {share_of_forward(grouped):.2f}",
    )
    for name in ("fp32", "bf16"):
        flops = sum(step_flops(len(lengths), padded)[1] for lengths, padded in grouped)
        peak = matmul_peak(torch.bfloat16 if name == "bf16" else torch.float32)
        row(
            f"full size, {name}: achieved / the device's best matrix product",
            f"{flops / times[name] / 1e9:.0f} / {peak / 1e9:.0f} GFLOP/s "
            f"({flops / count / 1e12:.2f} TFLOP a step)",
            flops / times[name] / peak,
            ">= 0.45" if DEVICE.type == "cuda" and name == "bf16" else "-",
        )


def measure_options(batch_size: int, repeats: int) -> None:
    full = FullSize(channels_last=False, fused=True)
    model, lengths = full.model, choose_steps(batch_size, False, 1)[0][0]
    plain_optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])

    def step(bf16: bool = False) -> None:
        full.step(lengths, MAX_LENGTH, bf16)

    def channels_last(bf16: bool = False) -> None:
        model.to(memory_format=torch.channels_last)
        step(bf16)
        model.to(memory_format=torch.contiguous_format)

    def checkpointing() -> None:
        model.gradient_checkpointing_enable()
        step()
        model.gradient_checkpointing_disable()

    model.compile()
    call, model._compiled_call_impl = model._compiled_call_impl, None

    def compiled() -> None:
        model._compiled_call_impl = call
        step()
        model._compiled_call_impl = None

    def update(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def run() -> None:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            optimizer.step()

        return run

    runs: dict[str, Callable[[], object]] = {
        "fp32": step,
        "fp32 channels_last": channels_last,
        "fp32 torch_compile": compiled,
        "fp32 gradient_checkpointing": checkpointing,
        "bf16": lambda: step(bf16=True),
        "bf16 channels_last": lambda: channels_last(bf16=True),
        "plain AdamW": update(plain_optimizer),
        "fused AdamW": update(full.optimizer),
    }
    for run in runs.values():
        run()
    times = alternate(repeats, **runs)
    for name, base in (
        ("bf16", "fp32"),
        ("fp32 channels_last", "fp32"),
        ("bf16 channels_last", "bf16"),
        ("fp32 torch_compile", "fp32"),
        ("fp32 gradient_checkpointing", "fp32"),
        ("fused AdamW", "plain AdamW"),
    ):
        row(
            f"full size, batch {batch_size}: {name} / {base}",
            f"{times[name]:.2f} / {times[base]:.2f} s",
            times[name] / times[base],
            "-",
        )
    plain = kept_mib(model, lengths)
    model.gradient_checkpointing_enable()
    row(
        f"full size, batch {batch_size}: activations kept, checkpointing / plain",
        f"{kept_mib(model, lengths):.0f} / {plain:.0f} MiB",
        kept_mib(model, lengths) / plain,
        "-",
    )


def kept_mib(model: torch.nn.Module, lengths: np.ndarray) -> float:
    """What a forward pass keeps for the backward pass, parameters not counted."""
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(**create_batch(lengths, MAX_LENGTH))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    del output
    return sum(storage.nbytes() for at, storage in kept.items() if at not in own) / 2**20


def share_of_forward(steps: list[tuple[np.ndarray, int]]) -> float:
    counts = [step_flops(len(lengths), padded) for lengths, padded in steps]
    return sum(forward for forward, _ in counts) / sum(whole for _, whole in counts)


def step_flops(batch_size: int, length: int) -> tuple[float, float]:
    """FLOPs of a forward pass and of a whole step: 2 for each multiply-add of a matrix product.

    A trained layer costs its forward pass again for its weights' gradient and again for its
    input's. Layers 1 to 10 of BERT are frozen, but gradients pass through them to the embeddings,
    so they cost the second of these; in attention both factors of a product need a gradient.
    ResNet's stem and layers 1 to 3 are frozen and have nothing trained below: forward alone.
    """
    # ResNet50, by (width, blocks, side of the output); the stride is in the 3 x 3 convolution
    stem = 112**2 * 64 * 3 * 49
    frozen_image = float(stem)
    channels, side = 64, 56
    for width, blocks, out_side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        entry = side**2 * channels * width + out_side**2 * channels * 4 * width
        stage = entry + out_side**2 * (9 * width**2 + 4 * width**2)
        stage += (blocks - 1) * out_side**2 * (4 * width**2 + 9 * width**2 + 4 * width**2)
        if width < 512:
            frozen_image += stage
        channels, side = 4 * width, out_side
    # the last stage's entry reads frozen features, whose gradient nobody needs
    image = (frozen_image + stage, frozen_image + 3 * stage - entry)

    linear = length * (4 * 768**2 + 2 * 768 * 3072)
    attention = 2 * length**2 * 768
    pooler = 768**2
    text = (
        12 * (linear + attention) + pooler,
        10 * 2 * linear + 2 * 3 * linear + 12 * 3 * attention + 3 * pooler,
    )

    def swiglu(inputs: int, outputs: int) -> int:
        hidden = int(inputs * 8 / 3)
        return 2 * inputs * hidden + hidden * outputs

    head = swiglu(2048, 512) + swiglu(768, 512) + 4 * 1024**2 + swiglu(1024, 512) + 512 * 26
    forward = image[0] + text[0] + head
    step = image[1] + text[1] + 3 * head
    return 2.0 * batch_size * forward, 2.0 * batch_size * step


def matmul_peak(dtype: torch.dtype) -> float:
    """FLOP/s of the best of three large square products."""
    size = 8192 if DEVICE.type == "cuda" else 2048
    a = torch.randn(size, size, device=DEVICE, dtype=dtype)
    b = torch.randn(size, size, device=DEVICE, dtype=dtype)
    torch.mm(a, b)
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(3))


def row(what: str, figures: str, ratio: float, limit: str) -> None:
    print(f"| {what} | {figures} | {ratio:.3f} | {limit} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4, help="steps of the full-size model")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the best counts")
    parser.add_argument("--parts", default="loop,options,full")
    args = parser.parse_args()
    print("| what | measured | ratio | limit |")
    print("|---|---|---:|---|")
    if "loop" in args.parts:
        measure_loop_and_evaluation(args.repeats)
    if "options" in args.parts:
        measure_options(args.batch_size, args.repeats)
    if "full" in args.parts:
        measure_full_size(args.batch_size, args.steps, args.repeats)


if __name__ == "__main__":
    main()
