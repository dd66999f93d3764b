"""One line a method: where it differs from its paper, in its default settings and in how comparisons run it.

Each file of `osp_jax/methods` has the details.
"""

DEVIATIONS = {
    "retrain": "Has all retained images, whatever the budget of the others.",
    "logit-mask": "No paper: the bound that hides the answer and changes nothing else.",
    "osp": "The text was not available: score and strength are a public reimplementation's, the layers ours.",
    "osp-fit": "Ours.",
    "concept-erasure": "Ours.",
    "exact-head": "Ours; for networks whose head was fitted in closed form.",
    "finetune": "Authors' code; weight decay on kernels only.",
    "l1-sparse": "Authors' code; the weight never stays constant, and nothing is cut off.",
    "gradient-ascent": "As in the code of l1-sparse.",
    "neggrad+": "The authors' version for whole classes; images are augmented.",
    "cfk": "Frozen norms keep their running statistics; gradients are not clipped.",
    "euk": "As cfk; the running statistics of retrained norms start anew.",
    "conv-transpose": "Kernels that are not square stay as they are.",
    "random-label": "Labels are drawn from the other classes (paper), not from all (code).",
    "salun": "As random-label; the images of the saliency gradient are not augmented.",
    "msg": "Weight decay is not slowed down with the gradient.",
    "ssd": "Authors' code: squared gradients of batches, in the order of the classes, not of single images.",
    "fisher": "Authors' code: Fisher information by batches; the class's row of the head becomes noise.",
    "unsir": "The paper's description, not the notebook, where the two differ.",
    "bad-teacher": "Retained images are drawn from each class alike.",
    "scrub": "One batch size for both kinds of epoch; without the rewinding of SCRUB+R.",
    "boundary-shrink": "Authors' code; labels are found once, before training.",
    "boundary-expand": "Authors' code.",
    "subspace": "Images come in batches; patches are drawn evenly from them.",
    "esc": "Features are collected in eval mode; directions that no image spans stay.",
    "cdp": "Not federated; the paper's score, and pruned channels stay removed.",
    "class-aware": "The score is the paper's; the rule is ours, since the paper prunes for compression.",
    "steu": "The paper's text was not available: score, k, losses and epochs are a summary's, the rest ours.",
}
