"""The processor: the report's preprocessing, every kind of poster, movies that lack something."""

import numpy as np
import pytest
import torch
from PIL import Image
from systems import create
from torchvision import transforms

from mmgenre.models.processing_mmgenre import MMGenreProcessor

PLOT = "a war on the moon."


@pytest.fixture
def create_processor(tiny_config, tokenizer):
    return lambda **changes: MMGenreProcessor.from_config(tiny_config(**changes), tokenizer)


def report_s_pixels(picture, size=64):
    """The report's transform for validation (section 4.2)."""
    transform = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    return transform(picture)


def steps(pixels, expected):
    """The largest difference of two pictures, in steps of their 256 levels."""
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return ((pixels - expected).abs() * std * 255).max().item()


@pytest.mark.parametrize("image_size", [64, 200])
def test_posters_are_preprocessed_as_in_the_report(create_processor, picture, image_size):
    processor = create_processor(image_size=image_size)
    pixels = processor(images=picture, text=PLOT)["pixel_values"]
    assert pixels.dtype == torch.float32
    assert pixels.shape == (1, 3, image_size, image_size)
    assert steps(pixels[0], report_s_pixels(picture, image_size)) <= 2


def test_mean_and_std_are_the_config_s(create_processor):
    processor = create_processor(image_mean=[0.0, 0.5, 1.0], image_std=[1.0, 0.5, 0.25])
    white = Image.new("RGB", (8, 8), "white")
    pixels = processor(images=white, text=PLOT)["pixel_values"]
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("size", [(90, 120), (200, 90), (70, 70)])
def test_posters_are_cropped_as_in_mmbt(create_processor, picture, size):
    picture = picture.resize(size)
    transform = transforms.Compose(
        [
            transforms.Resize(80),
            transforms.CenterCrop(64),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    processor = create_processor(image_resize=80)
    pixels = processor(images=[picture, None], text=[PLOT] * 2)["pixel_values"]
    assert pixels.shape == (2, 3, 64, 64)
    assert steps(pixels[0], transform(picture)) <= 2


@pytest.mark.parametrize("image_resize", [None, 80])
def test_a_poster_that_augmentation_has_cropped_stays_as_it_is(
    create_processor, picture, image_resize
):
    picture = picture.resize((64, 64))
    processor = create_processor(image_resize=image_resize)
    pixels = processor.encode_images([picture], are_cropped=True)["pixel_values"]
    assert steps(pixels[0], report_s_pixels(picture)) < 0.01


@pytest.mark.parametrize("kind", ["path", "str", "numpy", "torch"])
def test_posters_come_in_any_form(create_processor, picture, tmp_path, kind):
    picture.save(tmp_path / "poster.png")
    array = np.array(picture)
    poster = {
        "path": tmp_path / "poster.png",
        "str": str(tmp_path / "poster.png"),
        "numpy": array,
        "torch": torch.from_numpy(array).permute(2, 0, 1),
    }[kind]
    processor = create_processor()
    expected = processor(images=picture, text=PLOT)["pixel_values"]
    single = processor(images=poster, text=PLOT)["pixel_values"]
    assert steps(single[0], expected[0]) <= 1
    # a list whose posters differ in size and kind
    several = processor(images=[poster, None, picture.resize((40, 30))], text=[PLOT] * 3)
    assert torch.equal(several["pixel_values"][0], single[0])
    assert not several["pixel_values"][1].any()


def test_a_list_is_its_single_movies(create_processor, picture):
    processor = create_processor(padding="max_length")
    pictures, plots = [picture, picture.rotate(90, expand=True)], [PLOT, "two dogs"]
    together = processor(images=pictures, text=plots)
    for i in range(2):
        alone = processor(images=pictures[i], text=plots[i])
        for name, value in together.items():
            assert torch.equal(value[i : i + 1], alone[name]), name


def grey(picture):
    return picture.convert("L")


def cmyk(picture):
    return picture.convert("CMYK")


def transparent(picture):
    picture = picture.convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def rotated(picture):
    picture.getexif()[0x0112] = 6
    return picture


@pytest.mark.parametrize("convert", [grey, cmyk, transparent, rotated])
def test_an_opened_picture_of_any_kind_is_its_file(create_processor, picture, tmp_path, convert):
    path = tmp_path / "poster.tiff"
    opened = convert(picture)
    opened.save(path, exif=opened.getexif())
    processor = create_processor()
    from_file = processor(images=path, text=PLOT)["pixel_values"]
    assert torch.equal(processor(images=opened, text=PLOT)["pixel_values"], from_file)
    assert from_file.shape == (1, 3, 64, 64)


def test_transparent_pictures_are_laid_over_white(create_processor):
    pixels = create_processor()(images=Image.new("RGBA", (8, 8)), text=PLOT)["pixel_values"]
    white = report_s_pixels(Image.new("RGB", (8, 8), "white"))
    torch.testing.assert_close(pixels[0], white)


def test_a_broken_file_is_an_os_error(create_processor, tmp_path):
    (tmp_path / "poster.jpg").write_text("no picture", encoding="utf-8")
    with pytest.raises(OSError, match="not a picture"):
        create_processor()(images=tmp_path / "poster.jpg", text=PLOT)


# --- plots


def test_plots_are_tokenised_cut_and_padded(create_processor, tokenizer):
    plots = ["two dogs", PLOT, PLOT * 10]
    longest = create_processor(modalities=["text"])(text=plots)
    assert longest["input_ids"].shape == (3, 16)
    cls, sep, pad = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[PAD]"])
    words = tokenizer.encode("two dogs", add_special_tokens=False)
    real = len(words) + 2
    assert longest["input_ids"][0].tolist() == [cls, *words, sep] + [pad] * (16 - real)
    assert longest["attention_mask"].sum(dim=1)[0] == real
    assert longest["input_ids"][2, [0, -1]].tolist() == [cls, sep]
    assert set(longest) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        # the two words and the two special tokens, to a multiple of 8 where the limit is one
        ({"max_length": 16}, 8),
        ({"max_length": 12}, 4),
        ({"max_length": 3}, 3),
        ({"max_length": 16, "padding": "max_length"}, 16),
    ],
)
def test_short_plots_are_padded_no_further_than_asked(create_processor, changes, length):
    inputs = create_processor(modalities=["text"], **changes)(text="two dogs")
    assert inputs["input_ids"].shape == (1, length)
    assert inputs["attention_mask"].sum() == min(4, length)


