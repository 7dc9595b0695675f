"""The site of the guides and of the reference: `make docs`."""

project = "chexreason"
copyright = "the chexreason authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "index"
html_theme = "furo"
html_title = "chexreason"
exclude_patterns = ["README.md", "demo/*", "demo_nih/*", "reproduction_tiny/*"]  # results, linked as files
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_default_options = {"members": True, "undoc-members": False, "member-order": "bysource"}
autodoc_typehints = "signature"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository; tests/house/test_docs.py checks them
