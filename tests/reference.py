"""The definition of decoding, transcribed into plain NumPy: loops, no JAX, clarity over speed.

"algorithms" in the docstrings is the project's page `algorithms.md`; sections are named as there.
A *law* is a function from a whole context to the warped next-token log-probabilities `[V]`.
Everything is computed in the dtype of the laws (float64 or float32): run both to see whether a
tie or a threshold is decided by rounding. Distributions are log-probabilities everywhere.

Letters: V vocabulary, K depth, W width. Depth 0 is the empty path, depths 1..K hold W places.
"""

import dataclasses
import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

Text = tuple[int, ...]
Law = Callable[[Text], np.ndarray]  # text -> warped log-probabilities [V]
Outcomes = dict[Text, float]  # what one round commits -> its probability

# ---------------------------------------------------------------- warp


def _log(probs: np.ndarray) -> np.ndarray:
    """Natural logs; log 0 = -inf without a warning."""
    safe = np.where(probs > 0, probs, 1)
    return np.where(probs > 0, np.log(safe), -np.inf).astype(probs.dtype)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """Renormalised log-probabilities; -inf stays -inf."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def _falling(values: np.ndarray) -> list[int]:
    """Indices by falling value, ties by the lowest index."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def argmax(values: np.ndarray) -> int:
    """The lowest index of the largest value (algorithms: Warp, ties)."""
    return _falling(values)[0]


def _keep_only(logits: np.ndarray, kept: Iterable[int]) -> np.ndarray:
    """`logits` with -inf wherever the id was not kept."""
    mask = np.zeros(len(logits), dtype=bool)
    mask[list(kept)] = True
    return np.where(mask, logits, -np.inf).astype(logits.dtype)


def _nucleus(probs: np.ndarray, order: list[int], top_p: float) -> tuple[list[int], float]:
    """The ids that top-p keeps, and the smallest |mass before a token - top_p| on the way.

    Algorithms, Warp: keep a token iff the mass before it is < top_p, the first one always.
    """
    kept, gap, before = order[:1], math.inf, probs[order[0]]
    for token in order[1:]:
        gap = min(gap, abs(float(before) - top_p))
        if before < top_p:
            kept.append(token)
        before = before + probs[token]
    return kept, gap


def _scaled(logits, temperature: float, vocab_size: int | None, dtype) -> np.ndarray:
    """Logits over the temperature; ids past the vocabulary are -inf."""
    values = np.array(logits, dtype=dtype)
    if vocab_size is not None:
        values[vocab_size:] = -np.inf
    return values if temperature == 0 else values / values.dtype.type(temperature)


def warp(
    logits: Sequence[float] | np.ndarray,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    *,
    vocab_size: int | None = None,
    dtype: type = np.float64,
) -> np.ndarray:
    """Logits `[V]` -> log-probabilities `[V]` (algorithms: Notation, Warp; in that order)."""
    scaled = _scaled(logits, temperature, vocab_size, dtype)
    if temperature == 0:
        return np.where(np.arange(len(scaled)) == argmax(scaled), 0.0, -np.inf).astype(dtype)
    order = _falling(scaled)
    if 0 < top_k < len(scaled):
        order = order[:top_k]
        scaled = _keep_only(scaled, order)
    logp = _log_softmax(scaled)
    if top_p < 1:
        kept, _ = _nucleus(np.exp(logp), order, top_p)
        logp = _log_softmax(_keep_only(logp, kept))
    return logp


def warp_gap(
    logits: Sequence[float] | np.ndarray,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    *,
    vocab_size: int | None = None,
) -> float:
    """How far the support of `warp` is from changing sides, in nats or mass (float64).

    The smallest of: the gap at the k-th scaled logit, a mass against top_p, and the gap between
    the last kept and the first dropped token of top-p. Near 0: two programs may differ there.
    """
    scaled = _scaled(logits, temperature, vocab_size, np.float64)
    order = _falling(scaled)
    cut = 1 if temperature == 0 else top_k
    gap = math.inf
    if 0 < cut < len(order) and np.isfinite(scaled[order[cut]]):
        gap = float(scaled[order[cut - 1]] - scaled[order[cut]])
    if temperature == 0 or top_p >= 1:
        return gap
    order = order[: top_k or None]
    logp = _log_softmax(_keep_only(scaled, order))
    kept, mass_gap = _nucleus(np.exp(logp), order, top_p)
    if len(kept) < len(order) and np.isfinite(logp[order[len(kept)]]):
        gap = min(gap, float(logp[kept[-1]] - logp[order[len(kept)]]))
    return min(gap, mass_gap)


