"""Names: what an expression's word stands for, third parties, and what is refused."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.fakes import Project, card_text, install, put_on_path
from distil import catalog
from distil.catalog import names
from distil.errors import DistilError


def test_a_rival_a_slug_and_an_export(project: Project) -> None:
    project.system("toy-kd", exports='["ToyLoss"]')
    assert catalog.resolve("kd") == catalog.Target("kd", "rival", "distil.methods.kd", "KD")
    published = catalog.Target("toy-kd", "system", "distil.systems.toy_kd", "published")
    assert [catalog.resolve(word) for word in ("toy-kd", "toy_kd", "TOY-KD")] == [published] * 3
    assert catalog.resolve("toyloss") == catalog.Target("toyloss", "export", "distil.systems.toy_kd", "ToyLoss")


def test_an_export_that_is_called_like_its_own_slug_leaves_the_slug_its_meaning(project: Project) -> None:
    project.system("toy", exports='["TOY"]')
    assert catalog.resolve("toy").attribute == "published"


def test_an_unknown_name_lists_the_nearest(project: Project) -> None:
    project.system("toy")
    with pytest.raises(DistilError, match="'tyo' is no method; did you mean 'toy'"):
        catalog.resolve("tyo")
    with pytest.raises(DistilError, match="no system 'tyo'; did you mean 'toy'"):
        catalog.card("tyo")


def test_a_planned_system_says_so(project: Project) -> None:
    project.system("toy", code=None, exports='["Toy2"]')
    for word in ("toy", "toy2"):
        with pytest.raises(DistilError, match=r"'toy' .* is planned: this version has its card but not its code"):
            catalog.resolve(word)
    assert catalog.export_names() == ["KD"]


def test_a_procedure_is_no_method(project: Project) -> None:
    folder = project.system("toy", code=None)
    (folder / "procedure.py").write_text("")
    with pytest.raises(DistilError, match="is a procedure, not a method"):
        catalog.resolve("toy")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"slug": "one", "exports": '["Same"]'}, {"slug": "two", "exports": '["Same"]'}),
        ({"slug": "one", "exports": '["Same"]'}, {"slug": "two", "exports": '["SAME"]'}),
        ({"slug": "same", "exports": "[]"}, {"slug": "two", "exports": '["Same"]'}),
        ({"slug": "one", "exports": '["KD"]'}, {"slug": "two", "exports": "[]"}),
        ({"slug": "kd", "exports": "[]"}, {"slug": "two", "exports": "[]"}),
    ],
)
def test_one_name_for_two_things_is_refused(project: Project, first: dict[str, str], second: dict[str, str]) -> None:
    project.system(**first)
    project.system(**second)
    with pytest.raises(DistilError, match="Two things are called") as caught:
        catalog.systems()
    owner = "distil.methods" if "kd" in str(first).lower() else f"distil.systems.{first['slug']}"
    other = first["slug"] if "kd" in str(first).lower() else second["slug"]
    assert owner in str(caught.value)
    assert f"distil.systems.{other}" in str(caught.value)


def third_party(site: Path, slug: str = "theirs") -> Path:
    """A package that would break if it were imported, with a system inside."""
    folder = site / "theirpkg" / "inner" / "system"
    folder.mkdir(parents=True)
    for package in (site / "theirpkg", site / "theirpkg" / "inner", folder):
        (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "card.toml").write_text(card_text(slug, exports='["Theirs2"]'))
    install(site, "their-dist", slug, "theirpkg.inner.system")
    return folder


def test_a_third_party_adds_a_system_without_being_imported(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.system("toy")
    site = tmp_path / "site"
    folder = third_party(site)
    put_on_path(site, monkeypatch)
    assert list(catalog.systems()) == ["toy", "theirs"]
    card = catalog.card("theirs")
    assert (card.origin, card.package, catalog.state("theirs").name) == (
        "their-dist",
        "theirpkg.inner.system",
        "planned",
    )
    (folder / "method.py").write_text("")
    assert catalog.resolve("theirs").module == "theirpkg.inner.system"
    assert catalog.resolve("theirs2").attribute == "Theirs2"
    (folder / "_proof").mkdir()
    (folder / "_proof" / "planned.toml").write_text("")
    assert catalog.state("theirs").name == "golden"
    assert not {name for name in sys.modules if name.startswith("theirpkg")}


def test_a_third_party_slug_that_is_taken_is_refused_naming_both(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.system("toy")
    site = tmp_path / "site"
    third_party(site, slug="toy")
    put_on_path(site, monkeypatch)
    assert catalog.card("toy").origin == "distil"
    (said,) = catalog.broken().values()
    assert re.search(r"distil\.systems\.toy .*theirpkg\.inner\.system \(from 'their-dist'\)", said)


@pytest.mark.parametrize("value", ["nowhere_at_all", "theirpkg.inner", "json"])
def test_an_entry_point_without_a_card_names_its_distribution(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    site = tmp_path / "site"
    third_party(site)
    install(site, "their-dist", "theirs", value)
    put_on_path(site, monkeypatch)
    assert list(catalog.systems()) == []
    assert f"'theirs' of 'their-dist' names '{value}'" in catalog.broken()["theirs"]
    for ask in (catalog.card, catalog.resolve):
        with pytest.raises(DistilError, match=f"'theirs' of 'their-dist' names '{value}'"):
            ask("theirs")


def test_a_broken_card_or_proof_of_a_third_party_leaves_the_others_alone(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.system("toy")
    site = tmp_path / "site"
    folder = third_party(site)
    (folder / "method.py").write_text("def (\n")
    (folder / "_proof").mkdir()
    (folder / "_proof" / "planned.toml").write_text("= no toml")
    put_on_path(site, monkeypatch)
    assert list(catalog.systems()) == ["toy", "theirs"]
    assert catalog.state("theirs").why.startswith("its files cannot be read: ")
    (folder / "card.toml").write_text("slug = 3")
    names._systems.cache_clear()
    assert list(catalog.systems()) == ["toy"]
    assert "The system 'theirs' of 'their-dist' is left out: " in catalog.broken()["theirs"]


def test_code_of_a_third_party_that_cannot_be_imported_is_named(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    folder = third_party(site)
    (folder / "method.py").write_text("")
    (folder / "__init__.py").write_text("import nowhere_at_all\n")
    put_on_path(site, monkeypatch)
    with pytest.raises(DistilError, match=r"'theirs' cannot be used, since importing theirpkg\.inner\.system fails"):
        catalog.resolve("theirs").load()


def test_rivals_are_read_and_every_one_can_be_loaded() -> None:
    rivals = catalog.rivals()
    assert "kd" in rivals
    for name, home in rivals.items():
        assert catalog.resolve(name).load().__name__ == home.partition(":")[2]


def test_every_export_and_every_slug_with_a_method_can_be_loaded() -> None:
    for slug, card in catalog.systems().items():
        for name in card.proof.exports if card.has_code else ():
            assert catalog.export(name).__name__ == name
        if card.has_method:
            assert callable(catalog.resolve(slug).load())


def test_distil_methods_gives_exports_and_refuses_as_an_attribute() -> None:
    from distil import methods

    assert methods.KD.__name__ == "KD"
    assert not hasattr(methods, "NoSuchMethod")
    with pytest.raises(DistilError, match="no 'NoSuchMethod'"):
        methods.NoSuchMethod  # noqa: B018


def test_reading_the_catalogue_imports_the_standard_library_alone() -> None:
    code = (
        "import sys\nfrom distil import catalog\n"
        "for slug in catalog.systems(): catalog.state(slug)\n"
        "catalog.resolve('kd')\n"
        "own = {m.partition('.')[0] for m in sys.modules}\n"
        "print(sorted(own - set(sys.stdlib_module_names) - {'distil', '__main__', '__mp_main__'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = [
        name for name in ast.literal_eval(done.stdout) if not name.startswith(("_", "sitecustomize", "distutils"))
    ]
    assert loaded == []
