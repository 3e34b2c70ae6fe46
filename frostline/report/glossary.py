"""The known strategies: what people call them, and what the names of arms mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

NAMES: Mapping[str, str] = {
    "scratch": "from scratch, 3x epochs",
    "scratch_equal": "from scratch",
    "linear_probe": "linear probe",
    "head_only": "head only",
    "best_probe": "linear probe at the best cut",
    "multi_layer_probe": "probe over several cuts",
    "mlp_probe": "hidden layer on frozen features",
    "attention_probe": "attention over frozen positions",
    "last_block": "last block",
    "full_finetune": "full fine-tuning",
    "lp_ft": "probe, then fine-tuning",
    "gradual_unfreezing": "gradual unfreezing",
    "fisher_unfreezing": "unfreezing by Fisher information",
    "stem_frozen": "stem frozen",
    "layer_decay": "layer-wise decay",
    "half_frozen": "half frozen",
    "surgical": "first block alone",
    "l2_sp": "pulled to the source (L2-SP)",
    "wise_ft": "halfway to the source (WiSE-FT)",
    "statistics_refresh": "new batch statistics, new head",
    "plain_loop": "plain loop",
    "truncation": "upper layers dropped",
    "reinitialisation": "upper layers begun anew",
    "lora": "LoRA",
}

STRATEGIES: Mapping[str, str] = {
    "linear_probe": "the first n layers frozen, the others dropped, a linear head fitted in closed form",
    "head_only": "every layer frozen, the new head trained",
    "lp_ft": "the probe's head first, then every layer is trained (Kumar et al. 2022)",
    "full_finetune": "every layer is trained, under a new random head",
    "freeze": "the first n layers frozen, the others trained",
    "last_block": "all but the last block frozen",
    "layer_decay": "every layer is trained, the lower the slower",
    "gradual": "layers are unfrozen one after the other, from the top (ULMFiT, Howard and Ruder 2018)",
    "fisher_gradual": "layers are unfrozen one after the other, the most informative first (FUN, Liu et al. 2024)",
    "drop": "the layers above n dropped; those below it trained, with `-tune` the upper ones of them",
    "reinit": "the layers above n begun anew; those below it trained, in a search the upper ones of them",
    "batch_statistics": "every layer is trained at one rate under a new random head, batch norms following the batch",
    "multi_layer_probe": "every layer frozen, a linear head on the features of several cuts side by side",
    "mlp_probe": "every layer frozen, a head with a hidden layer trained on the features of the last cut",
    "attention_probe": "frozen up to the deepest cut with positions, a head that attends to these (Chen et al. 2024)",
    "l2_sp": "every layer is trained and pulled back to where it began (L2-SP, Li et al. 2018)",
    "wise_ft": "every layer is trained, then put halfway back to where it began (WiSE-FT, Wortsman et al. 2022)",
    "first_block": "the stem and the first block alone are trained (surgical fine-tuning, Lee et al. 2023)",
    "statistics_refresh": "batch norms measured anew on this data, then a new head alone (Li et al. 2016)",
    "lora": "low-rank matrices beside frozen layers are trained (LoRA, Hu et al. 2022)",
    "scratch": "every layer begun anew: no transfer",
}


def named(baseline: str) -> str:
    """A known strategy in plain words; one that is not known keeps its own name."""
    return NAMES.get(baseline, baseline.replace("_", " "))


def explained(names: Iterable[str]) -> list[tuple[str, str]]:
    """What the strategies of these names do, each kind once."""
    kinds = dict.fromkeys(name.rpartition(".")[2].partition("@")[0] for name in names)
    return [(kind, STRATEGIES[kind]) for kind in kinds if kind in STRATEGIES]
