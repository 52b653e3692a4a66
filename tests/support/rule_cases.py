"""Pairs of exact laws, and rounds of the reference's rules over drafts of each kind."""

import numpy as np
import reference as ref
from hypothesis import settings

PROMPT = (1, 0)
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
KINDS = ["plain", "zeros", "same", "disjoint", "peaked"]


def pair(kind: str, vocab: int, seed: int = 0) -> tuple[ref.Law, ref.Law]:
    """Target and draft as laws of tables."""
    rng = np.random.default_rng([seed, vocab])
    logits = rng.normal(scale=1.2, size=(2, 7, vocab))
    if kind == "zeros":  # tokens that p, q or both cannot give
        logits[0, ::2, 0] = logits[1, 1::2, 1] = logits[1, 2::4, 0] = -np.inf
    if kind == "same":
        logits[1] = logits[0]
    if kind == "disjoint":
        logits[0, :, 0] = logits[1, :, 1:] = -np.inf
    if kind == "peaked":
        logits[1] *= 4
    target, draft = (ref.law(ref.TableModel(table)) for table in logits)
    return target, draft


def chain_rule(rule, depth: int):
    """A rule over a chain drawn from the draft."""

    def build(target, draft, ends):
        def round_(text, chance):
            chain = ref.draw_chain(draft, text, depth, ends, chance)
            return rule(target, draft, text, chain, chance, ends)

        return round_

    return build


def tree_rule(rule, branching, drawn_anew: bool, change=lambda tree, draft, text: tree, **setting):
    """A rule over a tree drawn from the draft; `change` spoils the tree."""

    def build(target, draft, ends):
        def round_(text, chance):
            tree = ref.draw_tree(draft, text, branching, drawn_anew, ends, chance)
            tree = change(tree, draft, text)
            return rule(target, draft, text, tree, chance, ends, **setting)

        return round_

    return build


def specinfer(*branching, **change):
    return tree_rule(ref.tree_round, branching, True, replace=True, **change)


def mcsd(*branching, **change):
    return tree_rule(ref.tree_round, branching, False, replace=False, **change)


def traversal(*branching, replace, **change):
    return tree_rule(ref.traversal_round, branching, replace, replace=replace, **change)


def rsd_s(depth, width, change=lambda levels, draft, text: levels):
    """Recursive rejection over beams drawn without replacement; `change` spoils the beams."""

    def build(target, draft, ends):
        def round_(text, chance):
            levels = ref.drawn_beams(draft, text, depth, width, ends, chance)
            levels = change(levels, draft, text)
            return ref.beam_rejection_round(target, draft, text, levels, width, chance, ends)

        return round_

    return build


def spectr(chains, depth, rho="best"):
    branching = (chains, *(1,) * (depth - 1))
    return tree_rule(ref.spectr_round, branching, True, rho=rho)


def lookup(rule, depth, ngram):
    """A rule over the continuation that the text itself gives; its draft is a point mass."""

    def build(target, draft, ends):
        def round_(text, chance):
            chain = ref.lookup_chain(text, depth, ngram, ends)
            point = ref.point_law(text, chain, len(target(text)))
            return rule(target, point, text, chain, chance, ends)

        return round_

    return build


def suffix(rule, depth, longest, documents):
    """A rule over what followed the text's longest suffix in it or in documents."""

    def build(target, draft, ends):
        def round_(text, chance):
            chain = ref.suffix_chain(text, documents, depth, longest, ends)
            point = ref.point_law(text, chain, len(target(text)))
            return rule(target, point, text, chain, chance, ends)

        return round_

    return build


def recycled(depth, width, table):
    """Token recycling from a table that is given."""

    def build(target, draft, ends):
        def round_(text, chance):
            tree, _ = ref.recycled_paths(text[-1], table, depth, width, ends)
            return ref.point_round(target, text, tree, chance, ends)

        return round_

    return build


def beams(depth, width, least=0.8):
    """DSBD; of width 1 it is speculative sampling."""

    def build(target, draft, ends):
        def round_(text, chance):
            levels = ref.pair_draws(draft, text, depth, width, ends, chance)
            chosen = ref.dsbd_round(target, draft, text, levels, chance, least)
            return ref.dsbd_kept(chosen, len(target(text)))

        return round_

    return build


def unsure(rule, depth, fallback):
    """A rule over a chain that stops where the draft is unsure, as BiLD's does."""

    def build(target, draft, ends):
        def round_(text, chance):
            chain, _ = ref.bild_draft(draft, draft, text, depth, fallback, ends, chance)
            return rule(target, draft, text, chain, chance, ends)

        return round_

    return build
