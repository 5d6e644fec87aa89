"""The style sheet of the HTML report."""

STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --page: #f5f6f8; --card: #fff; --line: #dfe3e8; --rest: #e8ebef;
  --cost: #2f6f5e; --prompt: #3566c0; --cached: #93b4ec; --completion: #d9822b; --reasoning: #f0b878;
  --embedding: #7a5bb5; --warn: #9a5b00; --warn-page: #fff4e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa5b4; --page: #12161c; --card: #1b2129;
  --line: #313a46; --rest: #2a323d; --cost: #58b39a; --prompt: #6f9cf0; --cached: #3c5f9e; --completion: #e59a4c;
  --reasoning: #96632c; --embedding: #a58be0; --warn: #f2c069; --warn-page: #33281a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .75rem; }
header p { margin: .15rem 0 0; color: var(--soft); overflow-wrap: anywhere; }
section, .figures div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem; }
section { margin-top: 1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1rem 0 0; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: .1rem 0 0; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.chart { display: grid; grid-template-columns: auto 1fr; column-gap: .6rem; }
.chart svg { width: 100%; height: 10rem; display: block; overflow: visible; }
.scale { display: flex; flex-direction: column; justify-content: space-between; text-align: right; height: 11.2rem;
  margin: -.6rem 0; }
.scale, .axis { color: var(--soft); font-size: .8rem; font-variant-numeric: tabular-nums; }
.axis { grid-column: 2; display: flex; justify-content: space-between; gap: .5rem; margin-top: .4rem; }
.grid { stroke: var(--line); vector-effect: non-scaling-stroke; fill: none; }
.aim { fill: transparent; }
g:hover .aim { fill: var(--rest); }
.rest { fill: var(--rest); }
.cost { fill: var(--cost); } .prompt { fill: var(--prompt); } .cached { fill: var(--cached); }
.completion { fill: var(--completion); } .reasoning { fill: var(--reasoning); } .embedding { fill: var(--embedding); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .75rem 0 0; padding: 0; list-style: none;
  color: var(--soft); font-size: .85rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .4em; }
i.prompt { background: var(--prompt); } i.cached { background: var(--cached); }
i.completion { background: var(--completion); } i.reasoning { background: var(--reasoning); }
i.embedding { background: var(--embedding); }
.share { display: block; width: 100%; height: .35rem; border-radius: .2rem; margin-top: .25rem; }
.shares p { display: flex; justify-content: space-between; gap: 1rem; margin: .5rem 0 0; }
.shares .share { height: .6rem; }
ul { margin: 0; padding-left: 1.2rem; }
.inexact { background: var(--warn-page); border-color: var(--warn); }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem 0 .45rem .75rem; text-align: right; border-top: 1px solid var(--line); vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; }
thead th { border-top: 0; color: var(--soft); font-size: .85rem; font-weight: 500; }
tbody th { font-weight: 500; overflow-wrap: anywhere; }
td.cost { min-width: 6.5rem; }
.flag { display: inline-block; margin-left: .5rem; padding: 0 .4rem; border-radius: .6rem; font-size: .75rem;
  color: var(--warn); background: var(--warn-page); white-space: nowrap; }
@media (max-width: 40rem) {
  main { padding: 1rem .75rem 2rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  .figures dd { font-size: 1.15rem; }
  thead { display: none; }
  tbody tr { display: grid; grid-template-columns: 1fr 1fr; padding: .6rem 0; border-top: 1px solid var(--line); }
  tbody tr:first-child { border-top: 0; padding-top: 0; }
  tbody th { grid-column: 1 / -1; padding: 0; border: 0; }
  td { display: flex; justify-content: space-between; flex-wrap: wrap; gap: 0 .5rem; padding: .15rem 0; border: 0; }
  td:nth-child(odd) { padding-left: 1rem; }
  td::before { content: attr(data-name); color: var(--soft); }
  td.cost { grid-column: 1 / -1; }
}
"""
