"""The page's HTML skeleton and its style: light, dark, phone and paper; nothing is loaded from anywhere."""

from string import Template

PAGE = Template("""<!doctype html>
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
p { margin: 0 0 1rem; max-width: 46rem; overflow-wrap: anywhere; }
section p, figcaption, dt, .none { color: var(--muted); font-size: .9rem; }
.lead { font-size: 1.15rem; }
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
td { overflow-wrap: anywhere; min-width: 6rem; }
td:first-child { overflow-wrap: normal; min-width: 0; }
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
  .panels div, tr, dl { break-inside: avoid; } .scroll { overflow: visible; } }
</style>
</head>
<body>
$body
</body>
</html>
""")