# ---------------------------------------------------------------- a table as a language model


@dataclasses.dataclass(frozen=True, eq=False)
class TableModel:
    """A fake language model: the whole context picks a row of `table [rows, V]`."""

    table: np.ndarray

    def row(self, context: Text) -> int:
        """sum_i (token_i + 1) (i + 1)^2 mod rows, i the absolute position, exact integers."""
        total = sum((int(token) + 1) * (i + 1) * (i + 1) for i, token in enumerate(context))
        return total % len(self.table)

    def logits(self, context: Text) -> np.ndarray:
        """Next-token logits `[V]` after `context`."""
        return self.table[self.row(context)]


def law(
    model: TableModel,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    *,
    vocab_size: int | None = None,
    dtype: type = np.float64,
) -> Law:
    """The warped next-token law of `model` (algorithms: Notation, p and q)."""

    @functools.cache
    def next_token(context: Text) -> np.ndarray:
        return warp(
            model.logits(context),
            temperature,
            top_k,
            top_p,
            vocab_size=vocab_size,
            dtype=dtype,
        )

    return next_token


# ---------------------------------------------------------------- joints of one block


@dataclasses.dataclass(frozen=True)
class Block:
    """The steps of one block under both models: `step_p [K]`, `step_q [K]`, log-probabilities.

    Fillers are steps of 0 in both (algorithms: End of text is absorbing).
    """

    step_p: np.ndarray
    step_q: np.ndarray

    @property
    def depth(self) -> int:
        """K, fillers included."""
        return len(self.step_p)

    @property
    def log_p(self) -> np.ndarray:
        """log p(x_{1:j}) for j = 0..K, `[K + 1]`, summed from the left."""
        return _running_sum(self.step_p)

    @property
    def log_q(self) -> np.ndarray:
        """log q(x_{1:j}) for j = 0..K, `[K + 1]`, summed from the left."""
        return _running_sum(self.step_q)

    @property
    def log_ratio(self) -> np.ndarray:
        """log R_j = log p(x_{1:j}) - log q(x_{1:j}) for j = 0..K, `[K + 1]`."""
        return self.log_p - self.log_q


def _running_sum(steps: np.ndarray) -> np.ndarray:
    """0, s_1, s_1 + s_2, ...: one addition after the other, in the dtype of the steps."""
    sums = [steps.dtype.type(0)]
    for step in steps:
        sums.append(sums[-1] + step)
    return np.array(sums, dtype=steps.dtype)


def step_log_probs(model: Law, text: Text, tokens: Sequence[int], ends: frozenset) -> np.ndarray:
    """log p(x_i | text, x_{<i}) for every token; whatever follows an end token is a filler: 0."""
    steps, path, ended = [], text, False
    for token in tokens:
        steps.append(0.0 if ended else model(path)[token])
        path = path + (token,)
        ended = ended or token in ends
    return np.array(steps, dtype=model(text).dtype)


def block(target: Law, draft: Law, text: Text, tokens: Sequence[int], ends: frozenset) -> Block:
    """The joint quantities of the block `tokens` after `text`; q of every token must be > 0."""
    steps_q = step_log_probs(draft, text, tokens, ends)
    if np.isneginf(steps_q).any():
        raise ValueError(f"tokens={tuple(tokens)} hold one that the draft cannot give (q = 0)")
    return Block(step_log_probs(target, text, tokens, ends), steps_q)


