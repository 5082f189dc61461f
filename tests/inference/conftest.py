from pathlib import Path

import pytest

from mmgenre.inference.pipeline import GenrePipeline


@pytest.fixture(scope="session")
def pipeline(trained_run: Path) -> GenrePipeline:
    return GenrePipeline.from_pretrained(str(trained_run), batch_size=4)
