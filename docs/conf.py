"""Sphinx's configuration: ``tox -e docs`` builds ``docs/_build/html``, offline."""

from __future__ import annotations

from anytls_http import __version__

project = "anytls_http"
author = "anytls_http contributors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []

myst_enable_extensions = ["colon_fence", "attrs_inline"]
#: Anchors of headings, as GitHub makes them.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Long JSON with `...`, and shell sessions, are no errors.
highlight_language = "none"
pygments_style = "friendly"
pygments_dark_style = "github-dark"

html_theme = "furo"
html_title = "anytls_http"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
