"""Movie genres from posters and plots. Names are imported when they are first used."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "GenrePipeline": "mmgenre.inference.pipeline",
    "MMGenreConfig": "mmgenre.models.configuration_mmgenre",
    "MMGenreForSequenceClassification": "mmgenre.models.modeling_mmgenre",
    "MMGenreProcessor": "mmgenre.models.processing_mmgenre",
    "register_auto_classes": "mmgenre.models.registry",
    "load_model": "mmgenre.models.registry",
    "load_processor": "mmgenre.models.registry",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
