"""mkdocs hook: the page of protocols, from the rules' own words."""

from __future__ import annotations

from inspect import cleandoc

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from rvosbench.harness.scoring import protocols

PAGE = "protocols.md"


def protocols_page() -> str:
    """The page as Markdown: what all rules share, then each rule by its id."""
    parts = ["# Protocols", cleandoc(protocols.__doc__ or "")]
    for name in protocols.protocol_names():
        rule = protocols.require_protocol(name)
        parts += [f"## `{name}`", rule.text]
        if len(rule.groups) > 1:
            parts.append(f"The score is the mean over the groups {', '.join(f'`{group}`' for group in rule.groups)}.")
        if not rule.scored_here:
            parts.append("Not scored here: the organisers' server does.")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated page."""
    files.append(File.generated(config, PAGE, content=protocols_page()))
    return files
