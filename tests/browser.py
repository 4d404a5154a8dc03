"""A page in headless Chromium: what it reports of itself at a given width, in light or dark colours."""

import functools
import json
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)

# The page in a frame of the width asked for, because a window cannot be made so narrow.
FRAME = """<!DOCTYPE html><html style="color-scheme:light dark"><body style="margin:0"><pre id="report"></pre>
<iframe id="frame" src="{name}" style="width:{width}px;height:1400px;border:0"></iframe><script>
const errors = [], frame = document.getElementById("frame");
frame.contentWindow.addEventListener("error", event => errors.push(event.message));

// The WCAG contrast ratio of two colours, [red, green, blue] from 0 to 255.
const luminance = colour => colour.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const contrast = (one, other) => {{
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}};
const rgba = text => text.match(/[0-9.]+/g).map(Number);

frame.addEventListener("load", () => {{
  const page = frame.contentDocument, view = page.documentElement;
  const css = node => frame.contentWindow.getComputedStyle(node);
  const images = [...page.images];
  const ground = node => {{
    const colour = node ? rgba(css(node).backgroundColor) : [255, 255, 255];
    return colour.length === 4 && colour[3] === 0 ? ground(node.parentElement) : colour.slice(0, 3);
  }};
  const texts = [...page.body.querySelectorAll("*")].filter(node =>
    node.checkVisibility() && [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()));
  const contrasts = texts.map(node =>
    [contrast(rgba(css(node).color).slice(0, 3), ground(node)), node.outerHTML.slice(0, 90)]);
  frame.contentWindow.scrollTo(0, view.scrollHeight / 2);
  const nav = page.querySelector("nav").getBoundingClientRect();
  document.getElementById("report").textContent = JSON.stringify({{
    errors, window: view.clientWidth, content: view.scrollWidth,
    images: images.length, broken: images.filter(image => !image.naturalWidth).length,
    unnamed: images.filter(image => !image.alt.trim()).length,
    blurred: images.filter(image => image.naturalWidth < 1.5 * image.clientWidth).length,
    captions: page.querySelectorAll("figure figcaption").length,
    outside: [...page.querySelectorAll("script[src], link[href], img")]
      .map(node => node.src || node.href).filter(url => !url.startsWith("data:")),
    open: [...page.querySelectorAll("details[open] > summary")].map(node => node.textContent),
    folded: [...page.querySelectorAll("details:not([open]) > summary")].map(node => node.textContent),
    headings: [...page.querySelectorAll("h1, h2")].map(node => node.textContent),
    links: [...page.querySelectorAll("nav a")]
      .map(node => [node.textContent, !!page.querySelector(node.getAttribute("href"))]),
    clipped: [...page.querySelectorAll(".printed pre, .discussion, .summary")].filter(node => node.checkVisibility()
      && node.scrollWidth > node.clientWidth).map(node => node.textContent.slice(0, 90)),
    smallest: Math.min(...texts.map(node => parseFloat(css(node).fontSize))),
    contrast: contrasts.reduce((least, other) => other[0] < least[0] ? other : least),
    ground: ground(page.body), main: page.querySelector("main").getBoundingClientRect().width,
    scrolled: frame.contentWindow.scrollY, nav: [nav.top, nav.bottom],
  }});
}});
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def look_at(page, width, profile, dark=False, screenshot=None):
    """Return what a page, a path, says of itself in a window `width` pixels wide; keep a picture if asked."""
    (page.parent / "frame.html").write_text(FRAME.format(name=page.name, width=width))
    handler = functools.partial(Quiet, directory=str(page.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/frame.html"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, 600)},2000"]
    command.append(f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    try:
        if screenshot:
            subprocess.run([*command, f"--screenshot={screenshot}", url], check=True, capture_output=True, timeout=60)
        dumped = subprocess.run(
            [*command, "--virtual-time-budget=10000", "--dump-dom", url],
            check=True, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    report = re.search(r'<pre id="report">(.*?)</pre>', dumped, re.DOTALL).group(1)
    return json.loads(report.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
