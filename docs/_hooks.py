"""MkDocs hooks: the site has README.md as its first page, and every file of the repository that a page links to.

A page keeps the links that work on GitHub. Files of docs/ are at the root of the site, README.md is its index.md, any other file
is at its path in the repository.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\(|\bsrc=\"|\bhref=\")([^)\s\"#]+)")  # Markdown's and HTML's, without the anchor
OTHER_HOST = re.compile(r"<(?:link|script|img|iframe|source|video)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)  # code is left alone


def to_site_path(path: str) -> str:
    """Path in the repository -> path in the site."""
    if path == "README.md":
        return "index.md"
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    return path.removeprefix("docs/")


def to_repository_path(uri: str) -> str:
    """The inverse of `to_site_path`."""
    if uri == "index.md":
        return "README.md"
    if (ROOT / "docs" / uri).exists():
        return f"docs/{uri}"
    return uri.removesuffix("/index.md") if not (ROOT / uri).exists() else uri


def resolve(link: str, page: str) -> str | None:
    """The repository's file or folder that a link of the page `page` names; None for another site, and where nothing is there."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    is_ours = ":" not in link and not path.startswith(("..", "/"))
    if is_ours and (ROOT / path / "README.md").exists():
        path = posixpath.normpath(f"{path}/README.md")  # what GitHub shows for the folder
    return path if is_ours and (ROOT / path).exists() else None


def read_page(path: str) -> str:
    """The Markdown of a page; of a folder, a list of its files."""
    place = ROOT / path
    if place.is_dir():
        names = sorted(name.name for name in place.iterdir() if name.is_file())
        return f"# {path}\n\n" + "".join(f"- [{name}]({name})\n" for name in names)
    return place.read_text(encoding="utf-8")


def list_links(path: str) -> list[str]:
    """Files and folders of the repository that a page links to."""
    inside = path + "/" if (ROOT / path).is_dir() else path
    prose = FENCE.sub("", read_page(path))
    return [found for _, link in LINK.findall(prose) if (found := resolve(link, inside))]


def is_page(path: str) -> bool:
    return path.endswith(".md") or (ROOT / path).is_dir()


def on_files(files: Files, config) -> Files:
    """Adds README.md and what the pages link to outside docs/."""
    waiting = ["README.md", *(to_repository_path(file.src_uri) for file in files.documentation_pages())]
    known = set()
    while waiting:
        path = waiting.pop()
        if path in known:
            continue
        known.add(path)
        if files.get_file_from_path(to_site_path(path)) is None:
            if is_page(path):
                # Not in the navigation: a page is found through the link.
                file = File.generated(config, to_site_path(path), content=read_page(path), inclusion=InclusionLevel.NOT_IN_NAV)
            else:
                file = File.generated(config, to_site_path(path), abs_src_path=str(ROOT / path))
            files.append(file)
        waiting += list_links(path) if is_page(path) else []
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Turns links between the repository's files into links between the site's."""
    path = to_repository_path(page.file.src_uri)
    inside = path + "/" if (ROOT / path).is_dir() else path

    def change(found: re.Match) -> str:
        target = resolve(found[2], inside)
        if target is None:
            return found[0]
        return found[1] + os.path.relpath(to_site_path(target), posixpath.dirname(page.file.src_uri) or ".")

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(change, part) for part in parts)


def on_post_page(output: str, page, config) -> str:
    """Stops the build where a page would load a script, style or image from another host. Links to read may lead there."""
    if found := OTHER_HOST.search(output):
        raise PluginError(f"{page.file.src_uri}: loads from another host: {found[0]}")
    return output
