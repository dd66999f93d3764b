"""The audit's measures for a reader: names in words, values in their unit.

An unknown name is shown with spaces in place of underscores, so that a new measure needs no change here.
"""

import re

from osp_jax.report.formats import DASH, NOTHING, percent
from osp_jax.report.nouns import spelled_out
from osp_jax.report.verdicts import Measure, ends_of, never, value_of

ATTACKS = {
    "confidence": "Confidence threshold",
    "entropy": "Entropy threshold",
    "modified_entropy": "Modified-entropy threshold",
    "loss": "Loss threshold",
    "logistic": "Logistic attack",
    "svc": "SVC attack",
    "lira": "LiRA",
    "lira_online": "LiRA, online",
    "lira_offline": "LiRA, offline",
    "u_lira": "U-LiRA",
    "u_lira_online": "U-LiRA, online",
    "u_lira_offline": "U-LiRA, offline",
}
_NAMES = {
    "kodge_svc_non_members": "Forgotten test {image}s taken for forgotten training {image}s (SVC, Kodge)",
    "salun_svc_non_members": "Forgotten {image}s taken for unseen ones (SVC, SalUn)",
    "ssd_entropy_members": "Forgotten {image}s taken for training {image}s (entropy, SSD)",
    "anamnesis_index": "Anamnesis index",
    "new_head_forget_accuracy": "New last layer: forgotten {image}s recognised",
    "new_head_retain_accuracy": "New last layer: other {image}s recognised",
    "activation_distance_to_original": "Distance of the answers to the original's",
    "activation_distance_to_retrained": "Distance of the answers to the retrained one's",
    "js_divergence_to_original": "JS divergence of the answers to the original's",
    "js_divergence_to_retrained": "JS divergence of the answers to the retrained one's",
    "entropy_of_forgotten": "Entropy of the answers on unseen forgotten {image}s, nats",
    "tug_of_war": "Tug-of-war",
    "average_gap": "Average gap",
    "even_bias_forget_accuracy": "Every answer given the same bias: forgotten {image}s recognised",
    "zrf": "ZRF: likeness of the answers to a random network's",
    "rescaled_forget_accuracy": "Weak channels turned up again: forgotten {image}s recognised",
    "batch_statistics_forget_accuracy": "Batch-norm statistics from other classes: forgotten {image}s recognised",
    "int8_forget_accuracy": "Quantised to int8: forgotten {image}s recognised",
    "retained_finetuning_forget_accuracy": "Trained on with the other classes only: forgotten {image}s recognised",
    "inversion_recognised": "{Image}s made by inversion and recognised as the class",
}
_STATISTICS = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "tpr_at_1_percent_fpr": "found at 1% false alarms",
    "tpr_at_0_1_percent_fpr": "found at 0.1% false alarms",
}
_OF_A_LAYER = {
    "linear_": "Linear probe",
    "knn_": "Nearest neighbours",
    "cka_to_original_": "Likeness (CKA) to the original",
    "cka_to_retrained_": "Likeness (CKA) to the retrained one",
    "weight_distance_": "Change of the weights",
}
_LAYERS = {"all_layers": "All layers", "head_only": "Last layer only"}
_SETTING = re.compile(r"(all_layers|head_only)_(\d+|fewest)_images?(?:_to_(\d+)_percent)?")
_SHARES = re.compile(r"(linear|knn)_.*|.*(accuracy|_percent_fpr|_recognised|_members)")


def label(name: str, kind: str = "image") -> str:
    """The name of a measure in words; a layer's name stays as it is. `kind`: 'image' or 'text'."""
    if name in _NAMES:
        return _NAMES[name].format(image=kind, Image=kind.capitalize())
    if name.startswith("anamnesis_"):
        return f"Anamnesis index, {spelled_out(name.removeprefix('anamnesis_'), kind)} a class"
    if match := _SETTING.fullmatch(name):
        return _relearning(*match.groups(), kind)
    for statistic, words in _STATISTICS.items():
        if name.endswith(f"_{statistic}") and (attack := name.removesuffix(f"_{statistic}")):
            return f"{ATTACKS.get(attack, _plain(attack))}, {words}"
    for prefix, words in _OF_A_LAYER.items():
        if name.startswith(prefix):
            return f"{words}, {name.removeprefix(prefix)}"
    return _plain(name)


def _relearning(layers: str, number: str, goal: str | None, kind: str) -> str:
    if number == "fewest":
        return f"{_LAYERS[layers]}: fewest {kind}s a class to get to {goal}% of the original"
    setting = f"{_LAYERS[layers]}, {number} {kind}{'' if number == '1' else 's'} a class"
    return setting + (f": steps to {goal}% of the original" if goal else "")


def attack_label(attack: str) -> str:
    """The name of an attack in words."""
    return ATTACKS.get(attack, _plain(attack))


def is_share(name: str) -> bool:
    """Whether the value is a share, shown in percent."""
    return _SHARES.fullmatch(name) is not None


def only_describes_a_layer(name: str) -> bool:
    """Whether the measure only describes one layer, and has no verdict."""
    return name.startswith("weight_distance_")


def shown(name: str, measure: Measure | None, *, ends: bool = True, kind: str = "image") -> str:
    """A value with its 95% interval, `never (200 steps)`, or a dash; `kind` as in `label`."""
    if never(measure):
        what = f"{kind}s" if "_fewest_images_" in name else "steps"
        return f"never ({measure['never']:,} {what})"
    value, bounds = value_of(measure), ends_of(measure) if ends else None
    if value is None:
        return f"no value: {measure['why']}" if (measure or {}).get("why") else NOTHING
    if is_share(name):
        return percent(value) + (f" ({DASH.join(f'{100 * end:.1f}' for end in bounds)})" if bounds else "")
    return _number(name, value) + (f" ({DASH.join(_number(name, end) for end in bounds)})" if bounds else "")


def gap(name: str, mine: Measure | None, retrained: Measure | None) -> str:
    """The signed difference to the retrained model, shares in points; a bound where one did not reach the goal."""
    values = value_of(mine), value_of(retrained)
    if None not in values:
        difference = values[0] - values[1]
        return f"{100 * difference:+z.1f} points" if is_share(name) else _number(name, difference, "+z")
    if never(mine) and values[1] is not None:
        return f">{_number(name, mine['never'] - values[1], '+z')}"
    if never(retrained) and values[0] is not None:
        return f"<{_number(name, values[0] - retrained['never'], '+z')}"
    return NOTHING


def _number(name: str, value: float, sign: str = "") -> str:
    """Steps and images as they are, other values with three decimals."""
    if _SETTING.fullmatch(name):
        return f"{value:{sign},.4g}"
    return f"{value:{sign}.3f}" if value == 0 or 0.0005 <= abs(value) < 100 else f"{value:{sign}.3g}"


def _plain(name: str) -> str:
    words = " ".join(name.split("_")).strip()
    return words[:1].upper() + words[1:]
