"""The page's HTML skeleton and its style: light, dark, phone and paper; nothing is loaded from anywhere."""

from string import Template

from osp_jax.report.sorting import SCRIPT

PAGE = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ink: #1c2128; --muted: #626c78; --rule: #d4d9e0; --before: #98a2ae; --after: #0072b2; --forgotten: #d55e00;
  --paper: #f6f7f9; --card: #fff; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e8ebef; --muted: #a0aab6; --rule: #353c46;
  --before: #7d8895; --after: #4aa8e0; --forgotten: #f08a3c; --paper: #111418; --card: #1a1e24; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0 0 .75rem; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .25rem; font-size: 1.2rem; }
h3 { margin: 0 0 .5rem; font-size: 1.05rem; line-height: 1.35; }
p { margin: 0 0 1rem; max-width: 46rem; overflow-wrap: anywhere; }
section p, figcaption, dt, .none { color: var(--muted); font-size: .9rem; }
.lead { font-size: 1.15rem; }
section .verdict { padding-left: .75rem; border-left: .2rem solid var(--after); color: var(--ink); font-size: 1rem; }
.part { margin-top: 1.75rem; padding-top: 1.5rem; border-top: 1px solid var(--rule); }
.answers { margin: 1.5rem 0 0; padding: 0; max-width: 46rem; list-style: none; }
.answers li { margin-top: .6rem; }
.answers a { display: block; color: var(--muted); font-size: .9rem; text-decoration: none; }
.answers a:hover { text-decoration: underline; }
section, dl div { background: var(--card); border: 1px solid var(--rule); border-radius: .75rem; }
section { margin-top: 1.25rem; padding: 1.5rem; }
dl { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.5rem 0 0; }
dl div { flex: 1 1 15rem; padding: 1rem 1.25rem; }
dd { margin: .15rem 0 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
dd span { color: var(--muted); font-weight: 400; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th { color: var(--muted); font-weight: 500; }
th button { all: unset; position: relative; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--after); outline-offset: 2px; }
th button:hover, th[aria-sort] button { color: var(--ink); }
th button::after { position: absolute; bottom: 0; left: 100%; width: .75rem; text-align: center; }
.n button::after { left: auto; right: 100%; }
th[aria-sort="ascending"] button::after { content: "\\25B4"; }
th[aria-sort="descending"] button::after { content: "\\25BE"; }
.interval { display: block; color: var(--muted); font-size: .8rem; white-space: nowrap; }
.one-line { white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 6rem; }
td:first-child { overflow-wrap: normal; min-width: 0; }
.part td:first-child { min-width: 10rem; }
.n { text-align: right; white-space: nowrap; min-width: 0; }
tbody tr:last-child td { border-bottom: 0; }
figure { margin: 1.5rem 0 0; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem; }
.panels svg { display: block; width: 100%; max-width: 34rem; height: auto; }
figcaption { margin-top: .5rem; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--after); font-size: .9rem; }
@media (max-width: 40rem) { body { padding: 1.25rem .75rem; } section { padding: 1rem; }
  h1 { font-size: 1.5rem; } th, td { padding: .45rem .4rem; } }
@media print { body { padding: 0; background: none; font-size: 10pt; } section { padding: 0; border: 0; }
  h2, section > p { break-after: avoid; } details:not([open]) { display: none; }
  .panels div, tr, dl, .answers li { break-inside: avoid; } h3, .verdict { break-after: avoid; }
  .scroll { overflow: visible; } table { font-size: 8pt; } .interval { font-size: 7pt; }
  th, td { padding: .25rem .35rem; } td, .part td:first-child { min-width: 0; } }
</style>
</head>
<body>
$body
<script>"""
    + SCRIPT.replace("$", "$$")
    + """</script>
</body>
</html>
"""
)
