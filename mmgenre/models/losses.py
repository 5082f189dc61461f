"""Losses for several genres a movie, each a mean over labels and batch.

All compute in float32, whatever precision the logits come in.
"""

import torch
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

LOSSES: tuple[str, ...] = ("focal", "bce", "asymmetric")


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    balanced: bool = True,
) -> torch.Tensor:
    """Focal loss (Lin et al. 2017, arXiv 1708.02002).

    On smoothed labels, log p_t is the cross-entropy and p_t = p y + (1 - p)(1 - y).

    Args:
        logits: (batch, num_labels).
        labels: (batch, num_labels), in [0, 1].
        alpha: Weight of the targets, and 1 - alpha that of the rest (eq. 5 of the paper).
        gamma: Focusing exponent; 0, or at least 1 on hard labels: between them the gradient at
            p_t = 1 is infinite.
        balanced: False gives alpha to both, -alpha (1 - p_t)^gamma log p_t, as the report prints it
            (section 4.5).
    """
    logits, labels = logits.float(), labels.float()
    if balanced:
        return sigmoid_focal_loss(logits, labels, alpha=alpha, gamma=gamma, reduction="mean")
    # alpha=-1 is torchvision's word for "unweighted".
    return alpha * sigmoid_focal_loss(logits, labels, alpha=-1, gamma=gamma, reduction="mean")


def binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, pos_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Binary cross-entropy.

    Args:
        logits: (batch, num_labels).
        labels: (batch, num_labels), in [0, 1].
        pos_weight: (num_labels,), factor of each label's positive term.
    """
    if pos_weight is not None:
        pos_weight = pos_weight.float()
    return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), pos_weight=pos_weight)


def asymmetric_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    clip: float = 0.05,
) -> torch.Tensor:
    """Asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119, eq. 4-7).

    With p = sigmoid(logit) and the shifted p_m = max(p - clip, 0), a label costs
    -y (1 - p)^gamma_positive log p - (1 - y) p_m^gamma_negative log(1 - p_m).

    Departure from the authors' code: the mean over labels and batch where it sums, so that a
    learning rate means the same with every loss.

    Args:
        logits: (batch, num_labels).
        labels: (batch, num_labels), in [0, 1].
        gamma_negative: Focusing exponent of the negatives; 0, or at least 1.
        gamma_positive: Focusing exponent of the positives.
        clip: Probability, in [0, 1), below which a negative costs nothing.
    """
    logits, labels = logits.float(), labels.float()
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    shifted_p = (logits.sigmoid() - clip).clamp(min=0)
    # 1 - p_m = min((1 - p) + clip, 1), added in log space: finite for every logit, for clip 0 too.
    log_not_shifted_p = torch.logaddexp(log_not_p, logits.new_full((), clip).log()).clamp(max=0)
    positive = labels * (gamma_positive * log_not_p).exp() * log_p
    negative = (1 - labels) * shifted_p**gamma_negative * log_not_shifted_p
    return -(positive + negative).mean()


def genre_overlap(labels: torch.Tensor) -> torch.Tensor:
    """Genres that two movies share, as a share of those that one of them has (Jaccard index).

    Args:
        labels: (batch, num_labels), 0 or 1.

    Returns:
        (batch, batch), in [0, 1]; 0 where neither has a genre.
    """
    labels = labels.float()
    shared = labels @ labels.T
    count = labels.sum(dim=1)
    return shared / (count[:, None] + count - shared).clamp(min=1)


def multi_similarity_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    scale_positive: float = 2.0,
    scale_negative: float = 50.0,
    threshold: float = 0.5,
    margin: float = 0.1,
    min_overlap: float = 0.5,
) -> torch.Tensor:
    """Multi-similarity loss (Wang et al. 2019, arXiv 1904.06627, eq. 9-11), for several genres.

    Departure from the paper, which has one class a sample: two movies are a positive pair where
    `genre_overlap` is `min_overlap` or more, a negative pair where it is 0, and no pair between.

    With S the cosine similarity and anchor i, a negative k is kept where S_ik + margin is above the
    smallest S of i's positives, and a positive k where S_ik - margin is below the largest S of i's
    negatives. The loss is the mean over anchors of
    log(1 + sum_pos exp(-scale_positive (S_ik - threshold))) / scale_positive
    + log(1 + sum_neg exp(scale_negative (S_ik - threshold))) / scale_negative,
    0 for an anchor that lacks either kind. Pairs are those of one process's micro-batch.

    Args:
        embeddings: (batch, dim).
        labels: (batch, num_labels), 0 or 1.
    """
    unit = F.normalize(embeddings.float(), dim=1)
    similarity = unit @ unit.T
    overlap = genre_overlap(labels).fill_diagonal_(-1)  # nobody is a pair with itself
    positive, negative = overlap >= min_overlap, overlap == 0
    infinity = similarity.new_full((), float("inf"))
    hardest_positive = torch.where(positive, similarity, infinity).amin(dim=1, keepdim=True)
    hardest_negative = torch.where(negative, similarity, -infinity).amax(dim=1, keepdim=True)
    positive = positive & (similarity - margin < hardest_negative)
    negative = negative & (similarity + margin > hardest_positive)

    def soft_count(pairs: torch.Tensor, scale: float) -> torch.Tensor:
        """log(1 + sum over `pairs` of exp(scale (S - threshold))), (batch,)."""
        terms = torch.where(pairs, scale * (similarity - threshold), -infinity)
        return torch.logsumexp(F.pad(terms, (1, 0)), dim=1)

    return (
        soft_count(positive, -scale_positive) / scale_positive
        + soft_count(negative, scale_negative) / scale_negative
    ).mean()


def smooth_labels(labels: torch.Tensor, epsilon: float) -> torch.Tensor:
    """y(1 - epsilon) + (1 - y) epsilon, each label on its own (report, section 4.5).

    Args:
        labels: Any shape, 0 or 1.
    """
    labels = labels.float()
    return labels * (1 - epsilon) + (1 - labels) * epsilon


def genre_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    loss: str,
    focal_alpha: float,
    focal_gamma: float,
    focal_balanced: bool,
    pos_weight: torch.Tensor | None,
    asymmetric_gamma_negative: float,
    asymmetric_gamma_positive: float,
    asymmetric_clip: float,
    label_smoothing: float,
) -> torch.Tensor:
    """The loss named `loss`, on smoothed labels. Options of the other losses are not read.

    Args:
        logits: (batch, num_labels).
        labels: (batch, num_labels), 0 or 1.
        loss: One of `LOSSES`.

    Raises:
        ValueError: `loss` is unknown, or logits and labels differ in shape.
    """
    if logits.shape != labels.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; the logits' {tuple(logits.shape)} is needed"
        )
    labels = smooth_labels(labels, label_smoothing)
    if loss == "focal":
        return focal_loss(logits, labels, focal_alpha, focal_gamma, focal_balanced)
    if loss == "bce":
        return binary_cross_entropy(logits, labels, pos_weight)
    if loss == "asymmetric":
        return asymmetric_loss(
            logits,
            labels,
            gamma_negative=asymmetric_gamma_negative,
            gamma_positive=asymmetric_gamma_positive,
            clip=asymmetric_clip,
        )
    raise ValueError(f"loss {loss!r} is unknown; choose one of {', '.join(LOSSES)}")
