"""Two views of every sample, for methods that compare a weakly and a strongly augmented image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from distil.data.bundle import ids_of, indexed
from distil.data.fingerprint import fingerprint
from distil.errors import DistilError

__all__ = ["ImageViews", "TwoViews"]

Augmentation = Callable[[Tensor], Tensor]

MOST = 30
"""The largest magnitude of RandAugment, as published."""


@dataclass(frozen=True)
class ImageViews:
    """A weak and a strong view of an image in [0, 1], drawn from torch's global generator.

    Weak: padded with zeros and cropped to its size, then mirrored in half of the cases. Strong: the same, drawn anew,
    then ``operations`` of RandAugment (Cubuk et al., arXiv 1909.13719; torchvision's).

    Args:
        crop: how far a crop may move, as a share of each side: 1/8 is 4 pixels of 32; 0 crops nothing.
        flip: whether images are mirrored; not for digits or letters.
        operations: of RandAugment on the strong view.
        magnitude: of each, from 0 to 30.

    >>> views, image = ImageViews(crop=0.5, flip=False), torch.ones(1, 4, 4)
    >>> views.weak(image).shape
    torch.Size([1, 4, 4])
    """

    crop: float = 0.125
    flip: bool = True
    operations: int = 2
    magnitude: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.crop < 1:
            raise DistilError(f"strong.crop={self.crop:g} must lie in [0, 1): a share of the image's side.")
        if self.operations < 1 or not 0 <= self.magnitude <= MOST:
            raise DistilError(
                f"strong.operations={self.operations} must be at least 1, and strong.magnitude={self.magnitude} lie in "
                f"0 … {MOST}."
            )

    def weak(self, image: Tensor) -> Tensor:
        """Return ``[C, H, W]``, cropped and mirrored at random."""
        height, width = image.shape[-2:]
        tall, wide = round(self.crop * height), round(self.crop * width)
        if tall or wide:
            top, left = (int(torch.randint(2 * most + 1, ())) for most in (tall, wide))
            image = F.pad(image, (wide, wide, tall, tall))[..., top : top + height, left : left + width]
        return image.flip(-1) if self.flip and bool(torch.rand(()) < 0.5) else image

    def strong(self, image: Tensor) -> Tensor:
        """Return another weak view after RandAugment.

        Raises:
            DistilError: no grey or RGB image in [0, 1]; no torchvision.
        """
        low, high = torch.aminmax(image)
        if image.shape[0] not in (1, 3) or not 0 <= float(low) <= float(high) <= 1:
            raise DistilError(
                f"strong views are made of grey or RGB images in [0, 1], and these have {image.shape[0]} channels in "
                f"[{float(low):.3g}, {float(high):.3g}]; normalise in the task, or use mlld(views=1)."
            )
        made: Tensor = self.augmentation()(self.weak(image))
        return made

    def augmentation(self) -> Augmentation:
        """Return torchvision's RandAugment; refuses where it is not installed."""
        try:
            from torchvision.transforms.v2 import RandAugment
        except ImportError as error:
            raise DistilError(
                "strong views need torchvision, which is not installed: pip install 'distil[vision]', or use "
                "mlld(views=1)."
            ) from error
        made: Augmentation = RandAugment(self.operations, self.magnitude)
        return made


class TwoViews(Dataset[dict[str, Any]]):
    """A dataset whose items hold two augmentations of one sample: ``inputs`` (weak) and ``strong``.

    Augmentations may draw from Python's, numpy's and torch's global generators, which ``Batches`` seeds for every item.

    Args:
        dataset: any map-style dataset, not augmented.
        strong: makes the strong view of one sample's inputs, e.g. ``ImageViews().strong``; ``None`` leaves it out, for
            who compares with a method of one view on the same weak views.
        weak: makes the weak one, e.g. ``ImageViews().weak``; by default the sample as it is.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> data = TwoViews(TensorDataset(torch.ones(3, 2), torch.arange(3)), strong=lambda x: 5 * x)
    >>> data[2]["inputs"], data[2]["strong"], data[2]["id"]
    (tensor([1., 1.]), tensor([5., 5.]), 2)
    """

    in_bulk = False

    def __init__(self, dataset: Any, *, strong: Augmentation | None, weak: Augmentation | None = None) -> None:
        for name, augmentation in (("strong", strong), ("weak", weak)):
            if augmentation is not None and not callable(augmentation):
                raise DistilError(
                    f"TwoViews({name}=…) is a {type(augmentation).__name__}; give a function of one sample's inputs."
                )
        self.dataset = indexed(dataset)
        self.strong, self.weak = strong, weak
        self.ids, self.labels = ids_of(self.dataset), getattr(self.dataset, "labels", None)

    @property
    def fingerprint(self) -> str:
        """The content's name; that of the plain data is another."""
        return f"{fingerprint(self.dataset)}-{'two-views' if self.strong else 'weak-views'}"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        item = dict(self.dataset[position])
        inputs = item["inputs"]
        if self.weak is not None:  # drawn first, so that it is the same with and without a strong one
            item["inputs"] = self.weak(inputs)
        if self.strong is not None:
            item["strong"] = self.strong(inputs)
        return item

    def weakly(self) -> TwoViews:
        """Return the same samples in the same weak views, without the strong ones."""
        return TwoViews(self.dataset, strong=None, weak=self.weak)
