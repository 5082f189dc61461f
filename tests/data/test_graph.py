"""The movie graph: edges as by the published loop, what is left out and stored, and figures."""

import json

import numpy as np
import pytest
from scipy import sparse

from mmgenre.data.credits import ROLE_SETS, expand_roles, normalize_name
from mmgenre.data.graph import build_graph, load_graph, save_graph
from mmgenre.data.graph_stats import compute_graph_stats
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError


def movie(movie_id: str, genres: tuple[str, ...] = (), split: str | None = None, **credits):
    credits = {role.replace("_", " "): tuple(names) for role, names in credits.items()}
    return MovieRecord(movie_id, None, genres, None, credits=credits, split=split)


def edges_of(graph) -> dict[tuple[str, str], int]:
    matrix = sparse.coo_array(graph.adjacency)
    return {
        (graph.ids[i], graph.ids[j]): int(weight)
        for i, j, weight in zip(matrix.row, matrix.col, matrix.data, strict=True)
    }


FEW = [
    movie("a", director=["Ann Lee"], writer=["Bob"], editor=["Eve"]),
    movie("b", producer=["ann  LEE"], writer=["Bob"]),
    movie("c", director=["Straße"], editor=["Eve"]),
    movie("d", cinematographer=["STRASSE"], director=["Cy", "Cy"]),
    movie("e"),
]


def test_movies_that_share_a_person_whatever_the_role_and_the_spelling() -> None:
    graph = build_graph(FEW, ["medium"])
    assert graph.ids == ("a", "b", "c", "d", "e")
    assert edges_of(graph) == {("a", "b"): 2, ("b", "a"): 2, ("c", "d"): 1, ("d", "c"): 1}


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["sparse"], {("a", "b"): 2}),
        (["dense"], {("a", "b"): 2, ("a", "c"): 1, ("c", "d"): 1}),
        (["editor"], {("a", "c"): 1}),
        (["sparse", "editor"], {("a", "b"): 2, ("a", "c"): 1}),
        ([], {}),
    ],
)
def test_roles(roles, expected) -> None:
    graph = build_graph(FEW, roles)
    assert edges_of(graph) == expected | {(j, i): w for (i, j), w in expected.items()}


def test_a_set_and_a_role_by_name_are_each_named_once() -> None:
    assert expand_roles(["sparse", "director", "editor"]) == (*ROLE_SETS["sparse"], "editor")


def test_an_unknown_role_is_named() -> None:
    with pytest.raises(UserError, match=r"^role 'directer' is unknown; it can be sparse, .*ca"):
        build_graph(FEW, ["directer"])


@pytest.mark.parametrize(
    ("one", "other"), [("É", "E\u0301"), ("  Ann\u00a0 Lee", "ann lee"), ("ΣΊΣΥΦΟΣ", "σίσυφος")]
)
def test_spellings_of_one_name(one, other) -> None:
    assert normalize_name(one) == normalize_name(other)


def test_the_edges_of_the_pairwise_loop() -> None:
    generator = np.random.default_rng(0)
    weights = (np.arange(1, 401) + 5.0) ** -0.8
    records = [
        movie(
            f"m{i}",
            **{
                role: [
                    f"Person {n}" for n in generator.choice(400, count, p=weights / weights.sum())
                ]
                for role, count in (("director", 1), ("writer", 2), ("art_director", 1))
            },
        )
        for i in range(500)
    ]
    expected = {}
    for one in records:  # every movie against every other, name by name
        for other in records:
            own, others = (
                {name for role in ROLE_SETS["medium"] for name in record.credits.get(role, ())}
                for record in (one, other)
            )
            if one.id != other.id and own & others:
                expected[one.id, other.id] = len(own & others)
    assert edges_of(build_graph(records, ["medium"])) == expected
    assert len(expected) > 10_000


def test_people_with_too_many_movies_are_left_out_and_named(caplog) -> None:
    records = [movie(f"m{i}", director=["Hub"], writer=[f"Writer {i // 2}"]) for i in range(6)]
    caplog.set_level("INFO")
    graph = build_graph(records, ["medium"], max_movies=5)
    assert len(edges_of(graph)) == 6  # the writers' three pairs, both ways
    assert graph.left_out == (("hub", 6),)
    assert caplog.messages == [
        "1 people with more than 5 movies are left out of the movie graph: hub (6)"
    ]
    assert len(edges_of(build_graph(records, ["medium"], max_movies=6))) == 30


