"""lm-evaluation-harness: `mtad_jax` as one of its models; importing `model` registers it.

`docs/lm_eval.md` has the commands.
"""