# --- missing modalities


@pytest.mark.parametrize("nothing", [None, ""])
def test_absent_modalities_are_filled_as_in_the_report(create_processor, picture, nothing):
    processor = create_processor()
    filled = processor(images=[picture, None], text=[nothing, PLOT])
    spelled = processor(images=[picture, picture], text=["No plot found.", PLOT])
    assert torch.equal(filled["input_ids"], spelled["input_ids"])
    assert torch.equal(filled["attention_mask"], spelled["attention_mask"])
    assert torch.equal(filled["pixel_values"][0], spelled["pixel_values"][0])
    assert torch.equal(filled["pixel_values"][1], torch.zeros(3, 64, 64))
    assert set(filled) == {"pixel_values", "input_ids", "attention_mask"}


def test_the_replacement_plot_is_the_config_s(create_processor):
    processor = create_processor(missing_plot="two dogs", modalities=["text"])
    assert torch.equal(processor(text=[""])["input_ids"], processor(text="two dogs")["input_ids"])


def test_learned_replacements_get_masks(create_processor, picture):
    processor = create_processor(missing_modality="learned")
    inputs = processor(images=[picture, None, picture], text=[PLOT, PLOT, None])
    assert inputs["image_present"].tolist() == [True, False, True]
    assert inputs["text_present"].tolist() == [True, True, False]
    assert inputs["image_present"].dtype == inputs["text_present"].dtype == torch.bool
    # of the absent plot, the start and the end remain
    assert inputs["attention_mask"].sum(dim=1)[2] == 2


@pytest.mark.parametrize("missing_modality", ["fill", "learned"])
def test_a_whole_modality_may_be_left_out(create_processor, tiny_model, picture, missing_modality):
    processor = create_processor(missing_modality=missing_modality)
    model = tiny_model(missing_modality=missing_modality)
    for inputs, expected in (
        (processor(images=picture), processor(images=[picture], text=[None])),
        (processor(text=PLOT), processor(images=[None], text=[PLOT])),
    ):
        assert inputs.keys() == expected.keys()
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)
        assert model(**inputs).logits.shape == (1, 4)


