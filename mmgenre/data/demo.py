"""Demo movies made up by code: they need no file and no network, and both modalities.

Three genres show in the poster alone, four in the plot alone. The other three need the two
together: a skyline is no crime, and neither is a theft, but a theft below a skyline is.

    <folder>/
      metadata.jsonl            one movie per line; written last
      demo.json                 what made it: a folder that has it is not made twice
      posters/demo0001.jpg ...  a few .png, a few broken or missing on purpose
"""

import io
import itertools
import json
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from mmgenre.constants import METADATA_FILES
from mmgenre.data.demo_posters import draw_poster
from mmgenre.data.records import SPLITS, VALIDATION
from mmgenre.utils.errors import UserError

MIN_MOVIES = 60

POSTER_GENRES = ("Animation", "Horror", "Western")
PLOT_GENRES = ("Comedy", "Drama", "Romance", "Sci-Fi")
JOINT_GENRES = ("Action", "Adventure", "Crime")

_MARKER_FILE = "demo.json"
_MARKER_VERSION = 1  # raise it when the same arguments give other movies
_CUE_DROP_RATE = 0.01  # a genre of which poster or plot shows nothing
_HALF_CUE_RATE = 0.17  # each half of a joint cue, in a movie without the genre
_MAX_PLOT_CUES = 4
_PNG_EVERY = 40
_DEFECTS = (
    "truncated poster",
    "text as poster",
    "missing poster",
    "null file name",
    "null plot",
    "empty plot",
    "greyscale poster",
    "cmyk poster",
)

# Weights; what goes with what as in MM-IMDb, but no genre is rare.
_GENRE_SETS: dict[tuple[str, ...], int] = {
    ("Drama",): 5,
    ("Drama", "Romance"): 7,
    ("Comedy", "Romance"): 5,
    ("Comedy",): 3,
    ("Comedy", "Drama"): 3,
    ("Comedy", "Drama", "Romance"): 3,
    ("Crime", "Drama"): 6,
    ("Crime",): 2,
    ("Action", "Crime"): 4,
    ("Action", "Crime", "Drama"): 3,
    ("Comedy", "Crime"): 3,
    ("Action", "Adventure"): 4,
    ("Action", "Adventure", "Sci-Fi"): 4,
    ("Action", "Sci-Fi"): 3,
    ("Sci-Fi",): 3,
    ("Drama", "Sci-Fi"): 3,
    ("Horror",): 3,
    ("Horror", "Sci-Fi"): 4,
    ("Drama", "Horror"): 3,
    ("Comedy", "Horror"): 2,
    ("Crime", "Horror"): 2,
    ("Animation", "Comedy"): 4,
    ("Adventure", "Animation", "Comedy"): 4,
    ("Adventure", "Animation"): 3,
    ("Animation", "Sci-Fi"): 2,
    ("Western",): 3,
    ("Drama", "Western"): 3,
    ("Action", "Western"): 3,
    ("Adventure", "Western"): 2,
    ("Romance", "Western"): 2,
}

