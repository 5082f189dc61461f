"""The people of a movie: whom roles name, and when two names are one person's."""

import re
import unicodedata
from collections.abc import Iterable

from mmgenre.data.readers._fields import CREDIT_ROLES
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError

# Seo et al. 2022, section 3.1, and their code.
ROLE_SETS = {
    "sparse": ("director", "producer", "writer"),
    "medium": ("director", "producer", "writer", "cinematographer", "art director"),
    "dense": (
        *("director", "producer", "writer", "cinematographer", "art director"),
        *("assistant director", "editor"),
    ),
}


def expand_roles(names: Iterable[str]) -> tuple[str, ...]:
    """Roles by name, where `sparse`, `medium` and `dense` stand for a set of them.

    Raises:
        UserError: A name is neither.
    """
    roles: dict[str, None] = {}
    for name in names:
        if name not in ROLE_SETS and name not in CREDIT_ROLES:
            known = ", ".join((*ROLE_SETS, *CREDIT_ROLES))
            raise UserError(f"role {name!r} is unknown; it can be {known}")
        roles.update(dict.fromkeys(ROLE_SETS.get(name, (name,))))
    return tuple(roles)


def normalize_name(name: str) -> str:
    """What two spellings of a person's name have in common: neither case nor spaces count."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def plot_with_credits(record: MovieRecord, roles: Iterable[str]) -> str | None:
    """A movie's plot, and after it a word for each person who has one of the roles.

    A person is the same word in whatever role, and no word that a plot has.
    """
    names = {normalize_name(name) for role in roles for name in record.credits.get(role, ())}
    people = [re.sub(r"\W+", "_", f"credit {name}") for name in sorted(names)]
    return " ".join([record.plot or "", *people]) if people else record.plot
