"""Draws the demo posters. Every cue is a shape that survives the training augmentation.

Colour jitter moves hues and a random resized crop removes up to a third of the height, so no cue
is a mere colour and each one reaches into the middle of the poster.
"""

import colorsys
import math
from collections.abc import Set
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 96, 144  # pixels
Colour = tuple[int, int, int]

_INK: Colour = (12, 10, 14)


def draw_poster(rng: Random, cues: Set[str], title: str) -> Image.Image:
    """An RGB poster of 96 x 144 pixels.

    Args:
        cues: The genres to show, out of Action (a spiky burst), Adventure (snowy peaks), Animation
            (a goggle-eyed face), Crime (a skyline with lit windows), Horror (claw marks in the
            dark) and Western (a striped sun over cacti). Other names draw nothing.
        title: Printed on a bar; the title carries no signal.
    """
    is_dark = "Horror" in cues or rng.random() < 0.25
    value = (0.15, 0.35) if is_dark else (0.55, 0.9)
    image = _gradient(_random_colour(rng, value), _random_colour(rng, value))
    draw = ImageDraw.Draw(image)
    horizon = rng.randint(98, 108)
    _draw_clutter(rng, draw)
    if "Western" in cues:
        _draw_sun(rng, draw, horizon)
    if "Adventure" in cues:
        _draw_peaks(rng, draw, horizon)
    if "Crime" in cues:
        _draw_skyline(rng, draw, horizon)
    draw.rectangle((0, horizon, WIDTH, HEIGHT), fill=_random_colour(rng, (0.25, 0.6)))
    if "Western" in cues:
        _draw_cacti(rng, draw, horizon)
    if "Action" in cues:
        _draw_burst(rng, draw)
    if "Animation" in cues:
        _draw_face(rng, draw)
    if "Horror" in cues:
        _draw_claw_marks(rng, draw)
    _draw_title(rng, draw, title)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0.0, 8.0, (HEIGHT, WIDTH, 1))
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))


def _random_colour(rng: Random, value: tuple[float, float]) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 0.9), rng.uniform(*value))
    return int(255 * red), int(255 * green), int(255 * blue)


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    weights = np.linspace(0.0, 1.0, HEIGHT)[:, None, None]
    column = np.array(top) * (1 - weights) + np.array(bottom) * weights
    return Image.fromarray(np.broadcast_to(column, (HEIGHT, WIDTH, 3)).astype(np.uint8))


