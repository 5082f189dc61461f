"""One order of precedence: defaults < recipe, or a resumed run's configuration < command line."""

import argparse
import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from mmgenre.configs.arguments import (
    DoctorArguments,
    EvaluationArguments,
    MoviesArguments,
    StatsArguments,
    TrainConfig,
)
from mmgenre.constants import CONFIG_FILE
from mmgenre.utils.errors import UserError

TRAIN_USAGE = "%(prog)s [--recipe NAME] [--flag value ...]"
RECIPES_DIR = Path(__file__).parent / "recipes"
# What a run does once is not part of what it is: a resumed run must not inherit it.
_NOT_SAVED = ("overwrite_output_dir", "resume_from_checkpoint", "scratch_dir")
_POSITIVE = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "backbone_learning_rate",
    "max_grad_norm",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "ddp_timeout",
    "early_stopping_patience",
    "max_length",
)
_NOT_NEGATIVE = (
    "weight_decay",
    "warmup_epochs",
    "frozen_image_epochs",
    "frozen_text_epochs",
    "plateau_patience",
    "early_stopping_min_delta",
    "dataloader_num_workers",
    "max_nonfinite_steps",
    "num_examples",
)
_BETWEEN = ("validation_fraction", "plateau_factor", "warmup_ratio")


def parse_train_arguments(argv: Sequence[str] | None = None) -> TrainConfig:
    """Resolve recipe, resumed configuration and command line.

    Raises:
        UserError: An unknown flag, recipe or key, a value of the wrong type or out of range.
    """
    return _resolve(list(sys.argv[1:] if argv is None else argv))[0]


def parse_doctor_arguments(argv: Sequence[str]) -> tuple[TrainConfig, TrainConfig, DoctorArguments]:
    """A training's configuration, the same without what its output_dir holds, and the job's.

    Raises:
        UserError: As `parse_train_arguments`.
    """
    usage = "mmgenre doctor [--recipe NAME] [--flag value ...]"
    config, (doctor,) = _resolve(list(argv), [DoctorArguments], usage)
    given, _ = _resolve(list(argv), [DoctorArguments], usage, use_saved=False)
    return config, given, doctor


def _resolve(
    argv: list[str],
    others: Sequence[type] = (),
    usage: str = TRAIN_USAGE,
    *,
    use_saved: bool = True,
) -> tuple[TrainConfig, list[Any]]:
    """A training's configuration, and other groups of arguments from the same command line.

    Args:
        use_saved: Where a run is resumed, its saved configuration takes the recipe's place.
    """
    early = _early_flags(argv)
    tokens: list[str] = []
    groups = [field.type for field in dataclasses.fields(TrainConfig)]
    parser = _Parser(groups)
    if early.recipe is not None:
        tokens = parser.tokens_from_yaml(find_recipe(early.recipe))
    if use_saved and early.resume_from_checkpoint is not None:
        saved = Path(early.output_dir or _output_dir(parser, tokens)) / CONFIG_FILE
        if saved.is_file():
            # It holds every value; none that it left out may come from the recipe.
            tokens = parser.tokens_from_yaml(saved)
    parsed = _Parser([*groups, *others], usage).parse(tokens + argv)
    config = TrainConfig(*parsed[: len(groups)])
    _check_ranges(flatten(config))
    return config, list(parsed[len(groups) :])


def parse_evaluation_arguments(
    argv: Sequence[str] | None = None,
) -> tuple[str, EvaluationArguments]:
    """The run or model to evaluate, and how.

    Raises:
        UserError: As `parse_train_arguments`.
    """
    parser = _Parser([EvaluationArguments], "%(prog)s RUN_OR_MODEL [--flag value ...]")
    parser.add_argument(
        "run_or_model",
        metavar="RUN_OR_MODEL",
        help="Folder of a training run, folder of a saved model, or a model's Hub name.",
    )
    args, namespace = parser.parse(list(sys.argv[1:] if argv is None else argv))
    _check_ranges(vars(args))
    if args.fit_thresholds is not None and args.split != "validation":
        raise UserError(
            f"fit_thresholds cannot go with split {args.split!r}: thresholds are fitted on "
            "validation movies only; leave --split out, then evaluate the other split without "
            "--fit_thresholds"
        )
    return namespace.run_or_model, args


def parse_stats_arguments(argv: Sequence[str]) -> tuple[MoviesArguments, StatsArguments]:
    """The movies to count, and how.

    Raises:
        UserError: As `parse_train_arguments`.
    """
    parser = _Parser([MoviesArguments, StatsArguments], "mmgenre stats DATASET [--flag value ...]")
    parser.make_positional("dataset")
    movies, stats = parser.parse(list(argv))
    _check_ranges({**vars(movies), **vars(stats)})
    return movies, stats


def find_recipe(name: str) -> Path:
    """The YAML file of a recipe.

    Raises:
        UserError: There is none; the message names the nearest.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise UserError(f"recipe file {name!r} does not exist")
        return Path(name)
    names = sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))
    if name not in names:
        raise UserError(f"recipe {name!r} is unknown; {_nearest(name, names)}")
    return RECIPES_DIR / f"{name}.yaml"


def save_config(config: TrainConfig, path: Path) -> None:
    """Write the resolved configuration as one flat mapping."""
    path.write_text(yaml.safe_dump(flatten(config), sort_keys=False), encoding="utf-8")


def load_config(path: Path) -> TrainConfig:
    """Read what `save_config` wrote.

    Raises:
        UserError: The file is missing, broken, or holds an unknown key or a wrong value.
    """
    parser = _Parser([field.type for field in dataclasses.fields(TrainConfig)])
    return TrainConfig(*parser.parse(parser.tokens_from_yaml(path)))


def is_flag(name: str) -> bool:
    """Whether training has a flag of that name."""
    groups: list[Any] = [field.type for field in dataclasses.fields(TrainConfig)]
    return any(name == field.name for group in groups for field in dataclasses.fields(group))


def flatten(config: TrainConfig) -> dict[str, Any]:
    """Flag to value, without what a run does only once."""
    groups = dataclasses.asdict(config).values()
    return {k: v for group in groups for k, v in group.items() if k not in _NOT_SAVED}


class _KeyValues(argparse.Action):
    """`--model_config a=1 b=x`: merged into what a recipe gave, values read as YAML."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        merged = dict(getattr(namespace, self.dest) or {})
        for item in values:
            key, equals, text = item.partition("=")
            if not equals:
                parser.error(f"{option_string} takes KEY=VALUE, not {item!r}")
            try:
                merged[key] = _numbers(yaml.safe_load(text))
            except yaml.YAMLError:
                parser.error(f"{option_string} {item!r} has no valid YAML after the equals sign")
        setattr(namespace, self.dest, merged)


