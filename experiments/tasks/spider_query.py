"""Reads a SELECT into the clauses that Spider compares, out of the trees of `sqlglot`.

Names of tables are resolved and values left out; `experiments.tasks.spider_match` says what counts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from experiments.tasks.spider_match import Condition, Conditions, Query, same
from experiments.tasks.spider_schema import Schema
from mtad_jax.errors import install_hint


def exact_set_match(predicted: str, gold: str, schema: Schema) -> bool:
    """Return whether a query is the gold query, clause by clause.

    Raises:
      ValueError: the gold query cannot be read. A prediction that cannot is no match.
    """
    wanted = read_query(gold, schema)
    try:
        return same(read_query(predicted, schema), wanted)
    except ValueError:
        return False


def sqlglot() -> Any:
    """Return the package that reads SQL.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import sqlglot
    except ImportError as error:
        raise ValueError(f"exact-set match needs sqlglot: {install_hint('tasks')}") from error
    return sqlglot


def read_query(sql: str, schema: Schema) -> Query:
    """Return the clauses of a SELECT.

    Raises:
      ValueError: it is none, or names a table or column that the schema does not have.
    """
    package = sqlglot()
    try:
        statements = [s for s in package.parse(sql, dialect="sqlite") if s is not None]
    except (package.errors.SqlglotError, RecursionError) as error:
        # What follows shows the place in the colours of a terminal.
        raise ValueError(f"not SQL: {str(error).partition('. Line')[0]}") from error
    if len(statements) != 1 or not isinstance(statements[0], package.exp.Query):
        raise ValueError("not one SELECT")
    try:
        return _Reader(schema, package.exp).whole(statements[0])
    except RecursionError as error:
        raise ValueError("too deep") from error


