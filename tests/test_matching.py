"""Boxes are given to queries: transformers' own loss, the least sum of costs by trying all, and what is told."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

from frostline.tasks import matching
from frostline.tasks.heads import Queries, rebuilt

QUERIES, CLASSES = 7, 3
COSTS = {"class_cost": matching.CLASS, "bbox_cost": matching.SIDES, "giou_cost": matching.OVERLAP}


def answer(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, QUERIES, CLASSES, generator=draw)
    middle = 0.3 + 0.4 * torch.rand(count, QUERIES, 2, generator=draw)
    return torch.cat([logits, middle, 0.05 + 0.5 * torch.rand(count, QUERIES, 2, generator=draw)], dim=2)


def boxes(counts: list[int], seed: int = 0, room: int = 9) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    found = torch.full((len(counts), room, 5), math.nan)
    for row, count in zip(found, counts, strict=True):
        row[:count, :2] = 0.6 * torch.rand(count, 2, generator=draw)
        row[:count, 2:4] = row[:count, :2] + 0.05 + 0.3 * torch.rand(count, 2, generator=draw)
        row[:count, 4] = torch.randint(CLASSES, (count,), generator=draw)
    return found


def real(rows: Tensor) -> Tensor:
    return rows[~rows[:, 0].isnan()]


def theirs(raw: Tensor, rows: Tensor) -> Tensor:
    """Transformers' loss of one picture, as Deformable DETR weighs its parts."""
    loss = DeformableDetrImageLoss(
        DeformableDetrHungarianMatcher(**COSTS), CLASSES, matching.ALPHA, ["labels", "boxes"]
    )
    told = loss(
        {"logits": raw[None, :, :-4], "pred_boxes": raw[None, :, -4:]},
        [{"class_labels": rows[:, 4].long(), "boxes": box_convert(rows[:, :4], "xyxy", "cxcywh")}],
    )
    parts = (("loss_ce", matching.CLASS), ("loss_bbox", matching.SIDES), ("loss_giou", matching.OVERLAP))
    return sum((weight * told[name] for name, weight in parts), torch.zeros(()))


