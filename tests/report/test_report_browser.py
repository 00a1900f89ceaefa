"""The page in a real browser, opened as a file: what it shows, logs, runs and how wide it gets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stillhouse.report import report

BROWSER = next(
    (found for name in ("chromium", "google-chrome", "chromium-browser", "chrome") if (found := shutil.which(name))),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome is installed")

PROBE = """<script>
addEventListener('load', function () {
  document.querySelectorAll('details').forEach(function (d) { if (OPEN) d.open = true; });
  var root = document.documentElement, wide = [], small = 99, shown = 0, outside = [];
  document.querySelectorAll('body *').forEach(function (e) {
    if (e.closest('.scroll, pre, svg')) return;
    var r = e.getBoundingClientRect();
    if (r.width && r.right > root.clientWidth + 0.5) wide.push(e.tagName + '.' + e.className);
  });
  document.querySelectorAll('svg.chart').forEach(function (s) {
    var r = s.getBoundingClientRect();
    if (!r.width) return;
    shown += 1;
    var scale = r.width / s.viewBox.baseVal.width;
    s.querySelectorAll('text').forEach(function (t) {
      small = Math.min(small, parseFloat(getComputedStyle(t).fontSize) * scale);
      var b = t.getBoundingClientRect();
      if (b.width && (b.left < r.left - 9 || b.right > r.right + 9)) outside.push(t.textContent);
    });
  });
  parent.postMessage(JSON.stringify({
    scroll: root.scrollWidth, client: root.clientWidth, wide: wide, small: small, shown: shown, outside: outside,
    hacked: typeof window.hacked === 'undefined' ? null : window.hacked, title: document.title,
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    student: getComputedStyle(document.querySelector('.r-student')).color,
    dark: matchMedia('(prefers-color-scheme: dark)').matches
  }), '*');
});
</script>"""

OUTER = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><body style="margin:0">
<script>addEventListener('message', function (e) {
  var p = document.createElement('pre'); p.id = 'answer'; p.textContent = e.data; document.body.appendChild(p);
});</script><iframe src="inner.html" style="width:WIDTHpx;height:3000px;border:0"></iframe>"""


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, str]:
    """The page's DOM when it has loaded, and what the browser logged."""
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--disable-gpu",
        "--no-first-run",
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        "--virtual-time-budget=4000",
        "--window-size=1280,2000",
        *(["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
        *flags,
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def probe(run: Path, folder: Path, width: int, *flags: str, opened: bool = False) -> dict[str, Any]:
    """Load a copy of the page, its policy taken out and a probe put in, in a frame of a width; and what the probe saw.

    Without the policy a script in the page would run: so that nothing runs is due to the escaping alone.
    """
    text = report(run).read_text(encoding="utf-8")
    bare = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert bare != text
    (folder / "inner.html").write_text(
        bare.replace("</body>", PROBE.replace("OPEN", "true" if opened else "false") + "</body>"), encoding="utf-8"
    )
    outer = folder / "outer.html"
    outer.write_text(OUTER.replace("WIDTH", str(width)), encoding="utf-8")
    dom, _ = browse(outer, folder / "profile", *flags)
    answer = re.search(r'<pre id="answer">(.*?)</pre>', dom, re.DOTALL)
    assert answer, "the probe did not answer"
    seen = json.loads(answer[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert isinstance(seen, dict)
    return seen


def test_it_opens_from_disk_without_a_word_in_the_console(run: Path, tmp_path: Path) -> None:
    dom, log = browse(report(run), tmp_path / "profile")
    assert "CONSOLE" not in log, [line for line in log.splitlines() if "CONSOLE" in line]
    for said in ("smol-24m", "INCONCLUSIVE", "How much of the teacher's skill", "a miller who had three sons"):
        assert said in dom
    assert dom.count("<svg") > 20 and "<script" not in dom


def test_the_console_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<!doctype html><script>nothing()</script>", encoding="utf-8")
    _, log = browse(tmp_path / "bad.html", tmp_path / "profile")
    assert "CONSOLE" in log


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_overflows_and_chart_text_is_readable(run: Path, tmp_path: Path, width: int) -> None:
    seen = probe(run, tmp_path, width)
    assert seen["client"] == width or seen["client"] == width - 15  # a scroll bar may take its part
    assert seen["scroll"] <= seen["client"], seen["wide"][:5]
    assert seen["wide"] == [] and seen["outside"] == []
    assert seen["shown"] >= 8
    assert seen["small"] >= 11


def test_nothing_overflows_when_all_is_opened(run: Path, tmp_path: Path) -> None:
    seen = probe(run, tmp_path, 390, opened=True)
    assert seen["scroll"] <= seen["client"], seen["wide"][:5]
    assert seen["wide"] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_text_neither_runs_nor_breaks_the_page(hostile: Path, tmp_path: Path, width: int) -> None:
    seen = probe(hostile, tmp_path, width, opened=True)
    assert seen["hacked"] is None
    assert seen["title"] != "hacked" and "<script>" in seen["title"]
    assert seen["scroll"] <= seen["client"], seen["wide"][:5]


def test_the_probe_sees_a_script_that_runs_and_a_page_too_wide(run: Path, tmp_path: Path, example: ModuleType) -> None:
    report(run)
    folder = tmp_path / "probe"
    folder.mkdir()
    page = (run / "report.html").read_text(encoding="utf-8")
    page = page.replace("<h2>", "<script>window.hacked = 1</script><div style='width:900px'>x</div><h2>", 1)
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    (folder / "inner.html").write_text(page.replace("</body>", PROBE.replace("OPEN", "false") + "</body>"), "utf-8")
    (folder / "outer.html").write_text(OUTER.replace("WIDTH", "390"), encoding="utf-8")
    dom, _ = browse(folder / "outer.html", tmp_path / "profile")
    answer = re.search(r'<pre id="answer">(.*?)</pre>', dom, re.DOTALL)
    assert answer
    seen = json.loads(answer[1])
    assert seen["hacked"] == 1 and seen["scroll"] >= 900 and seen["wide"]


def test_light_and_dark_differ_and_charts_follow(run: Path, tmp_path: Path) -> None:
    light = probe(run, tmp_path, 1280, "--blink-settings=preferredColorScheme=1")
    dark = probe(run, tmp_path, 1280, "--blink-settings=preferredColorScheme=0")
    assert (light["dark"], dark["dark"]) == (False, True)

    def brightness(colour: str) -> float:
        return sum(float(v) for v in re.findall(r"[\d.]+", colour)[:3])

    assert brightness(light["paper"]) > 600 > brightness(light["ink"])
    assert brightness(dark["ink"]) > 600 > brightness(dark["paper"])
    assert light["student"] != dark["student"]


def test_it_prints(run: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    out = tmp_path / "page.pdf"
    dom, _ = browse(report(run), tmp_path / "profile", f"--print-to-pdf={out}")
    del dom
    content = out.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert content.startswith(b"%PDF") and 3 <= pages <= 30
