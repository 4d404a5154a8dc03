"""A page in headless Chromium: what it reports of itself at a given width."""

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

# The page in a frame of the width asked for, which a window may not be made as narrow as.
FRAME = """<!DOCTYPE html><body style="margin:0"><pre id="report"></pre>
<iframe id="frame" src="{name}" style="width:{width}px;height:2000px;border:0"></iframe><script>
const errors = [], frame = document.getElementById("frame");
frame.contentWindow.addEventListener("error", event => errors.push(event.message));
frame.addEventListener("load", () => {{
  const page = frame.contentDocument, view = page.documentElement;
  const images = [...page.images];
  document.getElementById("report").textContent = JSON.stringify({{
    errors, window: view.clientWidth, content: view.scrollWidth,
    images: images.length, broken: images.filter(image => !image.naturalWidth).length,
    unnamed: images.filter(image => !image.alt.trim()).length,
    blurred: images.filter(image => image.naturalWidth < 1.5 * image.clientWidth).length,
    outside: [...page.querySelectorAll("script[src], link[href], img")]
      .map(node => node.src || node.href).filter(url => !url.startsWith("data:")),
    folded: page.querySelectorAll("details:not([open])").length,
    headings: [...page.querySelectorAll("h1, h2")].map(node => node.textContent),
  }});
}});
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def look_at(page, width, profile, screenshot=None):
    """Return what a page, a path, says of itself in a window `width` pixels wide; keep a picture if asked."""
    (page.parent / "frame.html").write_text(FRAME.format(name=page.name, width=width))
    handler = functools.partial(Quiet, directory=str(page.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/frame.html"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, 600)},2000"]
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
    return json.loads(report.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
