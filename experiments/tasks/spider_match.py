"""Spider's exact-set match: whether two queries say the same, clause by clause, values aside.

Source: Yu et al., 2018 (arXiv:1809.08887), with what its evaluation script settles. Of a query and
those it is united with, SELECT, WHERE and FROM are sets that may repeat; GROUP BY, HAVING and ORDER
BY are lists. Left out of account are values (of LIMIT, too), DISTINCT, the conditions of joins, and
which of two columns joined by a foreign key is named. A query inside a condition or inside FROM is
compared as it is written, values aside.

Beyond the script, which scores a query 0 that it cannot read: names of tables hold in their own
query, ORDER BY has a direction a term, and outer joins, parentheses, names of columns and functions
are understood.
"""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple


class Condition(NamedTuple):
    """One condition: what is compared, how, and the queries that it is compared with.

    Attributes:
      negated: whether NOT stands before it.
      operator: "eq", "gt", "in", "like", ...; "" for a truth value; "or" or "and" for conditions in
        parentheses.
      left: text of what is compared, or the conditions in parentheses.
      right: the query on the right, None for a value; BETWEEN has two.
    """

    negated: bool
    operator: str
    left: "str | Conditions"
    right: "tuple[Query | None, ...]" = ()


class Conditions(NamedTuple):
    """Conditions, and the words ("and", "or") between them."""

    each: tuple[Condition, ...] = ()
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """The clauses of a query; columns are written `table.column` in lower case.

    Attributes:
      select: what is shown.
      distinct: whether without repeats; always False where DISTINCT does not count.
      tables: names, or queries; outer joins have their side before the name.
      on, where, having: conditions.
      group: columns.
      order: (what, whether descending) of each term.
      limit: its text; "" for none.
      then: the word ("union", "except", ...) and the query that this one is united with.
    """

    select: tuple[str, ...]
    distinct: bool
    tables: "tuple[str | Query, ...]"
    on: Conditions
    where: Conditions
    group: tuple[str, ...]
    having: Conditions
    order: tuple[tuple[str, bool], ...]
    limit: str
    then: "tuple[str, Query] | None" = None

    def keywords(self) -> set[str]:
        """Return the words that the query has, of those that Spider compares."""
        conditions = [c for part in (self.on, self.where, self.having) for c in part.each]
        words = {word for part in (self.on, self.where, self.having) for word in part.words}
        present = {
            "where": self.where.each,
            "group": self.group,
            "having": self.having.each,
            "order": self.order,
            "limit": self.limit,
            "or": "or" in words,
            "not": any(c.negated for c in conditions),
            "in": any(c.operator == "in" for c in conditions),
            "like": any(c.operator == "like" for c in conditions),
        }
        return {word for word, found in present.items() if found}


def same(one: Query, other: Query) -> bool:
    """Return whether two queries are the same, clause by clause."""
    if (one.then is None) != (other.then is None):
        return False
    if one.then and other.then:
        if one.then[0] != other.then[0] or not same(one.then[1], other.then[1]):
            return False
    return (
        Counter(one.select) == Counter(other.select)
        and Counter(one.tables) == Counter(other.tables)
        and Counter(one.where.each) == Counter(other.where.each)
        and set(one.where.words) == set(other.where.words)
        and (one.group, one.having if one.group else None)
        == (other.group, other.having if other.group else None)
        and one.order == other.order
        and one.keywords() == other.keywords()
    )
