"""MMBT's sequence by hand, and BertModel on the same sequence."""

import pytest
import torch
from systems import LABELS, create, create_batch
from transformers import BertModel

from mmgenre.models.mmbt import IMAGE_GRIDS, lay_out_tokens

CLS, SEP, PAD = 2, 3, 0
INPUT_IDS = torch.tensor(
    [
        [CLS, 11, 12, 13, 14, SEP],
        [CLS, 21, 22, SEP, PAD, PAD],
        [CLS, SEP, PAD, PAD, PAD, PAD],  # an absent plot
    ]
)
MASK = (INPUT_IDS != PAD).long()


@pytest.fixture
def bert() -> BertModel:
    return create("mmbt").text_encoder


def test_tokens_segments_and_positions(bert):
    tokens = torch.randn(3, 2, 32)
    sequence = lay_out_tokens(bert, tokens, INPUT_IDS, MASK)
    #                          CLS image image SEP  words
    assert sequence["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]] * 3
    assert sequence["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3]] * 3
    assert sequence["attention_mask"].tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
    ]
    words = bert.embeddings.word_embeddings.weight
    for movie, ids in enumerate([[11, 12, 13, 14], [21, 22], []]):
        expected = torch.cat([words[[CLS]], tokens[movie], words[[SEP]], words[ids]])
        assert torch.equal(sequence["inputs_embeds"][movie, : len(expected)], expected)


def test_text_alone_is_bert_on_the_same_tokens(bert):
    sequence = lay_out_tokens(bert, torch.empty(3, 0, 32), INPUT_IDS, MASK)
    for movie, words in enumerate([[11, 12, 13, 14], [21, 22], []]):
        expected = bert(
            input_ids=torch.tensor([[CLS, SEP, *words]]),
            token_type_ids=torch.tensor([[0, 0] + [1] * len(words)]),
            position_ids=torch.tensor([[0, 1, *range(len(words))]]),
        )
        got = bert(**{name: value[movie : movie + 1] for name, value in sequence.items()})
        torch.testing.assert_close(got.pooler_output, expected.pooler_output, atol=1e-6, rtol=0)


def test_without_a_mask_all_tokens_are_real(bert):
    ids, tokens = INPUT_IDS[:1], torch.randn(1, 1, 32)
    got, expected = (
        lay_out_tokens(bert, tokens, ids, None),
        lay_out_tokens(bert, tokens, ids, torch.ones_like(ids)),
    )
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize("number", IMAGE_GRIDS)
def test_image_tokens_are_means_of_the_poster_s_regions(number):
    model = create("mmbt", num_image_tokens=number)
    rows, columns = IMAGE_GRIDS[number]
    assert rows * columns == number
    regions = torch.randn(2, 512, 2 * rows, 3 * columns)
    model.image_encoder.forward = lambda pixels: regions
    tokens = model.image_tokens(torch.empty(2, 3, 8, 8), INPUT_IDS[:2], None, None)
    for row in range(rows):
        for column in range(columns):
            cell = regions[:, :, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            expected = model.image_projection(cell.mean(dim=(2, 3)))
            torch.testing.assert_close(tokens[:, row * columns + column], expected)


def test_bert_s_embeddings_are_registered_once_and_learn_from_image_tokens():
    model = create("mmbt").train()
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in model.parameters()})
    assert {n.split(".")[0] for n in names if "embeddings" in n} == {"text_encoder"}
    model(**create_batch(model), labels=LABELS).loss.backward()
    segments = model.text_encoder.embeddings.token_type_embeddings.weight.grad
    assert segments.abs().amax(dim=1).min() > 0


def test_padding_does_not_matter_and_a_word_does():
    model = create("mmbt").double()
    batch = create_batch(model)
    batch["pixel_values"] = batch["pixel_values"].double()
    logits = model(**batch).logits
    more = torch.full((4, 5), 7)
    padded = {
        **batch,
        "input_ids": torch.cat([batch["input_ids"], more], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros_like(more)], dim=1),
    }
    torch.testing.assert_close(model(**padded).logits, logits, atol=1e-10, rtol=0)
    batch["input_ids"][1, 4] += 1  # its last word; the [SEP] after it is the fifth
    difference = (model(**batch).logits - logits).abs().amax(dim=1)
    assert difference[1] > 1e-8
    assert difference[[0, 2, 3]].max() < 1e-10


def test_a_plot_is_needed_even_where_it_is_empty():
    model = create("mmbt", missing_modality="learned")
    with pytest.raises(ValueError, match=r"needs input_ids of every movie; .* \[CLS\] and \[SEP\]"):
        model(pixel_values=torch.zeros(1, 3, 32, 32))
    assert model(input_ids=INPUT_IDS, attention_mask=MASK).logits.shape == (3, 4)