@pytest.mark.parametrize("missing_modality", ["fill", "learned"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_processor_of_one_modality_feeds_its_model(
    create_processor, tiny_model, picture, modality, missing_modality
):
    changes = {"modalities": [modality], "missing_modality": missing_modality}
    inputs = create_processor(**changes)(images=[picture, None], text=[PLOT, None])
    assert ("pixel_values" in inputs) == (modality == "image")
    assert ("input_ids" in inputs) == (modality == "text")
    assert tiny_model(**changes)(**inputs).logits.shape == (2, 4)


# --- saving and errors


def test_a_loaded_processor_is_the_saved_one(create_processor, picture, tmp_path):
    processor = create_processor(
        image_size=32,
        image_mean=[0.1, 0.2, 0.3],
        max_length=8,
        padding="max_length",
        missing_modality="learned",
        missing_plot="two dogs",
    )
    processor.save_pretrained(tmp_path)
    loaded = MMGenreProcessor.from_pretrained(tmp_path)
    for name in ("modalities", "max_length", "padding", "missing_modality", "missing_plot"):
        assert getattr(loaded, name) == getattr(processor, name)
    movies = {"images": [picture, None], "text": [None, PLOT * 3]}
    before, after = processor(**movies), loaded(**movies)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("movies", "message"),
    [
        ({"images": [None], "text": [PLOT, PLOT]}, "1 images were given with 2 texts"),
        ({"images": [None, None], "text": PLOT}, "2 images were given with 1 texts"),
        ({}, "give images, text or features"),
    ],
)
def test_lists_that_do_not_fit_are_refused(create_processor, movies, message):
    with pytest.raises(ValueError, match=message):
        create_processor()(**movies)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"text_config": {"vocab_size": 20}},
            r"has \d+ tokens, but the text encoder has embeddings for 20; take both from the same",
        ),
        ({"max_length": 33}, "max_length is 33; the text encoder has 32 positions"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_encoder_is_refused(create_processor, changes, message):
    with pytest.raises(ValueError, match=message):
        create_processor(**changes)


# --- models without plots


def test_a_processor_without_a_tokenizer_saves_and_loads(tiny_config, picture, tmp_path):
    config = tiny_config(modalities=["image"], image_resize=80)
    processor = MMGenreProcessor.from_config(config, None)
    processor.save_pretrained(tmp_path)
    code = [f"{name}.py" for name in ("processing_mmgenre", "pictures", "base", "backbones")]
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"processor_config.json", *code, "layers.py", "losses.py"}
    loaded = MMGenreProcessor.from_pretrained(tmp_path)
    assert loaded.tokenizer is None
    inputs, expected = loaded(images=picture), processor(images=picture)
    assert inputs.keys() == {"pixel_values"}
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])


def test_a_model_of_plots_needs_a_tokenizer(tiny_config):
    with pytest.raises(ValueError, match="a model with the modality 'text' needs a tokenizer"):
        MMGenreProcessor.from_config(tiny_config(), None)


@pytest.mark.parametrize("missing_modality", ["fill", "learned"])
def test_features_are_put_together(missing_modality):
    model = create("gmu", missing_modality=missing_modality)
    processor = MMGenreProcessor.from_config(model.config, None)
    movie = {
        "image_features": np.arange(12, dtype=np.float64),
        "text_features": np.arange(7, dtype=np.float16),
        "other": np.zeros(3),
    }
    inputs = processor(features=[None, movie])
    assert inputs["image_features"].dtype == inputs["text_features"].dtype == torch.float32
    assert inputs["image_features"].tolist() == [[0] * 12, list(range(12))]
    assert inputs["text_features"].tolist() == [[0] * 7, list(range(7))]
    present = {"image_present", "text_present"} if missing_modality == "learned" else set()
    assert inputs.keys() == {"image_features", "text_features"} | present
    assert all(inputs[name].tolist() == [False, True] for name in present)
    assert model(**inputs).logits.shape == (2, 4)
