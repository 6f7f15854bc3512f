"""What counts as accounted for in a model's file: one table by framework, of names and the shapes that go with them.

A name says what an array is for; its shape and place have to agree (`specnorm_audit.accounts.places`). Whatever is in
no row of the table is unknown, wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SEPARATOR = re.compile(r"[./:]|__")
_PATH = re.compile(r"(?!.*//)[\w.:/~()',@+-]+")
"""Characters of names that frameworks write."""
COUNTER = re.compile(r":\d+$")
"""The counter that TensorFlow writes after a variable's name."""

# -- kernels -----------------------------------------------------------------------------------------------------------
KERNELS = ("weight", "kernel", "W", "w", "weights", "embedding", "embeddings")
"""Names of the kernel of a layer that has one: of torch, Flax and Keras, Chainer, Haiku, TensorFlow; and embeddings."""
ONE_OF_SEVERAL = re.compile(
    # torch: attention and recurrent cells; OpenAI's CLIP; experts of transformers
    r"(in|q|k|v)_proj_weight|weight_(ih|hh|hr)(_l\d+)?(_reverse)?|(text|image|visual|vision)_projection|proj"
    r"|(gate_up|gate|up|down)_proj|mm_input_projection_weight|(input|recurrent)_gate_weight|(x|dt)_proj_weight"
    r"|r_kernel|(query|key|value|static|motion_synthesis)_weight"
    # Keras, TensorFlow and TF-Slim; relatives of Flax
    r"|(recurrent|depthwise|pointwise)_(kernel|weights)|(weight|kernel|W|w|k)_?\d+"
    r"|conv\d*_(for|back)ward"  # ISTA-Net
)
"""Names of kernels of modules that have several."""
_FLAT = re.compile(r"(?P<layer>\w+?)_(weight|kernel|weights|W|w)|(?P<kernel>(conv|fc|linear|dense)\d*)")
"""Names of kernels in files without scopes (MXNet)."""
_QUANTISED = re.compile(r"(\w*_)?q?weight(_packed|_q|_int\w*)?")
BIASES = ("bias", "biases", "b")
"""Names of a layer's bias."""

# -- names of places ---------------------------------------------------------------------------------------------------
NORM = re.compile(
    r"(?!.*(spectral|weight)).*norm.*|((.*[_\d]|conv)?(bn|ln|gn)|(.*_)?(grn|rms|ls|(layer|res)_scale))(\d*|_\w*)",
    re.IGNORECASE,
)
"""Names of normalizations and layer scales."""
ACTIVATION = re.compile(r"(.*_)?(p?relu|act|act_fn|activation|snake)\d*(_\d+)?", re.IGNORECASE)
"""Names of activations with parameters."""
TRAINING_STATE = re.compile(r"opt(im(izer)?)?(s|_states?|_state_dict)?|(lr_)?schedulers?|exp_avg(_sq)?")
"""Names below which everything belongs to a training run."""
MOMENTS = re.compile(
    r"(max_)?exp_avg(_sq)?|momentum_buffer|square_avg|grad_avg|acc_delta|exp_inf|Adam(_\d)?|Momentum|RMSProp(_\d)?"
)
"""What optimizers keep beside a parameter, of its shape."""
ADDED = re.compile(
    r"(lora|loha|lokr|hada|ia3|dora|vera|oft|boft|hra|c3a|bone|miss|road|fourierft|waveft|randlora|shira|glora|adalora"
    r"|delora|gralora|ln_tuning)_\w+|trainable_tokens_\w+"
)
"""Names of what adapters add to another layer's weight, by a factor that is in their code (PEFT, LyCORIS, loralib)."""
WRAPPED = ("base_layer", "original_module", "original_layer")
"""Names of the layer inside an adapter: what stands beside them changes it."""
_OF_SECOND_MODELS = re.compile(
    r"ema|avg|averaged|swa|shadow|target|online|teacher|student|encoder|decoder|actor|critic|generator|discriminator"
    r"|g|d|gen|disc|netg|netd|policy|value|model|module|net|network|params|q|k|query|key|left|right|source|text"
    r"|vision|image|audio|visual|rgb|flow|a|b|ab|ba|forward|backward"
    # Halves of transformers, and branches of multi-scale networks
    r"|l|h|joint|single|double|early|late|img|txt|stream|modulation|modulations|transformer|blocks|modules|transition"
    r"|downsamp"
)
"""Words of trees that are models of their own: averages, twins, both halves of a pair."""


