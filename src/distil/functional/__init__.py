"""All the maths, by what it compares; pure functions on tensors that can be used alone.

Student before teacher, keyword-only after the tensors, half precision raised to float32, log-space throughout. Each
loss takes ``weight=`` and gives its unreduced values with ``reduction="none"``. The caller detaches the teacher, unless
a docstring says that no gradient reaches it.
"""

from distil.functional.affinity import correlation_congruence, correlation_kernel, kernel_congruence, pkt, unit_rows
from distil.functional.backends import backend
from distil.functional.contrastive import bank_logits, bank_rows, crd, log_normaliser, noise_contrast
from distil.functional.dense import cwd, resize_match
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
from distil.functional.maps import (
    class_attention,
    flow_matrix,
    fsp,
    hierarchical_context,
    initial_log_scale,
    vid,
)
from distil.functional.masking import (
    attention_weights,
    channel_masks,
    cross_attention,
    dice,
    mask_movement,
    maskd_detection,
    maskd_segmentation,
    masked_map,
    masked_mse,
    spatial_masks,
)
from distil.functional.mixing import (
    Mix,
    by_deviation,
    draw_mix,
    mixed,
    mixed_labels,
    rescaled_cross_entropy,
    rescaled_kl,
    soft_label_term,
)
from distil.functional.mixtures import interpolated_kl, jsd, skew_kl, skew_reverse_kl, total_variation
from distil.functional.multilevel import batch_relation, class_relation, multilevel, unsure_share
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
from distil.functional.selectivity import nst
from distil.functional.sparse import sampled_cross_entropy, sampled_kl, topk_cross_entropy, topk_kl, topk_of
from distil.functional.targets import SparseTargets, sparse_kd
from distil.functional.token_graph import (
    graph_weights,
    local_relation,
    nearest_tokens,
    neighbour_overlap,
    token_contrast,
)
from distil.functional.tokens import (
    draw_tokens,
    gather_tokens,
    image_values,
    inner_relation,
    token_attention,
    token_pair,
)

__all__ = [
    "CONVENTIONS",
    "ClassMeans",
    "Convention",
    "Mix",
    "SparseTargets",
    "Term",
    "attention_map",
    "attention_transfer",
    "attention_weights",
    "backend",
    "bank_logits",
    "bank_rows",
    "batch_relation",
    "by_deviation",
    "channel_gram",
    "channel_masks",
    "class_attention",
    "class_maps",
    "class_means",
    "class_relation",
    "correlation_congruence",
    "correlation_kernel",
    "crd",
    "cross_attention",
    "cwd",
    "dice",
    "direction_and_length",
    "directional_norm",
    "dist",
    "dist_inter",
    "dist_intra",
    "dkd",
    "draw_mix",
    "draw_tokens",
    "edges",
    "fc_gradient",
    "flow_matrix",
    "fsp",
    "gather_tokens",
    "gradient_gram",
    "graph_weights",
    "hierarchical_context",
    "high_frequency",
    "image_values",
    "initial_log_scale",
    "inner_relation",
    "interpolated_kl",
    "jsd",
    "kd",
    "kernel_congruence",
    "kl",
    "local_relation",
    "log_normaliser",
    "low_frequency",
    "mask_movement",
    "maskd_detection",
    "maskd_segmentation",
    "masked_map",
    "masked_mse",
    "mixed",
    "mixed_labels",
    "mse",
    "multilevel",
    "nckd",
    "nearest_tokens",
    "neighbour_contrast",
    "neighbour_overlap",
    "node_kl",
    "noise_contrast",
    "nst",
    "pairwise_distances",
    "pearson",
    "pkt",
    "plackett_luce",
    "pool_match",
    "reduce",
    "rescaled_cross_entropy",
    "rescaled_kl",
    "resize_match",
    "reverse_kl",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "row_gram",
    "sample_gram",
    "sampled_cross_entropy",
    "sampled_kl",
    "skew_kl",
    "skew_reverse_kl",
    "soft_cross_entropy",
    "soft_label_term",
    "sparse_kd",
    "spatial_masks",
    "standardise",
    "tckd",
    "teacher_ranking",
    "token_attention",
    "token_contrast",
    "token_pair",
    "topk_cross_entropy",
    "topk_kl",
    "topk_of",
    "total_variation",
    "unit_rows",
    "unsure_share",
    "vid",
    "working",
]
