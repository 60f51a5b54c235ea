"""The style sheet: light and dark by the reader's setting, one column when narrow."""

_LIGHT = ("#2563c9", "#c2570c", "#15803d", "#a21caf", "#0e7490", "#b91c1c", "#6d28d9", "#854d0e")
_DARK = ("#6aa3ff", "#fb9a4b", "#4cc38a", "#e07be6", "#4cc9e0", "#ff7b72", "#a78bfa", "#d6a94a")


def _palette(colors: tuple[str, ...]) -> str:
    return "".join(f"--s{index}:{color};" for index, color in enumerate(colors))


_SERIES = "".join(f".s{i}{{stroke:var(--s{i})}}.f{i}{{fill:var(--s{i})}}" for i in range(len(_LIGHT)))

CSS = f"""
:root{{color-scheme:light dark;--page:#f7f7f5;--card:#fff;--ink:#1b1b19;--muted:#696963;--rule:#e3e3dd;
--good:#15803d;--bad:#b91c1c;--heat:#b45309;{_palette(_LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{--page:#131417;--card:#1c1e22;--ink:#ececea;--muted:#a0a099;--rule:#33353b;
--good:#4cc38a;--bad:#ff7b72;--heat:#f59e42;{_palette(_DARK)}}}}}
{_SERIES}
""" + (
    """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1440px;margin:0 auto;padding:28px 24px 48px}
h1{font-size:28px;line-height:1.2;margin:0;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:40px 0 12px;letter-spacing:-.005em}
h3{font-size:14px;margin:0;font-weight:600}
p{margin:6px 0 12px;max-width:76ch}
.lead,.note,figcaption{color:var(--muted)}
.lead{margin:4px 0 20px}
.note,figcaption{font-size:13px}
code,pre,.mono{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:12.5px}
.heroes{display:grid;grid-template-columns:repeat(auto-fit,minmax(210px,1fr));gap:12px}
.hero,figure,.sample,.panel{background:var(--card);border:1px solid var(--rule);border-radius:8px}
.hero{padding:14px 16px}
.hero .label{color:var(--muted);font-size:13px;overflow-wrap:anywhere}
.hero .value{font-size:25px;font-weight:600;font-variant-numeric:tabular-nums;letter-spacing:-.01em;white-space:nowrap}
.hero .value small{font-size:16px;font-weight:400;color:var(--muted)}
.up{color:var(--good)}.down{color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,290px),1fr));gap:12px}
figure{margin:0;padding:12px 14px 8px;min-width:0;display:flex;flex-direction:column}
figure>.chart{margin-top:auto}
.head{display:flex;justify-content:space-between;gap:12px;align-items:baseline}
.head .now{font-variant-numeric:tabular-nums;font-weight:600;white-space:nowrap}
figcaption{margin:0 0 6px;overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;margin-bottom:4px}
.swatch{width:18px;height:8px;margin-right:5px;vertical-align:middle}
.box{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
.chart{display:block;width:100%;height:auto}
.tick,.axis{font-size:11px;fill:var(--muted);font-variant-numeric:tabular-nums}
.grid{stroke:var(--rule);stroke-width:1;fill:none}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.line.raw{opacity:.32;stroke-width:1.2}.line.smooth{stroke-width:2.2}
.line.total{stroke:var(--ink);stroke-width:1.2}
.dashed{stroke-dasharray:4 3}
.band{opacity:.16}
.total{fill:var(--ink)}path.total{fill:none}
.point{opacity:0}.point.dot{opacity:1}.point:hover{opacity:1}
.heat{fill:var(--heat)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}
.panel{padding:6px 14px 10px}
th,td{padding:6px 12px;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:top}
th{font-weight:600;color:var(--muted);font-size:12.5px}
tr:last-child td{border-bottom:0}
th:first-child,td:first-child{text-align:left;padding-left:0}
td.words,th.words{text-align:left;white-space:normal;overflow-wrap:anywhere;min-width:16ch}
.panel .tight th,.panel .tight td{padding:5px 8px}.panel .tight{width:100%}.panel .tight th{vertical-align:bottom}
.panel+.panel,.panel+.pair{margin-top:12px}
.fit{width:fit-content;max-width:100%}
td.cell{background:color-mix(in srgb,var(--heat) calc(var(--strength)*70%),transparent)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr));gap:12px}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:12px}
.sample{padding:12px 14px;min-width:0}
.sample pre{margin:6px 0;padding:8px 10px;background:var(--page);border-radius:6px;white-space:pre-wrap;
overflow-wrap:anywhere;max-height:260px;overflow-y:auto}
.sample .prompt{color:var(--muted)}
.verdict{font-size:12px;font-weight:600;padding:1px 8px;border-radius:9px;border:1px solid currentColor}
.facts{font-size:13px;color:var(--muted);overflow-wrap:anywhere}
details{margin-top:14px}summary{cursor:pointer;font-weight:600}
details>pre{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px 14px;overflow-x:auto}
footer{margin-top:40px;color:var(--muted);font-size:13px}
@media (max-width:520px){main{padding:18px 12px 32px}h1{font-size:23px}}
"""
)