class _Reader:
    """Turns sqlglot's trees of one query into clauses."""

    def __init__(self, schema: Schema, exp: Any, outer: "_Scopes" = (), inner: bool = False):
        """Begins a query.

        Args:
          schema: of the database.
          exp: sqlglot's module of expressions.
          outer: tables of the queries around it.
          inner: whether it is compared as written: DISTINCT, and which of two joined columns is
            named, count.
        """
        self.schema, self.exp, self.outer, self.inner = schema, exp, outer, inner
        self.scopes: _Scopes = outer
        self.joined: Mapping[str, str] = {}
        self.named: dict[str, Any] = {}  # expressions of SELECT that have a name

    def whole(self, tree: Any) -> Query:
        """Return a query with all that it is united with."""
        parts = self._parts(tree)
        if not self.inner:  # columns of the first one's tables only, as in Spider's script
            own = {self._table(node) for node, _ in _sources(parts[0][1])}
            self.joined = {
                column: shown
                for column, shown in self.schema.joined.items()
                if column.partition(".")[0] in own
            }
        then: tuple[str, Query] | None = None
        for word, part in reversed(parts):
            then = (word, replace(self._select(part), then=then))
        assert then is not None
        return then[1]

    def _parts(self, tree: Any) -> list[tuple[str, Any]]:
        """Return the SELECTs that are united, each with the word before it.

        What orders or limits the union stands after the last one.
        """
        while isinstance(tree, self.exp.Subquery):
            tree = tree.this
        if isinstance(tree, self.exp.Select):
            return [("", tree)]
        if not isinstance(tree, self.exp.SetOperation):
            raise ValueError(f"{tree.key} is no SELECT")
        word = tree.key + ("" if tree.args.get("distinct") else " all")
        (_, first), *others = self._parts(tree.expression)
        *before, (last_word, last) = [*self._parts(tree.this), (word, first), *others]
        last = last.copy()
        for key in ("order", "limit"):
            if tree.args.get(key) is not None:
                last.set(key, tree.args[key])
        return [*before, (last_word, last)]

    def _select(self, tree: Any) -> Query:
        sources = _sources(tree)
        own = {node.alias_or_name.lower(): self._table(node) for node, _ in sources}
        self.scopes = (own, *self.outer)
        self.named = {e.alias.lower(): e.this for e in tree.expressions if e.key == "alias"}
        args = {key: tree.args.get(key) for key in ("where", "having", "group", "order", "limit")}
        return Query(
            select=tuple(map(self._text, tree.expressions)),
            distinct=self.inner and tree.args.get("distinct") is not None,
            tables=tuple(self._source(node, side) for node, side in sources),
            on=self._all(join.args.get("on") for join in tree.args.get("joins") or ()),
            where=self._all([args["where"] and args["where"].this]),
            group=tuple(map(self._text, args["group"].expressions if args["group"] else ())),
            having=self._all([args["having"] and args["having"].this]),
            order=tuple(
                (self._text(term.this), bool(term.args.get("desc")))
                for term in (args["order"].expressions if args["order"] else ())
            ),
            limit=args["limit"].sql() if args["limit"] else "",
        )

    def _table(self, node: Any) -> str | None:
        """Return the name of a table of FROM; None for a query there."""
        if isinstance(node, self.exp.Subquery):
            return None
        name = node.name.lower()
        if name not in self.schema.columns or node.args.get("joins"):
            raise ValueError(f"no table {name!r}")
        return name

    def _source(self, node: Any, side: str) -> str | Query:
        name = self._table(node)
        if name is None:
            return _Reader(self.schema, self.exp, self.outer, inner=True).whole(node)
        return f"{side} {name}".strip()

    def _text(self, tree: Any) -> str:
        """Return an expression as text that is the same for the same expression."""
        tree = tree.unalias().unnest()
        if tree.find(self.exp.Query):
            raise ValueError("a query inside an expression")
        return tree.transform(self._plain).sql(dialect="sqlite", comments=False)

    def _plain(self, node: Any) -> Any:
        """Return a part of an expression without what does not count."""
        if isinstance(node, self.exp.Distinct) and not self.inner and len(node.expressions) == 1:
            return node.expressions[0].transform(self._plain)
        return self._column(node) if isinstance(node, self.exp.Column) else node

    def _column(self, node: Any) -> Any:
        """Return a column as `table.column`, or what SQLite takes it for.

        Raises:
          ValueError: there is no such column.
        """
        name, table = node.name.lower(), node.table.lower()
        for scope in self.scopes:
            for shown, real in scope.items():
                columns = ("*", *self.schema.columns[real]) if real else (name,)
                if table in ("", shown) and name in columns:
                    full = f"{real or 'query'}.{name}"
                    return self.exp.to_identifier(self.joined.get(full, full), quoted=False)
        if not table and name in self.named:
            return self.named[name].transform(self._plain)
        if not table and node.this.args.get("quoted"):
            return self.exp.Literal.string(node.name)
        raise ValueError(f"no column {node.sql()}")

    def _all(self, trees: Iterable[Any]) -> Conditions:
        """Return the conditions of all trees, which all have to hold."""
        found = [
            self._conditions(tree) for tree in trees if tree is not None and tree.key != "boolean"
        ]
        joint = Conditions()
        for part in found:
            joint = _joint(joint, "and", part) if joint.each else part
        return joint

    def _conditions(self, tree: Any) -> Conditions:
        tree = tree.unnest()
        if not isinstance(tree, self.exp.And | self.exp.Or):
            return Conditions((self._condition(tree),))
        sides = []
        for side in (tree.left.unnest(), tree.right.unnest()):
            grouped = tree.key == "and" and side.key == "or"  # only parentheses make this
            sides.append(
                Conditions((self._condition(side),)) if grouped else self._conditions(side)
            )
        return _joint(sides[0], tree.key, sides[1])

    def _condition(self, tree: Any) -> Condition:
        tree, exp = tree.unnest(), self.exp
        if negated := isinstance(tree, exp.Not):
            tree = tree.this.unnest()
        negated ^= bool(tree.args.get("negate"))  # of LIKE
        if isinstance(tree, exp.And | exp.Or):
            return Condition(negated, tree.key, self._conditions(tree))
        if isinstance(tree, exp.Exists):
            return Condition(negated, tree.key, "", (self._right(tree.this),))
        if isinstance(tree, exp.In):
            right = (tree.args.get("query"),)
        elif isinstance(tree, exp.Between):
            right = (tree.args["low"], tree.args["high"])
        elif isinstance(tree, exp.Binary) and isinstance(tree, exp.Predicate):
            right = (tree.expression,)
        else:
            return Condition(negated, "", self._text(tree))
        return Condition(negated, tree.key, self._text(tree.this), tuple(map(self._right, right)))

    def _right(self, tree: Any) -> Query | None:
        """Return the query that something is compared with; None for a value."""
        tree = tree and tree.unnest()
        if not isinstance(tree, self.exp.Query):
            return None
        return _Reader(self.schema, self.exp, self.scopes, inner=True).whole(tree)


_Scopes = tuple[dict[str, str | None], ...]
"""Names that tables go by, and the tables (None for a query): of a query and those around it."""


def _sources(tree: Any) -> list[tuple[Any, str]]:
    """Return what stands in FROM, each with its side of an outer join or ""."""
    first = tree.args.get("from_")
    joins = tree.args.get("joins") or ()
    found = [(first.this, "")] if first else []
    return found + [(join.this, join.side.lower()) for join in joins]


def _joint(one: Conditions, word: str, other: Conditions) -> Conditions:
    return Conditions(one.each + other.each, (*one.words, word, *other.words))
