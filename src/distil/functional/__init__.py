"""All the maths, by what it compares; pure functions on tensors that can be used alone.

Student before teacher, keyword-only after the tensors, half precision raised to float32, log-space throughout. Each
loss takes ``weight=`` and gives its unreduced values with ``reduction="none"``. The caller detaches the teacher, unless
a docstring says that no gradient reaches it.
"""

from distil.functional.divergence import (
    CONVENTIONS,
    Convention,
    dkd,
    kd,
    kl,
    nckd,
    reverse_kl,
    soft_cross_entropy,
    standardise,
    tckd,
)
from distil.functional.features import attention_map, attention_transfer, mse, pool_match
from distil.functional.gram import channel_gram, class_maps, fc_gradient, gradient_gram, row_gram, sample_gram
from distil.functional.graph import edges, high_frequency, low_frequency, neighbour_contrast, node_kl
from distil.functional.prototypes import ClassMeans, class_means, direction_and_length, directional_norm
from distil.functional.ranking import plackett_luce, teacher_ranking
from distil.functional.reduction import Term, reduce, working
from distil.functional.relation import (
    dist,
    dist_inter,
    dist_intra,
    pairwise_distances,
    pearson,
    rkd,
    rkd_angle,
    rkd_distance,
)

__all__ = [
    "CONVENTIONS",
    "ClassMeans",
    "Convention",
    "Term",
    "attention_map",
    "attention_transfer",
    "channel_gram",
    "class_maps",
    "class_means",
    "direction_and_length",
    "directional_norm",
    "dist",
    "dist_inter",
    "dist_intra",
    "dkd",
    "edges",
    "fc_gradient",
    "gradient_gram",
    "high_frequency",
    "kd",
    "kl",
    "low_frequency",
    "mse",
    "nckd",
    "neighbour_contrast",
    "node_kl",
    "pairwise_distances",
    "pearson",
    "plackett_luce",
    "pool_match",
    "reduce",
    "reverse_kl",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "row_gram",
    "sample_gram",
    "soft_cross_entropy",
    "standardise",
    "tckd",
    "teacher_ranking",
    "working",
]