def _draw_clutter(rng: Random, draw: ImageDraw.ImageDraw) -> None:
    for _ in range(rng.randint(1, 4)):
        x, y, size = rng.randint(0, WIDTH), rng.randint(0, HEIGHT), rng.randint(8, 28)
        colour = _random_colour(rng, (0.3, 0.8))
        shape = rng.choice(("disc", "ring", "box", "line"))
        if shape == "disc":
            draw.ellipse((x - size // 2, y - size // 2, x + size // 2, y + size // 2), fill=colour)
        elif shape == "ring":
            draw.ellipse((x - size, y - size, x + size, y + size), outline=colour, width=2)
        elif shape == "box":
            draw.rectangle((x - size, y - size // 3, x + size, y + size // 3), outline=colour)
        else:
            draw.line((x, y, rng.randint(0, WIDTH), rng.randint(0, HEIGHT)), fill=colour, width=2)


def _draw_sun(rng: Random, draw: ImageDraw.ImageDraw, horizon: int) -> None:
    x, radius = rng.randint(36, 60), rng.randint(34, 40)
    disc = (x - radius, horizon - radius - 14, x + radius, horizon + radius - 14)
    draw.ellipse(disc, fill=(255, 190 + rng.randint(-20, 30), 60))
    for y in range(horizon - 8, horizon - radius - 14, -9):  # stripes: not just any other disc
        draw.rectangle((disc[0], y - 3, disc[2], y), fill=(190, 70, 30))


def _draw_cacti(rng: Random, draw: ImageDraw.ImageDraw, horizon: int) -> None:
    for x in (rng.randint(13, 26), rng.randint(68, 83)):
        foot, top = horizon + rng.randint(6, 12), horizon - rng.randint(30, 40)
        arm = rng.randint(horizon - 18, horizon - 12)
        parts = (
            (x - 4, top, x + 4, foot),
            (x - 12, arm, x + 12, arm + 5),
            (x - 13, arm - 14, x - 8, arm + 5),
            (x + 8, arm - 9, x + 13, arm + 5),
        )
        for left, upper, right, lower in parts:  # a rim: the skyline behind is as black
            draw.rectangle((left - 2, upper - 2, right + 2, lower + 2), fill=(235, 205, 150))
        for part in parts:
            draw.rectangle(part, fill=_INK)


def _draw_peaks(rng: Random, draw: ImageDraw.ImageDraw, horizon: int) -> None:
    rock = _random_colour(rng, (0.25, 0.45))
    for x in (rng.randint(8, 22), rng.randint(74, 88), rng.randint(40, 56)):
        height, half = rng.randint(56, 72), rng.randint(26, 32)
        top = horizon - height
        draw.polygon([(x, top), (x - half, horizon), (x + half, horizon)], fill=rock)
        snow = int(0.4 * half)
        snow_line = top + int(0.4 * height)
        edge = [(x + snow, snow_line), (x, snow_line - 6), (x - snow, snow_line)]
        draw.polygon([(x, top), *edge], fill=(245, 248, 255))


def _draw_skyline(rng: Random, draw: ImageDraw.ImageDraw, horizon: int) -> None:
    x = -rng.randint(0, 8)
    while x < WIDTH:
        width, top = rng.randint(13, 20), horizon - rng.randint(20, 52)
        draw.rectangle((x, top, x + width - 2, horizon), fill=_INK)
        for window_y in range(top + 3, horizon - 3, 7):
            for window_x in range(x + 2, x + width - 5, 6):
                if rng.random() < 0.8:
                    draw.rectangle(
                        (window_x, window_y, window_x + 2, window_y + 3), fill=(255, 235, 130)
                    )
        x += width


def _draw_burst(rng: Random, draw: ImageDraw.ImageDraw) -> None:
    x, y, radius = rng.randint(30, 66), rng.randint(40, 58), rng.randint(28, 34)
    turn, spikes = rng.random(), 11
    for scale, colour in ((1.0, (225, 50, 20)), (0.7, (255, 205, 40)), (0.35, (255, 255, 235))):
        points = []
        for corner in range(2 * spikes):
            reach = scale * radius * (1.0 if corner % 2 == 0 else 0.5)
            angle = math.pi * (corner + turn) / spikes
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        draw.polygon(points, fill=colour)


def _draw_face(rng: Random, draw: ImageDraw.ImageDraw) -> None:
    x, y, radius = rng.randint(30, 66), rng.randint(84, 96), rng.randint(22, 27)
    skin = _random_colour(rng, (0.9, 1.0))
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill=skin, outline=_INK, width=3)
    look = rng.randint(-3, 3)
    for eye in (x - 10, x + 10):
        draw.ellipse((eye - 9, y - 16, eye + 9, y + 4), fill=(255, 255, 255), outline=_INK, width=2)
        draw.ellipse((eye + look - 4, y - 9, eye + look + 4, y), fill=_INK)
    draw.chord((x - 13, y - 6, x + 13, y + 19), 20, 160, fill=(150, 20, 40))


def _draw_claw_marks(rng: Random, draw: ImageDraw.ImageDraw) -> None:
    lean = rng.choice((-1, 1)) * rng.randint(24, 36)
    top, bottom = rng.randint(22, 32), rng.randint(104, 118)
    middle = rng.randint(42, 54)
    for offset in (-24, -8, 8, 24):
        x = middle + offset
        upper, lower = x + lean // 2, x - lean // 2
        belly_y = (top + bottom) // 2
        for half_width, colour in ((6, _INK), (4, (215, 15, 25))):
            draw.polygon(
                [
                    (upper, top),
                    (x + half_width, belly_y),
                    (lower, bottom),
                    (x - half_width, belly_y),
                ],
                fill=colour,
            )


def _draw_title(rng: Random, draw: ImageDraw.ImageDraw, title: str) -> None:
    font = ImageFont.load_default_imagefont()
    y = rng.choice((2, HEIGHT - 30))
    draw.rectangle((0, y, WIDTH, y + 27), fill=_random_colour(rng, (0.1, 0.4)))
    words = title.split()
    half = (len(words) + 1) // 2
    for line, text in enumerate((" ".join(words[:half]), " ".join(words[half:]))):
        draw.text((4, y + 2 + 12 * line), text, fill=(240, 240, 235), font=font)