_SENTENCES = {
    "Comedy": (
        "Everything goes hilariously wrong when {thing} is mistaken for a bride.",
        "A ridiculous mix-up leaves half of {place} stuck in mascot costumes.",
        "One silly fib about {thing} snowballs into a farce.",
        "{hero} and {other} bungle, bicker and pratfall through the wedding of a duchess.",
        "Pranks, puns and one very confused goat do the rest.",
        "An absurd bet forces {hero} to impersonate a ballerina, hilariously badly.",
        "A silly prank on {other} ends in a ridiculous pie fight.",
    ),
    "Drama": (
        "Grief for a dead brother weighs on every evening.",
        "{hero} has to forgive an estranged father before illness takes him.",
        "Old wounds and bitter silence tear the household apart.",
        "Poverty and pride slowly break a proud mother.",
        "A painful confession leaves {hero} facing years of regret.",
        "Years later {other} still mourns and drinks, full of regret.",
        "Illness and grief bring an estranged mother back to {place}.",
    ),
    "Romance": (
        "{hero} falls in love with {other}, who is engaged to somebody else.",
        "Secret love letters and stolen kisses follow.",
        "A passionate affair begins beneath the lanterns of {place}.",
        "Two shy sweethearts finally dare a first kiss.",
        "{other} is smitten, and a tender courtship blossoms over {thing}.",
        "A summer of longing glances ends with {hero} kissing {other}.",
        "The sweethearts elope, leaving only a tender letter and {thing}.",
    ),
    "Sci-Fi": (
        "An alien signal hidden in {thing} changes what everyone knew about space.",
        "A robot with borrowed memories asks {hero} for asylum.",
        "A time machine built from {thing} opens the wrong century.",
        "Far above, a starship full of clones enters orbit.",
        "{other} turns out to be an android from a dying planet.",
        "The colony on the red planet stops answering, and its robot crew mutinies.",
        "Aliens in orbit offer {place} a machine that rewinds time.",
    ),
    "Action": (
        "A breakneck chase over the rooftops follows.",
        "{hero} has one hour to defuse the bomb.",
        "Armed mercenaries ambush the convoy, and {hero} fights back.",
        "The bridge explodes behind {other} in a hail of bullets.",
        "Outgunned, {hero} storms the mercenaries' bunker.",
        "A helicopter chase ends with bullets, fists and a burning truck.",
        "{other} rigs {thing} to a bomb, and the convoy explodes.",
    ),
    "Adventure": (
        "A torn map points to a treasure that nobody has ever reached.",
        "The expedition crosses jungle, glacier and desert.",
        "{hero} sets sail for an uncharted island with {thing} and a parrot.",
        "A perilous trek leads to the ruins of a lost temple.",
        "Shipwrecked, {hero} and {other} follow the explorer's compass.",
        "{other} leads the expedition upriver in search of a lost treasure.",
        "An uncharted jungle hides {thing}, guarded by an ancient riddle.",
    ),
    "Crime": (
        "A gang plans to rob the vault of the richest bank in {place}.",
        "{other} is found murdered, and the alibi has a hole.",
        "The stolen diamonds turn up inside {thing}.",
        "A corrupt detective blackmails {hero} about the heist.",
        "Smugglers hide forged banknotes in {thing}.",
        "{hero} joins the gang for one last heist.",
        "The murder weapon carries the fingerprints of a corrupt judge.",
    ),
}
# They share words with the cues on purpose: love, map, bank, family, machine, letter, island.
_FILLERS = (
    "Nobody in {place} loves the new mayor, least of all {other}.",
    "The map in the town hall is older than the town.",
    "The bank closes at four, as it always does.",
    "A letter from {other} arrives on a Tuesday, unsigned.",
    "The coffee machine breaks, the rain sets in, and {hero} stays for supper.",
    "Meanwhile {other} keeps {thing} on the kitchen table.",
    "The family dog sleeps through all of it.",
    "By the first snow, {place} is no longer the same.",
    "The traffic island outside the office has never looked so green.",
    "It all comes down to {thing} and a promise made long ago.",
)
_OPENINGS = (
    "{hero}, {trait} {job} from {place}, inherits {thing}.",
    "In {place}, {trait} {job} named {hero} meets {other} for the first time.",
    "After eleven years abroad, {hero} returns to {place} as {trait} {job}.",
    "{hero} is {trait} {job} with nothing left but {thing}.",
    "Nobody expects much of {hero}, {trait} {job} in sleepy {place}.",
    "When {other} vanishes from {place}, {trait} {job} called {hero} takes notice.",
)
_TRAITS = (
    "a stubborn", "a retired", "a lonely", "a brilliant", "a clumsy", "a quiet", "a restless",
    "a young", "a famous", "a weary",
)  # fmt: skip
_JOBS = (
    "baker", "librarian", "clockmaker", "beekeeper", "postman", "tailor", "botanist", "piano tuner",
    "lighthouse keeper", "schoolteacher", "taxi driver", "umbrella maker", "nurse", "carpenter",
)  # fmt: skip
_PLACES = (
    "Port Ember", "Willowmere", "Saltmarsh", "Quince Hollow", "Old Brindle", "Harrowgate Bay",
    "Tin Harbour", "Larkspur", "Vale of Moss", "Kettle Falls", "Novi Brod", "Santa Pomela",
)  # fmt: skip
_THINGS = (
    "a brass telescope", "an empty suitcase", "a borrowed piano", "a jar of marbles",
    "a red umbrella", "a box of candles", "an old tractor", "a wooden horse", "a broken violin",
    "a crate of oranges", "a grandfather clock", "a blue teapot",
)  # fmt: skip
_ADJECTIVES = (
    "Hidden", "Second", "Crooked", "Silver", "Borrowed", "Paper", "Distant", "Hollow", "Northern",
    "Patient", "Velvet", "Wandering",
)  # fmt: skip
_NOUNS = (
    "Orchard", "Window", "Season", "Garden", "Bridge", "Winter", "Mirror", "Lantern", "Harvest",
    "Corridor", "Station", "Feather",
)  # fmt: skip
_FIRST_NAMES = (
    "Ada", "Bruno", "Cleo", "Dario", "Edda", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Kiki",
    "Lazlo", "Mira", "Nils", "Olga", "Piet", "Quentin", "Rosa", "Sven", "Thea", "Ugo", "Vera",
)  # fmt: skip
_LAST_NAMES = (
    "Abernook", "Brambleby", "Castellane", "Dunmorrow", "Eisenpfad", "Fennimoor", "Grubwald",
    "Hathersedge", "Ilvermost", "Jolibois", "Kestrelli", "Lindqvest", "Mossgrave", "Nightinglow",
    "Okonedra", "Pumpernell", "Quillfeather", "Rastovar", "Snodgrove", "Tamarinde", "Umbercroft",
    "Vandermoss", "Wexelberg", "Yarrowick", "Zabrinska",
)  # fmt: skip
# How many people of each role a genre has to itself; the last three roles work on anything.
_GENRE_ROLES = {"director": 6, "producer": 4, "writer": 6}
_CREW_ROLES = {"cinematographer": 30, "art director": 30, "editor": 30}
_FAVOURITE_GENRE_RATE = 0.8


