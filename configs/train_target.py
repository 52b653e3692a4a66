"""Recipe of the shipped target: 5 M parameters from scratch on tales, role play and SQL."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Return the recipe; `docs/training.md` says what each setting means."""
    c = ml_collections.ConfigDict()
    c.seed = 0
    c.model = ml_collections.ConfigDict(
        {
            "vocab_size": 2048,
            "embed_dim": 256,
            "mlp_dim": 704,
            "num_layers": 6,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 64,
            "max_positions": 1024,
            "norm_eps": 1e-5,
            "rope_theta": 100000.0,
            "tied_head": True,
        }
    )
    # A draft may be cut out of its target, these layers of it, or go on from another model; and
    # what is frozen.
    c.init_layers = ()
    c.init_from = ""
    c.frozen = ()
    # Copying is most of what a query is, and takes long to be found.
    c.induction = True
    # Long rows last: attention over them costs more, and a short phase of them is enough to
    # keep the quality past 256 positions.
    c.phases = ((3600, 8, 256), (200, 4, 512))
    c.rates = ((0, 0.0), (100, 2e-3), (2200, 2e-3), (3800, 2e-5))
    c.weight_decay = 0.1
    c.clip = 1.0
    c.losses = (("cross_entropy", 1.0),)
    # The rule that a draft is for, where a loss looks at what the draft proposes.
    c.block = ml_collections.ConfigDict(
        {"depth": 4, "width": 4, "draw": "search", "tau": 0.5, "softness": 0.5, "anchors": 16}
    )
    # What is asked is drawn at random: little can be learnt from it.
    c.prompt_weight = 0.1
    c.held_out = ("stories", "sql")
    c.log_every = 20
    c.eval_every = 500
    c.eval_rows = 64
    c.save_every = 250
    return c
