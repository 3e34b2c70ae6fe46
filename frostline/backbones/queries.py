"""Detectors whose queries look for things: DETR and its kin, up to what each query found."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, final

import torch
from torch import Tensor, nn

from frostline.errors import BackboneError

CLASSES = "class_labels_classifier"  # the output layer of DETR and most of its kin, which a file may bring


@final
class Rows(nn.Module):
    """What the queries found as one tensor, so that the network can be sawn behind it."""

    def forward(self, hidden: Tensor, boxes: Tensor) -> Tensor:
        """A row for each query (n, queries, width + 4): its hidden state and its box, centre and sides in shares."""
        # some hand on the tokens of the picture too, and those of the queries last
        return torch.cat([hidden[:, -boxes.shape[1] :], boxes], dim=2)


@final
class Silent(nn.Module):
    """In the place of an output layer that nobody asks."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Nothing."""
        return hidden.new_zeros(0)


@final
class Queried(nn.Module):
    """A detector of transformers without what it says of classes: its result is the rows of its queries.

    Layers bear the names that they have in the detector. Where the source's classes choose the places that become
    queries, as in RT-DETR, they still do. Without labels there are no denoising queries.
    """

    def __init__(self, detector: nn.Module, fixed: Collection[str] = ()) -> None:
        """`fixed` are parameters that never learn, whatever loading the weights made of them."""
        super().__init__()
        self.config: Any = detector.config
        self._whole = (detector.eval(),)  # in a tuple it is no part of this one, and its parts keep their names
        for name, part in detector.named_children():
            if name == CLASSES:
                detector.add_module(name, part := Silent())
            self.add_module(name, part)
        self.rows = Rows()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in fixed)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Pictures are read to their edges: none is padded. Raises BackboneError for a detector of another kind."""
        found: Any = self._whole[0](pixel_values)
        hidden, boxes = found.get("last_hidden_state"), found.get("pred_boxes")
        if hidden is None or boxes is None:
            raise BackboneError(
                f"a detector of the type {self.config.model_type!r} hands on no hidden states or no boxes of its "
                "queries; give one like DETR, RT-DETR, D-FINE or YOLOS, or a classifier"
            )
        return self.rows(hidden, boxes)


def fixed(detector: nn.Module) -> frozenset[str]:
    """The parameters of a detector as it was built that are no weights: they do not learn.

    But for convolutions that DETR's code freezes when it is built: what to freeze is what is asked here.
    """
    still = (name for name, parameter in detector.named_parameters() if not parameter.requires_grad)
    return frozenset(name for name in still if ".backbone." not in name)