@pytest.mark.parametrize(
    ("credits", "has"),
    [
        ({}, "it has no credits at all"),
        ({"cast": ["A"], "editor": ["B"]}, "it has only cast, edit"),
    ],
)
def test_no_credits_for_a_graph(credits, has) -> None:
    with pytest.raises(UserError) as caught:
        build_graph([movie("a", **credits), movie("b")], ["medium"])
    assert str(caught.value).startswith(
        "no movie of the data set has a director, producer, writer, cinematographer or art "
        f"director, so there is no movie graph ({has}"
    )
    assert str(caught.value).endswith(
        "); gat, mm_gatbt and sign cannot run on it, the other systems can"
    )


# --- stored


@pytest.fixture
def stored(tmp_path):
    save_graph(build_graph(FEW, ["medium"], max_movies=9), tmp_path)
    return tmp_path


def test_a_stored_graph_is_the_same(stored) -> None:
    graph, expected = load_graph(stored), build_graph(FEW, ["medium"], max_movies=9)
    assert edges_of(graph) == edges_of(expected)
    for name in ("ids", "roles", "max_movies", "left_out"):
        assert getattr(graph, name) == getattr(expected, name)


def change(folder, **values) -> None:
    path = folder / "graph.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def save_matrix(folder, matrix) -> None:
    sparse.save_npz(folder / "graph.npz", sparse.csr_array(matrix))


OUT_OF_RANGE = sparse.csr_array(np.eye(5, k=1, dtype=int))
OUT_OF_RANGE.indices[0] = 7


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "graph.json").unlink(), "holds no movie graph (no graph.json)"),
        (lambda f: (f / "graph.json").write_text("{"), "cannot be read (Expecting"),
        (lambda f: (f / "graph.json").write_text("{}"), "cannot be read ('ids')"),
        (lambda f: (f / "graph.npz").write_bytes(b"no"), "cannot be read ("),
        (lambda f: change(f, ids=["a"]), "cannot be read (1 ids for a matrix of (5, 5))"),
        (lambda f: save_matrix(f, np.eye(5, k=1)), "not symmetric with an empty diagonal"),
        (lambda f: save_matrix(f, np.eye(5)), "not symmetric with an empty diagonal"),
        (lambda f: save_matrix(f, OUT_OF_RANGE), "cannot be read ("),
    ],
    ids=["none", "json", "keys", "npz", "ids", "one_way", "diagonal", "indices"],
)
def test_a_spoiled_graph_is_one_sentence(stored, spoil, message) -> None:
    spoil(stored)
    with pytest.raises(UserError) as caught:
        load_graph(stored)
    assert message in str(caught.value)
    assert "make" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_in_the_place_of_numbers_is_refused(stored) -> None:
    np.savez(stored / "graph.npz", data=np.array([{}], dtype=object), format=b"csr")
    with pytest.raises(UserError, match=r"cannot be read \("):
        load_graph(stored)


def test_a_part_of_a_graph_in_another_order() -> None:
    part = build_graph(FEW, ["dense"]).select(["c", "e", "a"])
    assert edges_of(part) == {("c", "a"): 1, ("a", "c"): 1}


def test_a_graph_that_misses_movies_names_them() -> None:
    with pytest.raises(UserError) as caught:
        build_graph(FEW, ["medium"]).select([*"abxyzuvw"])
    assert str(caught.value) == (
        "the movie graph misses 6 of the data set's 8 movies: x, y, z, u, v and 1 more; make it "
        "again with `mmgenre graph`"
    )


# --- figures


def test_figures_of_a_graph() -> None:
    records = [
        movie("a", ("Drama",), "train", director=["A"], writer=["B"]),
        movie("b", ("Drama", "War"), "train", director=["A"], writer=["b"]),
        movie("c", ("War",), "test", director=["A"]),
        movie("d", ("Comedy",), "test"),
        movie("e", (), "train", writer=["Z"]),
        movie("f", (), "test", writer=["Z"]),
    ]
    stats = compute_graph_stats(build_graph(records, ["sparse"]), records)
    assert (stats["nodes"], stats["edges"], stats["isolated"]) == (6, 4, 1)
    assert (stats["components"], stats["largest_component"]) == (3, 3)
    assert stats["degree"] == {"mean": pytest.approx(8 / 6), "median": 1.5, "p95": 2.0, "max": 2.0}
    assert stats["degree_histogram"] == {"edges": [0, 1, 2, 4], "counts": [1, 2, 3]}
    assert stats["shared_people"] == {"1": 3, "2": 1}
    assert stats["hubs"] == [["A", 3], ["B", 2], ["Z", 2]]
    assert stats["with_training_neighbor"] == {"train": 2 / 3, "test": 2 / 3}
    # a-b and b-c share half of their genres, a-c none; e-f have none to share
    assert stats["homophily"]["edges"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    # of the 15 pairs one has no genre, and two share half
    assert stats["homophily"]["random_pairs"] == pytest.approx(1 / 14, abs=1e-3)