@dataclass(frozen=True)
class DemoMovie:
    """One movie, with what its poster and its plot are allowed to show.

    Attributes:
        poster_cues: Genres that `draw_poster` draws: poster genres and joint genres.
        plot_cues: Genres that the plot speaks of: plot genres and joint genres.
    """

    id: str
    title: str
    year: int
    genres: tuple[str, ...]
    split: str
    poster_cues: frozenset[str]
    plot_cues: frozenset[str]
    plot: str
    credits: dict[str, list[str]]


def write_demo_movies(folder: Path, *, num_movies: int = 1200, seed: int = 0) -> Path:
    """Write the demo into `folder` in format D, or return at once where it is there already.

    Raises:
        UserError: There are too few movies to hold the defects, or the folder holds other files.
    """
    if num_movies < MIN_MOVIES:
        raise UserError(f"num_movies is {num_movies}; the demo needs at least {MIN_MOVIES}")
    metadata_path, marker_path = folder / METADATA_FILES[0], folder / _MARKER_FILE
    marker = json.dumps({"version": _MARKER_VERSION, "num_movies": num_movies, "seed": seed})
    if folder.exists() and any(folder.iterdir()) and not marker_path.exists():
        raise UserError(
            f"{folder} holds files that are not the demo's; name an empty or a new folder"
        )
    if metadata_path.exists() and marker_path.read_text(encoding="utf-8") == marker:
        return folder
    # Without metadata the folder counts as unfinished, whatever happens from here on.
    metadata_path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    marker_path.write_text(marker, encoding="utf-8")
    (folder / "posters").mkdir(exist_ok=True)
    for old_poster in (folder / "posters").iterdir():
        old_poster.unlink()

    movies = create_demo_movies(num_movies, seed)
    defects = _choose_defects(movies, seed)
    records = [_write_movie(folder, movie, defects.get(movie.id), seed) for movie in movies]
    unfinished_path = folder / f"{metadata_path.name}.tmp"
    unfinished_path.write_text(
        "".join(json.dumps(record) + "\n" for record in records), encoding="utf-8"
    )
    unfinished_path.replace(metadata_path)
    return folder


def create_demo_movies(num_movies: int, seed: int) -> list[DemoMovie]:
    """Make up the movies: two thirds to train, a sixth to validation, a sixth to test."""
    rng = Random(f"demo-movies-{seed}")
    held_out = num_movies // 6
    sizes = (num_movies - 2 * held_out, held_out, held_out)
    people = _create_people(rng)
    movies: list[DemoMovie] = []
    for split, size in zip(SPLITS, sizes, strict=True):
        for genres in _spread_genre_sets(rng, size):
            poster_cues, plot_cues = _choose_cues(rng, genres)
            movies.append(
                DemoMovie(
                    id=f"demo{len(movies) + 1:04d}",
                    title=f"The {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}",
                    year=rng.randint(1950, 2015),
                    genres=genres,
                    split=split,
                    poster_cues=poster_cues,
                    plot_cues=plot_cues,
                    plot=_write_plot(rng, plot_cues),
                    credits=_choose_credits(rng, people, genres),
                )
            )
    return movies


def _spread_genre_sets(rng: Random, size: int) -> list[tuple[str, ...]]:
    """Each genre set as often as its weight says, so that no small split lacks a genre."""
    total = sum(_GENRE_SETS.values())
    ends = list(itertools.accumulate(_GENRE_SETS.values()))
    names = list(_GENRE_SETS)
    offset = rng.random()
    spread = []
    for index in range(size):
        position = (index + offset) / size * total
        spread.append(next(name for name, end in zip(names, ends, strict=True) if position < end))
    rng.shuffle(spread)
    return spread


