"""The book of the course: `make book` builds it from the notebooks as they are saved.

Sphinx, myst-nb and sphinx-book-theme come whole from PyPI; mystmd, which Jupyter Book 2 is built
on, fetches its theme while it builds, which fails without a network. Nothing in the pages comes
from a network either, so that they open from a disk.
"""

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
GITHUB = os.environ.get("GITHUB_REPOSITORY", "")  # owner/name, which GitHub's Actions set

project = "K-prune, a course"
author = "the authors of kprune"
language = "en"
extensions = ["sphinx_external_toc", "myst_nb"]
exclude_patterns = ["_build", "log/20*"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # else a page with a progress bar fetches scripts
nb_render_markdown_format = "myst"  # tables in outputs, too
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static", str(MATHJAX / "tex-svg-full.js")]  # one file, without fonts
html_css_files = ["book.css"]
mathjax_path = "tex-svg-full.js"
mathjax3_config = {"options": {"enableMenu": False}}  # it offers what would be fetched
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # one field to search is enough, the sidebar's
    "footer_content_items": [],
    "show_toc_level": 2,
    "use_download_button": True,
}
if GITHUB:
    html_theme_options |= {
        "repository_url": f"https://github.com/{GITHUB}",
        "repository_branch": os.environ.get("GITHUB_REF_NAME", "main"),
        "path_to_docs": "notebooks",
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }


def fold_solutions(app, page, source):
    """Solutions open by a click, which says so, whether their cells have all tags for it or not."""
    if app.env.doc2path(page).suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if "solution" in tags:
            tags += {"hide-cell"} - set(tags)
            number = re.match(r"# (\d+)\.", "".join(cell["source"]))
            name = f"Solution {number[1]}" if number else "Solution"
            prompts = {"code_prompt_show": name, "code_prompt_hide": name}
            cell["metadata"].setdefault("mystnb", {}).update(prompts)
    source[0] = json.dumps(notebook)


def setup(app):
    app.connect("source-read", fold_solutions)
