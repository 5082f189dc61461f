"""The nearest training movies, and embeddings that are kept."""

import numpy as np
import pytest
import torch

from mmgenre.data.readers import read_movies
from mmgenre.inference import similar
from mmgenre.inference.similar import SimilarMovies
from mmgenre.utils.errors import UserError


@pytest.fixture(scope="module")
def records(demo_dir):
    return [record for record in read_movies(str(demo_dir), "folder") if record.split == "train"]


def whole(pipeline, record):
    return pipeline.encode({"poster": record.poster, "plot": record.plot})


def test_the_nearest_are_those_of_the_largest_cosine(pipeline, records):
    found = SimilarMovies.build(pipeline, records)
    record = found.records[7]
    nearest = found.nearest(whole(pipeline, record), 5)
    assert nearest[0][0].id == record.id
    assert nearest[0][1] == pytest.approx(1.0, abs=1e-5)
    with torch.no_grad():
        vectors = np.stack(
            [
                pipeline.model(**pipeline.collate([whole(pipeline, other)]), output_embedding=True)
                .embedding[0]
                .numpy()
                for other in found.records
            ]
        )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[7]
    assert [cosine for _, cosine in nearest] == pytest.approx(sorted(cosines)[::-1][:5], abs=1e-5)
    assert len(found.nearest(whole(pipeline, record), 10_000)) == len(found.records)


def test_movies_that_cannot_be_taken_are_left_out(pipeline, records):
    broken = [
        r
        for r in records
        if r.id not in {m.id for m in SimilarMovies.build(pipeline, records).records}
    ]
    with pytest.raises(OSError, match="cannot be read|not a picture|missing|truncated"):
        whole(pipeline, broken[0])
    with pytest.raises(UserError, match="the model can take none of the training movies"):
        SimilarMovies.build(pipeline, broken)


def test_embeddings_are_kept_until_movies_or_weights_change(
    pipeline, records, tmp_path, monkeypatch
):
    path = tmp_path / "kept.safetensors"
    first = SimilarMovies.build(pipeline, records[:8], path)
    embedded = []
    real = similar._embed
    monkeypatch.setattr(similar, "_embed", lambda p, movies: embedded.append(1) or real(p, movies))
    again = SimilarMovies.build(pipeline, records[:8], path)
    assert not embedded
    assert torch.equal(again.embeddings, first.embeddings)
    assert again.records == first.records
    SimilarMovies.build(pipeline, records[:9], path)
    assert embedded
    path.write_bytes(b"no safetensors")
    embedded.clear()
    SimilarMovies.build(pipeline, records[:9], path)
    assert embedded
