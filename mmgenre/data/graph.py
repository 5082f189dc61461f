"""The movie graph: movies are nodes, and two that share a person in their credits have an edge.

<folder>/
  graph.json   ids of the movies in node order, roles, cap, people left out; written last
  graph.npz    the adjacency matrix (scipy's sparse format, without pickle)
"""

import json
import logging
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse

from mmgenre.constants import GRAPH_FILE, GRAPH_MATRIX_FILE
from mmgenre.data.credits import expand_roles, normalize_name
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

_SHOWN = 5


@dataclass(frozen=True)
class MovieGraph:
    """Who is joined to whom.

    Attributes:
        ids: Of the movies, in node order.
        adjacency: (nodes, nodes), symmetric: the number of shared people; the diagonal is empty.
        roles: Roles whose people count.
        max_movies: People with more movies than this join none; None is no cap.
        left_out: Those people and how many movies they have.
    """

    ids: tuple[str, ...]
    adjacency: sparse.csr_array
    roles: tuple[str, ...]
    max_movies: int | None = None
    left_out: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, ids: Sequence[str]) -> "MovieGraph":
        """The graph of these movies alone, in this order.

        Raises:
            UserError: The graph misses one of them; the message names the first.
        """
        place = {movie_id: i for i, movie_id in enumerate(self.ids)}
        missing = [movie_id for movie_id in ids if movie_id not in place]
        if missing:
            shown = ", ".join(missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise UserError(
                f"the movie graph misses {len(missing)} of the data set's {len(ids)} movies: "
                f"{shown}{more}; make it again with `mmgenre graph`"
            )
        nodes = np.array([place[movie_id] for movie_id in ids], dtype=np.int64)
        adjacency = sparse.csr_array(self.adjacency[nodes][:, nodes])
        adjacency.sort_indices()  # dropout falls on edges in their order
        return MovieGraph(tuple(ids), adjacency, self.roles, self.max_movies, self.left_out)


def build_graph(
    records: Sequence[MovieRecord], roles: Iterable[str], max_movies: int | None = None
) -> MovieGraph:
    """Join movies that share a person, whatever the person's role in each.

    With B the (movies, people) incidence matrix, the weights are the off-diagonal part of B Bᵀ.

    Args:
        roles: As in `expand_roles`; none gives a graph without edges.
        max_movies: Leave people out who have more movies than this, and log who they are: one
            person's n movies make n (n - 1) / 2 edges.

    Raises:
        UserError: A role is unknown, or no movie has a name in any of the roles.
    """
    roles = expand_roles(roles)
    people: dict[str, int] = {}
    columns: list[int] = []
    ends = [0]
    for record in records:
        names = {normalize_name(name) for role in roles for name in record.credits.get(role, ())}
        columns += [people.setdefault(name, len(people)) for name in sorted(names - {""})]
        ends.append(len(columns))
    if roles and not people:
        raise _no_graph(records, roles)
    left_out: tuple[tuple[str, int], ...] = ()
    ones = np.ones(len(columns), dtype=np.int32)
    incidence = sparse.csr_array((ones, columns, ends), shape=(len(records), len(people)))
    if max_movies is not None:
        counts = incidence.sum(axis=0)
        names_in_order = list(people)
        hubs = sorted(np.flatnonzero(counts > max_movies), key=lambda i: -counts[i])
        left_out = tuple((names_in_order[i], int(counts[i])) for i in hubs)
        incidence = sparse.csr_array(incidence[:, counts <= max_movies])
        if left_out:
            shown = ", ".join(f"{name} ({count})" for name, count in left_out[:_SHOWN])
            more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
            logger.info(
                "%d people with more than %d movies are left out of the movie graph: %s%s",
                *(len(left_out), max_movies, shown, more),
            )
    adjacency = sparse.csr_array(incidence @ incidence.T)
    adjacency.setdiag(0)
    adjacency.eliminate_zeros()
    adjacency.sort_indices()
    return MovieGraph(tuple(r.id for r in records), adjacency, roles, max_movies, left_out)


def _no_graph(records: Iterable[MovieRecord], roles: Sequence[str]) -> UserError:
    there = sorted({role for record in records for role, names in record.credits.items() if names})
    wanted = " or ".join(filter(None, (", ".join(roles[:-1]), roles[-1])))
    has = f"it has only {', '.join(there)}" if there else "it has no credits at all"
    return UserError(
        f"no movie of the data set has a {wanted}, so there is no movie graph ({has}); gat, "
        "mm_gatbt and sign cannot run on it, the other systems can"
    )


def save_graph(graph: MovieGraph, folder: Path) -> None:
    """Write a graph into a folder that exists; the folder's layout is in the module's docstring.

    Raises:
        UserError: It cannot be written.
    """
    about = {
        "roles": graph.roles,
        "max_movies": graph.max_movies,
        "left_out": graph.left_out,
        "ids": graph.ids,
    }
    try:
        (folder / GRAPH_FILE).unlink(missing_ok=True)
        sparse.save_npz(folder / GRAPH_MATRIX_FILE, graph.adjacency)
        text = json.dumps(about, ensure_ascii=False, indent=0)
        (folder / GRAPH_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"the movie graph cannot be written to {folder}: {error}") from error


def load_graph(folder: Path) -> MovieGraph:
    """Read what `save_graph` wrote.

    Raises:
        UserError: It is not there, or not whole.
    """
    if not (folder / GRAPH_FILE).is_file():
        raise UserError(
            f"{folder} holds no movie graph (no {GRAPH_FILE}); make one with `mmgenre graph`"
        )
    try:
        about = json.loads((folder / GRAPH_FILE).read_text(encoding="utf-8"))
        adjacency = sparse.csr_array(sparse.load_npz(folder / GRAPH_MATRIX_FILE))
        adjacency.check_format(full_check=True)
        adjacency.sort_indices()
        graph = MovieGraph(
            tuple(about["ids"]),
            adjacency,
            tuple(about["roles"]),
            about["max_movies"],
            tuple((name, count) for name, count in about["left_out"]),
        )
        if adjacency.shape != (len(graph), len(graph)):
            raise ValueError(f"{len(graph)} ids for a matrix of {adjacency.shape}")
        if adjacency.diagonal().any() or (adjacency != adjacency.T).nnz:
            raise ValueError("the matrix is not symmetric with an empty diagonal")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"the movie graph in {folder} cannot be read ({reason}); make it again with "
            "`mmgenre graph`"
        ) from error
    return graph
