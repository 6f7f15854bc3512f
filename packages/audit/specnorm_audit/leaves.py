"""The names that a closed world knows: kernels of layers, what stands beside them, and what blocks have of their own.

These are leaves that frameworks write themselves (`torch.nn`, Flax, Keras), and parameters that published models add to
what a block computes, which have no norm. A name says what an array is for; its shape has to agree.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SEPARATOR = re.compile(r"[./:]|__")
COUNTER = re.compile(r":\d+$")
"""The counter that TensorFlow writes after a variable's name."""

KERNELS = ("weight", "kernel", "W", "w", "weights")
"""Names of the kernel of a layer that has one."""
_KERNEL = re.compile(r"weight|kernel|weights|W|w")
_ONE_OF_SEVERAL = re.compile(
    r"(\w+_)(weight|kernel|weights|W|w)|(weight|kernel)_(ih|hh|hr)(_l\d+)?(_reverse)?|(weight|kernel|W|w|k)_?\d+"
    r"|(\w+_)?proj(ection)?"
)
"""Names of kernels of modules that have several: of attention, recurrent cells, separable layers, flat files."""
SEVERAL_OF_ONE_SHAPE = re.compile(
    r"(\w*_)?proj(ection)?(_weight)?|(recurrent|depthwise|pointwise)_kernel|weight_[ih]h.*"
)
"""Names among these whose arrays may have one shape without biases of their own."""
_QUANTISED = re.compile(r"(\w*_)?q?weight(_packed|_q|_int\w*)?")

BIASES = ("bias", "biases", "b")
"""Names of a layer's bias."""
_BIAS = re.compile(r"(\w*_)?bias(es)?(_\w+|\d+)?")
_SHORT_BIAS = re.compile(r"(\w+_)?b(_?\d+)?")
_STATISTICS = re.compile(r"(running|moving)_(mean|var|variance)|num_batches_tracked")
_MOMENTS = re.compile(
    r"(max_)?exp_avg(_sq)?|momentum_buffer|square_avg|grad_avg|acc_delta|exp_inf|Adam(_\d)?|Momentum|RMSProp(_\d)?"
)
"""What optimizers keep beside a parameter, of its shape."""
_NORM = re.compile(
    r"weight|scale|gamma|beta|offset|mean|var|bias|.*(running|moving)_(mean|var|variance)|num_batches_\w+"
)
_SCALE = re.compile(r"(gamma|beta|alpha|scale|bias)(_?\d+)?|(.*_)?(layer|logit)_scale|ls\d+|temperature")
"""Names of the factors of blocks and normalizations, which may have axes of length 1."""
_NORM_SCOPE = re.compile(r"(.*[_a-z0-9])?(bn|ln|gn|[Nn]orm(alization)?)(\d*|_\w*)")
"""Names of normalizations that lie within a layer."""
TRAINING_STATE = re.compile(r"opt(im(izer)?)?(s|_states?|_state_dict)?|(lr_)?schedulers?|exp_avg(_sq)?")
"""Names below which everything belongs to a training run."""
ADDED = re.compile(r"(lora|hada|ia3|dora)_.*")
"""Names of what adapters add to another layer's weight, by a factor that is in their code (PEFT, loralib)."""
_OWN_OF_BLOCKS = re.compile(
    r"(.*_)?(pos|position|positional|rel|relative)_?\d*((_.*)?_?(embed|embeddings?|bias|biases|table|index|h|w))?(_?\d+)?"
    r"|(.*_)?(height|width)_rel|(.*_)?tokens?(_?\d+)?|class_embedding|(.*_)?attention_biases|(attn|causal|attention)_mask"
    r"|masked_(bias|spec_embed)|relative_coords_table|(cell_)?anchors?(_grid)?|stride|codevectors|A_log|inv_freq|rot_emb"
    r"|final_logits_bias|prototypes|time_\w+"
)
"""What blocks add to their values or look up: position embeddings, tokens, tables and masks of attention."""
_OF_SECOND_MODELS = frozenset({
    "ema", "avg", "averaged", "swa", "shadow", "target", "online", "teacher", "student", "encoder", "decoder",
    "actor", "critic", "generator", "discriminator", "g", "d", "gen", "disc", "netg", "netd", "policy", "value",
    "model", "module", "net", "network", "params", "q", "k", "query", "key", "left", "right", "source", "text",
    "vision", "image", "audio", "visual", "rgb", "flow", "a", "b", "ab", "ba", "forward", "backward",
})  # fmt: skip
"""Words of trees that are models of their own: averages, twins, both halves of a pair."""


def parts_of(name: str) -> list[str]:
    """Return the words of an array's name, outermost first, without TensorFlow's counter.

    Haiku writes the name of a kernel as one word of a state's name: ``mlp___tilde__linear_0__w``.
    """
    return [word for word in _SEPARATOR.split(COUNTER.sub("", name).replace("_tilde", "~")) if word]


def last_word(name: str) -> str:
    """Return the last word of a name."""
    return (parts_of(name) or [name])[-1]


def is_kernel(leaf: str) -> bool:
    """Whether this is the name of a layer's only kernel."""
    return _KERNEL.fullmatch(leaf) is not None


def is_one_of_several(leaf: str) -> bool:
    """Whether this is the name of a kernel of a module that may have several."""
    return _ONE_OF_SEVERAL.fullmatch(leaf) is not None and not is_bias(leaf)


def is_quantised(leaf: str) -> bool:
    """Whether an array of integers of this name is a kernel."""
    return is_kernel(leaf) or is_one_of_several(leaf) or _QUANTISED.fullmatch(leaf) is not None


def is_bias(leaf: str) -> bool:
    """Whether this is the name of a bias."""
    return _BIAS.fullmatch(leaf) is not None or is_short_bias(leaf)


def is_short_bias(leaf: str) -> bool:
    """Whether this is a bias beside a kernel, and anything elsewhere: ``b``, ``conv1_b``."""
    return _SHORT_BIAS.fullmatch(leaf) is not None


def is_statistic(leaf: str) -> bool:
    """Whether this is the name of a running statistic or counter."""
    return _STATISTICS.fullmatch(leaf) is not None


def is_moment(leaf: str) -> bool:
    """Whether this is the name of what an optimizer keeps of a parameter."""
    return _MOMENTS.fullmatch(leaf) is not None


def is_of_norm(words: Sequence[str]) -> bool:
    """Whether these words, after a layer's name, are of a normalization inside the layer."""
    return len(words) > 1 and _NORM.fullmatch(words[-1]) is not None and _NORM_SCOPE.fullmatch(words[-2]) is not None


def is_leaf_of_norm(leaf: str) -> bool:
    """Whether normalizations have a parameter of this name."""
    return _NORM.fullmatch(leaf) is not None


def is_scale(leaf: str) -> bool:
    """Whether this is the name of a factor of a block's channels."""
    return _SCALE.fullmatch(leaf) is not None


def is_own_of_block(words: Sequence[str]) -> bool:
    """Whether these words name what a block adds or looks up, and no layer."""
    return any(_OWN_OF_BLOCKS.fullmatch(word) for word in words)


def is_second_model(word: str) -> bool:
    """Whether a tree of this name is a model of its own, and no mask of another one."""
    tokens = [token for token in re.split(r"[_\d]+", word.lower().replace("state_dict", "model")) if token]
    return bool(tokens) and all(token in _OF_SECOND_MODELS for token in tokens)
