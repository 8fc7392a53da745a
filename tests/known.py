"""What several files of tests know by name."""

VARIANTS = ["nope", "rope", "alibi", "window_nope", "window_rope", "window_alibi", "narrow_window_nope"]
# Those that add to the embedding: the first answers, which transformers has no class of this decoder for.
ABSOLUTE = ["learned", "sinusoidal"]
# Seven of its signs are of several bytes, and the tokenizer has no token of them but their bytes.
DOCUMENT = "naïve café — 5 € for 😀, 東京!"
