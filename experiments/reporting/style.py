"""How the page looks: on paper, on a phone, by day and by night; nothing is loaded."""

from mtad_jax.views import marking

CSS = (
    """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --quiet: #5b5b5b;
  --line: #cfcfcf; --band: #f3f3f3; }
@media (prefers-color-scheme: dark) { :root { --paper: #161616; --ink: #e8e8e8; --quiet: #a8a8a8;
  --line: #444; --band: #222; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-top: 2px solid; padding-top: .5rem; }
h3 { font-size: 1.05rem; margin: 0 0 .3rem; } p, figcaption { max-width: 48rem; }
nav a { margin-right: 1rem; } a { color: inherit; }
.scroll { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .875rem; min-width: 100%; }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { background: var(--band); vertical-align: bottom; }
th.figure { text-align: right; } td.figure { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
td.name { min-width: 11rem; } td small { color: var(--quiet); display: block; }
code { font: .8125rem/1.4 ui-monospace, monospace; }
code.command { display: block; min-width: 16rem; max-width: 36rem; user-select: all; }
code.command span { white-space: pre; }
.warning { border: 2px solid; padding: .5rem .75rem; font-weight: bold; }
.pictures { columns: 2 28rem; column-gap: 1.5rem; }
figure { margin: 0 0 1.5rem; break-inside: avoid; }
figcaption { color: var(--quiet); font-size: .875rem; }
img { max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8125rem; }
summary { cursor: pointer; }
.text { border: 1px solid var(--line); padding: .75rem; margin: .5rem 0 1.25rem; }
.text h3 { font-weight: 600; } .text small { color: var(--quiet); }
@media print { .scroll { overflow: visible; } .text { break-inside: avoid; } }
"""
    + marking.CSS
)