def log_threshold(tau: float, dtype: type = np.float64) -> float:
    """log tau in `dtype`; tau = 0 and tau = inf give the two limits."""
    if tau < 0:
        raise ValueError(f"tau={tau} < 0")
    return np.dtype(dtype).type(-math.inf if tau == 0 else math.log(tau))


def longest_prefix(block: Block, tau: float) -> int:
    """The longest j with log R_j > log tau, strictly; 0 if none (algorithms: MTAD, step 3)."""
    threshold = log_threshold(tau, block.step_p.dtype)
    passing = [j for j in range(1, block.depth + 1) if block.log_ratio[j] > threshold]
    return max(passing, default=0)


# ---------------------------------------------------------------- the draft: a beam lattice


@dataclasses.dataclass(frozen=True)
class Node:
    """One place of one depth of the lattice.

    token: what it adds to its parent (0 for a filler; meaningless if not valid).
    parent: place of the parent in the depth above (-1 for the root).
    log_q: the draft's log-weight of the whole path (-inf if not valid).
    ended: the path holds an end token. filler: the end came before this node. valid: as said.
    """

    token: int
    parent: int
    log_q: float
    ended: bool
    filler: bool
    valid: bool


@dataclasses.dataclass(frozen=True)
class Lattice:
    """`depths[d][place]`, d = 0..K (depth 0 = the root alone, every other depth W places).

    star: the places of x*'s ancestor path, one per depth 0..K (star[0] = 0).
    gap: smallest difference between two scores whose order decided something (places, x*);
    near 0, another program may order them otherwise.
    """

    depths: list[list[Node]]
    star: tuple[int, ...]
    gap: float

    @property
    def depth(self) -> int:
        """K."""
        return len(self.depths) - 1

    @property
    def width(self) -> int:
        """W."""
        return len(self.depths[-1])

    def places(self, depth: int, place: int) -> tuple[int, ...]:
        """The places of a node's path, root first, one per depth 0..`depth`."""
        path = [place]
        for d in range(depth, 0, -1):
            path.append(self.depths[d][path[-1]].parent)
        return tuple(reversed(path))

    def nodes(self, depth: int, place: int) -> list[Node]:
        """The nodes of a path, the root left out: `depth` of them."""
        places = self.places(depth, place)
        return [self.depths[d][places[d]] for d in range(1, depth + 1)]

    def text(self, depth: int, place: int) -> Text:
        """The tokens of a path without its fillers: what accepting it commits."""
        return tuple(node.token for node in self.nodes(depth, place) if not node.filler)

    @property
    def star_tokens(self) -> Text:
        """The text of the whole candidate x*."""
        return self.text(self.depth, self.star[-1])


def _pairs(beams: list[Node], paths: list[Text], draft: Law, text: Text) -> dict[int, float]:
    """Pair index (beam * V + token) -> log-weight, of every pair on offer.

    Algorithms, MTAD step 1: every pair of a valid beam and a token with q > 0. An ended path
    offers one, itself, weight unchanged, in column 0 of its row.
    """
    vocab = len(draft(text))
    pairs = {}
    for beam, (node, path) in enumerate(zip(beams, paths, strict=True)):
        if not node.valid:
            continue
        if node.ended:
            pairs[beam * vocab] = node.log_q
            continue
        for token, logp in enumerate(draft(text + path)):
            if logp > -np.inf:
                pairs[beam * vocab + token] = node.log_q + logp
    return pairs


def _child(pair: int, log_q: float, beams: list[Node], vocab: int, ends: frozenset) -> Node:
    """The node of a kept pair."""
    parent, token = divmod(pair, vocab)
    filler = beams[parent].ended
    return Node(token, parent, log_q, filler or token in ends, filler, True)


def _neighbour_gap(ranked: list[float]) -> float:
    """The smallest difference between neighbours of a falling list."""
    return min((float(a - b) for a, b in itertools.pairwise(ranked)), default=math.inf)


