"""Spider's exact-set match on the trees that its files have beside the queries.

Written from the description of the metric in Spider's own evaluation, for those trees: columns and
tables are numbers, so nothing here reads SQL.
"""

import json
from collections import Counter

IN, LIKE = 8, 9  # of the operators of conditions
SETS = ("intersect", "union", "except")


def key(thing) -> str:
    return json.dumps(thing, sort_keys=True)


def without_values(tree):
    """Copy a tree with None for all values of conditions; queries among them stay."""

    def conditions(found):
        return [
            item if isinstance(item, str) else [
                *item[:3],
                *(without_values(v) if isinstance(v, dict) else None for v in item[3:]),
            ]
            for item in found
        ]  # fmt: skip

    new = {k: conditions(tree[k]) for k in ("where", "having")}
    new["from"] = {**tree["from"], "conds": conditions(tree["from"]["conds"])}
    new |= {k: tree[k] and without_values(tree[k]) for k in SETS}
    return {**tree, **new}


def columns_that_join(tree, entry) -> dict[int, int]:
    """Map columns of the tables in FROM to the first column that foreign keys join them with."""
    groups: list[set[int]] = []
    for one, other in entry["foreign_keys"]:
        for group in groups:
            if one in group or other in group:
                group |= {one, other}
                break
        else:
            groups.append({one, other})
    tables = {unit[1] for unit in tree["from"]["table_units"] if unit[0] == "table_unit"}
    owner = [table for table, _ in entry["column_names_original"]]
    return {c: min(group) for group in groups for c in group if owner[c] in tables}


def relaxed(tree, mapping):
    """Copy a tree with joined columns made one, and no DISTINCT; queries in conditions stay."""

    def column(unit):
        return unit and [unit[0], mapping.get(unit[1], unit[1]), None]

    def value(unit):
        return [unit[0], column(unit[1]), column(unit[2])]

    def conditions(found):
        return [c if isinstance(c, str) else [*c[:2], value(c[2]), *c[3:]] for c in found]

    return {
        **tree,
        "select": [[agg, value(unit)] for agg, unit in tree["select"][1]],
        "from": {**tree["from"], "conds": conditions(tree["from"]["conds"])},
        "where": conditions(tree["where"]),
        "having": conditions(tree["having"]),
        "groupBy": [column(unit) for unit in tree["groupBy"]],
        "orderBy": tree["orderBy"] and [tree["orderBy"][0], list(map(value, tree["orderBy"][1]))],
        **{k: tree[k] and relaxed(tree[k], mapping) for k in SETS},
    }


def prepared(tree, entry):
    return relaxed(without_values(tree), columns_that_join(tree, entry))


def words(tree) -> set[str]:
    every = tree["from"]["conds"], tree["where"], tree["having"]
    conditions = [c for part in every for c in part[::2]]
    found = {k for k in ("where", "groupBy", "having", *SETS) if tree[k]}
    found |= {"order", tree["orderBy"][0]} if tree["orderBy"] else set()
    found |= {"limit"} if tree["limit"] is not None else set()
    found |= {"or"} if any("or" in part[1::2] for part in every) else set()
    found |= {"not"} if any(c[0] for c in conditions) else set()
    return found | {c[1] for c in conditions if c[1] in (IN, LIKE)}


def bag(items) -> Counter:
    return Counter(map(key, items))


def match(one, other) -> bool:
    """Compare two prepared trees."""
    if any(bool(one[k]) != bool(other[k]) or one[k] and not match(one[k], other[k]) for k in SETS):
        return False
    if one["groupBy"] and one["having"] != other["having"]:
        return False
    return (
        bag(one["select"]) == bag(other["select"])
        and bag(one["where"][::2]) == bag(other["where"][::2])
        and set(one["where"][1::2]) == set(other["where"][1::2])
        and [unit[1] for unit in one["groupBy"]] == [unit[1] for unit in other["groupBy"]]
        and one["orderBy"] == other["orderBy"]
        and words(one) == words(other)
        and bag(one["from"]["table_units"]) == bag(other["from"]["table_units"])
    )