TABLE = (
    # Every framework
    (r"bias|biases|b|bias_[ih]h(_l\d+)?(_reverse)?|in_proj_bias|bias_[kv]"
     r"|e_score_correction_bias", "is_bias"),
    # Flat files
    (r"\w+_(bias|biases|b)", "is_bias_of_flat_file"),
    # Torch, Flax, Keras
    (r"(running|moving)_(mean|var|variance|std)|num_batches_tracked", "is_statistic"),
    (r"weight|scale|gamma|beta|bias|offset|mean|var(iance)?|alpha|variable(_\d+)?"
     r"|translate|log_scale", "is_of_norm"),
    # Haiku
    (r"average|hidden|counter", "is_average_of_norm"),
    # Activations
    (r"weight|bias|alpha|beta|alpha_[pn]|eps|filter", "is_of_activation"),
    # Biases of blocks
    (r"(\w+_)?(bias|biases)(_factor|_\d+)?", "is_added"),
    # Layer scales
    (r"(ffn_)?gamma(_?\d+|_xca)?|ls\d+|lambda_?[qk]?_?\d+|layer_scal(ar|e(_parameter|_?\d+)?)"
     r"|(text_audio_)?logit_scale(_[at])?|skipinit_gain|temperature|gating_param|sinks|per_dim_scale"
     r"|(num|n)_points_scale|reg_scale|mix_factor|(vision|text)_param|(residual|hidden_states|input_hidden_states"
     r"|router_states|correct_output|global)_scale|(gate|alpha)_(attn|ffn|dense|cross_attn)"
     r"|cross_attn_(attn|mlp)_gate|recall_gate|high_res_vision_alpha|latent_(scaling|bias)_factor|closure_weight",
     "is_vector_of_block"),
    # State spaces, decays
    (r"A_log|D|dt_bias|time_(decay|first)|recurrent_param|slope_rate", "is_decay"),
    (r"time_mix_\w+|(query|key|diagonal)_decay", "is_sequence"),
    # Tokens
    (r"cls|(\w+_)?(tokens?|newline|separator|probe|latents?|quer(y|ies)|prompt|view_separator)(_?\d+)?"
     r"|(\w+_)?(embed|embeds|embeddings?|emb|encoding|pointer)(_parameter|_window|_?\d+)?|\w+_feature_extensor"
     r"|image_(begin|end|sep)|z_L_init|(segment|type)_token_\w+|codevectors|mean|std"
     r"|(encoder|norm|clip|global|latents|_latents|image|pixel)_(mean|std|invstd)", "is_sequence"),
    # Positions
    (r"(\w+_)?pos(ition(al)?)?_?(embed(ding)?s?|enc(oding)?|emb|frequencies|bias)?(_?\d+|_\w+)?"
     r"|(\w+_)?(scale_shift|modulate|modulation)(_table)?|pe|emb_rel_[kv]|gru_rel_pos_const|pad_(up|down|left|right)",
     "is_sequence"),
    (r"(\w+_)?pos(ition(al)?)?_?(embed(ding)?s?|enc(oding)?|emb)(_[thwxy]|_vlm)?|(\w+_)?latents"
     r"|cls_register_token|latent_quer(y|ies)|memory_tokens", "is_table_of_positions"),
    # Modulation
    (r"(\w+_)?scale_shift_table|level_embed", "is_table_of_modulation"),
    # Attention
    (r"relative_position_bias_table|attention_biases|(height|width)_rel|rel_pos_[hw]", "is_table_of_attention"),
    (r"(pos_)?bias_[uv]|r_[wrs]_bias", "is_bias_of_heads"),
    # Detectors
    (r"(cell_)?anchors?(_grid)?", "is_boxes"),
    # Attention
    (r"relative_coords_table|anchors|stride|inv_freq|rot_emb|bias", "is_constant"),
    (r"mask|masked_bias|(attn|causal|attention)_mask", "is_mask_of_attention"),
    # Rotary embeddings
    (r"inv_freq", "is_alone"),
    # Counters
    (r"step|steps|epoch|iterations?|global_step|count|counter|num_updates|decay|n_averaged|version"
     r"|learning_rate|num_batches_\w+|eps", "is_counter"),
    # Positions of entries
    (r"(\w+_)?(position_ids|relative_position_index|attention_bias_idxs|token_type_ids)"
     r"|(\w+_)?idxs|tid2eid|seed_generator_state", "is_index"),
)  # fmt: skip
"""Patterns of the last word of a name, each with its condition on shape and place: a method of
`specnorm_audit.accounts.places.File`."""


def parts_of(name: str) -> tuple[str, ...]:
    """Return the words of an array's name, outermost first, without TensorFlow's counter.

    A name with characters that no framework writes is one word, unless it ends in a kernel's name. Haiku writes the
    name of a kernel as one word of a state's name: ``mlp___tilde__linear_0__w``.
    """
    words = tuple(filter(None, _SEPARATOR.split(COUNTER.sub("", name).replace("_tilde", "~"))))
    return words if _PATH.fullmatch(name) or (words[-1:] and words[-1] in KERNELS) else (name,)


def last_word(name: str) -> str:
    """Return the last word of a name."""
    return (parts_of(name) or (name,))[-1]


def flat_layer(leaf: str) -> str | None:
    """Return the name of the layer in a kernel's name of a file without scopes: of ``conv0_weight`` it is ``conv0``."""
    match = _FLAT.fullmatch(leaf)
    return None if match is None else match["layer"] or match["kernel"]


def is_quantised(leaf: str) -> bool:
    """Whether an array of integers of this name is a kernel."""
    return leaf in KERNELS or ONE_OF_SEVERAL.fullmatch(leaf) is not None or _QUANTISED.fullmatch(leaf) is not None


def is_second_model(word: str) -> bool:
    """Whether a tree of this name is a model of its own, and no mask of another one."""
    tokens = [token for token in re.split(r"[_\d]+", word.lower().replace("state_dict", "model")) if token]
    return len("".join(tokens)) > 1 and all(map(_OF_SECOND_MODELS.fullmatch, tokens))


_PATTERNS = [(re.compile(leaf), fits) for leaf, fits in TABLE]


def conditions_of(words: Sequence[str]) -> list[str]:
    """Return the conditions under which an array of this name is accounted for, of all rows of the table."""
    leaf = next((word for word in reversed(words) if not word.isdigit()), words[-1])  # of a list: its name
    return [fits for pattern, fits in _PATTERNS if pattern.fullmatch(leaf)]
