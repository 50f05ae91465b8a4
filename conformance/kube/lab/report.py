"""What the checks found: text as they end, JSON, and one HTML file that needs nothing beside it."""

import dataclasses
import html
import json
import sys
import time


@dataclasses.dataclass
class Result:
    """Of one check in one mode; `state` is passed, failed, skipped or not yet."""

    check: object
    mode: str
    state: str = "passed"
    seconds: float = 0.0
    figures: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)

    def figure(self, name, value, unit, bound, ok, late=False):
        value = round(value, 3) if isinstance(value, float) else value
        self.figures.append({"name": name, "value": value, "unit": unit, "bound": bound, "ok": ok, "late": late})
        if not ok and not late:
            self.state = "failed"

    def fail(self, why):
        self.state = "failed"
        self.notes.append(why)

    def as_dict(self):
        check = self.check
        return {"name": check.name, "mode": self.mode, "level": check.level, "kep": check.link,
                "about": check.about, "state": self.state, "seconds": round(self.seconds, 2),
                "figures": self.figures, "notes": self.notes}


MARKS = {"passed": "ok  ", "failed": "FAIL", "not yet": "  - ", "skipped": "skip"}


class Report:
    """All results of a run."""

    def __init__(self, as_json):
        self.as_json, self.results, self.begun = as_json, [], time.time()
        self.out = sys.stderr if as_json else sys.stdout

    def add(self, result):
        self.results.append(result)
        lines = [f"{MARKS[result.state]} {result.mode}/{result.check.name}  ({result.seconds:.1f} s)"]
        for figure in result.figures:
            shown = "never" if figure["value"] is None else f"{figure['value']:g} {figure['unit']}"
            mark = "" if figure["ok"] else "LATE " if figure["late"] else "FAIL "
            lines.append(f"       {mark}{figure['name']}: {shown}  ({figure['bound']})")
        lines += [f"       {line}" for note in result.notes for line in note.splitlines()]
        print("\n".join(lines), file=self.out, flush=True)

    def count(self, state):
        return sum(result.state == state for result in self.results)

    def close(self, html_path=None):
        """Writes the reports; the number of failures."""
        whole = {"begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.begun)),
                 "seconds": round(time.time() - self.begun), "checks": [r.as_dict() for r in self.results]}
        if self.as_json:
            json.dump(whole, sys.stdout, indent=2)
            print()
        if html_path:
            with open(html_path, "w", encoding="utf-8") as file:
                file.write(page(whole))
        others = "".join(f", {self.count(state)} {state}" for state in ("skipped", "not yet") if self.count(state))
        late = sum(figure["late"] for result in self.results for figure in result.figures)
        others += f"; {late} figures over their bound, within the slack" if late else ""
        print(f"{self.count('passed')} passed, {self.count('failed')} failed{others}", file=self.out, flush=True)
        return self.count("failed")


STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24}
table{border-collapse:collapse;width:100%}td,th{padding:.4rem .6rem;border-bottom:1px solid #d8dee4;
text-align:left;vertical-align:top}.passed{color:#116329}.failed{color:#a40e26;font-weight:600}
.not.yet,.skipped{color:#6e7781}pre{white-space:pre-wrap;margin:.2rem 0;font-size:13px}
small{color:#57606a}@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}
td,th{border-color:#30363d}.passed{color:#3fb950}.failed{color:#ff7b72}a{color:#58a6ff}small{color:#8b949e}}"""


def page(whole):
    """The report as one HTML page."""
    rows = []
    for check in whole["checks"]:
        name = html.escape(check["name"])
        link = f'<a href="{html.escape(check["kep"])}">{name}</a>' if check["kep"] else name
        figures = "".join(
            f'<div class="{"passed" if f["ok"] else "failed"}">{html.escape(f["name"])}: '
            f'{"never" if f["value"] is None else f["value"]} {html.escape(f["unit"])} '
            f'<small>({html.escape(f["bound"])})</small></div>' for f in check["figures"])
        notes = "".join(f"<pre>{html.escape(note)}</pre>" for note in check["notes"])
        rows.append(
            f'<tr><td class="{check["state"]}">{check["state"]}</td><td>{check["mode"]}</td>'
            f'<td>{check["level"]}</td><td>{link}<br><small>{html.escape(check["about"])}</small></td>'
            f'<td>{figures}{notes}</td><td>{check["seconds"]:.1f} s</td></tr>')
    states = [check["state"] for check in whole["checks"]]
    summary = ", ".join(f"{states.count(s)} {s}" for s in MARKS if s in states)
    return ('<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>Portolan on Kubernetes</title>'
            f"<style>{STYLE}</style><h1>Portolan on Kubernetes</h1><p>{summary}; {whole['seconds']} s, "
            f"begun {whole['begun']}</p><table><tr><th>State<th>Mode<th>Level<th>Check<th>Seen<th>Took</tr>"
            f"{''.join(rows)}</table></html>\n")