class _Parser(HfArgumentParser):
    def __init__(self, dataclass_types: list[Any], usage: str = TRAIN_USAGE) -> None:
        super().__init__(dataclass_types, allow_abbrev=False, usage=usage)
        for action in self._actions:
            # The hyphen form works too, but in --help it would double every line.
            if action.dest != "help":
                action.option_strings = action.option_strings[:1]

    @staticmethod
    def _parse_dataclass_field(parser: Any, field: Any) -> None:
        if field.name == "model_config":
            parser.add_argument(
                "--model_config",
                action=_KeyValues,
                nargs="+",
                default={},
                metavar="KEY=VALUE",
                help=field.metadata["help"],
            )
        else:
            HfArgumentParser._parse_dataclass_field(parser, field)
            if field.default is None:
                action = parser._option_string_actions[f"--{field.name}"]
                action.type = _or_none(action.type)
                if action.choices is not None:  # argparse checks what the type has made
                    action.metavar = f"{{{','.join([*action.choices, 'none'])}}}"
                    action.choices = [*action.choices, None]

    def make_positional(self, name: str) -> None:
        """Let a field be given as a word of its own, which then must be there."""
        action = self._option_string_actions.pop(f"--{name}")
        action.option_strings, action.required, action.metavar = [], True, name.upper()

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists all flags)")

    def parse(self, tokens: list[str]) -> tuple[Any, ...]:
        *parsed, remaining = self.parse_args_into_dataclasses(
            tokens, return_remaining_strings=True, look_for_args_file=False
        )
        if remaining:
            flag = remaining[0]
            name = flag.split("=")[0].lstrip("-")
            known = [*self._flags(), "help"]
            hint = _nearest(name, known) if flag.startswith("-") else "flags start with --"
            self.error(f"unknown argument {flag!r}; {hint}")
        return tuple(parsed)

    def tokens_from_yaml(self, path: Path) -> list[str]:
        """A YAML mapping as command-line tokens, so that argparse casts and checks its values.

        (YAML reads 5e-5 as text, and argparse's `set_defaults` takes unknown keys in silence.)
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(
                f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
            ) from error
        if not isinstance(values, dict):
            raise UserError(f"{path} must hold a mapping of flags to values")
        known = self._flags()
        lists = [action.dest for action in self._actions if action.nargs == "+"]
        tokens: list[str] = []
        for key, value in values.items():
            if key not in known:
                raise UserError(f"{path}: key {key!r} is unknown; {_nearest(str(key), known)}")
            if key == "model_config":
                if not isinstance(value, dict):
                    raise UserError(f"{path}: model_config must be a mapping, not {value!r}")
                pairs = [f"{k}={json.dumps(v)}" for k, v in value.items()]
                tokens += ["--model_config", *pairs] if pairs else []
            elif isinstance(value, list) and key in lists:
                tokens += [f"--{key}", *map(str, value)] if value else []
            elif isinstance(value, (list, dict)):
                raise UserError(f"{path}: {key} must be one value, not {value!r}")
            else:
                tokens.append(f"--{key}={'none' if value is None else value}")
        try:
            self.parse(tokens)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        return tokens

    def _flags(self) -> list[str]:
        return [field.name for dtype in self.dataclass_types for field in dataclasses.fields(dtype)]


def _early_flags(argv: list[str]) -> argparse.Namespace:
    """The three flags that decide where the other defaults come from."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("recipe", "output_dir", "resume_from_checkpoint"):
        parser.add_argument(f"--{flag}", f"--{flag.replace('_', '-')}")
    try:
        return parser.parse_known_args(argv)[0]
    except argparse.ArgumentError as error:
        raise UserError(f"{error} (--help lists all flags)") from error


def _output_dir(parser: _Parser, tokens: list[str]) -> str:
    return TrainConfig(*parser.parse(tokens)).training.output_dir


def _or_none(cast: Callable[[str], Any]) -> Callable[[str], Any]:
    """`none` on the command line for a flag that may be left out."""

    def cast_or_none(text: str) -> Any:
        return None if text.lower() == "none" else cast(text)

    cast_or_none.__name__ = cast.__name__  # argparse names the type in its error
    return cast_or_none


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 5e-5 as text; a person means the number."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def _check_ranges(values: dict[str, Any]) -> None:
    for names, fits, what in (
        (_POSITIVE, lambda v: v > 0, "above 0"),
        (_NOT_NEGATIVE, lambda v: v >= 0, "0 or above"),
        (
            ("validation_fraction", "plateau_factor", "warmup_ratio"),
            lambda v: 0 < v < 1,
            "between 0 and 1",
        ),
    ):
        for name in names:
            if values.get(name) is not None and not fits(values[name]):
                raise UserError(f"{name} is {values[name]}; it must be {what}")