def _draft(
    draft: Law,
    text: Text,
    depth: int,
    width: int,
    ends: frozenset,
    noise: np.ndarray | None,
) -> Lattice:
    """K beam steps (algorithms: MTAD, step 1); places are ordered by falling score."""
    vocab, dtype = len(draft(text)), draft(text).dtype.type
    depths, gap = [[Node(-1, -1, dtype(0), False, False, True)]], math.inf
    paths: list[Text] = [()]
    for d in range(depth):
        beams = depths[-1]
        weights = _pairs(beams, paths, draft, text)
        scores = dict(weights)
        if noise is not None:
            scores = {i: w + dtype(noise[d][i // vocab, i % vocab]) for i, w in weights.items()}
        ranked = sorted(scores, key=lambda i: (-scores[i], i))
        gap = min(gap, _neighbour_gap([scores[i] for i in ranked[: width + 1]]))
        kept = ranked[:width]
        nodes = [_child(i, weights[i], beams, vocab, ends) for i in kept]
        nodes += [Node(0, 0, dtype(-np.inf), False, False, False)] * (width - len(kept))
        old = paths
        paths = [old[n.parent] + (() if n.filler else (n.token,)) for n in nodes]
        depths.append(nodes)
    last = np.array([node.log_q if node.valid else -np.inf for node in depths[-1]])
    best = _falling(last)
    valid = [last[i] for i in best[:2] if last[i] > -np.inf]
    lattice = Lattice(depths, (), min(gap, _neighbour_gap(valid)))
    return dataclasses.replace(lattice, star=lattice.places(depth, best[0]))


def draft_search(
    draft: Law, text: Text, *, depth: int, width: int, ends: frozenset = frozenset()
) -> Lattice:
    """`search`: each depth keeps the W largest pairs (algorithms: MTAD, step 1)."""
    return _draft(draft, text, depth, width, ends, None)


def draft_sample(
    draft: Law,
    text: Text,
    noise: np.ndarray,
    *,
    depth: int,
    width: int,
    ends: frozenset = frozenset(),
) -> Lattice:
    """`sample`: Gumbel top-W, pairs by log-weight + noise `[K, W, V]` (depth, beam, token).

    W draws without replacement in proportion to the joint weights (algorithms: MTAD, step 1).
    At the first depth the only beam is beam 0. The weights themselves stay without noise.
    """
    return _draft(draft, text, depth, width, ends, noise)


# ---------------------------------------------------------------- verify and accept


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a round accepts.

    depth: accepted nodes, fillers counted. place: of the leaf in its depth (0 if depth = 0).
    tokens: the text that is committed before the bonus, no fillers. ended: the text is over.
    log_p: log p(accepted path). log_q_star: log q(x*_{1:depth}).
    bonus: the law of the one token that follows, `[V]`; None after an end.
    """

    depth: int
    place: int
    tokens: Text
    ended: bool
    log_p: float
    log_q_star: float
    bonus: np.ndarray | None


def node_log_p(lattice: Lattice, target: Law, text: Text, depth: int, place: int) -> float:
    """log p(path) of a node; fillers add 0."""
    total, path = target(text).dtype.type(0), text
    for node in lattice.nodes(depth, place):
        if not node.filler:
            total = total + target(path)[node.token]
            path = path + (node.token,)
    return total


def all_log_p(lattice: Lattice, target: Law, text: Text) -> list[list[float]]:
    """log p(path) of every node, `[depth][place]`; -inf where the node is not valid."""
    return [
        [
            node_log_p(lattice, target, text, d, i) if node.valid else -math.inf
            for i, node in enumerate(nodes)
        ]
        for d, nodes in enumerate(lattice.depths)
    ]


def star_log_q(lattice: Lattice) -> np.ndarray:
    """log q(x*_{1:d}) for d = 0..K, along the ancestor path of x*."""
    return np.array([lattice.depths[d][i].log_q for d, i in enumerate(lattice.star)])


def star_block(lattice: Lattice, target: Law, draft: Law, text: Text) -> Block:
    """The joint quantities of x* with its fillers, K steps."""
    step_p = [target(text).dtype.type(0)] * lattice.depth
    step_q = [draft(text).dtype.type(0)] * lattice.depth
    for i, token in enumerate(lattice.star_tokens):
        path = text + lattice.star_tokens[:i]
        step_p[i], step_q[i] = target(path)[token], draft(path)[token]
    return Block(np.array(step_p), np.array(step_q))


def _verdict(lattice: Lattice, target: Law, text: Text, depth: int, place: int) -> Verdict:
    """The verdict whose leaf is (depth, place); the bonus as in algorithms: MTAD, step 4."""
    tokens, ended = lattice.text(depth, place), lattice.depths[depth][place].ended
    return Verdict(
        depth,
        place,
        tokens,
        ended,
        node_log_p(lattice, target, text, depth, place),
        star_log_q(lattice)[depth],
        None if ended else target(text + tokens),
    )


def mtad_accept(lattice: Lattice, target: Law, text: Text, tau: float) -> Verdict:
    """The longest prefix j of x* with log p - log q > log tau (algorithms: MTAD, steps 2-4)."""
    log_q, accepted = star_log_q(lattice), 0
    threshold = log_threshold(tau, target(text).dtype)
    for j in range(1, lattice.depth + 1):
        log_p = node_log_p(lattice, target, text, j, lattice.star[j])
        if log_p - log_q[j] > threshold:
            accepted = j  # a failing shorter prefix does not stop the scan
    return _verdict(lattice, target, text, accepted, lattice.star[accepted])


def passing(lattice: Lattice, target: Law, text: Text, tau: float) -> list[list[int]]:
    """The places that pass at depths 0..K; depth 0 holds none (algorithms: MMTAD)."""
    log_p, log_q = all_log_p(lattice, target, text), star_log_q(lattice)
    threshold = log_threshold(tau, target(text).dtype)
    passed: list[list[int]] = [[]]
    for d in range(1, lattice.depth + 1):
        valid = [i for i, node in enumerate(lattice.depths[d]) if node.valid]
        passed.append([i for i in valid if log_p[d][i] - log_q[d] > threshold])
    return passed


def mmtad_accept(lattice: Lattice, target: Law, text: Text, tau: float) -> Verdict:
    """Deepest depth with a passing node, there the largest log p, the lowest place on ties.

    Every valid node is measured against x*'s *ancestor* at its depth (algorithms: MMTAD).
    """
    passed = passing(lattice, target, text, tau)
    deepest = max((d for d, places in enumerate(passed) if places), default=0)
    if deepest == 0:
        return _verdict(lattice, target, text, 0, 0)
    log_p = all_log_p(lattice, target, text)[deepest]
    best = min(passed[deepest], key=lambda i: (-log_p[i], i))
    return _verdict(lattice, target, text, deepest, best)


def accept_gap(lattice: Lattice, target: Law, text: Text, tau: float) -> float:
    """How far both verdicts are from changing: |log ratio - log tau|, and log p among winners."""
    log_p, log_q = all_log_p(lattice, target, text), star_log_q(lattice)
    threshold, gap = float(log_threshold(tau)), math.inf
    for d in range(1, lattice.depth + 1):
        for value in log_p[d]:
            if value > -math.inf and math.isfinite(threshold):
                gap = min(gap, abs(float(value - log_q[d]) - threshold))
    deepest = mmtad_accept(lattice, target, text, tau).depth
    winners = sorted(log_p[deepest][i] for i in passing(lattice, target, text, tau)[deepest])
    return min(gap, _neighbour_gap(winners[:-3:-1]))


# ---------------------------------------------------------------- speculative sampling


def cut_at_end(tokens: Text, ends: frozenset) -> Text:
    """`tokens` up to and with the first end token."""
    for i, token in enumerate(tokens):
        if token in ends:
            return tokens[: i + 1]
    return tokens


def _passes(u: float, log_p: float, log_q: float) -> bool:
    """u < p/q in logs, strictly; u = 0 passes iff p > 0 (algorithms: Tests of chance)."""
    if log_p == -np.inf:
        return False
    return u == 0 or math.log(u) < log_p - log_q


def residual(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """norm(max(0, p - q)), or p where that has no mass (algorithms: Tests of chance)."""
    rest = np.maximum(0, np.exp(log_p) - np.exp(log_q))
    return log_p if rest.sum() == 0 else _log(rest / rest.sum())


def speculative_round(
    target: Law,
    draft: Law,
    text: Text,
    chain: Text,
    uniforms: Sequence[float],
    ends: frozenset = frozenset(),
) -> tuple[Text, np.ndarray | None]:
    """Accepted tokens and the law of the token that follows (None after an end).

    `chain`: tokens drawn from the draft, `uniforms[i]` the test of chain[i]. A chain that ended
    is cut after its end (algorithms: Comparators, speculative sampling).
    """
    accepted: Text = ()
    for i, token in enumerate(cut_at_end(chain, ends)):
        p, q = target(text + accepted), draft(text + accepted)
        if q[token] == -np.inf:
            raise ValueError(f"chain={chain}: token {token} has q = 0, it was not drawn from q")
        if not _passes(uniforms[i], p[token], q[token]):
            return accepted, residual(p, q)
        accepted = accepted + (token,)
    if accepted and accepted[-1] in ends:
        return accepted, None
    return accepted, target(text + accepted)


# ---------------------------------------------------------------- exact laws, by enumeration


def chains(model: Law, text: Text, depth: int, ends: frozenset) -> Outcomes:
    """Every chain of `depth` tokens drawn from `model`, cut after an end -> its probability."""
    done: Outcomes = {(): 1.0}
    for _ in range(depth):
        grown: Outcomes = {}
        for path, weight in done.items():
            if path and path[-1] in ends:
                grown[path] = weight
                continue
            for token, logp in enumerate(model(text + path)):
                if logp > -np.inf:
                    grown[path + (token,)] = weight * math.exp(logp)
        done = grown
    return done


def _followed(accepted: Text, weight: float, follow: np.ndarray | None) -> Iterable:
    """The outcomes (committed, probability) of `accepted` and a draw from `follow`."""
    if follow is None:
        yield accepted, weight
        return
    for token, logp in enumerate(follow):
        if logp > -np.inf:
            yield accepted + (token,), weight * math.exp(logp)


def sampling_outcomes(target: Law, ends: frozenset = frozenset()) -> Callable[[Text], Outcomes]:
    """One round of ancestral sampling: one token from the target."""
    return lambda text: chains(target, text, 1, ends)


def speculative_outcomes(
    target: Law, draft: Law, *, depth: int, ends: frozenset = frozenset()
) -> Callable[[Text], Outcomes]:
    """One round of speculative sampling, all drafts and all tests enumerated.

    Token i passes with probability min(1, p_i/q_i). The law that follows j passes comes from
    `speculative_round`, given j uniforms of 0 and then one that fails (1).
    """

    def outcomes(text: Text) -> Outcomes:
        total: Outcomes = defaultdict(float)
        for chain, weight in chains(draft, text, depth, ends).items():
            steps = block(target, draft, text, chain, ends)
            chances = np.exp(np.minimum(0, steps.step_p - steps.step_q))
            for j in range(len(chain) + 1):
                stop = 1 - chances[j] if j < len(chain) else 1.0
                here = weight * math.prod(chances[:j]) * stop
                if here > 0:
                    uniforms = [0.0] * j + [1.0] * (len(chain) - j)
                    accepted, follow = speculative_round(target, draft, text, chain, uniforms, ends)
                    for committed, mass in _followed(accepted, here, follow):
                        total[committed] += mass
        return dict(total)

    return outcomes


def mtad_round(
    target: Law,
    draft: Law,
    *,
    depth: int,
    width: int,
    tau: float,
    many: bool = False,
    ends: frozenset = frozenset(),
) -> Callable[[Text], Verdict]:
    """One round of MTAD (`many`: MMTAD) with a `search` draft, as a function of the text."""
    accept = mmtad_accept if many else mtad_accept

    def round_(text: Text) -> Verdict:
        lattice = draft_search(draft, text, depth=depth, width=width, ends=ends)
        return accept(lattice, target, text, tau)

    return round_


def round_outcomes(round_: Callable[[Text], Verdict]) -> Callable[[Text], Outcomes]:
    """The outcomes of a round that draws nothing but its bonus."""

    def outcomes(text: Text) -> Outcomes:
        verdict = round_(text)
        return dict(_followed(verdict.tokens, 1.0, verdict.bonus))

    return outcomes


def exact_law(
    outcomes: Callable[[Text], Outcomes],
    prompt: Text,
    *,
    length: int = 2,
    ends: frozenset = frozenset(),
) -> Outcomes:
    """The probability of every text of the first `length` tokens, over all draws.

    Rounds go on until `length` tokens are there or the text has ended (then it is shorter).
    """
    total: Outcomes = defaultdict(float)
    pending: Outcomes = {(): 1.0}
    while pending:
        later: Outcomes = defaultdict(float)
        for new, weight in pending.items():
            for more, chance in outcomes(prompt + new).items():
                text = cut_at_end(new + more, ends)[:length]
                over = len(text) == length or text[-1] in ends
                (total if over else later)[text] += weight * chance
        pending = later
    return dict(total)


def target_law(target: Law, prompt: Text, length: int = 2, ends: frozenset = frozenset()):
    """The exact law of the first tokens under ancestral sampling from the target."""
    return exact_law(sampling_outcomes(target, ends), prompt, length=length, ends=ends)


def speculative_law(
    target: Law,
    draft: Law,
    prompt: Text,
    depth: int,
    length: int = 2,
    ends: frozenset = frozenset(),
) -> Outcomes:
    """The exact law of the first tokens under speculative sampling with K = `depth`."""
    outcomes = speculative_outcomes(target, draft, depth=depth, ends=ends)
    return exact_law(outcomes, prompt, length=length, ends=ends)


def distance(a: Outcomes, b: Outcomes) -> float:
    """The largest difference of a probability between two laws."""
    return max(abs(a.get(key, 0.0) - b.get(key, 0.0)) for key in a.keys() | b.keys())


# ---------------------------------------------------------------- whole texts


def decode(
    round_: Callable[[Text], Verdict],
    prompt: Text,
    *,
    max_new_tokens: int,
    ends: frozenset = frozenset(),
    pick: Callable[[np.ndarray], int] = argmax,
) -> Text:
    """The new tokens of round after round; `pick` draws the bonus from its law.

    Nothing after an end, nothing past `max_new_tokens` (algorithms: MTAD, last paragraph).
    """
    new: Text = ()
    while len(new) < max_new_tokens and not (new and new[-1] in ends):
        verdict = round_(prompt + new)
        new = new + verdict.tokens
        if verdict.bonus is not None:
            new = new + (pick(verdict.bonus),)
    return new[:max_new_tokens]


def greedy(
    target: Law, prompt: Text, *, max_new_tokens: int, ends: frozenset = frozenset()
) -> Text:
    """The most probable token again and again, until an end or the limit."""
    new: Text = ()
    while len(new) < max_new_tokens and not (new and new[-1] in ends):
        new = new + (argmax(target(prompt + new)),)
    return new


# ---------------------------------------------------------------- provable, hence testable


def exact_tail(block: Block) -> list[float]:
    """P(J >= j), j = 0..K, for tau ~ U(0, 1) drawn once: the scan itself, cell by cell.

    J is constant in tau between neighbouring R_m, so one evaluation per cell is exact.
    """
    ratios = [math.exp(r) for r in block.log_ratio[1:] if r < 0]
    edges = sorted({0.0, 1.0, *ratios})
    tail = [0.0] * (block.depth + 1)
    for low, high in itertools.pairwise(edges):
        depth = longest_prefix(block, (low + high) / 2)
        for j in range(depth + 1):
            tail[j] += high - low
    return tail


def tail_formula(block: Block) -> list[float]:
    """min(1, max_{m >= j} R_m), j = 0..K (algorithms: Provable)."""
    ratio = block.log_ratio
    return [math.exp(min(0.0, max(ratio[j:]))) for j in range(block.depth + 1)]


def speculative_tail(block: Block) -> list[float]:
    """Speculative sampling's P(J >= j) = prod_{i <= j} min(1, r_i) on this block, j = 0..K."""
    chances = np.exp(np.minimum(0, block.step_p - block.step_q))
    return [math.prod(chances[:j]) for j in range(block.depth + 1)]


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise AssertionError(message)


def check_accepted_joint(
    depth: int, log_p: float, log_q_star: float, tau: float, slack: float = 1e-9
) -> None:
    """d >= 1 implies -log p(accepted) < -log q(x*_{1:d}) + log(1/tau), up to rounding `slack`."""
    if depth == 0:
        return
    bound = -log_q_star - float(log_threshold(tau))
    _require(-log_p < bound + slack, f"depth {depth}: -log p {-log_p} >= {bound}")


def check_depths(mtad_depth: int, mmtad_depth: int) -> None:
    """Accepted depth of MMTAD >= MTAD's on the same lattice."""
    _require(mmtad_depth >= mtad_depth, f"MMTAD {mmtad_depth} < MTAD {mtad_depth}")


def check_limits(block: Block) -> None:
    """tau -> 0: the longest prefix with p > 0; tau -> inf: nothing."""
    possible = [j for j in range(block.depth + 1) if block.log_p[j] > -np.inf]
    _require(longest_prefix(block, 0.0) == max(possible), "tau -> 0 is not the longest p > 0")
    _require(longest_prefix(block, math.inf) == 0, "tau -> inf accepts something")


def check_same_model(lattice: Lattice, target: Law, text: Text, tau: float) -> None:
    """Draft = target, tau < 1: log-ratio 0, depth K, MMTAD accepts x* or one as probable."""
    _require(0 < tau < 1, f"tau={tau} is not inside (0, 1)")
    log_p, log_q = all_log_p(lattice, target, text), star_log_q(lattice)
    ratios = [log_p[d][i] - log_q[d] for d, i in enumerate(lattice.star)]
    _require(all(ratio == 0 for ratio in ratios), f"log-ratios {ratios} are not 0")
    one = mtad_accept(lattice, target, text, tau)
    many = mmtad_accept(lattice, target, text, tau)
    _require(one.depth == many.depth == lattice.depth, "depth K is not accepted")
    _require(many.log_p == one.log_p, "MMTAD accepts a path less probable than x*")


def check_greedy(
    new: Text, target: Law, prompt: Text, *, max_new_tokens: int, ends: frozenset = frozenset()
) -> None:
    """Target at temperature 0: `new` is greedy's text, for every tau, W and draft."""
    expected = greedy(target, prompt, max_new_tokens=max_new_tokens, ends=ends)
    _require(tuple(new) == expected, f"{new} is not greedy's {expected}")


def check_random_threshold(block: Block, slack: float = 1e-9) -> None:
    """tau ~ U(0, 1): P(J >= j) = min(1, max_{m >= j} R_m) >= speculative sampling's."""
    tails = zip(exact_tail(block), tail_formula(block), speculative_tail(block), strict=True)
    for j, (exact, formula, token_wise) in enumerate(tails):
        _require(abs(exact - formula) <= slack, f"P(J >= {j}) = {exact}, formula {formula}")
        _require(formula >= token_wise - slack, f"P(J >= {j}): {formula} < {token_wise}")


def check_lattice(
    lattice: Lattice, target: Law, draft: Law, text: Text, tau: float, slack: float = 1e-9
) -> None:
    """Every bound that holds for any two models, on one lattice."""
    one = mtad_accept(lattice, target, text, tau)
    many = mmtad_accept(lattice, target, text, tau)
    check_depths(one.depth, many.depth)
    for verdict in (one, many):
        check_accepted_joint(verdict.depth, verdict.log_p, verdict.log_q_star, tau, slack)
    steps = star_block(lattice, target, draft, text)
    _require(one.depth == longest_prefix(steps, tau), "the lattice and its block disagree")
    check_limits(steps)
    check_random_threshold(steps, slack)