@pytest.mark.parametrize("counts", [[1], [3, 6], [0, 2, 5], [0], [9, 1]])
def test_the_loss_of_each_picture_is_transformers_of_that_picture_alone(counts: list[int]) -> None:
    raw, targets = answer(len(counts)), boxes(counts)
    found = matching.losses(raw, targets)
    for each, one, rows in zip(found, raw, targets, strict=True):
        torch.testing.assert_close(each, theirs(one, real(rows)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(matching.loss(raw, targets), found.mean())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_way_to_give_the_boxes_to_queries_costs_less(count: int, seed: int) -> None:
    raw, rows = answer(1, seed).double()[0], real(boxes([count], seed)[0]).double()
    ((query, box),) = matching.matched(raw[None, :, :-4], raw[None, :, -4:], [rows])

    def cost(chosen: int, place: int) -> float:
        """Of one query and one box, from the words of the paper."""
        p = float(raw[chosen, int(rows[place, 4])].sigmoid())
        one, other = box_convert(raw[chosen, -4:], "cxcywh", "xyxy"), rows[place, :4]
        low, high = torch.maximum(one[:2], other[:2]), torch.minimum(one[2:], other[2:])
        common = float((high - low).clamp(min=0).prod())
        union = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - common
        hull = float((torch.maximum(one[2:], other[2:]) - torch.minimum(one[:2], other[:2])).prod())
        classes = -0.25 * (1 - p) ** 2 * math.log(p) + 0.75 * p**2 * math.log(1 - p)
        apart = float((raw[chosen, -4:] - box_convert(other, "xyxy", "cxcywh")).abs().sum())
        return 2 * classes + 5 * apart - 2 * (common / union - (hull - union) / hull)

    table = [[cost(chosen, place) for place in range(count)] for chosen in range(QUERIES)]
    mine = sum(table[chosen][place] for chosen, place in zip(query.tolist(), box.tolist(), strict=True))
    every = itertools.permutations(range(QUERIES), count)
    assert mine == pytest.approx(min(sum(table[q][place] for place, q in enumerate(order)) for order in every))
    assert sorted(box.tolist()) == list(range(count))


def test_the_loss_does_not_depend_on_the_order_of_queries_or_boxes_or_on_the_room_left() -> None:
    raw, targets = answer(2), boxes([4, 6])
    roomy = torch.cat([torch.full((2, 3, 5), math.nan), targets.flip(1)], dim=1)
    torch.testing.assert_close(matching.losses(raw.flip(1), roomy), matching.losses(raw, targets))


@pytest.mark.parametrize("room", [0, 4])
def test_pictures_without_a_box_teach_that_there_is_nothing(room: int) -> None:
    raw = answer(2).requires_grad_()
    (slope,) = torch.autograd.grad(matching.loss(raw, torch.full((2, room, 5), math.nan)), raw)
    assert bool((slope[..., :-4] > 0).all())
    assert not slope[..., -4:].any()


def test_boxes_without_an_area_are_nobodys() -> None:
    raw, targets = answer(1), boxes([2])
    more = targets.clone()
    more[0, 2:4] = torch.tensor([[0.4, 0.4, 0.4, 0.9, 1.0], [0.9, 0.9, 0.2, 0.2, 0.0]])
    assert torch.equal(matching.losses(raw, more), matching.losses(raw, targets))


def test_a_training_that_diverges_is_told_by_its_loss_and_not_by_an_error() -> None:
    assert bool(matching.loss(math.nan * answer(2), boxes([2, 3])).isnan())


def test_half_precision_is_widened_before_the_loss() -> None:
    raw, targets = answer(2).half(), boxes([2, 3])
    assert matching.losses(raw, targets).dtype == torch.float32
    assert torch.equal(matching.losses(raw, targets), matching.losses(raw.float(), targets))


def test_the_best_answers_are_told_strongest_first_in_corners_within_the_picture() -> None:
    raw = answer(2)
    raw[0, 0, -4:] = torch.tensor([0.1, 0.5, 0.6, 0.2])  # leaves the picture on the left
    found = matching.detections(raw)
    assert found.shape == (2, matching.MOST, 6)
    assert bool(found[:, QUERIES * CLASSES :].isnan().all())
    for row, one in zip(found[:, : QUERIES * CLASSES], raw, strict=True):
        wanted = sorted(
            ((float(one[q, c].sigmoid()), q, c) for q in range(QUERIES) for c in range(CLASSES)), reverse=True
        )
        for told, (score, query, label) in zip(row, wanted, strict=True):
            corners = box_convert(one[query, -4:], "cxcywh", "xyxy").clamp(0, 1)
            torch.testing.assert_close(told, torch.tensor([*corners.tolist(), score, float(label)]))


def test_boxes_are_learned_by_heart_each_by_one_query_and_the_other_queries_fall_silent() -> None:
    raw, targets = answer(2, seed=4).requires_grad_(), boxes([2, 3], seed=4)
    optimiser = torch.optim.Adam([raw], lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        matching.loss(raw, targets).backward()
        optimiser.step()
    for row, rows in zip(matching.detections(raw), map(real, targets), strict=True):
        sure = row[row[:, 4] > 0.5]
        assert len(sure) == len(rows)
        order = torch.cdist(rows[:, :4], sure[:, :4]).argmin(1)
        assert sorted(order.tolist()) == list(range(len(rows)))
        assert sure[order, 5].tolist() == rows[:, 4].tolist()
        torch.testing.assert_close(sure[order, :4], rows[:, :4], rtol=0, atol=0.03)


def test_a_head_of_queries_begins_by_saying_nothing_and_is_made_again_from_its_weights() -> None:
    head, rows = Queries(6, CLASSES), torch.randn(2, QUERIES, 10)
    said = head([(rows,)]).detach()
    torch.testing.assert_close(said[..., -4:], rows[..., -4:], rtol=0, atol=0)
    assert 0.001 < float(said[..., :-4].sigmoid().mean()) < 0.03
    assert torch.equal(rebuilt(head.state_dict())([(rows,)]), said)
