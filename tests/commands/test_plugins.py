"""`vcsf plugins` as a user types it: everything, one kind, one component."""

import subprocess
import sys
from pathlib import Path

import pytest

from vcsf_cli import registry
from vcsf_cli.cli import main


def test_everything_is_listed_by_kind_with_who_registered_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plugins"]) == 0
    output = capsys.readouterr()
    *lines, plugins = output.out.splitlines()
    wanted = []
    for kind in registry.HOOKS:
        wanted.append([f"{kind}:"])
        for component in registry.load().components(kind).values():
            wanted.append([component.name, component.plugin, *component.summary.split()])
    assert [line.split() for line in lines] == wanted
    assert plugins == f"plugins: {', '.join(registry.load().plugins())}"
    assert output.err == "next: vcsf plugins KIND NAME\n"


def test_one_kind_alone_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "motion"]) == 0
    output = capsys.readouterr()
    kind, *lines = output.out.splitlines()
    assert kind == "motion:"
    names = list(registry.load().components("motion"))
    assert names[0] == "none"
    assert [line.split()[:2] for line in lines] == [[name, "vcsf_plugins"] for name in names]
    assert output.err == "next: vcsf plugins motion NAME\n"


def test_one_component_is_described_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "loss", "infonce"]) == 0
    first, _, summary, _, *rest = capsys.readouterr().out.splitlines()
    assert first == "loss infonce, from plugin vcsf_plugins"
    assert summary.startswith("Tell a clip's own key")
    assert rest[0].startswith("-log(")
    assert rest[-4:] == [
        "  temperature: float, above 0, default 0.07",
        "      Softness of the similarity, tau in the paper.",
        "  queue: int, from 0, default 2048",
        "      How many older keys are negatives, K in the paper; 0 takes the other keys of the "
        "batch instead.",
    ]


def test_a_component_without_parameters_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "motion", "none"]) == 0
    assert capsys.readouterr().out.endswith("No motion module.\n\nIt takes no parameters.\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["losses"], "error: unknown kind of component `losses`\n\nhint: did you mean `loss`?\n"),
        (
            ["losses", "infonce"],
            "error: unknown kind of component `losses`\n\nhint: did you mean `loss`?\n",
        ),
        (["loss", "infonc"], "error: unknown loss `infonc`\n\nhint: did you mean `infonce`?\n"),
    ],
)
def test_a_wrong_kind_or_name_is_status_2(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", *arguments]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", error)


def test_a_local_plugin_without_hooks_is_warned_of_once(tmp_path: Path) -> None:
    (tmp_path / "vcsf_local.py").write_text("def vcsf_motion_modules():\n    return {}\n")
    command = [sys.executable, "-m", "vcsf_cli", "plugins", "decoder"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[:-1] == [
        "using the plugin ./vcsf_local.py",
        "warning: ./vcsf_local.py implements no hook; is @hookimpl missing?",
    ]


@pytest.mark.parametrize("kind", ["dataset", "decoder", "sampler"])
def test_parts_without_networks_are_listed_without_torch(kind: str, tmp_path: Path) -> None:
    code = f"import sys; from vcsf_cli.cli import main; main(['plugins', {kind!r}]); sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True
        ).returncode
        == 0
    )