def _choose_cues(rng: Random, genres: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """What the poster shows and what the plot speaks of: see `DemoMovie`."""
    poster_cues: set[str] = set()
    plot_cues: set[str] = set()
    for genre in genres:
        if genre not in PLOT_GENRES and rng.random() >= _CUE_DROP_RATE:
            poster_cues.add(genre)
        if genre not in POSTER_GENRES and rng.random() >= _CUE_DROP_RATE:
            plot_cues.add(genre)
    for genre in JOINT_GENRES:
        if genre in genres:
            continue
        chance = rng.random()
        if chance < _HALF_CUE_RATE:
            poster_cues.add(genre)
        elif chance < 2 * _HALF_CUE_RATE and len(plot_cues) < _MAX_PLOT_CUES:
            plot_cues.add(genre)
    return frozenset(poster_cues), frozenset(plot_cues)


def _write_plot(rng: Random, cues: Set[str]) -> str:
    sentences = [rng.choice(_SENTENCES[cue]) for cue in sorted(cues)]
    num_fillers = max(2 - len(sentences), rng.randint(0, 2))
    sentences += rng.sample(_FILLERS, min(num_fillers, _MAX_PLOT_CUES - len(sentences)))
    rng.shuffle(sentences)
    hero, other = rng.sample(_FIRST_NAMES, 2)
    return " ".join([rng.choice(_OPENINGS), *sentences]).format(
        hero=hero,
        other=other,
        place=rng.choice(_PLACES),
        thing=rng.choice(_THINGS),
        trait=rng.choice(_TRAITS),
        job=rng.choice(_JOBS),
    )


def _create_people(rng: Random) -> dict[str, dict[str, list[str]]]:
    """Names by role and favourite genre; crew roles have the one favourite "any"."""
    names = [f"{first} {last}" for first in _FIRST_NAMES for last in _LAST_NAMES]
    rng.shuffle(names)
    genres = sorted(POSTER_GENRES + PLOT_GENRES + JOINT_GENRES)
    people = {
        role: {genre: [names.pop() for _ in range(size)] for genre in genres}
        for role, size in _GENRE_ROLES.items()
    }
    for role, size in _CREW_ROLES.items():
        people[role] = {"any": [names.pop() for _ in range(size)]}
    return people


def _choose_credits(
    rng: Random, people: dict[str, dict[str, list[str]]], genres: tuple[str, ...]
) -> dict[str, list[str]]:
    credits = {}
    for role, names_by_genre in people.items():
        names = []
        for _ in range(rng.randint(1, 2)):
            is_typical = role in _GENRE_ROLES and rng.random() < _FAVOURITE_GENRE_RATE
            genre = rng.choice(genres if is_typical else sorted(names_by_genre))
            names.append(rng.choice(names_by_genre[genre]))
        credits[role] = sorted(set(names))
    return credits


def _choose_defects(movies: list[DemoMovie], seed: int) -> dict[str, str]:
    """Movie id to its defect: each kind once in train, one more in validation, none in test."""
    rng = Random(f"demo-defects-{seed}")
    train_ids = [movie.id for movie in movies if movie.split == SPLITS[0]]
    validation_ids = [movie.id for movie in movies if movie.split == VALIDATION]
    defects = dict(zip(rng.sample(train_ids, len(_DEFECTS)), _DEFECTS, strict=True))
    defects[rng.choice(validation_ids)] = "truncated poster"
    return defects


def _write_movie(folder: Path, movie: DemoMovie, defect: str | None, seed: int) -> dict[str, Any]:
    """Write the poster and return the line of metadata."""
    image = draw_poster(Random(f"demo-poster-{seed}-{movie.id}"), movie.poster_cues, movie.title)
    if defect == "greyscale poster":
        image = image.convert("L")
    elif defect == "cmyk poster":
        image = image.convert("CMYK")
    is_png = defect is None and int(movie.id.removeprefix("demo")) % _PNG_EVERY == 0
    buffer = io.BytesIO()
    image.save(buffer, format="PNG" if is_png else "JPEG")
    content = buffer.getvalue()
    if defect == "truncated poster":
        content = content[: len(content) // 3]
    elif defect == "text as poster":
        content = b"404: the poster is on holiday\n"
    file_name = f"posters/{movie.id}{'.png' if is_png else '.jpg'}"
    if defect not in ("missing poster", "null file name"):
        (folder / file_name).write_bytes(content)
    return {
        "file_name": None if defect == "null file name" else file_name,
        "id": movie.id,
        "title": movie.title,
        "year": movie.year,
        "plot": {"null plot": None, "empty plot": ""}.get(defect or "", movie.plot),
        "genres": list(movie.genres),
        "split": movie.split,
        **movie.credits,
    }
